"""Reductions, normalizations, and operations that are composed of others: right, and without torch's forward mode."""

import functools

import pytest
import torch
from test_rules import CODE, differs, draw, on_code, on_image
from torch import nn
from torch.nn import functional as F

from pullback.metric.forward import reductions as tangent_reductions
from pullback.metric.forward import rules as tangent_rules
from pullback.metric.kernels import differentiable_kernels


def affine(made):
    made = made.double().requires_grad_(False)
    for parameter in made.parameters():
        parameter.copy_(draw(*parameter.shape))
    return made


def instance_normalized(x, style):
    """AdaIN as StyleGAN1 has it."""
    x = x - torch.mean(x, (2, 3), True)
    x = x * torch.rsqrt(torch.mean(x * x, (2, 3), True) + 1e-8)
    return x * (style[:, :, None, None] + 1) + style[:, :, None, None]


def adain_by_moments(x):
    size = x.size()
    variance = x.view(*size[:2], -1).var(dim=2) + 1e-5
    deviation = variance.sqrt().view(*size[:2], 1, 1)
    mean = x.view(*size[:2], -1).mean(dim=2).view(*size[:2], 1, 1)
    return (x - mean.expand(size)) / deviation.expand(size)


def channels_last_norm(x):
    u = x.mean(1, keepdim=True)
    s = (x - u).pow(2).mean(1, keepdim=True)
    return draw(4)[:, None, None] * (x - u) / torch.sqrt(s + 1e-6)


