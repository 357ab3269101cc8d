"""Operations on images against torch's own: cheaper convolutions of tangents, and the kernels kept for them."""

import gc
import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_rules import CODE, KERNEL, differs, draw, module, on_code, on_image
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from pullback.metric.forward import convolutions as tangent_convolutions
from pullback.metric.forward.linearize import Linearization

TURNED = draw(3, 5, 4, 4)


def instance_statistics(x):
    return (x - x.mean((2, 3), keepdim=True)) / (x.var((2, 3), keepdim=True, unbiased=False) + 1e-5).sqrt()


ON_IMAGES = {
    # convolutions
    "convolution": module(nn.Conv2d(3, 5, 3, stride=2, padding=1)),
    "convolution of one sample without a batch": on_image(lambda x: torch.stack([F.conv2d(one, KERNEL) for one in x])),
    "transposed convolution without a batch": on_image(
        lambda x: torch.stack([F.conv_transpose2d(one, TURNED, stride=2) for one in x])
    ),
    "convolution without a batch in one axis": on_image(
        lambda x: torch.stack([F.conv1d(one, draw(3, 4, 3)) for one in x[:, 0]])
    ),
    "convolution of the same size": module(nn.Conv2d(3, 5, 4, padding="same")),
    "convolution of the same size, functional": on_image(lambda x: F.conv2d(x, KERNEL, None, 1, "same", 2)),
    "convolution in groups": module(nn.Conv2d(4, 6, 3, groups=2, dilation=2, padding=3), channels=4),
    "first channels of a convolution in groups": on_image(
        lambda x: F.conv2d(x, draw(4, 2, 3, 3), groups=2)[:, :3], channels=4
    ),
    "convolution that reflects": module(nn.Conv2d(3, 5, 3, padding=1, padding_mode="reflect")),
    "convolution that wraps around": module(nn.Conv2d(3, 5, 3, padding=1, padding_mode="circular")),
    "convolution in one axis": on_image(lambda x: F.conv1d(x.flatten(2), draw(2, 3, 5), draw(2), stride=2)),
    "convolution in three axes": on_image(lambda x: F.conv3d(x[:, None], draw(2, 1, 2, 2, 2))),
    "transposed convolution": module(nn.ConvTranspose2d(3, 5, 4, stride=2, padding=1)),
    "transposed convolution, output padding": module(
        nn.ConvTranspose2d(3, 5, 3, stride=2, padding=1, output_padding=1)
    ),
    "transposed convolution in groups": module(nn.ConvTranspose2d(4, 6, 4, stride=2, padding=1, groups=2), channels=4),
    "transposed convolution, dilated": module(nn.ConvTranspose2d(3, 5, 3, stride=2, dilation=2)),
    "transposed convolution of a pixel": module(nn.ConvTranspose2d(3, 5, 4), side=1),
    "transposed convolution, lists": on_image(lambda x: F.conv_transpose2d(x, TURNED, stride=[2], padding=[1])),
    "transposed convolution in one axis": on_image(lambda x: F.conv_transpose1d(x.flatten(2), draw(3, 2, 5), stride=3)),
    "transposed convolution in three axes": on_image(
        lambda x: F.conv_transpose3d(x[:, None], draw(1, 2, 2, 2, 2), stride=2)
    ),
    # resizing
    **{
        f"resized, {name}": on_image(lambda x, given=given: F.conv2d(F.interpolate(x, **given), KERNEL, padding=1))
        for name, given in {
            "doubled": {"scale_factor": 2},
            "doubled by size": {"size": (8, 8)},
            "doubled by pair": {"scale_factor": (2.0, 2.0)},
            "nearly doubled": {"scale_factor": 2.2},
            "nearly doubled, recomputed": {"scale_factor": 2.2, "recompute_scale_factor": True},
            "nearest exact": {"scale_factor": 2, "mode": "nearest-exact"},
            "nearest by another factor": {"scale_factor": 1.6},
            "nearest by size": {"size": (5, 7)},
            "bilinear": {"scale_factor": 2, "mode": "bilinear"},
            "bilinear, aligned": {"size": 7, "mode": "bilinear", "align_corners": True},
            "bilinear, antialiased": {"size": 3, "mode": "bilinear", "antialias": True},
            "bicubic": {"scale_factor": 1.5, "mode": "bicubic"},
            "bicubic, aligned": {"size": (6, 5), "mode": "bicubic", "align_corners": True},
            "area": {"size": 3, "mode": "area"},
        }.items()
    },
    "resized, one axis": on_image(lambda x: F.interpolate(x.flatten(2), scale_factor=1.5, mode="linear")),
    "resized, three axes": on_image(lambda x: F.interpolate(x[None], scale_factor=2, mode="trilinear")[0]),
    "doubled twice": module(
        nn.Sequential(nn.Upsample(scale_factor=2), nn.Upsample(scale_factor=2), nn.Conv2d(3, 2, 3, padding=1))
    ),
    "doubled, with a stride": on_image(lambda x: F.conv2d(F.interpolate(x, scale_factor=2), KERNEL, None, 2, 1)),
    "doubled, dilated": on_image(lambda x: F.conv2d(F.interpolate(x, scale_factor=2), KERNEL, None, 1, 1, 2)),
    "doubled, in groups": on_image(
        lambda x: F.conv2d(F.interpolate(x, scale_factor=2), KERNEL[:3, :1], None, 1, 1, 1, 3)
    ),
    "doubled with a factor": on_image(
        lambda x: F.conv2d(F.interpolate(x.exp(), scale_factor=2).sigmoid(), KERNEL, padding=1)
    ),
    "doubled and reflected": module(
        nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(3, 2, 3, padding=1, padding_mode="replicate"))
    ),
    "doubled and used twice": on_image(
        lambda x: (lambda y: F.conv2d(y, KERNEL[:3], padding=1) * y)(F.interpolate(x, scale_factor=2))
    ),
    # norms, pools, padding
    "batch norm": module(nn.BatchNorm2d(3)),
    "batch norm without weights": module(nn.BatchNorm2d(3, affine=False)),
    "batch norm of vectors": on_code(nn.BatchNorm1d(CODE).double().eval().requires_grad_(False)),
    "batch norm of the batch": on_image(
        lambda x: F.batch_norm(x, draw(3).clone(), draw(3).abs(), training=True, momentum=0.0)
    ),
    "batch norm without statistics": module(nn.BatchNorm2d(3, track_running_stats=False)),
    "batch norm, the builtin": on_image(
        lambda x: torch.batch_norm(x, *draw(4, 3).abs().unbind(), False, 0.1, 1e-5, False)
    ),
    "batch norm, conditional": on_image(
        lambda x: F.batch_norm(x, draw(3), draw(3).abs()) * (1 + x.mean((2, 3), keepdim=True))
    ),
    "instance norm": module(nn.InstanceNorm2d(3, affine=True)),
    "layer norm": module(nn.LayerNorm([3, 4, 4])),
    "group norm": module(nn.GroupNorm(2, 4), channels=4),
    "local response norm": module(nn.LocalResponseNorm(2)),
    "pixel norm": on_image(lambda x: x / torch.sqrt(x.pow(2).mean(dim=1, keepdim=True) + 1e-8)),
    "adaptive instance norm": on_image(lambda x: instance_statistics(x) * x.mean((1, 2, 3), keepdim=True)),
    "softmax": on_image(lambda x: torch.softmax(x, 1) + x.softmax(-1) + F.log_softmax(x, 2)),
    "softmax that broadcasts": on_code(lambda x: torch.softmax(x[:, None] * draw(4, CODE), 1)),
    "max pool": module(nn.MaxPool2d(2)),
    "max pool with a factor": on_image(lambda x: F.max_pool2d(x.exp(), 2)),
    "max pool of the ceiling": module(nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True)),
    "max pool with dilation": module(nn.MaxPool2d(2, stride=1, dilation=2)),
    "max pool with indices": on_image(lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2)),
    "max pool without a batch": on_image(lambda x: torch.stack([F.max_pool2d(one, 2) for one in x])),
    "average pools": on_image(
        lambda x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False).mean(1, True) + F.adaptive_avg_pool2d(x, 1)
    ),
    "adaptive max pool": module(nn.AdaptiveMaxPool2d(2)),
    "lp pool": on_image(lambda x: F.lp_pool2d(x, 2, 2)),
    **{
        f"padded, {mode}": on_image(lambda x, mode=mode: F.pad(x, (1, 2, 0, 1), mode=mode))
        for mode in ("constant", "reflect", "replicate", "circular")
    },
    "padded with a value": on_image(lambda x: F.pad(x, (1, 1), value=3.0) + F.pad(x, (2, 0), "constant", 3.0)),
    "padded and cropped": module(nn.ZeroPad2d((1, -1, 2, -2))),
}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", ON_IMAGES)
def test_an_operation_on_images_has_the_derivative_that_torch_finds(name, batch):
    assert differs(ON_IMAGES[name], draw(batch, CODE)) < 1e-10


