"""SSIM: its published definition, its form near equal images, and its second derivative there."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import correlate1d
from small_distances import some_images

from pullback.distances import load_distance
from pullback.distances.ssim import Ssim

SEEDS = st.integers(0, 2**31)


def window_average(image):
    """Gaussian of 11 pixels and deviation 1.5, where it lies whole in the image [height, width]."""
    weights = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    weights /= weights.sum()
    return correlate1d(correlate1d(image, weights, axis=0), weights, axis=1)[5:-5, 5:-5]


def published_ssim(x, y):
    """The formula as Wang et al. (2004) give it, of one channel of images in [0, 1], in float64."""
    c1, c2 = 0.01**2, 0.03**2
    mean_x, mean_y = window_average(x), window_average(y)
    var_x, var_y = window_average(x * x) - mean_x**2, window_average(y * y) - mean_y**2
    covariance = window_average(x * y) - mean_x * mean_y
    top = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return top / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))


def published_distance(x, y):
    channels = [published_ssim(a, b).mean() for a, b in zip(x.double().numpy(), y.double().numpy(), strict=True)]
    return 1 - np.mean(channels)


@settings(deadline=None, max_examples=25)
@given(SEEDS, st.integers(11, 24), st.integers(11, 24), st.floats(0, 1))
def test_ssim_is_its_published_definition(seed, height, width, mixed):
    stream = torch.Generator().manual_seed(seed)
    x, other = torch.rand(2, 3, height, width, generator=stream), torch.rand(2, 3, height, width, generator=stream)
    y = mixed * x + (1 - mixed) * other
    expected = [published_distance(a, b) for a, b in zip(x, y, strict=True)]
    assert Ssim()(x.double(), y.double()).tolist() == pytest.approx(expected, abs=1e-12)
    assert Ssim()(x, y).tolist() == pytest.approx(expected, abs=2e-5)


def test_black_against_white_is_nearly_one():
    black, white = torch.zeros(1, 3, 12, 12), torch.ones(1, 3, 12, 12)
    assert float(Ssim()(black, white)) == pytest.approx(1 / (1 + 1e-4), rel=1e-6)


def test_the_complement_of_an_image_can_be_more_than_one_away():
    x = some_images(1, size=16)
    assert bool((Ssim()(x, 1 - x) > 1).all())


@pytest.mark.parametrize("step", [1e-3, 1e-4, 1e-5])
def test_nearly_equal_images_keep_their_digits_in_single_precision(step):
    x = some_images(1, batch=1, size=16)
    y = x + step * (some_images(2, batch=1, size=16) - 0.5)
    exact = published_distance(x[0].double(), y[0].double())
    # the plain form 1 − SSIM has nothing left of this in float32 at the smaller steps
    assert float(Ssim()(x, y)) == pytest.approx(exact, rel=2e-3, abs=1e-15)


@settings(deadline=None, max_examples=25)
@given(SEEDS, st.floats(0, 1), st.floats(0, 0.1))
def test_the_distance_is_never_negative(seed, level, contrast):
    x = (level + contrast * (some_images(seed, size=12) - 0.5)).clamp(0, 1)
    y = (level + contrast * (some_images(seed + 1, size=12) - 0.5)).clamp(0, 1)
    assert bool((Ssim()(x, y) >= 0).all())


@pytest.mark.parametrize("shade", [None, 0.0, 0.3, 1.0])
def test_the_hessian_at_identical_images_is_that_of_its_quadratic_form(shade):
    """At x = y the second derivative is 2 Σ_windows (μ_v² / (2μ² + C1) + Var(v) / (2σ² + C2)) / windows, along v."""
    image = some_images(4, batch=1, size=13) if shade is None else torch.full((1, 3, 13, 13), shade)
    x, v = image[0].double(), some_images(5, batch=1, size=13)[0].double() - 0.5

    def along(t):
        return Ssim()((x + t * v)[None], x[None])[0]

    found = torch.func.jvp(lambda t: torch.func.grad(along)(t), (torch.zeros(()).double(),), (torch.ones(()).double(),))
    total = 0.0
    for channel, direction in zip(x.numpy(), v.numpy(), strict=True):
        mean, moved = window_average(channel), window_average(direction)
        variance = window_average(channel**2) - mean**2
        spread = window_average(direction**2) - moved**2
        total += np.mean(moved**2 / (2 * mean**2 + 1e-4) + spread / (2 * variance + 9e-4)) / 3
    assert float(found[0]) == pytest.approx(0, abs=1e-12)
    assert float(found[1]) == pytest.approx(2 * total, rel=1e-9)


@pytest.mark.parametrize(("height", "width"), [(10, 16), (16, 10), (4, 4)])
def test_images_smaller_than_the_window_are_refused_with_the_size_to_set(height, width):
    images = torch.zeros(1, 3, height, width)
    with pytest.raises(ValueError, match=rf"{height} × {width} are too small for ssim, .*needs 11; set its `size`"):
        Ssim()(images, images)
    assert load_distance("ssim", size=16, device="cpu")(images, images).tolist() == [0]


def test_an_image_of_the_windows_size_has_one_window():
    x, y = some_images(1, batch=1, size=11), some_images(2, batch=1, size=11)
    assert float(Ssim()(x, y)) == pytest.approx(published_distance(x[0], y[0]), rel=1e-4)


def test_ssim_is_loaded_with_its_options():
    distance = load_distance("ssim", clamp=True, size=32, device="cpu")
    assert (distance.name, distance.clamp, distance.size) == ("ssim", True, 32)
