"""LPIPS: the published values, the published definition, and derivatives that exist where it is used."""

from pathlib import Path

import numpy as np
import pytest
import torch
from plain_lpips import LAYERS, lpips
from torch import nn

from pullback.distances import load_distance
from pullback.distances import lpips as lpips_module
from pullback.distances.lpips import Lpips, load_lpips
from pullback.distances.trunks import Trunk
from pullback.errors import WeightsError
from pullback.weights.checkpoints import read_checkpoint
from pullback.weights.manifest import locate

TRIPLET = Path(__file__).parents[3] / "shared" / "data" / "lpips"
PUBLISHED = {"alex": (0.7219, 0.1376), "vgg": (0.5686, 0.4217)}


@pytest.fixture(params=["alex", "vgg"])
def trunk(request):
    return request.param


@pytest.fixture
def distance(request, trunk):
    """LPIPS with its true weights."""
    return request.getfixturevalue(f"lpips_{trunk}")


@pytest.fixture(scope="module")
def images(faces):
    z = torch.randn(6, 100, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return faces(z)


def true_heads(trunk):
    content = read_checkpoint(locate(f"heads-{trunk}")[0])
    return [content[f"lin{layer}.model.1.weight"].flatten() for layer in range(5)]


def true_convolutions(distance):
    return [(convolution.weight, convolution.bias) for convolution in distance.trunk.convolutions]


def read_image(name):
    from PIL import Image

    pixels = np.asarray(Image.open(TRIPLET / f"{name}.png").convert("RGB"))
    return torch.tensor(pixels / 255.0, dtype=torch.float32).permute(2, 0, 1)[None]


@pytest.mark.weights
@pytest.mark.skipif(not TRIPLET.is_dir(), reason="the reference images are not beside this repository")
def test_the_reference_triplet_has_its_published_distances(trunk, distance):
    reference, first, second = (read_image(name) for name in ("ex_ref", "ex_p0", "ex_p1"))
    assert [float(distance(reference, other)) for other in (first, second)] == pytest.approx(PUBLISHED[trunk], abs=1e-3)


@pytest.mark.weights
@pytest.mark.parametrize("input_range", ["standard", "paper"])
def test_the_residual_form_is_the_definition(trunk, distance, images, input_range):
    fed = load_distance("lpips", trunk=trunk, input_range=input_range, device="cpu")
    x, y = images[:3], images[3:]
    plain = lpips(trunk, true_convolutions(distance), true_heads(trunk), x, y, input_range)
    assert float(plain.min()) > 0.05
    assert torch.allclose(fed(x, y), plain, atol=1e-5, rtol=0)


@pytest.mark.weights
def test_the_two_input_ranges_differ(images):
    standard, paper = (load_distance("lpips", input_range=name, device="cpu") for name in ("standard", "paper"))
    assert float(standard(images[:1], images[1:2])) != pytest.approx(float(paper(images[:1], images[1:2])), rel=0.05)


@pytest.mark.weights
def test_the_trunk_has_the_shapes_of_torchvisions(trunk, distance):
    shapes = [(c.in_channels, c.out_channels, *c.kernel_size) for c in distance.trunk.convolutions]
    assert shapes == [(into, out, kernel, kernel) for into, out, kernel in LAYERS[trunk].values()]


@pytest.mark.weights
def test_lpips_records_what_it_was_loaded_from(trunk, distance):
    assert distance.name == f"lpips-{trunk}"
    assert distance.weights == {name: locate(name)[1] for name in (f"trunk-{trunk}", f"heads-{trunk}")}
    assert not any(parameter.requires_grad for parameter in distance.parameters())


@pytest.mark.weights
def test_identical_images_have_distance_zero_and_a_derivative(distance, images):
    x = images[:1].clone().requires_grad_()
    value = distance(x, images[:1])
    (gradient,) = torch.autograd.grad(value.sum(), x)
    assert value.tolist() == [0]
    assert float(gradient.abs().max()) == 0


@pytest.mark.weights
def test_black_images_have_finite_derivatives(distance):
    _, tangent = torch.func.jvp(distance.residual, (torch.zeros(1, 3, 32, 32),), (torch.ones(1, 3, 32, 32),))
    assert bool(tangent.isfinite().all())


@pytest.mark.weights
@pytest.mark.parametrize("size", [16, 30])
def test_images_too_small_for_the_trunk_are_refused_with_the_size_to_set(lpips_alex, size):
    with pytest.raises(ValueError, match=rf"{size} × {size}.*lpips-alex.*31"):
        lpips_alex(torch.zeros(1, 3, size, size), torch.zeros(1, 3, size, size))


@pytest.mark.weights
def test_small_images_are_measured_once_a_size_is_set(lpips_alex):
    distance = load_distance("lpips", size=31, device="cpu")
    black, white = (torch.full((1, 3, 8, 8), value) for value in (0.0, 1.0))
    expected = lpips_alex(*(torch.full((1, 3, 31, 31), value) for value in (0.0, 1.0)))
    assert float(distance(black, white)) == pytest.approx(float(expected), rel=1e-5)


def small_lpips(bias=0.0, **options):
    """LPIPS over a trunk of two 1 × 1 convolutions; a low bias silences every feature of a dark pixel."""
    stages = [[nn.Conv2d(3, 4, 1), nn.ReLU()], [nn.Conv2d(4, 5, 1), nn.ReLU()]]
    trunk = Trunk(stages, smallest=1)
    stream = torch.Generator().manual_seed(2)
    for convolution in trunk.convolutions:
        convolution.weight.data = torch.rand(convolution.weight.shape, generator=stream)
        convolution.bias.data.fill_(bias)
    heads = [torch.rand(width, generator=stream) for width in (4, 5)]
    return Lpips(trunk, heads, **options).requires_grad_(False)


SILENT = -1e6


def unguarded(activation):
    """The normalisation of the `lpips` package."""
    return activation / (torch.sqrt(torch.sum(activation**2, dim=1, keepdim=True)) + 1e-10)


def derivatives(distance, x):
    """Value, jvp and vjp of the residual, flat."""
    tangent = torch.rand(x.shape, generator=torch.Generator().manual_seed(9))
    value, pushed = torch.func.jvp(distance.residual, (x,), (tangent,))
    _, pull = torch.func.vjp(distance.residual, x)
    (pulled,) = pull(torch.ones_like(value))
    return value, pushed, pulled


def test_a_pixel_without_features_gives_zeros_and_no_nan():
    x = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(4))
    for found in derivatives(small_lpips(SILENT), x):
        assert torch.equal(found, torch.zeros_like(found))