class Seen(TorchFunctionMode):
    """The operations that were called."""

    def __init__(self):
        self.names = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))


def push_of_linear(f, shape, count=2):
    """Tangents, what a linear map of images of a shape makes of them, by its derivative and itself; what was called."""
    tangents = draw(count, *shape, seed=5)
    push = Linearization(lambda z: f(z.view(shape)), draw(*shape).flatten(1)).push
    with Seen() as seen:
        found = push(tangents.flatten(2))
    return found, torch.stack([f(tangent) - f(torch.zeros_like(tangent)) for tangent in tangents]), seen.names


SIZES = st.integers(1, 5)


@settings(max_examples=80, deadline=None)
@given(SIZES, SIZES, st.integers(1, 7), st.integers(2, 4), st.integers(0, 3), st.integers(0, 3), st.integers(1, 3))
def test_phases_make_a_transposed_convolution(height, width, kernel, stride, top, left, channels):
    pad = (top, left)
    assume(all((side - 1) * stride - 2 * p + kernel > 0 for side, p in zip((height, width), pad, strict=True)))
    weight, bias = draw(2, channels, kernel, kernel), draw(channels)
    found, wanted, called = push_of_linear(
        lambda x: F.conv_transpose2d(x, weight, bias, stride=stride, padding=pad), (3, 2, height, width)
    )
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    if kernel % stride == 0:  # otherwise phases would be padded with zeros, which costs more than it saves
        assert "conv_transpose2d" not in called


