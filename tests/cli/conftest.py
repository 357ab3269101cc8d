"""The command line, called as its console script calls it, in this process."""

import contextlib
import io
import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from pullback import cli

OWN_MODULE = """
import torch
from toy_generators import Smooth


class Gaps(Smooth):
    def forward(self, z, condition=None):
        return torch.where(z[:, 1] > 1, torch.nan, 1.0)[:, None, None, None] * super().forward(z)


def smooth():
    return Smooth()


def gaps():
    return Gaps()
"""


@dataclass(frozen=True)
class Said:
    """What a command printed and left with."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        """Standard output as strict JSON: `NaN` and `Infinity` are no JSON."""

        def refuse(constant):
            raise ValueError(f"{constant} is not JSON")

        return json.loads(self.out, parse_constant=refuse)

    def next_commands(self):
        """The commands that were suggested: `next: pullback ...`, `to go on: pullback ...`, `see pullback ...`."""
        lines = (self.out + self.err).splitlines()
        found = [line.partition("pullback ") for line in lines if "pullback " in line and ":" in line]
        return [f"pullback {rest}" for before, _, rest in found if before.endswith((": ", "see "))]


def call(*arguments):
    """`pullback` with these arguments."""
    out, err = io.StringIO(), io.StringIO()
    before, handler = sys.argv, signal.getsignal(signal.SIGTERM)
    sys.argv = ["pullback", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                cli.main()
                code = 0
            except SystemExit as left:
                code = left.code or 0
    finally:
        sys.argv = before
        signal.signal(signal.SIGTERM, handler)
    return Said(code, out.getvalue(), err.getvalue())


def write_job(path, **changes):
    """The YAML of a small job of the user's own generator."""
    content = {
        "name": "mine",
        "generator": "own_generators:smooth",
        "distance": "mse",
        "samples": {"count": 5},
        "resources": {"shard_size": 2, "workers": 1},
        **changes,
    }
    Path(path).write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
    return path


@contextlib.contextmanager
def _folder(path):
    """Be in a user's folder with a module of generators, and leave no trace in this process."""
    before, search = Path.cwd(), list(sys.path)
    (path / "own_generators.py").write_text(OWN_MODULE)
    os.chdir(path)
    try:
        yield path
    finally:
        os.chdir(before)
        sys.path[:] = search
        sys.modules.pop("own_generators", None)


@pytest.fixture
def pullback():
    return call


@pytest.fixture
def job():
    return write_job


@pytest.fixture
def here(tmp_path):
    with _folder(tmp_path) as folder:
        yield folder


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A folder with a finished sweep at sweeps/mine and one with quarantined samples at sweeps/gaps."""
    with _folder(tmp_path_factory.mktemp("done")) as folder:
        assert call("run", write_job("mine.yaml"), "--serial").code == 0
        gaps = {"name": "gaps", "generator": "own_generators:gaps", "samples": {"count": 30}}
        assert call("run", write_job("gaps.yaml", **gaps), "--serial").code == cli.EXIT_QUARANTINED
        yield folder
