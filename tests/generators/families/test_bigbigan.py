"""BigBiGAN: recognised, unconditional, with the epsilons of the port's code."""

import pytest
import torch
from family_checks import assert_fast_and_exact, furthest, state_of

from pullback import load_generator


@pytest.fixture(scope="module")
def state():
    whole = state_of("ajbrock_biggan/imagenet_style.safetensors")
    return {name: tensor for name, tensor in whole.items() if not name.endswith(".sv0")}  # as the port's file


@pytest.fixture
def path(state, tmp_path):
    torch.save(state, tmp_path / "BigBiGAN_x1.pth")
    return tmp_path / "BigBiGAN_x1.pth"


def test_it_is_a_biggan_of_class_0(path):
    generator = load_generator(path, device="cpu")
    assert (generator.family, generator.latent_dim, generator.classes) == ("bigbigan", 12, ())
    assert generator.blocks == {"z": (0, 12)}
    z = torch.randn(2, 12, generator=torch.Generator().manual_seed(0))
    same = load_generator(path, family="biggan", BN_eps=1e-4, SN_eps=1e-4, device="cpu")
    assert furthest(generator.native(z), same.native(z, torch.zeros(2, dtype=torch.int64))) < 1e-6
    other = load_generator(path, fixed_class=3, device="cpu")
    assert furthest(generator.native(z), other.native(z)) > 1e-3


def test_a_file_whose_class_embeddings_are_equal_is_recognised_by_any_name(state, tmp_path):
    repeated = {**state, "shared.weight": state["shared.weight"][:1].repeat(10, 1)}
    torch.save(repeated, tmp_path / "generator.pth")
    assert load_generator(tmp_path / "generator.pth", device="cpu").family == "bigbigan"
    torch.save(state, tmp_path / "other.pth")
    assert load_generator(tmp_path / "other.pth", BN_eps=1e-4, device="cpu").family == "biggan"
    assert load_generator(tmp_path / "other.pth", family="bigbigan", device="cpu").family == "bigbigan"


def test_it_runs_on_the_fast_path(path):
    assert_fast_and_exact(load_generator(path, device="cpu"), torch.linspace(-1, 1, 12))
