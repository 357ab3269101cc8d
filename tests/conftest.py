"""Fixtures that several packages' tests share."""

import atexit
import gc
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from object_stores import bucket as bucket
from object_stores import google as google
from object_stores import s3 as s3
from pullback.errors import WeightsError
from pullback.weights.manifest import locate
from scheduling import FileScheduling, longest_first
from slow_list import function_of, slow_functions

# Parallel test workers share the cores: one thread each, and each process that they start. Two processes with two
# threads each on two cores wait for each other in every parallel loop, and what takes seconds takes minutes.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
# Submissions queue for each state folder, and those of other tests are none of this process's.
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="pullback-state-")
atexit.register(shutil.rmtree, os.environ["XDG_STATE_HOME"], ignore_errors=True)
# What a shell starts in the background ignores Ctrl-C, and so would the commands that the tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Collect in a third of the time: without garbage collection, and with the rewritten test modules kept on disk.

    What is imported here lives as long as the process, so later garbage collections skip it.
    """
    writes_no_bytecode = sys.dont_write_bytecode
    sys.dont_write_bytecode = False
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()
        sys.dont_write_bytecode = writes_no_bytecode


@pytest.hookimpl(tryfirst=True)  # before xdist appends groups to the ids
def pytest_collection_modifyitems(config, items):
    """Mark the tests of slow_tests.txt as slow; in the processes of xdist, put the longest files first."""
    slow = slow_functions()
    for item in items:
        if function_of(item.nodeid) in slow:
            item.add_marker(pytest.mark.slow)
    if hasattr(config, "workerinput"):
        items[:] = longest_first(items, slow)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Divide the tests among the processes of xdist by file."""
    return FileScheduling(config, log) if config.option.dist == "loadgroup" else None


@pytest.fixture(autouse=True)
def _no_modules_of_other_tests():
    """Forget modules from temporary folders, whose names later tests use again; restore the working directory."""
    before, folder = set(sys.modules), Path.cwd()
    yield
    os.chdir(folder)
    temporary = os.path.realpath(tempfile.gettempdir())
    for name in set(sys.modules) - before:
        file = getattr(sys.modules.get(name), "__file__", None)
        if file and os.path.realpath(file).startswith(temporary):
            sys.modules.pop(name, None)


def _needs(*names: str) -> None:
    try:
        for name in names:
            locate(name)
    except WeightsError:
        pytest.skip(f"no network: {', '.join(names)} could not be fetched here (pullback weights fetch)")


@pytest.fixture(scope="session")
def ray_start():
    """For tests of `ray start`, which puts its interpreter's path unquoted into a shell's command."""
    if " " in sys.executable:
        pytest.skip(f"`ray start` does not work from a folder with a space in its name: {sys.executable}")


@pytest.fixture(scope="session")
def faces():
    """The trained generator dcgan-faces."""
    from pullback.generators import load_generator

    _needs("dcgan-faces")
    return load_generator("dcgan-faces", device="cpu")


@pytest.fixture(scope="session")
def eyes():
    """The trained class-conditional generator dcgan-eyes."""
    from pullback.generators import load_generator

    _needs("dcgan-eyes")
    return load_generator("dcgan-eyes", device="cpu")


@pytest.fixture(scope="session")
def lpips_alex():
    """LPIPS with its true AlexNet trunk and heads."""
    from pullback.distances import load_distance

    _needs("trunk-alex", "heads-alex")
    return load_distance("lpips", trunk="alex", device="cpu")


@pytest.fixture(scope="session")
def lpips_vgg():
    """LPIPS with its true VGG16 trunk and heads."""
    from pullback.distances import load_distance

    _needs("trunk-vgg", "heads-vgg")
    return load_distance("lpips", trunk="vgg", device="cpu")