@settings(max_examples=30, deadline=None)
@given(SIZES, SIZES, st.integers(1, 3), st.integers(1, 3), st.integers(0, 2), st.integers(1, 2), st.integers(1, 2))
def test_every_other_transposed_convolution_is_torchs(high, wide, stride, across, out, dilation, groups):
    assume(out < max(stride, across, dilation) and out < max(min(stride, across), dilation))
    weight = draw(2, 2, high, wide)
    found, wanted, _ = push_of_linear(
        lambda x: F.conv_transpose2d(x, weight, None, (stride, across), 0, out, groups, dilation), (2, 2, 3, 4)
    )
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(SIZES, SIZES, st.integers(1, 4), st.integers(1, 4))
def test_a_convolution_of_a_doubled_image_needs_only_the_small_one(height, width, into, out):
    weight, bias = draw(out, into, 3, 3), draw(out)
    found, wanted, called = push_of_linear(
        lambda x: F.conv2d(F.interpolate(x, scale_factor=2), weight, bias, padding=1), (2, into, height, width)
    )
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    assert "interpolate" not in called


@settings(max_examples=40, deadline=None)
@given(
    st.just(2.0) | st.floats(1.0, 3.0),
    st.integers(1, 6),
    st.integers(1, 4),
    st.integers(0, 2),
    st.integers(1, 2),
    st.integers(1, 2),
)
def test_a_convolution_of_any_resized_image_is_right(scale, side, kernel, padding, stride, dilation):
    weight = draw(2, 3, kernel, kernel)
    resized = int(side * scale)
    assume(resized + 2 * padding >= dilation * (kernel - 1) + 1)
    found, wanted, _ = push_of_linear(
        lambda x: F.conv2d(F.interpolate(x, scale_factor=scale), weight, None, stride, padding, dilation),
        (2, 3, side, side),
    )
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_a_size_that_another_scale_doubles_is_left_to_torch():
    """Which pixels it repeats is torch's to say, and differs between devices."""
    _, _, called = push_of_linear(
        lambda x: F.conv2d(F.interpolate(x, scale_factor=2.2), draw(2, 3, 3, 3), padding=1), (2, 3, 4, 4)
    )
    assert "interpolate" in called


@settings(max_examples=30, deadline=None)
@given(st.integers(-6, 6), st.integers(-6, 6))
def test_of_channels_that_are_not_used_none_is_computed(start, stop):
    weight = draw(5, 3, 3, 3)
    some = slice(start, stop)
    assume(len(range(5)[some]) > 0)
    found, wanted, called = push_of_linear(lambda x: F.conv2d(x, weight)[:, some], (2, 3, 4, 4))
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    assert "__getitem__" not in called


class Network(nn.Module):
    """A transposed convolution and a doubled one, whose kernels are kept."""

    def __init__(self):
        super().__init__()
        self.turned = nn.Parameter(draw(6, 4, 4, 4).clone(), requires_grad=False)
        self.straight = nn.Parameter(draw(2, 4, 3, 3).clone(), requires_grad=False)
        self.matrix = nn.Parameter(draw(5, 128).clone(), requires_grad=False)

    def forward(self, z):
        x = F.conv_transpose2d(z[:, :, None, None].expand(-1, -1, 2, 2), self.turned, stride=2, padding=1)
        x = F.conv2d(F.interpolate(x, scale_factor=2), self.straight, padding=1)
        return F.linear(x.flatten(1), self.matrix)


