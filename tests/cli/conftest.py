"""A user's folder, and the command line in it."""

import contextlib
import os
import sys
from pathlib import Path

import pytest
import yaml

from command_line import call

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
        assert call("run", write_job("gaps.yaml", **gaps), "--serial").code == 4
        yield folder
