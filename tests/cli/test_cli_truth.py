"""What the commands say of truncated and of zero metrics, and that what is kept is not computed again."""

import pytest

from pullback.store.reader import open_sweep
from pullback.store.schema import GOOD

FLAT = """
import torch
from toy_generators import Smooth


class PartlyFlat(Smooth):
    def forward(self, z, condition=None):
        alive = torch.where(z[:, :1] > 0, 0.0, 1.0).view(-1, 1, 1, 1)
        return 0.5 + alive * (super().forward(z) - 0.5)


def build():
    return PartlyFlat()
"""


@pytest.fixture
def flat(here, job, pullback):
    """The lines of a run of a sweep of which some metrics are zero."""
    (here / "flat_generators.py").write_text(FLAT)
    job("job.yaml", generator="flat_generators:build", samples={"count": 12, "seed": 1}, name="flat")
    result = pullback("run", "job.yaml", "--serial")
    assert result.code in (0, 4)
    return result


def test_zero_metrics_are_named_by_run_show_and_analyze(flat, pullback):
    sweep = open_sweep("sweeps/flat")
    zero = [int(sample) for sample in range(12) if sweep.values("latent", slice(sample, sample + 1))[0, 0] > 0]
    assert 2 < len(zero) < 12
    assert "zero metrics" in flat.err
    assert f"{len(zero)} samples have metrics that are exactly zero" in " ".join(flat.err.split())
    good = [sample for sample in zero if sweep.sample_status()[sample] == GOOD]
    wanted = {"count": len(zero), "good": len(good), "quarantined": len(zero) - len(good), "samples": zero}
    assert pullback("show", "sweeps/flat", "--json").json["zero_metrics"] == wanted
    assert pullback("analyze", "sweeps/flat", "--draws", 20, "--json").json["zero_metrics"] == wanted
    for command in (("show", "sweeps/flat"), ("analyze", "sweeps/flat", "--draws", 20)):
        assert f"{len(zero)} samples have metrics that are exactly zero" in " ".join(pullback(*command).out.split())


def test_an_analysis_that_is_kept_is_shown_again_and_not_computed(done, pullback, monkeypatch):
    first = pullback("analyze", "sweeps/mine", "--draws", 30, "--json")

    def fail(*arguments, **options):
        raise AssertionError("computed anew")

    monkeypatch.setattr("pullback.analysis.runner.compute", fail)
    again = pullback("analyze", "sweeps/mine", "--draws", 30, "--json")
    assert again.code == 0
    assert again.json == first.json
    with pytest.raises(AssertionError, match="computed anew"):
        pullback("analyze", "sweeps/mine", "--draws", 31, "--json")


def test_a_truncated_sweep_is_called_so_by_show_and_analyze(here, job, pullback):
    job("job.yaml", name="cut", metric={"method": "lanczos", "components": 2})
    assert pullback("run", "job.yaml", "--serial").code == 0
    shown = pullback("show", "sweeps/cut", "--json").json
    sweep = open_sweep("sweeps/cut")
    good = sweep.dataset()
    assert shown["whole_metrics"] is False
    assert shown["trace_share"] == pytest.approx(float(good["eigenvalue"].sum() / good["trace"].sum()))
    content = pullback("analyze", "sweeps/cut", "--draws", 20, "--json").json
    assert content["mean_metric"]["of"] == "kept part"
    assert content["mean_metric"]["trace_share"] == pytest.approx(shown["trace_share"])
    for dim in content["mean_metric"]["dim"].values():
        assert dim["needed"] is None
    table = " ".join(pullback("analyze", "sweeps/cut", "--draws", 20).out.split())
    assert "kept part" in table
    assert "about" in pullback("show", "sweeps/cut").out


@pytest.mark.parametrize(("name", "kind"), [("out.csv", "file"), ("out.nc", "file"), ("out.zarr", "folder")])
def test_export_writes_what_the_ending_says(done, pullback, name, kind):
    assert pullback("export", "sweeps/mine", name).code == 0
    assert (done / name).is_file() == (kind == "file")


def test_export_refuses_another_ending(done, pullback):
    result = pullback("export", "sweeps/mine", "out.xlsx")
    assert result.code == 1
    assert ".csv" in result.err
    assert not (done / "out.xlsx").exists()


@pytest.mark.parametrize(
    ("metric", "partial"), [({"method": "lanczos", "components": 2}, True), ({"components": 6}, False)]
)
def test_plan_says_where_the_mean_metric_will_be_of_a_part(here, job, pullback, metric, partial):
    job("job.yaml", name="cut", metric=metric)
    table = " ".join(pullback("plan", "job.yaml").out.split())
    assert ("this part only" in table) == partial
