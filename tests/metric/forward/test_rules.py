"""Every rule against `torch.func.jvp`, operation by operation and in random compositions."""

import functools
import math

import numpy as np
import pytest
import torch
import torch.utils.checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import jvp
from torch.nn import functional as F

from pullback.metric.forward.linearize import Linearization

CODE = 6


@functools.cache
def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + sum(shape)))


def image(z, channels=3, side=4):
    """Codes as images [batch, channels, side, side] that depend on them in curves."""
    return torch.tanh(z @ draw(CODE, channels * side * side)).view(len(z), channels, side, side)


def differs(f, z, count=3):
    """The greatest difference of the recorded derivative and torch's, along some tangents, relative to the greatest."""
    tangents = draw(count, *z.shape, seed=1)
    found = Linearization(f, z).push(tangents)
    wanted = torch.stack([jvp(f, (z,), (tangent,))[1] for tangent in tangents])
    assert found.shape == wanted.shape
    assert found.dtype == wanted.dtype
    assert bool(wanted.isfinite().all())
    return float((found - wanted).abs().max() / wanted.abs().max().clamp_min(1e-30))


def on_image(f, channels=3, side=4):
    """A network of an operation on images, followed by a curve that notices what it was given."""
    return lambda z: torch.sin(f(image(z, channels, side))).reshape(len(z), -1)


def on_code(f):
    return lambda z: torch.sin(f(torch.tanh(z) * 1.5)).reshape(len(z), -1)


def module(made, channels=3, side=4):
    made = made.double().eval().requires_grad_(False)
    stream = torch.Generator().manual_seed(3)
    for tensor in [*made.parameters(), *made.buffers()]:
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=stream) + 0.1)
            tensor.mul_(0.3)
    return on_image(made, channels, side)


MASK = draw(4, 4) > 0
BOUND = draw(3, 4, 4).abs()
KERNEL = draw(5, 3, 3, 3)
TURNED = draw(3, 5, 4, 4)


def accumulated(x):
    x += torch.sin(x)
    x *= 2
    x -= 1
    x /= 3
    return x


def residual_then_in_place(x):
    kept = x * torch.sigmoid(x)
    F.relu(x, inplace=True)
    return kept + x


def product_then_in_place(x):
    y = torch.cos(x)
    kept = x * y
    y += 1
    y.relu_()
    return kept * y + x @ y


def turned_in_place(x):
    y = x * draw(4, 4)
    z = y.exp()
    y.transpose_(2, 3)
    return y + z


def alias_in_place(x):
    y = x
    x += 1
    return x * y


def to_the_power_in_place(x):
    x = x + 2
    x **= 2
    return x


def unpacked(x):
    a, b, c = x.unbind(1)
    return torch.stack([a * b, b * c, c], 1)


def iterated(x):
    return torch.stack([torch.sin(row) * index for index, row in enumerate(x)])


def modulated(z):
    """The convolution of StyleGAN2: weights that depend on the code, and are normalised."""
    style = z @ draw(CODE, 3) + 1
    weight = KERNEL[None] * style[:, None, :, None, None]
    weight = weight * (weight.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    x = image(z).reshape(1, -1, 4, 4)
    return F.conv2d(x, weight.reshape(-1, 3, 3, 3), padding=1, groups=len(z)).reshape(len(z), -1)


def attention(z):
    x = image(z, 4, 4).flatten(2).transpose(1, 2)
    weights = torch.softmax(x @ x.transpose(1, 2) / math.sqrt(4), dim=-1)
    return (weights @ x).flatten(1)


CELL = nn.LSTMCell(CODE, 4).double().requires_grad_(False)


def lstm_cell(z):
    cell = CELL
    return cell(z)[0]


def without_grad(x):
    with torch.no_grad():
        y = x.square()
    return y + x


def hooked():
    made = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(inplace=True))
    made[0].register_forward_hook(lambda _, __, output: output * 2 + 1)
    return made


def shaped(x):
    batch, channels, height, width = x.shape
    return x.sum() * 0 + x.reshape(x.size(0), channels, -1) * (height * width) / x.numel() * batch


def guarded_root(x):
    squares = x.clamp_min(0).square()
    alive = squares > 0
    return torch.where(alive, torch.sqrt(torch.where(alive, squares, torch.ones_like(squares))), 0.0)


