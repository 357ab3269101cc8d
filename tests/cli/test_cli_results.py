"""Analyses and applications on the command line: the same verbs as for sweeps, and `pullback apply`."""

import json
import time
from pathlib import Path

import pytest
import yaml
from plugins_of_jobs import write_plugins

from plugin_files import on_the_path
from pullback.driving.pool_protocol import serial_pool
from pullback.driving.run import run_sweep
from pullback.driving.sidecar_files import sidecar_path
from pullback.jobs.state import target_of
from pullback.sweep.plan import make_plan
from sweep_jobs import job


@pytest.fixture(scope="module")
def plugins(tmp_path_factory):
    with on_the_path(write_plugins(tmp_path_factory.mktemp("plugins") / "site")) as folder:
        yield folder


@pytest.fixture
def files(here, plugins, monkeypatch):
    """A finished sweep, `sweeps/toy`, and the files of an analysis and an application of it."""
    monkeypatch.setenv("PYTHONPATH", f"{plugins}:{Path(__file__).parents[1]}")
    run_sweep(make_plan(job(count=4)), serial_pool)
    contents = {
        "analysis.yaml": {
            "kind": "analysis",
            "name": "a",
            "sweep": "sweeps/toy",
            "statistics": {"tally": {"times": 2}},
        },
        "application.yaml": {"kind": "application", "name": "b", "sweep": "sweeps/toy", "application": "stroll"},
    }
    for name, content in contents.items():
        Path(name).write_text(yaml.safe_dump(content))
    return list(contents)


def test_plan_and_run_take_every_kind_of_job(pullback, files):
    for file in files:
        planned = pullback("plan", file, "--json")
        assert (planned.code, planned.json["kind"]) == (0, Path(file).stem)
        assert [result["finished"] for result in planned.json["results"]] == [False]
        assert "to compute" in pullback("plan", file).out
        ran = pullback("run", file)
        assert (ran.code, ran.out) == (0, "")
        assert "nothing to do" in pullback("run", file).err
        assert pullback("plan", file, "--json").json["results"][0]["finished"]
        status = pullback("status", file, "--json", "--exit-code")
        assert (status.code, status.json["state"], status.json["planned"]) == (0, "done", 1)
        assert "1 of 1 finished" in pullback("status", file, "--watch").out
        last = json.loads(pullback("logs", file).out.splitlines()[-1])
        assert last["event"] == "done"
        assert pullback("cancel", file).code == 1


def test_a_submitted_job_runs_in_the_background_and_is_followed_by_its_address(pullback, files):
    submitted = pullback("submit", files[1])
    assert submitted.code == 0
    place = target_of(files[1]).place
    deadline = time.monotonic() + 60
    while (found := pullback("status", place.path, "--json").json)["state"] != "done":
        assert found["state"] in ("submitted", "queued", "starting", "running"), found
        assert time.monotonic() < deadline, sidecar_path(place, "log").read_text()
        time.sleep(0.2)
    assert "nothing to do" in pullback("submit", files[1]).err
    assert [row["name"] for row in pullback("ls", "--json").json] == ["toy"]


def test_a_job_that_failed_is_no_sweep_of_the_list(pullback, files):
    Path(files[1]).write_text(Path(files[1]).read_text().replace("stroll", "{name: stroll, fails_at: 0}"))
    assert pullback("run", files[1]).code == 1
    assert pullback("status", files[1], "--exit-code").code == 1
    assert [row["name"] for row in pullback("ls", "--json").json] == ["toy"]


def test_a_report_has_a_section_for_each_kept_result(pullback, files):
    assert pullback("run", files[1]).code == 0
    assert pullback("report", "sweeps/toy").code == 0
    page = Path("sweeps/toy.report.html").read_text(encoding="utf-8")
    assert "steps along the first axis" in page.lower()
    assert "The value of each step" in page


def test_a_wrong_job_of_each_kind_is_bad_usage_with_the_nearest_value(pullback, files):
    for file, old, new in ((files[0], "tally", "taly"), (files[1], "stroll", "strol")):
        Path(file).write_text(Path(file).read_text().replace(old, new))
        for verb in ("plan", "run", "submit", "status", "logs", "cancel"):
            printed = pullback(verb, file)
            assert (printed.code, f"did you mean '{old}'?" in printed.err) == (2, True), verb


def test_apply_has_a_subcommand_for_each_application_with_its_options(pullback, files):
    listed = pullback("apply", "--help")
    assert listed.code == 0
    assert "stroll" in listed.out
    assert "Steps along the first axis" in listed.out
    help_ = pullback("apply", "stroll", "--help").out
    for text in (
        "--steps",
        "--sizes",
        "--workers",
        "--fast",
        "--no-fast",
        "How the steps are laid.",
        "linear, sphere",
        "Default: 3.",
    ):
        assert text in help_, text


def test_apply_gives_the_cached_result_of_the_job(pullback, files):
    assert pullback("run", files[1]).code == 0
    applied = pullback("apply", "stroll", "sweeps/toy", "--json")
    assert (applied.code, "nothing to do" in applied.err) == (0, True)
    assert len(applied.json["stroll"]["value"]) == 3
    other = pullback(
        "apply", "stroll", "sweeps/toy", "--steps", "2", "--sizes", "[0.5, 2]", "--no-fast", "--path", "sphere"
    )
    assert (other.code, "done: 1 of 1" in other.err) == (0, True)
    assert "Stroll" in other.out
    again = pullback(
        "apply", "stroll", "sweeps/toy", "--steps", "2", "--sizes", "[0.5, 2.0]", "--no-fast", "--path", "sphere"
    )
    assert "nothing to do" in again.err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["strol", "sweeps/toy"], "strol"),
        (["stroll"], "sweep"),
        (["stroll", "sweeps/toy", "--steps", "0"], "application.steps: must be at least 1"),
        (["stroll", "sweeps/toy", "--workers", "0"], "resources.workers: must be at least 1"),
        (["stroll", "sweeps/toy", "--path", "spher"], "did you mean 'sphere'?"),
        (["stroll", "sweeps/toy", "--sizes", "[1"], "sizes: '[1' is not YAML"),
        (["stroll", "sweeps/toy", "--sizes", "three"], "application.sizes"),
        (["colour"], "needed"),
    ],
)
def test_a_wrong_call_of_apply_is_bad_usage(pullback, files, arguments, text):
    printed = pullback("apply", *arguments)
    assert printed.code == 2
    assert text.lower() in printed.err.lower()


def test_an_application_of_a_generator_alone_needs_no_sweep(pullback, files):
    printed = pullback("apply", "colour", "--generator", "own_generators:smooth", "--json")
    assert printed.code == 0
    assert 0 < printed.json["colour"]["mean"] < 1
