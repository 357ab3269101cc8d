"""The report of sweeps that are not the easiest: class-conditional, truncated, quarantined, of another generator."""

import re

import numpy as np
import pytest
import torch

from pullback.analysis import analyze
from pullback.driving.pool_protocol import serial_pool
from pullback.driving.run import run_sweep
from pullback.report import write_report
from pullback.report.figures import Embedded
from pullback.report.strips import STEPS, image_strips, shown_axes
from pullback.spec import JobSpec
from pullback.store.reader import open_sweep
from pullback.sweep.plan import make_plan
from toy_generators import Classes, Smooth


class FailingOnStrips(Smooth):
    """Raises on the batches that strips are made of, and on no other."""

    def forward(self, z, condition=None):
        if len(z) == STEPS:
            raise ValueError("boom")
        return super().forward(z)


class NotANumberFarOut(Smooth):
    """Gives NaN where one coordinate is large."""

    def forward(self, z, condition=None):
        return super().forward(z) + torch.where(z[:, 4] > 1.1, torch.nan, 0.0).view(-1, 1, 1, 1)


@pytest.fixture
def sweep_of(tmp_path, monkeypatch):
    monkeypatch.setattr("pullback.report.figures.embedded", lambda figure, stem: Embedded("data:,", 245))
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)

    def sweep_of(generator, count=6, scale=1.0, **changes):
        condition = changes.pop("condition", None)
        job = JobSpec.model_validate(
            {
                "name": "reported",
                "generator": {"name": generator, "condition": condition},
                "distance": "mse",
                "samples": {"count": count, "scale": scale, "seed": 2},
                "resources": {"device": "cpu", "workers": 1},
                **changes,
            }
        )
        run_sweep(make_plan(job), serial_pool)
        return open_sweep(tmp_path / "sweeps/reported")

    return sweep_of


def report_of(sweep, tmp_path):
    target = tmp_path / "report.html"
    reason = write_report(sweep, analyze(sweep, draws=20), target)
    return reason, target.read_text(encoding="utf-8")


def test_strips_of_a_class_conditional_generator_keep_each_codes_own_class(sweep_of):
    sweep = sweep_of("toy_generators:classes", condition="cycle")
    strips = image_strips(sweep, analyze(sweep, draws=20)["mean_metric"].value)
    assert strips.titles == ["sample 0, one", "sample 1, two", "sample 2, three"]
    latents = sweep.dataset()["latent"].values[:3]
    for index, images in enumerate(strips.images):
        alone = Classes()(torch.from_numpy(latents[index : index + 1]), torch.tensor([index])).detach()
        unmoved = images[0, images.shape[1] // 2]
        np.testing.assert_allclose(unmoved, alone[0].permute(1, 2, 0).clamp(0, 1).numpy(), atol=1e-6)
    assert (strips.distances[:, :, images.shape[1] // 2] == 0).all()
    assert strips.change_at_the_ends[0] > strips.change_at_the_ends[-1] > 0


def test_a_report_of_truncated_spectra_says_so(sweep_of, tmp_path):
    reason, html = report_of(sweep_of("toy_generators:smooth", metric={"components": 2}), tmp_path)
    assert reason is None
    assert "Only 2 of" in html
    assert re.search(r"more than the 2 kept \(at least \d\) of\s+6 directions", html)
    assert "≥ 2" in html


def test_quarantined_samples_are_reported_and_no_walk_starts_from_one(sweep_of, tmp_path):
    sweep = sweep_of("test_document:NotANumberFarOut", count=12)
    quarantined = sweep.status().quarantined
    assert 0 < quarantined < 10
    reason, html = report_of(sweep, tmp_path)
    assert reason is None, "pixels without a number far out must not cost the strips"
    ((reason_name, count),) = sweep.reasons().items()
    assert count == quarantined
    assert re.search(rf"Quarantined samples are left out.*\s+{count} {reason_name.lower().replace('_', ' ')}", html)
    good = sweep.dataset()["sample"].values[:3]
    assert all(
        f"sample {sample}" in image_strips(sweep, analyze(sweep, draws=20)["mean_metric"].value).titles
        for sample in good
    )


def test_a_generator_that_fails_along_an_axis_costs_the_strips_and_not_the_report(sweep_of, tmp_path):
    reason, html = report_of(sweep_of("test_document:FailingOnStrips"), tmp_path)
    assert reason is not None
    assert "boom" in reason
    assert "boom" in html
    assert html.count('<img class="plot"') >= 5


def test_images_of_another_generator_are_never_shown_under_a_sweeps_name(sweep_of, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("from toy_generators import smooth as build\n")
    monkeypatch.syspath_prepend(tmp_path)
    sweep = sweep_of("mine:build")
    (tmp_path / "mine.py").write_text("from toy_generators import linear as build\n")
    reason, html = report_of(sweep, tmp_path)
    assert reason is not None
    assert "mine (source) on this machine is not what the sweep was computed with" in reason
    assert "No images" in html


def test_the_axes_shown_are_the_first_six_one_in_the_middle_and_the_last():
    assert shown_axes(100) == [0, 1, 2, 3, 4, 5, 49, 99]
    assert shown_axes(4) == [0, 1, 2, 3]
    assert shown_axes(1) == [0]
