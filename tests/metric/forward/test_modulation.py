"""Weights that depend on the code: right, and their tangents never made where they are an array times a few numbers."""

import pytest
import torch
from test_rules import CODE, KERNEL, differs, draw, image, on_image
from torch.nn import functional as F

from pullback.metric.forward import products as tangent_products
from pullback.metric.forward import rules as tangent_rules
from pullback.metric.forward import tape
from pullback.metric.forward.linearize import Linearization

IN, OUT, SIDE = 3, 5, 4
WIDE = draw(64, 3, 3, 3)


def styles(z, count=IN):
    return torch.tanh(z @ draw(CODE, count)) + 1.2


def weights(z, weight=KERNEL, demodulate=True):
    """[batch, out, in, k, k] as rosinality's StyleGAN2 has them."""
    made = 0.3 * weight[None] * styles(z).view(len(z), 1, IN, 1, 1)
    if demodulate:
        demodulation = torch.rsqrt(made.pow(2).sum([2, 3, 4]) + 1e-8)
        made = made * demodulation.view(len(z), -1, 1, 1, 1)
    return made


def plain_convolution(z, weight=KERNEL, demodulate=True):
    x = image(z).view(1, len(z) * IN, SIDE, SIDE)
    w = weights(z, weight, demodulate).view(-1, IN, 3, 3)
    return F.conv2d(x, w, padding=1, groups=len(z)).view(len(z), -1, SIDE, SIDE)


def upsampling(z, weight=KERNEL):
    x = image(z).view(1, len(z) * IN, SIDE, SIDE)
    w = weights(z, weight).transpose(1, 2).reshape(len(z) * IN, -1, 3, 3)
    out = F.conv_transpose2d(x, w, padding=0, stride=2, groups=len(z))
    return out.view(len(z), -1, *out.shape[2:])


def nvidia_upsampling(z):
    """The order of reshapes, flips and transposes of NVIDIA's `conv2d_resample`."""
    w = weights(z).reshape(-1, IN, 3, 3).to(torch.float64)
    w = w.flip([2, 3])
    w = w.reshape(len(z), -1, IN, 3, 3).transpose(1, 2).reshape(len(z) * IN, -1, 3, 3)
    x = image(z).reshape(1, -1, SIDE, SIDE)
    out = F.conv_transpose2d(input=x, weight=w, stride=2, padding=[1, 1], output_padding=0, groups=len(z))
    return out.reshape(len(z), -1, *out.shape[2:])


def downsampling(z):
    x = F.pad(image(z), (1, 1, 1, 1), mode="reflect").view(1, -1, SIDE + 2, SIDE + 2)
    return F.conv2d(x, weights(z).view(-1, IN, 3, 3), stride=2, groups=len(z)).view(len(z), -1)


def stylegan3(z):
    """Normalized weights and styles, and a gain; one sample, because its styles are normalized over the batch."""
    w, s = draw(OUT, IN, 3, 3), styles(z)
    w = w * w.square().mean([1, 2, 3], keepdim=True).rsqrt()
    s = s * s.square().mean(1, keepdim=True).rsqrt()
    w = w.unsqueeze(0) * s.unsqueeze(1).unsqueeze(3).unsqueeze(4)
    w = w * (w.square().sum(dim=[2, 3, 4]) + 1e-8).rsqrt().unsqueeze(2).unsqueeze(3).unsqueeze(4)
    gain = torch.tensor(0.7, dtype=w.dtype).expand(len(z), IN)
    w = w * gain.unsqueeze(1).unsqueeze(3).unsqueeze(4)
    x = image(z).reshape(1, -1, SIDE, SIDE)
    w = w.reshape(-1, IN, 3, 3)
    return F.conv2d(input=x, weight=w.to(x.dtype), padding=[2, 2], groups=len(z)).reshape(len(z), -1, 6, 6)


def not_fused(z):
    w = KERNEL[None] * styles(z).reshape(len(z), 1, -1, 1, 1)
    demodulation = (w.square().sum(dim=[2, 3, 4]) + 1e-8).rsqrt()
    x = F.conv2d(image(z) * styles(z).reshape(len(z), -1, 1, 1), KERNEL, padding=1)
    return torch.addcmul(draw(1, SIDE, SIDE), x, demodulation.reshape(len(z), -1, 1, 1))


