"""Single operations that treat each number by itself: x [batch, 4, 4, 4] in (-1, 1) to a tensor [batch, ...]."""

import torch
from operations_base import constant
from torch.nn import functional as F

UNARY = """
abs acos arctan asin asinh atan cos cosh deg2rad erf erfc exp exp2 expm1 frac negative neg positive rad2deg
relu sigmoid sin sinc sinh square tan tanh
"""
ACTIVATIONS = """
celu elu gelu hardshrink hardsigmoid hardswish hardtanh leaky_relu logsigmoid mish relu relu6 selu silu
softplus softshrink softsign tanhshrink
"""
UNARY_IN_PLACE = """
abs acos asin atan cos cosh deg2rad erf exp exp2 expm1 frac neg relu sigmoid sin sinc sinh square tan tanh
"""


def names(text):
    return text.split()


def by_name(module, name):
    function = getattr(module, name)
    return lambda x: function(x)


def in_place(name):
    method = getattr(torch.Tensor, name)
    return lambda x: method(x * 0.7)


POINTWISE = {
    # unary, by torch's function of that name
    **{name: by_name(torch, name) for name in names(UNARY)},
    "arccos": lambda x: torch.arccos(0.9 * x),
    "acosh": lambda x: torch.acosh(x + 3),
    "atanh": lambda x: torch.atanh(0.7 * x),
    "log": lambda x: torch.log(x + 2),
    "log10": lambda x: (x + 2).log10(),
    "log2": lambda x: torch.log2(x + 2),
    "log1p": lambda x: torch.log1p(x + 1.5),
    "sqrt": lambda x: (x + 2).sqrt(),
    "rsqrt": lambda x: torch.rsqrt(x + 2),
    "reciprocal": lambda x: torch.reciprocal(x + 2),
    "digamma": lambda x: torch.digamma(x + 3),
    "lgamma": lambda x: torch.lgamma(x + 3),
    "polygamma": lambda x: torch.polygamma(1, x + 3),
    "mvlgamma": lambda x: torch.mvlgamma(x + 4, 2),
    "erfinv": lambda x: torch.erfinv(0.7 * x),
    "logit": lambda x: torch.logit(0.4 * x + 0.5),
    "logit with eps": lambda x: torch.logit(0.4 * x + 0.5, eps=1e-3),
    "i0": lambda x: torch.i0(x),
    "special.i0e": lambda x: torch.special.i0e(x),
    "special.i1": lambda x: torch.special.i1(x),
    "special.i1e": lambda x: torch.special.i1e(x),
    "special.ndtr": lambda x: torch.special.ndtr(x),
    "special.ndtri": lambda x: torch.special.ndtri(0.4 * x + 0.5),
    "special.log_ndtr": lambda x: torch.special.log_ndtr(x),
    "special.entr": lambda x: torch.special.entr(x + 1.5),
    "special.erfcx": lambda x: torch.special.erfcx(x),
    "special.xlog1py": lambda x: torch.special.xlog1py(x, x + 1),
    "special.xlogy": lambda x: torch.xlogy(x, x + 2),
    "nan_to_num": lambda x: torch.nan_to_num(x.sin()),
    "clamp": lambda x: x.clamp(-0.5, 0.5),
    "clamp with tensors": lambda x: torch.clamp(x, -constant(x, 4, 4).abs(), constant(x, 4, 4).abs()),
    "clip": lambda x: torch.clip(x, max=0.3),
    "floor": lambda x: torch.floor(9 * x.detach()) / 9 + x,
    "round and itself": lambda x: torch.round(x) + x,
    "sign and itself": lambda x: torch.sign(x) * x,
    "trunc": lambda x: torch.trunc(3 * x) + x,
    "ceil": lambda x: torch.ceil(3 * x) + x,
    "heaviside": lambda x: torch.heaviside(x.detach(), x.new_tensor(0.5)) * x,
    # binary
    "add alpha": lambda x: torch.add(x, x.cos(), alpha=2),
    "sub alpha": lambda x: torch.sub(x, x.cos(), alpha=0.5),
    "rsub": lambda x: torch.rsub(x, 1.0),
    "mul": lambda x: torch.mul(x, x.exp()),
    "div": lambda x: torch.div(x, x + 2),
    "div floor": lambda x: torch.div(x, 0.3, rounding_mode="floor") + x,
    "div trunc": lambda x: torch.div(x, 0.3, rounding_mode="trunc") + x,
    "remainder": lambda x: torch.remainder(x, 0.3),
    "remainder of two": lambda x: torch.remainder(x + 2, x.flip(1) + 2.5),
    "fmod": lambda x: torch.fmod(x, 0.3),
    "percent": lambda x: x % 0.4,
    "pow of a number": lambda x: x**3,
    "pow half": lambda x: (x + 2) ** 0.5,
    "pow of two": lambda x: (x + 2) ** x,
    "number to the power": lambda x: 2**x,
    "float_power": lambda x: torch.float_power(x + 2, 1.5).to(x),
    "atan2": lambda x: torch.atan2(x, x.flip(1) + 2),
    "arctan2": lambda x: torch.arctan2(x + 2, x.flip(2)),
    "hypot": lambda x: torch.hypot(x, x.flip(1)),
    "copysign": lambda x: torch.copysign(x, constant(x, 4, 4)),
    "maximum": lambda x: torch.maximum(x, x.flip(2)),
    "minimum": lambda x: torch.minimum(x, constant(x, 4, 4)),
    "fmax": lambda x: torch.fmax(x, x.flip(2)),
    "fmin": lambda x: torch.fmin(x, x.flip(1)),
    "max of two": lambda x: torch.max(x, x.flip(3)),
    "logaddexp": lambda x: torch.logaddexp(x, x.flip(1)),
    "logaddexp2": lambda x: torch.logaddexp2(x, 2 * x),
    "lerp": lambda x: torch.lerp(x, x.flip(2), 0.3),
    "lerp with a tensor": lambda x: torch.lerp(x, x.flip(2), torch.sigmoid(x)),
    "addcmul": lambda x: torch.addcmul(x, x.flip(1), x.exp(), value=0.5),
    "addcdiv": lambda x: torch.addcdiv(x, x, x.exp() + 1, value=0.5),
    "ldexp": lambda x: torch.ldexp(x, torch.tensor([0, 1, 2, 1])),
    "dist of each": lambda x: torch.stack([torch.dist(row, row.flip(0)) for row in x]),
    "true_divide": lambda x: torch.true_divide(1, x + 2),
    "where": lambda x: torch.where(x > 0, x.exp(), 1 + x),
    "where with numbers": lambda x: torch.where(x > 0, x, 0.5),
    "masked_fill": lambda x: x.masked_fill(constant(x, 4, 4) > 0, 0.3),
    "masked_fill by value": lambda x: x.masked_fill(x > 0.2, 0.3),
    "comparison as a factor": lambda x: (x > 0).to(x) * x.exp(),
    "logical": lambda x: torch.where((x > 0) & ~(x > 0.5), x, 2 * x),
    "isclose mask": lambda x: torch.where(torch.isclose(x, x.flip(1)), x, 2 * x),
    # activations
    **{f"F.{name}": by_name(F, name) for name in names(ACTIVATIONS)},
    "F.gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
    "F.elu alpha": lambda x: F.elu(x, 0.5),
    "F.celu alpha": lambda x: F.celu(x, 0.7),
    "F.leaky_relu slope": lambda x: F.leaky_relu(x, 0.2),
    "F.softplus beta": lambda x: F.softplus(x, 3, 2),
    "F.threshold": lambda x: F.threshold(x, 0.1, 0.05),
    "F.prelu": lambda x: F.prelu(x, constant(x, 4).abs()),
    "F.prelu single": lambda x: F.prelu(x, constant(x, 1).abs()),
    "prelu with traced weights": lambda x: torch.stack([F.prelu(a[None], a.mean((1, 2)))[0] for a in x]),
    "F.rrelu": lambda x: F.rrelu(x, training=False),
    "F.glu": lambda x: F.glu(x, 1),
    "F.softmax": lambda x: F.softmax(3 * x, 1),
    "F.log_softmax": lambda x: F.log_softmax(x, 1),
    "F.softmin": lambda x: F.softmin(x, 2),
    "softmax dtype": lambda x: torch.softmax(x, -1, dtype=torch.float64).to(x),
    "softmax method": lambda x: x.softmax(dim=1),
    "F.softmax2d": lambda x: torch.nn.Softmax2d()(x),
    "F.dropout eval": lambda x: F.dropout(x, 0.5, training=False),
    "F.alpha_dropout eval": lambda x: F.alpha_dropout(x, 0.5, False),
    "F.normalize": lambda x: F.normalize(x, dim=1),
    "F.normalize p=1": lambda x: F.normalize(x, p=1.0, dim=(2, 3)),
    "swish": lambda x: x * torch.sigmoid(1.7 * x),
    "tanh-relu": lambda x: torch.tanh(F.relu(x)),
    "sine layer": lambda x: torch.sin(5 * x + 0.3),
    # complex numbers
    "complex": lambda x: torch.view_as_real(torch.complex(x, x.flip(1)) * (1 + 0.5j)),
    "polar": lambda x: torch.view_as_real(torch.polar(x + 2, x.flip(1))),
    "view_as_complex": lambda x: torch.view_as_complex(x.reshape(len(x), 32, 2)).abs(),
    "complex exp": lambda x: torch.exp(1j * x).real + torch.exp(1j * x).imag,
    "angle": lambda x: torch.angle(torch.complex(x + 2, x.flip(1))),
    "conj": lambda x: (torch.complex(x, x.flip(1)).conj() * torch.complex(x.flip(2), x)).imag,
    "complex product": lambda x: torch.view_as_real(torch.complex(x, x.flip(1)) @ torch.complex(x.mT, x)),
    "complex sqrt": lambda x: torch.view_as_real(torch.complex(x + 2, x.flip(1)).sqrt()),
    "real of cast": lambda x: (x.to(torch.complex64 if x.dtype is torch.float32 else torch.complex128) * 2j).imag,
}

