"""`pullback invert` and the commands of its tutorial, on a small generator."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from toy_generators import Smooth

ROOT = Path(__file__).parents[2]
QUICK = ("--distance", "mse", "--set", "samples=60", "--set", "held_out=false")


@pytest.fixture
def picture(here, monkeypatch):
    """A picture of a code, in a folder with a module of generators."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(here / "cache"))
    generator = Smooth()
    code = torch.randn(1, generator.latent_dim, generator=torch.Generator().manual_seed(2))
    image = (generator(code)[0].detach().permute(1, 2, 0) * 255).round().byte().numpy()
    Image.fromarray(image).save("portrait.jpg", quality=100, subsampling=0)
    Image.fromarray(image).save("portrait.png")
    return code[0].numpy()


def test_the_code_of_a_picture_is_found_written_and_kept(pullback, picture):
    command = ("invert", "portrait.png", "--generator", "own_generators:smooth", *QUICK, "--output", "found")
    result = pullback(*command, "--json")
    assert result.code == 0, result.err
    np.testing.assert_allclose(result.json["inversion"]["code"][0], picture, atol=0.05)
    np.testing.assert_allclose(np.load("found/codes.npy")[0], picture, atol=0.05)
    assert Path("found/portrait.reconstruction.png").is_file()
    again = pullback(*command)
    assert "nothing to do" in again.err
    assert "portrait.png" in again.out


def test_the_commands_of_the_tutorial_run(pullback, picture):
    page = (ROOT / "docs/tutorials/inversion.md").read_text(encoding="utf-8")
    commands = re.findall(r"^pullback invert .+$", page, flags=re.MULTILINE)
    assert commands
    for line in commands:
        words = shlex.split(line.replace("dcgan-faces", "own_generators:smooth"))[1:]
        assert pullback(*words, *QUICK).code == 0
    options = re.findall(r"^\| `(--[^`]+)` \|", page, flags=re.MULTILINE)
    assert len(options) >= 4
    words = [word for option in options if "condition" not in option for word in shlex.split(option)]
    result = pullback("invert", "portrait.png", "--generator", "own_generators:smooth", *QUICK, *words)
    assert result.code == 0, result.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("missing.png", "--generator", "own_generators:smooth"),
        ("portrait.png",),
        ("portrait.png", "--generator", "own_generators:smooth", "--budget", "0"),
        ("portrait.png", "--generator", "own_generators:smooth", "--solver", "magic"),
        ("portrait.png", "--generator", "own_generators:smooth", "--set", "colour=1"),
        ("portrait.png", "--generator", "own_generators:smooth", "--mask", "[1, 2]"),
    ],
)
def test_a_wrong_call_is_one_message_without_traceback(pullback, picture, arguments):
    result = pullback("invert", *arguments, "--distance", "mse", "--set", "samples=20", "--set", "held_out=false")
    assert result.code in (1, 2)
    assert "Traceback" not in result.err
    assert result.err.count("error") == 1


def test_a_sweep_gives_its_generator_distance_and_metric_and_another_one_is_refused(pullback, job, picture):
    assert pullback("run", job("mine.yaml"), "--serial").code == 0
    words = ("invert", "portrait.png", "--sweep", "sweeps/mine", *QUICK[2:])
    result = pullback(*words, "--solver", "lbfgs_metric", "--json")
    assert result.code == 0, result.err
    assert result.json["inversion"]["distance"] == "mse"
    np.testing.assert_allclose(result.json["inversion"]["code"][0], picture, atol=0.05)
    assert pullback(*words, "--generator", "own_generators:smooth").code == 0
    for other in ("own_generators:gaps", "toy_generators:smooth_of_twelve"):
        refused = pullback(*words, "--generator", other)
        assert refused.code == 1
        assert refused.err.count("error") == 1
