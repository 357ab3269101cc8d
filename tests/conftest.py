"""Fixtures that several packages' tests share."""

import os
import signal
import sys

import pytest
import torch

from pullback.errors import WeightsError
from pullback.generators.weights import locate

# Parallel test workers share the cores: one thread each, and each process that they start. Two processes with two
# threads each on two cores wait for each other in every parallel loop, and what takes seconds takes minutes.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
# What a shell starts in the background ignores Ctrl-C, and so would the commands that the tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


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