IN_PLACE = {
    **{f"{name}_": in_place(f"{name}_") for name in names(UNARY_IN_PLACE)},
    "add_": lambda x: (x * 1).add_(x.cos(), alpha=2),
    "sub_": lambda x: (x * 1).sub_(x.cos()),
    "mul_": lambda x: (x * 1).mul_(x.exp()),
    "div_": lambda x: (x * 1).div_(x + 2),
    "pow_": lambda x: (x + 2).pow_(1.5),
    "sqrt_": lambda x: (x + 2).sqrt_(),
    "rsqrt_": lambda x: (x + 2).rsqrt_(),
    "log_": lambda x: (x + 2).log_(),
    "reciprocal_": lambda x: (x + 2).reciprocal_(),
    "clamp_": lambda x: (x * 1).clamp_(-0.4, 0.6),
    "clamp_min_": lambda x: (x * 1).clamp_min_(-0.2),
    "addcmul_": lambda x: (x * 1).addcmul_(x, x.exp(), value=0.3),
    "addcdiv_": lambda x: (x * 1).addcdiv_(x, x + 2),
    "lerp_": lambda x: (x * 1).lerp_(x.flip(1), 0.3),
    "masked_fill_": lambda x: (x * 1).masked_fill_(constant(x, 4, 4) > 0, 0.2) + x,
    "masked_scatter_": lambda x: torch.stack(
        [(row * 1).masked_scatter_(constant(x, 4, 4) > 0, constant(x, 64)) for row in x]
    ),
    "fill_": lambda x: (x * 1).fill_(0.5) * x,
    "zero_": lambda x: (x * 1).zero_() + x,
    "copy_": lambda x: (x * 1).copy_(x.flip(1)) * x,
    "copy_ into a constant": lambda x: torch.zeros_like(x).copy_(x) * x,
    "nn.functional in place": lambda x: F.elu(F.leaky_relu(x * 2, 0.2, inplace=True) + 0.1, inplace=True),
    "torch.relu_": lambda x: torch.relu_(x - 0.1) + x,
    "F.hardswish inplace": lambda x: F.hardswish(x * 3, inplace=True),
    "F.silu inplace": lambda x: F.silu(x * 3, inplace=True) + F.mish(x * 2, inplace=True),
    "F.threshold_": lambda x: F.threshold_(x * 2, 0.1, 0.0),
    "operators in place": lambda x: in_place_operators(x * 1),
    "setitem": lambda x: with_item(x, (slice(None), 0), lambda y: y[:, 1] * 2),
    "setitem of a number": lambda x: with_item(x, (slice(None), 0), lambda y: 0.5),
    "setitem by mask": lambda x: with_item(x, x > 0.3, lambda y: 0.3),
    "setitem by index": lambda x: with_item(x, (slice(None), torch.tensor([0, 2])), lambda y: y[:, [1, 3]] ** 2),
    "setitem in a border": lambda x: with_item(x, (..., slice(1, -1), slice(1, -1)), lambda y: y[..., :2, :2].exp()),
    "setitem into a buffer": lambda x: into_a_buffer(x),
    "setitem interleaved": lambda x: interleaved(x),
    "view written": lambda x: view_written(x),
    "index_add_": lambda x: (x * 1).index_add_(1, torch.tensor([0, 2]), x[:, :2] * 2),
    "index_copy_": lambda x: (x * 1).index_copy_(1, torch.tensor([0, 2]), x[:, :2].exp()),
    "index_fill_": lambda x: (x * 1).index_fill_(1, torch.tensor([0, 2]), 0.3),
    "index_put_": lambda x: (x * 1).index_put_((torch.arange(len(x)), torch.tensor(1)), x[:, 0].exp()),
    "scatter_": lambda x: (x * 1).scatter_(1, torch.zeros(len(x), 1, 4, 4, dtype=torch.long), x[:, :1].exp()),
    "scatter_add_": lambda x: (x * 1).scatter_add_(1, torch.zeros(len(x), 2, 4, 4, dtype=torch.long), x[:, :2].exp()),
    "fill_diagonal_": lambda x: torch.stack([(row[0] * 1).fill_diagonal_(0.3) for row in x]),
    "tril_": lambda x: (x * 1).tril_() + x,
    "triu_": lambda x: (x * 1).triu_(1) + x,
    "transpose_": lambda x: (x * 1).transpose_(2, 3) + x,
    "squeeze_": lambda x: (x.sum(1, keepdim=True)).squeeze_(1)[:, None] * x,
    "unsqueeze_": lambda x: (x * 1).unsqueeze_(1) * x[:, None],
    "t_": lambda x: torch.stack([(row[0] * 1).t_() * row[1] for row in x]),
    "cumsum_": lambda x: (x * 1).cumsum_(1),
    "cumprod_": lambda x: (x + 1.5).cumprod_(1),
    "baddbmm_": lambda x: (x[:, 0] * 1).baddbmm_(x[:, 1], x[:, 2]),
    "renorm_": lambda x: torch.stack([(row * 1).renorm_(2, 0, 1.0) for row in x]),
    "out-of-place after in-place": lambda x: kept_then_written(x),
    "requires_grad_": lambda x: (x * 2).requires_grad_() if not x.requires_grad else x * 2,
}


def in_place_operators(x):
    x += 1
    x *= 2
    x -= 0.3
    x /= 3
    x **= 2
    return x


def with_item(x, place, value):
    y = x * 1
    y[place] = value(y)
    return y * x


def into_a_buffer(x):
    canvas = torch.zeros_like(x)
    canvas[:, 1:] = x[:, 1:]
    canvas[:, 0] += x[:, 1]
    return canvas + x


def interleaved(x):
    made = x.new_zeros(len(x), 4, 8, 8)
    made[:, :, ::2, ::2] = x
    made[:, :, 1::2, ::2] = x.exp()
    made[:, :, :, 1::2] = made[:, :, :, ::2] * 2
    return made


def view_written(x):
    y = x * 1
    y[:, 0].mul_(2)
    y.view(len(x), -1)[:, 3:9].add_(1)
    return y * y


def kept_then_written(x):
    y = x + 1
    kept = y * 3 + x
    y.mul_(2).add_(1)
    return kept * y
