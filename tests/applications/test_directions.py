"""The application `directions` on a sweep of a toy whose axes are known, as jobs and on the command line."""

import json

import numpy as np
import pytest

from command_line import call
from pullback.applications.directions import METHODS
from pullback.applications.results import load_results
from pullback.driving.pool_protocol import serial_pool
from pullback.driving.run import run_sweep
from pullback.errors import PullbackError
from pullback.jobs.plan import plan_results
from pullback.jobs.run import run_results
from pullback.spec import job_of
from pullback.store.reader import open_sweep
from pullback.sweep.plan import make_plan
from sweep_jobs import job
from toy_generators import Linear

FAST = ("--controls", "20", "--draws", "20", "--null", "200", "--samples", "200")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with `sweeps/toy`, a sweep of `Linear`, and `axes.npy`, its true axes."""
    folder = tmp_path_factory.mktemp("directions")
    matrix = Linear().matrix.detach().double().numpy()
    np.save(folder / "axes.npy", np.linalg.svd(matrix)[2])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_sweep(make_plan(job("toy_generators:linear", count=4)), serial_pool)
    return folder


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def result(**options):
    fast = {"controls": 20, "draws": 20, "null": 200, "samples": 200}
    content = {"name": "directions", **fast, **options}
    plan = plan_results(job_of({"kind": "application", "name": "d", "sweep": "sweeps/toy", "application": content}))
    run_results(plan)
    return plan.parts[0].load()


def test_the_true_axes_agree_wholly_and_controls_stand_beside_them(here):
    found = result(method=["sefa", "random"], files=["axes.npy"])
    data = found.dataset
    assert list(data["set"].values) == ["axes.npy", "sefa", "random"]
    np.testing.assert_allclose(data["overlap"].sel(set="axes.npy"), 1, atol=1e-4)
    np.testing.assert_allclose(data["same"].sel(set="axes.npy"), 1, atol=1e-4)
    assert data["overlap_shuffled"].sel(set="axes.npy").values[0] < 0.5
    assert data["overlap_p"].sel(set="axes.npy").values[0] == pytest.approx(1 / 21)
    eigenvalues = np.linalg.eigvalsh(open_sweep("sweeps/toy").mean_metric())[::-1]
    np.testing.assert_allclose(data["rate"].sel(set="axes.npy"), eigenvalues, rtol=1e-4)
    np.testing.assert_allclose(data["eigenvalue"], eigenvalues, rtol=1e-10)
    # SeFa of one linear map, with rows as they are, is the metric's own eigenbasis under MSE.
    plain = result(method="sefa", unit_rows=False)
    np.testing.assert_allclose(plain.dataset["same"].sel(set="sefa"), 1, atol=1e-4)


def test_tables_figures_and_json_have_every_set_with_its_control(here):
    found = result(method="random", files=["axes.npy"])
    overlaps, singles = found.tables()
    raw = [found.dataset["overlap_p"].sel(set=row[0]).values[row[1] - 1] for row in overlaps.rows]
    smallest = min(raw)
    assert overlaps.rows[raw.index(smallest)][-1] == pytest.approx(min(1, smallest * len(raw)))
    assert all(row[-1] >= p for row, p in zip(overlaps.rows, raw, strict=True))
    assert {row[0] for row in overlaps.rows} == {row[0] for row in singles.rows} == {"axes.npy", "random"}
    assert len(found.figures()) == 3
    content = json.loads(json.dumps(found.json, allow_nan=False))
    assert set(content["sets"]) == {"axes.npy", "random"}
    assert len(content["sets"]["axes.npy"]["rate"]) == content["sets"]["axes.npy"]["directions"] == 6
    assert any("axes.npy" in sentence for sentence in found.sentences())
    low, high = found.dataset["rate_ci95"].sel(set="random").transpose("end", "direction").values
    rate = found.dataset["rate"].sel(set="random").values
    assert ((low <= rate) & (rate <= high)).all()


def test_by_default_every_source_of_the_generator_is_taken_and_the_others_are_named(here):
    found = result()
    assert set(found.dataset["set"].values) < set(METHODS)
    left_out = found.json["left_out"]
    assert set(left_out) == set(METHODS) - set(found.dataset["set"].values)
    assert "local_basis" in left_out
    assert any("local_basis" in caution for caution in found.cautions())


def test_a_source_that_is_asked_for_by_name_is_refused_if_the_generator_has_none(here):
    with pytest.raises(PullbackError, match="Local Basis"):
        result(method="local_basis")


def test_another_file_under_the_same_name_is_computed_again(here):
    np.save("own.npy", np.eye(6)[:1])
    first = result(method="random", files="own.npy").dataset
    np.save("own.npy", np.eye(6)[1:2])
    again = result(method="random", files="own.npy").dataset
    assert float(first["rate"][0, 0]) != float(again["rate"][0, 0])


def test_an_interrupted_comparison_keeps_the_sources_that_were_done(here, monkeypatch):
    from pullback.applications import directions

    made = []
    true = directions.weight_directions
    monkeypatch.setattr(directions, "weight_directions", lambda *given: (made.append(1), true(*given))[1])
    monkeypatch.setattr(directions, "alignment_dataset", lambda *given: 1 / 0)
    with pytest.raises(PullbackError, match="ZeroDivisionError"):
        result(method=["sefa", "random"], seed=9)
    monkeypatch.undo()
    monkeypatch.setattr(directions, "weight_directions", lambda *given: (made.append(1), true(*given))[1])
    monkeypatch.chdir(here)
    assert list(result(method=["sefa", "random"], seed=9).dataset["set"].values) == ["sefa", "random"]
    assert len(made) == 1


def test_the_command_prints_tables_and_refuses_bad_files_in_a_sentence(here):
    done = call("apply", "directions", "sweeps/toy", "--method", "[sefa, random]", "--files", "axes.npy", *FAST)
    assert done.code == 0
    assert "axes.npy" in done.out
    assert "shuffled" in done.out
    np.save("wide.npy", np.ones((2, 7)))
    before = len(load_results("sweeps/toy", open_sweep("sweeps/toy").snapshot))
    for file in ("wide.npy", "missing.npy"):
        failed = call("apply", "directions", "sweeps/toy", "--method", "random", "--files", file, *FAST)
        assert failed.code != 0
        assert file in failed.err
        assert "Traceback" not in failed.err
    assert len(load_results("sweeps/toy", open_sweep("sweeps/toy").snapshot)) == before
    assert call("apply", "directions", "sweeps/toy", "--method", "sfa").code == 2


def test_the_example_job_is_valid():
    from pathlib import Path

    from pullback.generators import zoo
    from pullback.spec import load_any_job

    found = load_any_job(Path(__file__).parents[2] / "jobs" / "applications" / "directions.yaml", zoo())
    assert found.application.name == "directions"
