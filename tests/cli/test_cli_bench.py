"""`pullback bench metric`, as a user runs it: processes and all, on generators too small for times to mean much."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from pullback import cli
from pullback.cli.bench_tables import bench_table

pytestmark = pytest.mark.xdist_group("bench")  # one run serves several tests

TESTS = Path(__file__).parent.parent
ABSENT = ("ray", "zarr", "icechunk", "xarray", "matplotlib")


def environment(folder):
    """Where neither this process nor any that it starts has Ray or a store."""
    for library in ABSENT:
        (folder / f"{library}.py").write_text(f"raise ModuleNotFoundError('no {library}', name={library!r})")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(TESTS)])}


def start(folder, *options):
    """`pullback bench metric` in the folder, in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "pullback", "bench", "metric", "--device", "cpu", "--threads", "1", *options],
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="session")
def compared(tmp_path_factory):
    """What a comparison of two methods printed, one round, without Ray and without a store."""
    options = ["--generator", "toy_generators:smooth", "--distance", "mse", "--rounds", "1", "--points", "3", "--json"]
    process = start(tmp_path_factory.mktemp("compared"), *options)
    out, messages = process.communicate()
    assert process.returncode == 0, messages
    return json.loads(out), messages


@pytest.mark.end_to_end
def test_one_run_gives_every_number_without_ray_and_without_a_store(compared):
    result, _ = compared
    assert set(result) >= {
        "device", "generator", "distance", "latent_dim", "threads", "date", "versions", "methods",
        "speedup_vs_backprop", "floor_seconds", "floor_batch", "times_floor",
    }  # fmt: skip
    assert (result["generator"], result["distance"]) == ("toy_generators:smooth", "mse")
    assert (result["latent_dim"], result["threads"]) == (6, 1)
    assert result["floor_batch"] in (1, 2, 4)
    assert set(result["versions"]) >= {"python", "torch", "pullback"}
    ours, paper = result["methods"]["gauss_newton"], result["methods"]["backprop"]
    assert (ours["points"], paper["points"]) == (3, 2)
    assert (ours["method"], paper["method"]) == ("gauss_newton", "backprop")
    assert ours["certified"] is True
    for entry in (ours, paper):
        assert entry["seconds_range"] == [entry["seconds"], entry["seconds"]]
        assert 0 < entry["relative_error"] < 1e-5
        assert entry["error_of"] == "metric"
        assert entry["peak_memory_bytes"] >= 0
    assert result["speedup_vs_backprop"] == {"gauss_newton": paper["seconds"] / ours["seconds"]}
    assert result["times_floor"] == {
        name: entry["seconds"] / result["floor_seconds"] for name, entry in result["methods"].items()
    }


@pytest.mark.end_to_end
def test_progress_goes_to_standard_error(compared):
    lines = compared[1].splitlines()
    for what in ("loading and warming up: the floor", "round 1 of 1: backprop", "memory: gauss_newton"):
        assert what in lines


@pytest.mark.end_to_end
def test_the_table_says_the_same(compared):
    result = json.loads(json.dumps(compared[0]))
    result["methods"]["auto"] = {**result["methods"]["gauss_newton"], "certified": False, "error_of": "eigenvalues"}
    result["methods"]["backprop"]["seconds_range"] = [1.0, 1.8]
    result["methods"]["lanczos"] = dict.fromkeys(result["methods"]["backprop"]) | {"error": "it [broke]"}
    written = io.StringIO()
    bench_table(result, Console(file=written, width=100))
    rows = {line.split()[0]: line.split() for line in written.getvalue().splitlines() if line}
    ours = result["methods"]["gauss_newton"]
    seconds = f"{ours['seconds']:.3g}"
    ratios = f"{result['times_floor']['gauss_newton']:.3g}", f"{result['speedup_vs_backprop']['gauss_newton']:.3g}"
    assert rows["gauss_newton"][1:5] == [seconds, f"({seconds}–{seconds})", *ratios]
    assert rows["gauss_newton"][5] == f"{ours['relative_error']:.1e}"
    assert rows["lanczos"][1:] == ["–"] * 6
    text = " ".join(written.getvalue().split())
    assert f"n = 6 floor {result['floor_seconds']:.3g}" in text
    assert f"6 forward passes, {result['floor_batch']} at once" in text
    assert "lanczos: failed: it [broke]" in text
    for note in ("it used gauss_newton", "not every metric passed its", "its error is that of the eigenvalues"):
        assert f"auto: {note}" in text
    assert "backprop: its times differ by a factor of 1.8; measure again" in text
    assert "gauss_newton: " not in text  # nothing to report
    assert result["device"] in text


@pytest.mark.end_to_end
def test_the_table_of_a_comparison_with_arpack_says_so(compared):
    result = compared[0] | {"speedup_vs_backprop": {}, "speedup_vs_arpack": {"gauss_newton": 7.25}}
    written = io.StringIO()
    bench_table(result, Console(file=written, width=100))
    text = " ".join(written.getvalue().split())
    assert "7.25" in text
    assert "speed-up: over arpack, scipy's eigsh on products by a second backward pass" in text


def test_unknown_names_are_reported_at_once_with_the_nearest(here, pullback):
    options = ["--generator", "dcgan-face", "--distance", "lpip", "--methods", "gauss_newton,lanzcos"]
    output = pullback("bench", "metric", *options)
    assert output.code == 2
    assert output.out == ""
    for hint in ("dcgan-faces", "lpips", "lanczos"):
        assert f"did you mean '{hint}'?" in output.err
    assert "loading" not in output.err


def test_a_factory_that_does_not_exist_is_bad_usage(here, pullback):
    output = pullback("bench", "metric", "--generator", "own_generators:smoth", "--distance", "mse", "--device", "cpu")
    assert output.code == 2
    assert "did you mean 'smooth'?" in output.err


def test_where_nothing_can_be_measured_the_reasons_are_reported_and_the_exit_code_is_1(here, pullback):
    options = ["--distance", "ssim", "--methods", "backprop", "--device", "cpu", "--json"]
    output = pullback("bench", "metric", "--generator", "own_generators:smooth", *options)
    assert output.code == 1
    entry = output.json["methods"]["backprop"]
    assert entry["seconds"] is None
    assert "8 × 8 are too small for ssim" in entry["error"]  # so the user's module was found there, and called
    assert "backprop failed: " in output.err


@pytest.mark.end_to_end
def test_ctrl_c_leaves_no_process(tmp_path):
    options = ["--generator", "toy_generators:slow", "--distance", "mse", "--rounds", "1000", "--methods", "backprop"]
    process = start(tmp_path, *options)
    parent = psutil.Process(process.pid)
    for line in process.stderr:
        if line.startswith("round 2"):
            break
    children = parent.children(recursive=True)
    assert len(children) == 2  # the floor and backprop
    process.send_signal(signal.SIGINT)  # to the parent alone: its children do not take Ctrl-C for theirs
    process.communicate(timeout=20)
    assert process.returncode == cli.EXIT_INTERRUPTED
    assert not any(child.is_running() for child in children)


def test_a_simulation_of_no_gpus_is_bad_usage(pullback):
    output = pullback("bench", "scheduler", "--gpus", "0")
    assert output.code == 2
    assert "Traceback" not in output.err
