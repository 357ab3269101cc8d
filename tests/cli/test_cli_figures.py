"""`pullback figure` and `pullback report --control`: figures one by one, and a control beside."""

import csv
from pathlib import Path

import pytest
from PIL import Image

from pullback.driving.pool_protocol import serial_pool
from pullback.driving.run import run_sweep
from pullback.report.figures import Embedded
from pullback.sweep.plan import make_plan
from sweep_jobs import job


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two finished sweeps."""
    names = ("one", "two")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("finished"))
        for seed, name in enumerate(names):
            run_sweep(make_plan(job(name=name, count=4, seed=seed)), serial_pool)
        return [str(Path("sweeps", name).absolute()) for name in names]


@pytest.fixture
def sweeps(here, finished):
    """The sweeps, for commands in a folder of the test's own."""
    return finished


def test_figures_are_listed_without_a_sweep(pullback):
    listed = pullback("figure", "--list", "--json")
    assert listed.code == 0
    assert {"spectra", "shares", "similarity", "null", "strips", "anisotropy", "certificate"} <= set(listed.json)
    assert "spectra" in pullback("figure", "--list").out


def test_a_figure_of_several_sweeps_is_written_in_each_format_with_its_numbers(pullback, sweeps):
    done = pullback("figure", "spectra", *sweeps, "--draws", 10, "--output", "figures", "--dpi", 50, "--json")
    assert done.code == 0
    ((files, caption),) = [(entry["files"], entry["caption"]) for entry in done.json]
    assert files == [f"figures/one-and-two.spectra.{kind}" for kind in ("png", "svg", "pdf", "csv")]
    assert "one and two" in caption
    with Image.open(files[0]) as image:
        assert image.size == (170, 135)
    assert Path(files[1]).read_bytes().startswith(b"<?xml")
    assert Path(files[2]).read_bytes().startswith(b"%PDF")
    with Path(files[3]).open(encoding="utf-8") as file:
        assert {row["series"] for row in csv.DictReader(file)} >= {"one", "two"}


def test_a_statistics_figures_are_written_for_each_sweep_in_the_formats_asked_for(pullback, sweeps):
    done = pullback("figure", "anisotropy", *sweeps, "--draws", 10, "--format", "svg", "--no-data")
    assert done.code == 0
    written = sorted(path.name for path in Path().glob("*.*") if path.suffix != ".py")
    assert written == [f"{name}.anisotropy.{kind}.svg" for name in ("one", "two") for kind in ("remainder", "spectrum")]
    strips = pullback("figure", "strips", sweeps[0], "--format", "png", "--dpi", 40, "--draws", 10)
    assert strips.code == 0
    assert Path("one.strips.csv").read_text().startswith("code,axis,eigenvalue,t,D²")


@pytest.mark.parametrize(
    "arguments",
    [(), ("spectra",), ("spectrums", "sweeps/one"), ("spectra", "sweeps/one", "--format", "gif")],
)
def test_a_wrong_request_for_a_figure_is_bad_usage(pullback, here, monkeypatch, arguments):
    monkeypatch.setattr("pullback.cli.figures.open_others", lambda named: [None for _ in named])
    result = pullback("figure", *arguments)
    assert result.code == 2
    assert "Traceback" not in result.err


def test_a_report_puts_a_control_beside(pullback, sweeps, monkeypatch):
    monkeypatch.setattr("pullback.report.figures.embedded", lambda figure, stem: Embedded("data:,", 245))
    assert pullback("report", sweeps[0], "--control", sweeps[1], "--draws", 10, "--out", "one.html").code == 0
    page = Path("one.html").read_text(encoding="utf-8")
    assert "Control: sweep <b>two</b>" in page
    assert "<td>C_log, two</td>" in page