RECORDED = {
    # in place
    "accumulates in place": on_image(accumulated),
    "residual branch before an in-place relu": on_image(residual_then_in_place),
    "product kept before its factor is written": on_image(product_then_in_place),
    "two names of one tensor that is written": on_image(alias_in_place),
    "transposed in place": on_image(turned_in_place),
    "methods in place": on_image(lambda x: (x + 1).mul_(2).add_(x, alpha=3).clamp_(-1, 2).tanh_()),
    "leaky relu in place": on_image(lambda x: F.leaky_relu(2 * x, 0.2, inplace=True)),
    "view written whose base is gone": on_image(lambda x: F.relu((x * 2).view(-1, 48), inplace=True)),
    "dropout in eval in place": module(nn.Sequential(nn.Dropout(0.5, inplace=True), nn.Dropout2d(0.3))),
    # arithmetic
    "number minus": on_image(lambda x: 1 - x),
    "number over": on_image(lambda x: 2 / (x + 3)),
    "number to the power": on_image(lambda x: 2**x),
    "quotient": on_image(lambda x: x / (x.square() + 1)),
    "difference of two": on_image(lambda x: torch.exp(x) - x.flip(3)),
    "scaled sum": on_image(lambda x: torch.add(x, torch.cos(x), alpha=2)),
    "division with rounding": on_image(lambda x: torch.div(x, 0.3, rounding_mode="floor") + x),
    "many terms": on_image(lambda x: x + x.flip(2) + x.flip(3) + x.roll(1, 2) + x.roll(1, 3) + x.mT),
    "integer tensor": on_image(lambda x: x * torch.arange(4) + torch.arange(4) - torch.arange(1, 5) / x.exp()),
    "boolean factor": on_image(lambda x: x * MASK + x),
    "single precision factor": on_image(lambda x: x * torch.full((4,), 0.5, dtype=torch.float32)),
    "constant of a bigger shape": on_code(lambda x: x[:, None, None] + draw(5, 4, CODE)),
    "constant of a bigger shape, then a part": on_code(lambda x: (x[:, None, :1] + draw(5, CODE))[:, :3]),
    "factor of a bigger shape": on_code(lambda x: (x[:, None, :1] * draw(5, CODE)).sum(1)),
    "scalar times map": on_image(lambda x: x.mean((1, 2, 3), keepdim=True) * x + x.mean((2, 3), keepdim=True)),
    "bigger dimensions": on_code(lambda x: (x + draw(2, len(x), CODE)).transpose(0, 1).flatten(1)),
    "sum of one slot in two shapes": on_code(lambda x: x[:, None] * draw(4, CODE) + x[:, None] * draw(1, CODE)),
    "pow with exponents that broadcast": on_image(lambda x: (x[..., :1].square() + 1) ** torch.tensor([1.0, 2.5, -1])),
    "pow of two": on_image(lambda x: (x.square() + 1) ** x),
    "clamp": on_image(lambda x: x.clamp(-0.5, 0.5)),
    "clamp with a tensor": on_image(lambda x: x.clamp(max=BOUND)),
    "clamp with tensors that broadcast": on_image(lambda x: x[:, :, :, :1].clamp(-BOUND, BOUND)),
    "clamp with a bound that depends on the code": on_image(lambda x: x.clamp(max=x.mean((1, 2, 3), keepdim=True))),
    "where": on_image(lambda x: torch.where(MASK, x, 2 * x.flip(2))),
    "where with a number": on_image(lambda x: torch.where(x > 0, x.exp(), 0.5)),
    "where as a method": on_image(lambda x: x.where(MASK, 3 * x)),
    "where as a method of a constant": on_image(lambda x: draw(4, 4).where(MASK, 3 * x)),
    "where as a method of a mask": on_image(lambda x: MASK.where(MASK.T, 3 * x)),
    "where that broadcasts": on_image(lambda x: torch.where(MASK, x[:, :, :1, :1], x[:, :, :, :1])),
    "where that hides a root of zero": on_image(lambda x: torch.where(x > 0, x.clamp_min(0).sqrt(), x)),
    "where that hides an infinite norm": on_image(guarded_root),
    "clamp that hides a root of zero": on_image(lambda x: x.relu().sqrt().clamp_min(0.3)),
    "masked fill": on_image(lambda x: x.masked_fill(MASK, 2.0)),
    "lerp": on_image(lambda x: torch.lerp(x, x.flip(2), 0.3)),
    "fused product and sum": on_image(
        lambda x: torch.addcmul(draw(4, 4), x, x.exp()) + torch.addcmul(x, x, draw(4, 1))
    ),
    "addcmul": on_image(lambda x: torch.addcmul(x, x.flip(2), draw(4, 4), value=2)),
    "maximum": on_image(lambda x: torch.maximum(x, x.flip(2)) + torch.minimum(x, draw(4, 4))),
    "elementwise": on_image(lambda x: (x + 2).log() + x.abs() + (-x).exp() + x.cos() + (x + 2).rsqrt() + x.erf()),
    "activations": on_image(
        lambda x: F.gelu(x, approximate="tanh") + F.silu(x) + F.softplus(x, 2) + F.elu(x) + F.selu(x)
    ),
    "more activations": on_image(
        lambda x: F.hardtanh(2 * x) + F.relu6(x) + F.mish(x) + F.logsigmoid(x) + F.threshold(x, 0.1, 3)
    ),
    "prelu and glu": on_image(lambda x: F.glu(F.prelu(x, torch.tensor([0.2, 0.3, 0.4]).double()), 2)),
    # dtypes
    "type as another": on_image(lambda x: x.type_as(BOUND) + draw(4, 4).type_as(x)),
    "softmax with a dtype": on_image(lambda x: F.softmax(x, 1, dtype=torch.float64)),
    # rearrangements
    "boolean index": on_image(lambda x: x[:, :, MASK]),
    "index tensor": on_image(lambda x: x[:, torch.tensor([2, 0, 0])] * 2),
    "index list": on_image(lambda x: x[:, [2, 0]]),
    "ellipsis": on_image(lambda x: x[..., :3] * x[..., 1:]),
    "none": on_image(lambda x: x[:, None, ..., None, 1]),
    "factor, then places": on_image(lambda x: x.exp()[:, 1:, ::2, -1]),
    "linear of vectors": on_code(lambda x: F.linear(x[0], draw(CODE)) + x),
    "linear with one output": on_code(lambda x: F.linear(x, draw(CODE)) + F.linear(x, draw(1, CODE))[:, 0]),
    "index that depends on the code": on_image(lambda x: x[torch.arange(len(x)), x.mean((2, 3)).argmax(1)]),
    "first channels of a convolution": on_image(lambda x: F.conv2d(x, KERNEL)[:, :3]),
    "middle channels of a convolution": on_image(lambda x: F.conv2d(x, KERNEL)[:, 1:-1, :, :]),
    "first channels, ellipsis": on_image(lambda x: F.conv2d(x, KERNEL)[:, :3, ...]),
    "last columns of a convolution": on_image(lambda x: F.conv2d(x, draw(3, 3, 2, 2))[..., :2]),
    "first channels of a convolution with a factor": on_image(lambda x: F.conv2d(x, KERNEL).sigmoid()[:, :3]),
    "first channels of a convolution that broadcasts": on_image(
        lambda x: (F.conv2d(x, draw(5, 3, 4, 4)) + draw(5, 4, 4))[:, :3]
    ),
    "samples of a convolution": on_image(lambda x: F.conv2d(x, KERNEL)[: len(x)]),
    "both halves of a convolution": on_image(lambda x: torch.mul(*F.conv2d(x, draw(6, 3, 3, 3)).chunk(2, 1))),
    "unbound": on_image(unpacked),
    "iterated": on_image(iterated),
    "split": on_image(lambda x: torch.cat(x.exp().split([1, 2], 1)[::-1], 1)),
    "cat with a constant": on_image(lambda x: torch.cat([x, draw(1, 2, 4, 4).expand(len(x), -1, -1, -1), x * 2], 1)),
    "cat by keywords": on_image(lambda x: torch.cat(tensors=(x, 2 * x), dim=-1)),
    "cat along the batch": on_image(lambda x: torch.cat([x, x.flip(1)])),
    "stack": on_image(lambda x: torch.stack([x, draw(3, 4, 4).expand_as(x), x.exp()], dim=2)),
    "expanded": on_image(lambda x: x.mean(1, keepdim=True).expand(-1, 5, -1, -1)),
    "repeated": on_image(lambda x: x.exp().repeat(1, 2, 1, 3)),
    "tiled and interleaved": on_image(
        lambda x: x.tile(2, 1) + x.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, :, :4].tile(1, 1, 1, 1).sum()
    ),
    "transposes": on_image(lambda x: x.mT + x.transpose(2, 3).exp().permute(0, 1, 3, 2).swapaxes(-1, -2).movedim(3, 2)),
    "transposed matrix": on_code(lambda x: x.T.exp().t()),
    "unflattened": on_image(lambda x: x.flatten(1).unflatten(1, (4, 12)).squeeze().unsqueeze(-1)),
    "channels last": on_image(lambda x: x.exp().contiguous(memory_format=torch.channels_last).clone()),
    "pixel shuffle": on_image(lambda x: F.pixel_unshuffle(F.pixel_shuffle(x.exp(), 2), 4), channels=4),
    "channel shuffle": on_image(lambda x: F.channel_shuffle(x, 2), channels=4),
    "roll without axes": on_image(lambda x: x.exp().roll(5)),
    "triangles": on_image(lambda x: x.tril() + x.triu(1) + x.diagonal(0, 2, 3).diag_embed()),
    "unfolded": on_image(lambda x: F.fold(F.unfold(x, 3, padding=1), (4, 4), 3, padding=1)),
    # sums
    "sums": on_image(lambda x: x.sum(1) * x.mean((1, 2))[:, None] + x.sum() + x.cumsum(1)[:, 0]),
    "sums over the batch": on_code(lambda x: x.sum(0) * x + x.mean(0, keepdim=True) + x.cumsum(0)),
    "numbers that are no float32": on_image(lambda x: (0.1 * x - 1 / 3 + x / 0.7) * np.float64(0.3)),
    "norms": on_image(
        lambda x: x.norm() * x / x.norm(dim=1, keepdim=True) + torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True)
    ),
    "normalised": on_image(lambda x: F.normalize(x, dim=1)),
    "deviation": on_image(lambda x: x.var(1) + x.std((1, 2, 3), keepdim=True)[:, 0] + x.logsumexp(1)),
    "greatest": on_image(
        lambda x: x.amax(1) * x.max(2).values.max() + x.max() - x.topk(2, dim=3).values[:, 0, 0, :1, None]
    ),
    "sorted": on_image(lambda x: x.sort(dim=3).values),
    "products": on_image(lambda x: x.prod(1) + x.cumprod(1)[:, 1]),
    # matrices
    "matmul": on_image(lambda x: x @ x.mT + draw(4, 4) @ x + x @ draw(4, 4)),
    "matmul that broadcasts": on_image(lambda x: x[:, 0] @ draw(5, 1, 4, 4) + (draw(4, 4) @ x[:, :1])[:, 0]),
    "matmul with vectors": on_image(lambda x: (x @ draw(4)) @ draw(4) + draw(4) @ x @ draw(4)),
    "matmul of vectors": on_image(lambda x: (x.flatten() @ x.flatten()) * x + torch.dot(x.flatten(), x.flatten())),
    "products that are larger than their operands": on_image(
        lambda x: (x.flatten(1)[:, :, None] @ x.flatten(1).sin()[:, None, :]).softmax(-1) @ x.flatten(1)[:, :, None]
    ),
    "products of batches": on_image(lambda x: torch.bmm(x[:, 0], x[:, 1]) + torch.baddbmm(x[:, 0], x[:, 1], x[:, 2])),
    "products of matrices": on_code(lambda x: torch.mm(x, draw(CODE, 5)) + torch.addmm(draw(5), x, draw(CODE, 5))),
    "einsum": on_image(lambda x: torch.einsum("bchw,bdhw->bcd", x, x)),
    "linear algebra": on_image(lambda x: torch.linalg.inv(x + 9 * torch.eye(4)) + torch.linalg.det(x)[..., None, None]),
    "linear": on_image(lambda x: F.linear(x[:, 0], draw(7, 4), draw(7))),
    "linear of a vector": on_image(lambda x: F.linear(x.mean((0, 2, 3)), draw(7, 3), draw(7)) + x.new_zeros(len(x), 7)),
    "bilinear": on_code(lambda x: F.bilinear(x, x, draw(3, CODE, CODE))),
    "attention": attention,
    "modulated convolution": modulated,
    "weight that depends on the code": on_image(
        lambda x: F.linear(draw(2, 4), x[0, 0]) + x.sum((1, 2, 3))[:, None, None]
    ),
    "embedding times code": on_code(lambda x: F.embedding(torch.tensor([1]), draw(3, CODE)) * x),
    "cell": lstm_cell,
    # ways through
    "hooks": module(hooked()),
    "shapes": on_image(shaped),
    "detached": on_image(lambda x: x * x.detach() + x.detach().max()),
    "detached part": on_image(lambda x: x / (x.data.norm() + x.detach().abs().mean())),
    "without grad": on_image(without_grad),
    "branch by value": on_image(lambda x: x.exp() if bool(x.sum() > 0) else x.sin()),
    "constants alike": on_image(
        lambda x: x * torch.ones_like(x) + torch.zeros_like(x) + x.new_ones(1) + x.new_tensor([2.0])
    ),
    "scripted": on_image(torch.jit.script(nn.Sequential(nn.Tanh(), nn.Conv2d(3, 2, 3)).double().requires_grad_(False))),
    "checkpointed": on_image(lambda x: torch.utils.checkpoint.checkpoint(torch.exp, x, use_reentrant=False)),
    "traced by torch": on_image(torch.jit.trace(nn.Conv2d(3, 2, 3).double().requires_grad_(False), draw(1, 3, 4, 4))),
    "sharp steps": on_image(lambda x: x.round() + x.sign() + x.floor() + x),
}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", RECORDED)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_recorded_operation_has_the_derivative_that_torch_finds(name, batch):
    assert differs(RECORDED[name], draw(batch, CODE)) < 1e-10


