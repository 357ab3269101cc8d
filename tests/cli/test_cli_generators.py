"""`pullback generators show`, and jobs of checkpoints that hold several networks, as a user runs them."""

import sys
from pathlib import Path

import pytest
import torch

from dcgan_files import small_discriminator, small_generator
from pullback.store.reader import open_sweep

G, RAW, D = small_generator(1), small_generator(2), small_discriminator()


@pytest.fixture
def several(here):
    torch.save({"g": RAW, "d": D, "g_ema": G}, "several.pt")
    torch.save({"netG_A": RAW, "netG_B": G}, "two.pt")


def job_of(job, name, **generator):
    return job(
        f"{name}.yaml",
        name=name,
        generator={"name": "several.pt", **generator},
        distance="mse",
        samples={"count": 3},
        store=f"sweeps/{name}",
    )


def test_a_checkpoint_is_shown_with_its_networks_and_the_one_that_is_taken(several, pullback):
    shown = pullback("generators", "show", "several.pt", "--json")
    assert shown.code == 0
    assert shown.json["latent_dim"] == 5
    assert shown.json["image"] == [3, 16, 16]
    assert [what.partition(":")[0] for what in shown.json["networks"]] == ["g", "d", "g_ema"]
    assert "'g_ema'" in shown.json["notes"][0]
    assert "g_ema" in pullback("generators", "show", "several.pt").out
    assert "'g'" in pullback("generators", "show", "several.pt", "--network", "g", "--json").json["notes"][0]


def test_what_is_ambiguous_is_refused_with_the_keys(several, pullback):
    result = pullback("generators", "show", "two.pt")
    assert result.code == 1
    assert "netG_A, netG_B" in result.err
    assert result.out == ""


def test_a_sweep_records_which_network_was_taken_and_another_is_another_sweep(several, job, pullback):
    assert "'g_ema'" in pullback("plan", job_of(job, "average"), "--json").json["notes"][0]
    ids = {}
    for name, options in {"average": {}, "raw": {"network": "g"}, "named": {"network": "g_ema"}}.items():
        ran = pullback("run", job_of(job, name, **options), "--serial")
        assert ran.code == 0, ran.err
        shown = pullback("show", f"sweeps/{name}", "--json").json
        assert ("'g'" if name == "raw" else "'g_ema'") in shown["notes"][0]
        ids[name] = shown["sweep_id"]
    assert ids["raw"] not in (ids["average"], ids["named"])
    metrics = {name: open_sweep(Path(f"sweeps/{name}")).dataset()["eigenvalue"].values for name in ids}
    assert (metrics["average"] == metrics["named"]).all()
    assert (metrics["average"] != metrics["raw"]).any()


def test_a_network_that_is_not_there_is_a_problem_of_the_job(several, job, pullback):
    result = pullback("plan", job_of(job, "other", network="g_emma"))
    assert result.code == 2 or result.code == 1
    assert "did you mean 'g_ema'" in result.err


OWN = """
from own_generators import Smooth

def double():
    return Smooth().double()

def half():
    return Smooth(size=16).half()

class Grey(Smooth):
    blocks = 3
    def forward(self, z, condition=None):
        return super().forward(z)[:, :1]
"""
KINDS = {"double": "float64", "half": "float32", "Grey": "one channel"}


@pytest.mark.parametrize(("factory", "note"), KINDS.items())
def test_generators_of_other_kinds_are_swept_and_what_was_adapted_is_said(here, job, pullback, factory, note):
    Path("kinds.py").write_text(OWN)
    try:
        path = job("kind.yaml", generator=f"kinds:{factory}", samples={"count": 3})
        assert note in pullback("plan", path, "--json").json["notes"][0]
        assert note in pullback("plan", path).out
        ran = pullback("run", path, "--serial")
        assert ran.code == 0, ran.err
        shown = pullback("show", "sweeps/mine", "--json").json
        assert note in shown["notes"][0]
        assert shown["samples"]["good"] == 3
    finally:
        sys.modules.pop("kinds", None)