def test_without_its_guard_a_pixel_without_features_gives_nan(monkeypatch):
    x = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(4))
    monkeypatch.setattr(lpips_module, "_unit_normalized", unguarded)
    value, pushed, _ = derivatives(small_lpips(SILENT), x)
    assert bool(value.isfinite().all())
    assert bool(pushed.isnan().all())


@pytest.mark.parametrize(("normalized", "is_nan"), [(lpips_module._unit_normalized, False), (unguarded, True)])
def test_only_the_guard_gives_zero_features_a_derivative(normalized, is_nan):
    zeros = torch.zeros(1, 4, 2, 2)
    value, pushed = torch.func.jvp(normalized, (zeros,), (torch.ones_like(zeros),))
    _, pull = torch.func.vjp(normalized, zeros)
    (pulled,) = pull(torch.ones_like(value))
    assert torch.equal(value, zeros)
    assert [bool(found.isnan().any()) for found in (pushed, pulled)] == [is_nan, is_nan]


def test_the_guard_changes_nothing_where_there_are_features(monkeypatch):
    x = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(4))
    guarded = derivatives(small_lpips(10.0), x)
    monkeypatch.setattr(lpips_module, "_unit_normalized", unguarded)
    for ours, theirs in zip(guarded, derivatives(small_lpips(10.0), x), strict=True):
        assert float(ours.abs().max()) > 0
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_pixels_with_and_without_features_do_not_disturb_each_other():
    distance = small_lpips(-2.5)
    bright, dark = torch.ones(1, 3, 1, 1), torch.zeros(1, 3, 1, 1)
    alone = [derivatives(distance, pixel)[1] for pixel in (bright, dark)]
    assert float(alone[0].abs().max()) > 0
    assert float(alone[1].abs().max()) == 0
    x = torch.cat([bright, dark], dim=3)
    value, pushed, pulled = derivatives(distance, x)
    assert all(bool(found.isfinite().all()) for found in (value, pushed, pulled))
    assert float(pulled[..., 1].abs().max()) == 0
    assert float(pulled[..., 0].abs().max()) > 0


def test_heads_that_do_not_fit_the_trunk_are_refused():
    trunk = small_lpips().trunk
    with pytest.raises(WeightsError, match=r"\[4\].*\[4, 5\]"):
        Lpips(trunk, [torch.ones(4)])
    with pytest.raises(WeightsError, match=r"\[5, 4\].*\[4, 5\]"):
        Lpips(trunk, [torch.ones(5), torch.ones(4)])


@pytest.mark.parametrize("weight", [-1e-6, float("nan")])
def test_a_head_that_is_negative_or_no_number_is_refused(weight):
    trunk = small_lpips().trunk
    heads = [torch.ones(4), torch.tensor([1.0, 1, weight, 1, 1])]
    with pytest.raises(WeightsError, match="negative"):
        Lpips(trunk, heads)


def test_another_input_range_is_refused_rather_than_taken_for_the_papers():
    with pytest.raises(ValueError, match="'papr'"):
        Lpips(small_lpips().trunk, [torch.ones(4), torch.ones(5)], input_range="papr")


def test_a_head_of_zeros_is_a_distance_of_nothing():
    distance = Lpips(small_lpips().trunk, [torch.zeros(4), torch.zeros(5)])
    x = torch.rand(2, 3, 4, 4, requires_grad=True)
    value = distance(x, torch.zeros(1, 3, 4, 4))
    (gradient,) = torch.autograd.grad(value.sum(), x)
    assert value.tolist() == [0, 0]
    assert bool(gradient.isfinite().all())


@pytest.mark.weights
@pytest.mark.parametrize("content", [{"lin0.weight": torch.ones(3)}, [torch.ones(3)], torch.ones(3), {"a": 1}])
def test_a_file_that_holds_no_heads_is_refused(tmp_path, lpips_alex, monkeypatch, content):
    torch.save(content, tmp_path / "heads.pth")
    monkeypatch.setattr(
        lpips_module, "locate", lambda name: (tmp_path / "heads.pth", "0") if "heads" in name else locate(name)
    )
    with pytest.raises(WeightsError, match=r"heads\.pth"):
        load_lpips("alex")


def test_lpips_without_its_weights_says_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setenv("PULLBACK_CACHE", str(tmp_path))
    monkeypatch.setenv("PULLBACK_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(WeightsError, match="pullback weights fetch trunk-alex"):
        load_distance("lpips", device="cpu")