def test_a_step_through_single_precision_has_the_derivative_to_that_precision():
    assert 1e-12 < differs(on_image(lambda x: (x.float() * 2).double() * 1.5 + x.half().float()), draw(2, CODE)) < 1e-2


def test_a_sampling_grid_has_a_derivative_though_torch_has_none_in_forward_mode():
    grid = draw(1, 3, 3, 2).clamp(-1, 1)
    z, tangents = draw(2, CODE), draw(3, 2, CODE)

    def f(z):
        return F.grid_sample(image(z), grid.expand(len(z), -1, -1, -1), align_corners=False).flatten(1)

    found = Linearization(f, z).push(tangents)
    columns = torch.autograd.functional.jacobian(f, z)
    torch.testing.assert_close(found, torch.einsum("bmcn,tcn->tbm", columns, tangents), rtol=1e-10, atol=1e-12)


def test_a_large_number_of_sums_is_added_up_once():
    """Else each reader of a long residual chain would add all its terms again, and a sum take ever more terms."""

    def long(z):
        x = z
        for index in range(12):
            x = x + z @ draw(CODE, CODE, seed=index)
        return x.sin()

    assert differs(long, draw(2, CODE)) < 1e-10
    assert max(len(step.inputs) for step in Linearization(long, draw(2, CODE))._steps) <= 4


