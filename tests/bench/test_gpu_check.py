"""The check of a GPU, tried on the CPU at small sizes: every part runs, and whatever fails costs its own rows only."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pullback.bench.gpu import carry, check
from pullback.bench.gpu.parts import PARTS
from pullback.bench.gpu.replay import _union
from pullback.bench.gpu.rows import Row, RowFile, markdown, read_rows
from pullback.errors import SpecError

ROOT = Path(__file__).parents[2]
FAILURES = ("not finished", "left out")
ABSENT = ("ray", "zarr", "icechunk", "xarray", "matplotlib", "fastapi", "obstore")


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The script on the CPU, in a Python without what a GPU machine lacks: its exit and its folder of results."""
    folder = tmp_path_factory.mktemp("gpu")
    blocker = folder / "site"
    blocker.mkdir()
    (blocker / "sitecustomize.py").write_text(
        "import sys\n"
        "class Without:\n"
        "    def __init__(self, finder):\n"
        "        self.finder = finder\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        absent = name.split('.')[0] in {ABSENT!r}\n"
        "        return None if absent else self.finder.find_spec(name, path, target)\n"
        "    def __getattr__(self, name):\n"
        "        return getattr(self.finder, name)\n"
        "sys.meta_path[:] = map(Without, sys.meta_path)\n",
        encoding="utf-8",
    )
    environment = {**os.environ, "OUT": str(folder / "out"), "PYTHON": sys.executable, "PYTHONPATH": str(blocker)}
    script = ROOT / "jobs" / "benchmarks" / "gpu.sh"
    result = subprocess.run(
        [script, "--device", "cpu", "--quick"], env=environment, capture_output=True, text=True, timeout=280
    )
    return result, folder / "out"


@pytest.mark.end_to_end
def test_every_part_runs_without_ray_and_without_a_store(quick):
    result, out = quick
    assert result.returncode == 0, result.stderr
    rows = json.loads((out / "gpu.json").read_text(encoding="utf-8"))["rows"]
    assert {row["part"] for row in rows} == {part.name for part in PARTS}
    assert [row for row in rows if row["what"] in FAILURES] == []
    assert len(list(out.iterdir())) <= 8


@pytest.mark.end_to_end
def test_the_numbers_of_the_check_are_right_where_they_can_be_checked(quick):
    _, out = quick
    rows = json.loads((out / "gpu.json").read_text(encoding="utf-8"))["rows"]
    goals = [row for row in rows if row["part"] in ("correct", "top-k", "homogeneity") and row["goal"]]
    assert len(goals) > 10
    assert [row for row in goals if not row["goal"].endswith("met")] == []
    errors = {row["what"]: row["value"] for row in rows if row["part"] == "correct"}
    assert errors["biggan_deep_tiny: gauss_newton, float64"] < 1e-12
    (halved,) = (row for row in rows if "running out of memory" in row["what"])
    assert halved["value"] < 1e-4
    assert "| biggan-256 |" in (out / "gpu.md").read_text(encoding="utf-8")


def with_part(monkeypatch, tmp_path, **changes):
    monkeypatch.setattr(check, "PARTS", (dataclasses.replace(PARTS[0], **changes),))
    return check.check_gpu(tmp_path / "out", device="cpu", quick=True)


def test_a_part_that_hangs_is_ended_at_its_limit(monkeypatch, tmp_path):
    rows = with_part(monkeypatch, tmp_path, limit=0.3, least=0.0)
    assert [row.what for row in rows] == ["not finished", "seconds of this part"]
    assert rows[-1].value < 10


def test_a_part_that_fails_is_a_row_and_no_more(monkeypatch, tmp_path):
    rows = with_part(monkeypatch, tmp_path, name="no such part")
    assert rows[0].what == "not finished"
    assert "exit code" in rows[0].note


def test_a_part_without_enough_time_is_left_out(monkeypatch, tmp_path):
    monkeypatch.setattr(check, "PARTS", PARTS[:1])
    (row,) = check.check_gpu(tmp_path / "out", device="cpu", quick=True, budget=1.0)
    assert row.what == "left out"
    assert json.loads((tmp_path / "out" / "gpu.json").read_text(encoding="utf-8"))["rows"][0]["value"] is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_machine_without_a_gpu_is_refused(tmp_path):
    with pytest.raises(SpecError, match="no CUDA device"):
        check.check_gpu(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unknown_part_is_refused(tmp_path):
    with pytest.raises(SpecError, match="there is no part 'speed'"):
        check.check_gpu(tmp_path / "out", device="cpu", only=["speed"])


@pytest.mark.parametrize(
    ("row", "goal"),
    [
        (Row("p", "w", 31.0, at_least=30), ">= 30: met"),
        (Row("p", "w", 29.0, at_least=30), ">= 30: missed"),
        (Row("p", "w", 0.1, at_most=0.25), "<= 0.25: met"),
        (Row("p", "w", 0.3, at_most=0.25), "<= 0.25: missed"),
        (Row("p", "w", None, at_most=0.25), "<= 0.25"),
        (Row("p", "w", 1.0), ""),
    ],
)
def test_a_row_says_whether_its_goal_is_met(row, goal):
    assert row.goal == goal


def test_rows_are_kept_when_a_process_is_ended_while_it_writes(tmp_path):
    path = tmp_path / "rows"
    file = RowFile(path, "part")
    file.add("first", 1.0, "s")
    file.add("second", float("nan"), note="not a number")
    with path.open("a", encoding="utf-8") as stream:
        stream.write('{"part": "part", "wh')
    assert [(row.what, row.value) for row in read_rows(path)] == [("first", 1.0), ("second", None)]


def test_a_vertical_bar_in_a_note_does_not_break_the_table():
    text = markdown([Row("p", "w", 1.0, note="|a|")], {"device": "none"})
    assert text.splitlines()[-1].count("|") == 7


def test_time_without_a_kernel_is_that_outside_the_union_of_kernels():
    assert _union([(0, 2), (1, 3), (5, 6), (5.5, 5.75)]) == 4


def test_packages_are_carried_in_the_pinned_versions():
    pinned = carry._pinned(ROOT / "constraints.txt")
    assert len(pinned) == len(carry.PACKAGES)
    assert [line for line in pinned if "==" not in line] == []


def test_a_carried_checkpoint_has_half_the_size_and_nearly_the_same_images(eyes, tmp_path):
    from pullback.generators import load_generator
    from pullback.weights.manifest import locate

    path, _ = locate("dcgan-eyes")
    carry._halve(path, tmp_path / carry.HALF)
    assert (tmp_path / carry.HALF).stat().st_size < 0.6 * path.stat().st_size
    half = load_generator("dcgan-eyes", weights=tmp_path / carry.HALF, device="cpu")
    codes, classes = torch.randn(2, 100, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 3])
    with torch.no_grad():
        assert float((half(codes, classes) - eyes(codes, classes)).abs().max()) < 0.01