def pushed(network, dtype=None):
    z = draw(2, 6).to(network.turned.dtype)
    return Linearization(network, z, dtype).push(draw(3, 2, 6).to(z.dtype))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_kernels_are_made_once_for_a_weight(dtype, monkeypatch):
    made = []
    for name in ("_phases", "_added_taps"):
        original = getattr(tangent_convolutions, name)
        monkeypatch.setattr(tangent_convolutions, name, lambda *given, f=original: made.append(f) or f(*given))
    network = Network()
    first = pushed(network, dtype)
    torch.testing.assert_close(pushed(network, dtype), first, rtol=0, atol=0)
    assert len(made) == 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", ["turned", "straight", "matrix"])
def test_kernels_are_renewed_when_their_weight_is_written(name, dtype):
    network = Network()
    before = pushed(network, dtype)
    getattr(network, name).mul_(3)
    torch.testing.assert_close(pushed(network, dtype), 3 * before, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["turned", "straight", "matrix"])
def test_kernels_are_renewed_when_their_weight_is_replaced(name):
    network = Network()
    before = pushed(network)
    getattr(network, name).data = 3 * getattr(network, name)
    torch.testing.assert_close(pushed(network), 3 * before, rtol=1e-12, atol=1e-12)


def test_kernels_are_renewed_when_their_weight_is_cast():
    """Else those of float32 would go on in float64, and be wrong in the eighth digit."""
    network = Network().float()
    pushed(network)
    z, tangents = draw(2, 6), draw(3, 2, 6)
    found = Linearization(network.double(), z).push(tangents)
    wanted = torch.stack([network(tangent) for tangent in tangents])
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_kernels_go_with_their_weight():
    gc.collect()
    before = len(tangent_convolutions._kernels)
    network = Network()
    pushed(network)
    assert len(tangent_convolutions._kernels) == before + 2
    del network
    gc.collect()
    assert len(tangent_convolutions._kernels) == before


class Small(nn.Module):
    """A generator of 8 × 8 images with every kind of layer that has a cheaper tangent, and a distance's norms."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.ConvTranspose2d(CODE, 8, 2),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(8, 6, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(6, 5, 3, padding=1),
            nn.Tanh(),
            nn.MaxPool2d(3, stride=1, padding=1),
        )
        for index, weight in enumerate(self.parameters()):
            weight.data = draw(*weight.shape, seed=index).float() / math.sqrt(weight[0].numel())
        self.eval().requires_grad_(False)

    def forward(self, z):
        x = self.body(z[:, :, None, None])
        x = x / (x.square().sum(1, keepdim=True) + 0.1).sqrt()
        return torch.cat([x.flatten(1), torch.einsum("bchw,bdhw->bcd", x, x).flatten(1)], 1)


def test_the_value_is_that_of_the_map():
    z, network = draw(3, CODE).float(), Small()
    torch.testing.assert_close(Linearization(network, z).value, network(z), rtol=0, atol=0)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=4), st.integers(1, 3))
def test_how_many_tangents_are_pushed_at_once_changes_nothing(chunks, batch):
    push = Linearization(Small().double(), draw(batch, CODE)).push
    tangents = draw(sum(chunks), batch, CODE)
    parts = torch.cat([push(part) for part in tangents.split(chunks)])
    torch.testing.assert_close(push(tangents), parts, rtol=1e-12, atol=1e-14)


@settings(max_examples=20, deadline=None)
@given(st.floats(-3, 3), st.floats(-3, 3))
def test_a_derivative_is_linear(a, b):
    push = Linearization(Small().double(), draw(2, CODE)).push
    u, v = draw(2, 1, 2, CODE)
    torch.testing.assert_close(push(a * u + b * v), a * push(u) + b * push(v), rtol=1e-10, atol=1e-12)


def test_tangents_in_bfloat16_give_the_result_of_float32_to_two_per_cent():
    z, tangents, network = draw(2, CODE).float(), draw(5, 2, CODE).float(), Small()
    exact = Linearization(network, z).push(tangents)
    rough = Linearization(network, z, torch.bfloat16).push(tangents)
    assert rough.dtype == torch.float32
    assert 1e-4 < float((rough - exact).norm() / exact.norm()) < 0.02


def test_tangents_in_float64_have_its_precision_though_the_weights_are_float32():
    z, tangents, network = draw(2, CODE).float(), draw(5, 2, CODE), Small()
    found = Linearization(lambda z: network(z).double(), z, torch.float64).push(tangents)
    wanted = Linearization(Small().double(), z.double()).push(tangents)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    again = Linearization(lambda z: network(z).double(), z, torch.float64)
    torch.testing.assert_close(again.push(2 * tangents), 2 * found, rtol=1e-13, atol=1e-13)