STEPS = {
    "tanh": torch.tanh,
    "relu": F.relu,
    "softplus": F.softplus,
    "conv": lambda x: F.conv2d(x, draw(3, 3, 3, 3) / 4, draw(3), padding=1),
    "up": lambda x: F.conv2d(F.interpolate(x, scale_factor=2), draw(3, 3, 3, 3) / 4, padding=1)[:, :, 2:6, 2:6],
    "transposed": lambda x: F.conv_transpose2d(x, draw(3, 3, 4, 4) / 4, draw(3), stride=2, padding=1)[..., ::2, 1::2],
    "some channels": lambda x: F.conv2d(x, draw(6, 3, 3, 3) / 4, padding=1)[:, 1:4],
    "residual": lambda x: x + torch.sin(x) * 0.5,
    "in place": lambda x: (x * 1.5).add_(0.1).tanh_(),
    "gate": lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)),
    "one minus": lambda x: 1 - x / (x.square() + 1),
    "normal": lambda x: F.normalize(x, dim=1),
    "batch norm": lambda x: F.batch_norm(x, draw(3), draw(3).abs() + 0.5, eps=0.01),
    "softmax": lambda x: 4 * torch.softmax(x, 1),
    "matrix": lambda x: x @ (draw(4, 4) / 2),
    "itself": lambda x: x @ x.mT / 4,
    "pool": lambda x: F.max_pool2d(x, 3, stride=1, padding=1),
    "flip": lambda x: x.flip(3).transpose(2, 3),
    "reshape": lambda x: x.flatten(1).reshape(len(x), 4, 4, 3).permute(0, 3, 1, 2),
    "chunks": lambda x: torch.cat(x.chunk(3, 1)[::-1], 1),
    "where": lambda x: torch.where(x > 0, x, 0.2 * x),
    "constant": lambda x: x.mean(0, keepdim=True) + draw(1, 3, 4, 4) * x.mean(1, keepdim=True),
}


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 3)), min_size=2, max_size=12), st.integers(1, 3)
)
def test_any_composition_has_the_derivative_that_torch_finds(steps, batch):
    def network(z):
        values = [image(z)]
        for name, back in steps:
            made = STEPS[name](values[-1])
            values.append(made if back == 0 else made + 0.5 * values[max(0, len(values) - back - 1)])
        return values[-1].flatten(1)

    assert differs(network, draw(batch, CODE)) < 1e-9