def of_a_constant(z):
    x = draw(1, IN, SIDE, SIDE).repeat(len(z), 1, 1, 1).view(1, -1, SIDE, SIDE)
    return F.conv2d(x, weights(z).view(-1, IN, 3, 3), padding=1, groups=len(z))


def of_two_styles(z):
    w = weights(z) * (styles(z.sin()).view(len(z), 1, IN, 1, 1) + 1)
    return F.conv2d(image(z).view(1, -1, SIDE, SIDE), w.view(-1, IN, 3, 3), padding=1, groups=len(z))


def of_a_sum(z):
    """A weight that is no product, but whose parts have few numbers."""
    w = draw(1, OUT, IN, 3, 3) + KERNEL[None] * styles(z).view(len(z), 1, IN, 1, 1)
    return F.conv2d(image(z).view(1, -1, SIDE, SIDE), w.view(-1, IN, 3, 3), padding=1, groups=len(z))


def by_taps(z):
    w = KERNEL[None] * styles(z, 9).view(len(z), 1, 1, 3, 3) + KERNEL[None] * styles(z, OUT).view(len(z), OUT, 1, 1, 1)
    return F.conv2d(image(z).view(1, -1, SIDE, SIDE), w.view(-1, IN, 3, 3), padding=1, groups=len(z))


def hypernetwork(z):
    w = torch.tanh(z @ draw(CODE, OUT * IN * 9)).view(-1, IN, 3, 3)
    return F.conv2d(image(z).view(1, -1, SIDE, SIDE), w, padding=1, groups=len(z))


def with_a_bias(z):
    w = weights(z).view(-1, IN, 3, 3)
    bias = styles(z, OUT).view(-1)
    return F.conv2d(image(z).view(1, -1, SIDE, SIDE), w, bias, padding=1, groups=len(z))


def depthwise(z):
    w = (draw(IN, 1, 3, 3)[None] * styles(z).view(len(z), IN, 1, 1, 1)).view(-1, 1, 3, 3)
    return F.conv2d(image(z).view(1, -1, SIDE, SIDE), w, padding=1, groups=len(z) * IN)


def in_one_axis(z):
    w = (draw(OUT, IN, 3)[None] * styles(z).view(len(z), 1, IN, 1)).view(-1, IN, 3)
    return F.conv1d(image(z).flatten(2).view(1, -1, SIDE * SIDE), w, groups=len(z))


def written_afterwards(z):
    s = styles(z)
    w = KERNEL[None] * s.view(len(z), 1, IN, 1, 1)
    moved = w.reshape(-1, IN, 3, 3)
    kept = w.clone()
    w *= 2
    x = image(z).view(1, -1, SIDE, SIDE)
    return F.conv2d(x, moved, groups=len(z)) + F.conv2d(x, (kept * w).reshape(-1, IN, 3, 3), groups=len(z))


def cips(z):
    """A modulated 1 × 1 layer as a product of matrices."""
    w = draw(1, OUT, IN) * styles(z)[:, None]
    w = w * torch.rsqrt(w.pow(2).sum(2, keepdim=True) + 1e-8)
    return torch.bmm(w, image(z).flatten(2))


def inr(z):
    w = draw(1, IN, OUT) * styles(z)[:, :, None]
    w = w * w.norm(dim=1, keepdim=True).reciprocal()
    return image(z).flatten(2).transpose(1, 2) @ w


def by_einsum(z):
    w = draw(1, OUT, IN) * styles(z)[:, None] * styles(z.cos(), OUT)[:, :, None]
    return torch.einsum("bihw,boi->bohw", image(z), w)


def two_modulated(z):
    left = draw(1, SIDE, 6) * styles(z, 6)[:, None]
    right = draw(1, 6, SIDE) * styles(z.cos(), 6)[:, :, None] * styles(z.sin(), SIDE)[:, None]
    return left @ right


def matrix_of_a_sum(z):
    return image(z)[:, 0] @ (draw(1, SIDE, SIDE) + draw(1, SIDE, SIDE, seed=3) * styles(z, SIDE)[:, :, None])