wide = functools.partial(on_image, channels=4)
MASK = torch.ones(4, 4, dtype=torch.bool).tril(1)
HEADS = affine(nn.MultiheadAttention(16, 2)).eval()
OPERATIONS = {
    "group norm": wide(affine(nn.GroupNorm(2, 4))),
    "group norm of one group": wide(affine(nn.GroupNorm(1, 4))),
    "group norm of single channels": wide(nn.GroupNorm(4, 4, affine=False)),
    "group norm of tokens": wide(lambda x: F.group_norm(x.flatten(2), 2, draw(4))),
    "group norm of a sum and a factor": wide(lambda x: F.group_norm(x.exp() + x.mean(1, keepdim=True), 2)),
    "group norm after transposed tokens": wide(lambda x: F.group_norm(x.flatten(2).mT.contiguous(), 4)),
    "group norm with weights from the code": wide(lambda x: F.group_norm(x, 2, x[0, :, 0, 0], x[0, :, 1, 1])),
    "group norm by torch": wide(lambda x: torch.group_norm(x, 2, None, draw(4), 0.1, False)),
    "layer norm": on_image(affine(nn.LayerNorm(4))),
    "layer norm of several axes": on_image(affine(nn.LayerNorm([3, 4, 4]))),
    "layer norm over channels last": on_image(lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (3,)).permute(0, 3, 1, 2)),
    "layer norm over channels by hand": wide(channels_last_norm),
    "layer norm of codes": on_code(affine(nn.LayerNorm(CODE))),
    "instance norm": on_image(affine(nn.InstanceNorm2d(3, affine=True))),
    "instance norm with kept statistics": on_image(
        lambda x: F.instance_norm(x, draw(3), draw(3).abs() + 1, use_input_stats=False)
    ),
    "instance norm in three axes": on_image(lambda x: F.instance_norm(x[:, None].exp())),
    "instance norm by hand": lambda z: on_image(lambda x: instance_normalized(x, z[:, :3]))(z),
    "adain by moments": on_image(adain_by_moments),
    "rms norm": on_image(affine(nn.RMSNorm(4))),
    "rms norm of several axes": on_image(affine(nn.RMSNorm([3, 4, 4], eps=1e-3))),
    "pixel norm": on_image(lambda x: x * torch.rsqrt(torch.mean(x**2, dim=1, keepdim=True) + 1e-8)),
    "pixel norm of codes": on_code(lambda z: z / torch.sqrt(torch.mean(z * z, dim=1, keepdim=True) + 1e-8)),
    "normalized": on_image(lambda x: F.normalize(x, dim=(1)) + F.normalize(x.flatten(1), eps=0.1).view_as(x)),
    "batch norm with gains from the code": on_image(
        lambda x: F.batch_norm(x, draw(3), draw(3).abs() + 1, x[0, :, 0, 0], draw(3), eps=1e-4)
    ),
    "softmax": on_image(lambda x: torch.softmax(x.exp(), 1) + F.softmax(x, -1)),
    "logarithm of a sum": on_image(lambda x: x.logsumexp((1, 2), keepdim=True) + torch.logsumexp(x, 3)[..., None]),
    "variances": on_image(
        lambda x: (
            x.var() + x.var(1, keepdim=True) + x.var((2, 3), False, True) + torch.var(x, dim=1, correction=0)[:, None]
        )
    ),
    "deviations": on_image(
        lambda x: x.std() + x.std(False) + x.std(dim=(1, 2), unbiased=False, keepdim=True) + torch.std(x, 3)[..., None]
    ),
    "norms": on_image(
        lambda x: (
            x.norm()
            + x.norm(2, 1, True)
            + torch.norm(x, dim=(2, 3), keepdim=True)
            + torch.linalg.norm(x, dim=3)[..., None]
        )
    ),
    "sums": on_image(
        lambda x: x.exp().sum((1, -1), keepdim=True) + torch.sum(x, dim=2, keepdims=True) + x.mean(axis=3)[..., None]
    ),
    "sum of a small tangent": on_code(
        lambda z: (z[:, None, :] * draw(5, CODE)).square().sum(2) + (z[:, None] * draw(5, 1)).sum(1)[:, :1]
    ),
    "sum of a tangent that is constant along the axis": on_code(
        lambda z: (z[:, :1, None] * draw(4, 5) + z[:, :1, None]).sum((1, 2), keepdim=True) * draw(4, 5)
    ),
    "sum over the batch": on_image(lambda x: x.exp().sum(0, keepdim=True) * x),
    "gated linear unit": wide(lambda x: F.glu(x, 1)),
    "gate by halves": wide(lambda x: x.chunk(2, 1)[0].tanh() * x.chunk(2, 1)[1].sigmoid()),
    "splits": wide(lambda x: x.split([1, 3], 1)[0] * x.tensor_split(4, 1)[2] + x.unbind(2)[1][:, :, None]),
    "interpolated": on_image(lambda x: torch.lerp(x, x.flip(2), 0.3) + torch.lerp(draw(3, 4, 4), x, x.sigmoid())),
    "scaled sums": on_image(lambda x: torch.add(x, x.exp(), alpha=2).sub(x.flip(3), alpha=3)),
    "fused quotient": on_image(lambda x: torch.addcdiv(x, x.exp(), x.square() + 1, value=0.5)),
    "fused products": on_image(lambda x: torch.baddbmm(x[:, 0], x[:, 1], x[:, 2], beta=2, alpha=3)),
    "masked": on_image(lambda x: x.exp().masked_fill(x > 0, 2.0)),
    "linear layer with its weight from the code": on_image(
        lambda x: F.linear(x[0, 0], x[0, 1], x[0, 2, 0])[None, None] + x
    ),
    "einsum": on_image(lambda x: torch.einsum("bchw,bdhw,cd->bhd", x, x.exp(), draw(3, 3))),
    "einsum without an arrow": on_image(lambda x: torch.einsum("bchw,co", x, draw(3, 4))),
    "einsum of one": on_image(lambda x: torch.einsum("bchw->hbw", x).transpose(0, 1)),
    "einsum of a sum in one operand": on_image(lambda x: torch.einsum("bchw,ok->bok", x, draw(2, 5))),
    "parametric relu": on_image(nn.PReLU(3).double().requires_grad_(False)),
    "attention": wide(lambda x: F.scaled_dot_product_attention(x, x.exp(), x.sin())),
    "attention with a mask": wide(lambda x: F.scaled_dot_product_attention(x, x, x.cos(), attn_mask=MASK, scale=0.3)),
    "attention with a bias": wide(lambda x: F.scaled_dot_product_attention(x, x, x.cos(), attn_mask=x.mean(1, True))),
    "causal attention": wide(lambda x: F.scaled_dot_product_attention(x, x, x.cos(), is_causal=True)),
    "multi-head attention": wide(lambda x: HEADS(x.flatten(2), x.flatten(2), x.exp().flatten(2))[0]),
    "weights of attention": wide(lambda x: HEADS(*[x.flatten(2).transpose(0, 1)] * 3, attn_mask=~MASK)[1]),
    "moments": on_image(
        lambda x: torch.mul(*torch.var_mean(x, (1, 2), keepdim=True)) + torch.sub(*torch.std_mean(x, dim=1))[:, None]
    ),
    "logarithm of a softmax": on_image(lambda x: F.log_softmax(x, 1) + torch.log_softmax(x, -1)),
    "similarity": on_image(lambda x: F.cosine_similarity(x, x.exp(), dim=2)),
    "outer product": on_code(lambda z: torch.outer(z[0], z[0].exp())[: len(z)]),
    "extremes": on_image(lambda x: x.amax((1, 2)) + x.amin(3)[:, 0] + x.max() * x.min() + x.relu().amax(1)[:, 0]),
    "extremes along an axis": on_image(lambda x: x.max(1).values + torch.min(x, 2, keepdim=True)[0][:, 0]),
    "sorted": on_image(lambda x: x.exp().sort(dim=2, descending=True).values + x.topk(4).values),
    "median": on_image(lambda x: x.median(3).values + x.kthvalue(2, dim=3).values),
    "product along an axis": on_image(lambda x: x.prod(1) + (x + 2).prod(2, keepdim=True)[:, 0]),
    "stacks": on_image(
        lambda x: torch.hstack([x, draw(1, 3, 4, 4).expand_as(x)]) + torch.dstack([x, x.exp()])[:, :1, :4]
    ),
    "scattered": on_image(
        lambda x: x.index_add(1, torch.tensor([0, 2, 2]), x.exp())
        + draw(1, 3, 4, 4).expand_as(x).slice_scatter(x[:, :2].exp(), 1, 1, 3)
        + x.select_scatter(draw(1, 4, 4).expand(len(x), -1, -1), 1, 2)
        + x.scatter(1, torch.zeros(len(x), 1, 4, 4, dtype=torch.long), 4.0)
    ),
    "running products": on_image(lambda x: (x + 2).cumprod(1) + torch.cumprod(x, dim=-1)),
    "padded": on_image(
        lambda x: F.pad(F.pad(x, [1, 1, 0, 2], "constant", 0), (1, -1), value=2.0)[:, :, :4]
        + F.pad(x.exp(), (2, 2, 1, 1), mode="reflect")[:, :, 1:5, :6]
        + F.pad(x[0], (1, 1), "replicate")
    ),
    "like another": on_image(lambda x: x.exp().flatten(1).view_as(x) + x[:, :1].expand_as(x)),
}  # fmt: skip


@pytest.mark.parametrize("at_once", [0, 2**14])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", OPERATIONS)
def test_it_has_the_derivative_that_torch_finds_without_torch(name, batch, at_once, monkeypatch):
    def refuse(tape, func, *_):
        raise AssertionError(f"{func} has no rule")

    monkeypatch.setattr(tangent_reductions, "_AT_ONCE", at_once)
    monkeypatch.setattr(tangent_rules, "_by_jvp", refuse)
    with differentiable_kernels():
        assert differs(OPERATIONS[name], draw(batch, CODE)) < 1e-10


def test_where_all_are_equal_deviation_and_norm_have_the_derivative_that_torch_gives_them():
    def flat(z):
        x = z[:, :1].expand(-1, 4) * 0
        return torch.cat([x.std(1, keepdim=True), x.norm(dim=1, keepdim=True), x + z[:, :1]], 1)

    assert differs(flat, draw(2, CODE)) < 1e-10
