"""The commands of docs/tutorials/axes.md, in their order, on a toy sweep under the name that the page uses."""

import re
import shlex
from pathlib import Path

import pytest

import pullback
from command_line import call
from pullback.driving.pool_protocol import serial_pool
from pullback.driving.run import run_sweep
from pullback.sweep.plan import make_plan
from sweep_jobs import job

PAGE = Path(__file__).parents[3] / "docs" / "tutorials" / "axes.md"


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tutorial")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_sweep(make_plan(job("moving_blobs:blobs", count=6, name="quickstart")), serial_pool)
    return folder


def test_the_commands_and_the_python_of_the_tutorial_work(folder, monkeypatch):
    monkeypatch.chdir(folder)
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("pullback axes")]
    assert len(lines) >= 4
    for line in lines:
        arguments = shlex.split(line, comments=True)[1:]
        extra = [] if "--name" in arguments else ["--scored", "2", "--random", "2", "--draws", "5"]
        if "0.25" in arguments:  # an LPIPS distance in the text; the toy has the mean squared error
            arguments[arguments.index("0.25")] = "0.01"
        done = call(*arguments, *extra)
        assert done.code == 0, (line, done.err)
    assert {"pictures", "mine", "lighting", "sweeps"} <= {path.name for path in folder.iterdir()}
    assert (folder / "lighting" / "axis-lighting.png").exists()
    (source,) = blocks("python")
    source = source.replace("count=4)", "count=4, scored=2, random=2, draws=5)")
    found = {"pullback": pullback}
    exec(source, found)
    assert found["walks"].images.shape[:3] == (3, 4, 7)
    assert (folder / "pictures" / "axis-1.gif").exists()
