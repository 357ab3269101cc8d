"""The findings: their jobs can be run, and their autoencoder draws images that the distances take."""

import sys
from pathlib import Path

import pytest
import torch

from pullback.spec import JobSpec

FINDINGS = Path(__file__).parents[2] / "jobs" / "findings"


@pytest.fixture
def findings(monkeypatch):
    monkeypatch.syspath_prepend(str(FINDINGS))
    yield
    for name in ("digits", "sweeps"):
        sys.modules.pop(name, None)


def test_every_job_of_the_findings_is_valid_and_has_its_own_store(findings, tmp_path):
    from sweeps import CONTROLS, GENERATORS, jobs

    made = [JobSpec.model_validate(job) for job in jobs(tmp_path, 5)]
    assert len({job.store for job in made}) == len(made)
    for generator in GENERATORS:
        names = {job.name for job in made}
        assert {f"{generator}-alex", f"{generator}-mse", f"{generator}-vgg"} <= names
        assert {f"{generator}-alex-{control}" for control in CONTROLS} <= names


def test_the_digits_and_their_decoder_give_grey_images_in_range(findings):
    from digits import LATENT_DIM, decoder, draw

    images = draw(3, torch.Generator().manual_seed(0))
    decoded = decoder()(torch.zeros(3, LATENT_DIM))
    assert images.shape == decoded.shape == (3, 1, 32, 32)
    assert 0 <= float(images.min()) < 0.5 < float(images.max()) <= 1
    assert bool(((decoded > 0) & (decoded < 1)).all())