def modulated_linear(z):
    w = draw(OUT, IN) * styles(z[:1])
    return F.linear(image(z).flatten(2).mT, w, styles(z[:1], OUT)[0])


FORMS = {
    f.__name__: f
    for f in (
        plain_convolution,
        lambda z: plain_convolution(z, demodulate=False),
        upsampling,
        nvidia_upsampling,
        downsampling,
        stylegan3,
        not_fused,
        of_a_constant,
        of_two_styles,
        of_a_sum,
        by_taps,
        hypernetwork,
        with_a_bias,
        depthwise,
        in_one_axis,
        written_afterwards,
        cips,
        inr,
        by_einsum,
        two_modulated,
        matrix_of_a_sum,
        modulated_linear,
    )
}
PRODUCTS = {
    "batch on the left": on_image(lambda x: draw(3, 4, 4)[: x.shape[1]] @ x.exp()),
    "batch on the right": on_image(lambda x: x.exp() @ draw(3, 4, 4)),
    "batches of samples": on_image(lambda x: x @ x.detach().mT + x.detach() @ x),
    "more axes on the left": on_image(lambda x: draw(2, 1, 1, 4, 4) @ x),
    "more axes on the right": on_image(lambda x: x @ draw(2, 1, 1, 4, 4) + x @ draw(1, 1, 1, 1, 4, 4)),
    "one matrix": on_image(lambda x: draw(1, 1, 2, 4) @ x @ draw(4, 3)),
}


@pytest.mark.parametrize("copied", [0, 2**13])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", [*FORMS, *PRODUCTS])
def test_it_has_the_derivative_that_torch_finds_without_torch(name, batch, copied, monkeypatch):
    def refuse(tape, func, *_):
        raise AssertionError(f"{func} has no rule")

    monkeypatch.setattr(tangent_products, "_COPIED", copied)
    monkeypatch.setattr(tangent_rules, "_by_jvp", refuse)
    network = {**FORMS, **PRODUCTS}[name]
    assert differs(lambda z: torch.sin(network(z)).reshape(len(z), -1), draw(batch, CODE)) < 1e-10


@pytest.mark.parametrize(
    "network",
    [
        lambda z: plain_convolution(z, WIDE),
        lambda z: upsampling(z, WIDE),
        lambda z: torch.bmm(draw(1, 99, IN) * styles(z)[:, None], image(z).flatten(2)[..., :2]),
    ],
)
@pytest.mark.parametrize("batch", [1, 2])
def test_the_tangent_of_a_modulated_weight_is_never_made(network, batch, monkeypatch):
    shapes = []
    slot = tape.Tape.slot
    monkeypatch.setattr(tape.Tape, "slot", lambda self, shape: shapes.append(shape) or slot(self, shape))
    made = Linearization(lambda z: network(z).reshape(len(z), -1), draw(batch, CODE))
    assert not any(99 * IN in (s.numel(), s.numel() // batch) or (s[-1:] == (3,) and s.numel() > 999) for s in shapes)
    assert sum(getattr(s.apply, "__name__", "") == "merged" for s in made._steps) <= 1


def test_a_small_number_in_a_weight_is_as_exact_as_a_large_one():
    """The style is found from the weight by a quotient, which must not be taken where both are tiny."""
    scale = torch.logspace(-12, 3, IN, dtype=torch.float64)

    def network(z):
        w = KERNEL[None] * (styles(z) * scale).view(len(z), 1, IN, 1, 1)
        x = (image(z) / scale[:, None, None]).view(1, -1, SIDE, SIDE)
        return F.conv2d(x, w.view(-1, IN, 3, 3), groups=len(z)).reshape(len(z), -1)

    assert differs(network, draw(2, CODE)) < 1e-10


def test_a_channel_whose_style_is_zero_has_a_derivative():
    def network(z):
        s = styles(z) * torch.tensor([1.0, 0.0, 1.0]) * z[:, :1] - styles(z) * torch.tensor([0.0, 0, 1]) * z[:, :1]
        w = KERNEL[None] * s.view(len(z), 1, IN, 1, 1)
        return F.conv2d(image(z).view(1, -1, SIDE, SIDE), w.view(-1, IN, 3, 3), groups=len(z)).reshape(len(z), -1)

    assert differs(network, draw(2, CODE)) < 1e-10
