"""Generators that write into their codes, round coarsely, assert or recompute: right numbers or one sentence."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from pullback import load_distance, metric_at
from pullback.errors import PullbackError
from pullback.generators.checks import notes_of
from toy_generators import Smooth

MSE = load_distance("mse", device="cpu")
Z = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))


class Around(nn.Module):
    """A generator with something around it: `run(inner, z)`."""

    latent_dim = 6

    def __init__(self, run):
        super().__init__()
        self.inner, self.run = Smooth(size=16), run

    def forward(self, z):
        return self.run(self.inner, z)


def in_place(inner, z):
    z *= 0.5
    return inner(z)


def by_autocast(inner, z):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return torch.sigmoid(z @ torch.ones(6, 768)).float().view(-1, 3, 16, 16)


def alone(inner, z):
    if len(z) != 1:
        raise AssertionError  # as `assert len(z) == 1` does, to which pytest would add a message
    return inner(z)


@pytest.mark.parametrize("method", ["gauss_newton", "backprop", "block_krylov", "finite_difference"])
def test_a_generator_may_write_into_its_codes(method):
    z = Z.clone()
    found = metric_at(Around(in_place), MSE, z, method=method)
    wanted = metric_at(Around(lambda inner, z: inner(0.5 * z)), MSE, z, method=method)
    torch.testing.assert_close(found.matrix, wanted.matrix, rtol=1e-3, atol=1e-9)
    assert found.certificate.failures() == ["", ""]
    assert torch.equal(z, Z)


def test_images_that_autocast_rounds_too_coarsely_are_refused_before_anything_is_computed():
    with pytest.raises(PullbackError, match="half precision or bfloat16"):
        metric_at(Around(by_autocast), MSE, Z)


CASTS = {
    "half": lambda image: image.half(),
    "to": lambda image: image.to(torch.float16),
    "keyword": lambda image: image.to(dtype=torch.bfloat16),
    "and back": lambda image: image.half().float(),
}


@pytest.mark.parametrize("method", ["gauss_newton", "backprop", "block_krylov"])
@pytest.mark.parametrize("cast", CASTS.values(), ids=CASTS)
def test_a_cast_to_half_precision_is_left_out_and_a_note_says_so(cast, method):
    generator = Around(lambda inner, z: cast(inner(z)))
    found = metric_at(generator, MSE, Z, method=method)
    wanted = metric_at(Around(lambda inner, z: inner(z)), MSE, Z, method=method)
    torch.testing.assert_close(found.matrix, wanted.matrix, rtol=1e-5, atol=1e-9)
    assert found.certificate.failures() == ["", ""]
    assert any("are left out" in note for note in notes_of(generator))


def test_a_cast_to_half_precision_is_left_out_in_float64_too():
    found = metric_at(Around(lambda inner, z: inner(z).half()), MSE, Z, precision="float64")
    wanted = metric_at(Around(lambda inner, z: inner(z)), MSE, Z, precision="float64")
    torch.testing.assert_close(found.matrix, wanted.matrix, rtol=1e-10, atol=0)
    assert found.certificate.failures() == ["", ""]


def test_a_part_that_is_computed_coarsely_and_hardly_shows_is_not_refused():
    generator = Around(lambda inner, z: inner(z) + 1e-6 * inner(z).half().float())
    assert metric_at(generator, MSE, Z).certificate.failures() == ["", ""]


def test_a_bare_assertion_is_shown_with_its_code():
    with pytest.raises(PullbackError, match=r"`raise AssertionError.* fails \(test_unusual_forwards.py, line \d+\)"):
        metric_at(Around(alone), MSE, Z)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_checkpointing_that_cannot_be_differentiated_names_the_kind_that_can():
    with pytest.raises(PullbackError, match="use_reentrant=False") as caught:
        metric_at(Around(lambda inner, z: checkpoint(inner, z, use_reentrant=True)), MSE, Z)
    assert "functorch" not in str(caught.value)
    other = Around(lambda inner, z: checkpoint(inner, z, use_reentrant=False))
    assert metric_at(other, MSE, Z).certificate.failures() == ["", ""]
