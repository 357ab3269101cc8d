"""Operations written as other operations, each of which has its own rule.

Examples are normalizations, gates, and fused products and sums. A composition is called with the traced values, so its
derivative comes from the operations in it. Its primal value remains the result of torch's own operation. A composition
returns `NotImplemented` for forms of the call that it does not cover.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_flatten, tree_unflatten

from pullback.metric.forward.attention import (
    cdist,
    multi_head_attention_forward,
    pdist,
    scaled_dot_product_attention,
)
from pullback.metric.forward.tape import Traced
from pullback.metric.forward.torch_modes import raise_if_no_way_helps


def group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5, *_: Any
) -> Any:
    """`F.group_norm`: statistics over each group of channels."""
    batch, channels = input.shape[:2]
    grouped = input.reshape(batch, num_groups, -1)
    mean, deviation = grouped.mean(2), _inverse_deviation(grouped, (2,), eps)[..., 0]
    if num_groups not in (1, channels):
        mean, deviation = (s.repeat_interleave(channels // num_groups, dim=1) for s in (mean, deviation))
    ones = [1] * (input.dim() - 2)
    made = (input - mean.view(batch, -1, *ones)) * deviation.view(batch, -1, *ones)
    return _affine(made, weight, bias, (1, -1, *ones))


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> Any:
    """`F.layer_norm`: statistics over the last axes."""
    axes = tuple(range(input.dim() - len(normalized_shape), input.dim()))
    made = (input - input.mean(axes, keepdim=True)) * _inverse_deviation(input, axes, eps)
    return _affine(made, weight, bias, tuple(normalized_shape))


def rms_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Any:
    """`F.rms_norm`: divides by the root mean square, without subtracting the mean."""
    axes = tuple(range(input.dim() - len(normalized_shape), input.dim()))
    eps = torch.finfo(input.dtype).eps if eps is None else eps
    return _affine(
        input * (input.square().mean(axes, keepdim=True) + eps).rsqrt(), weight, None, tuple(normalized_shape)
    )


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """`F.instance_norm`: statistics over each channel of each sample, or the running statistics."""
    if not use_input_stats:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    axes = tuple(range(2, input.dim()))
    made = (input - input.mean(axes, keepdim=True)) * _inverse_deviation(input, axes, eps)
    return _affine(made, weight, bias, (1, -1, *[1] * len(axes)))


def normalize(input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: Tensor | None = None) -> Any:
    """`F.normalize`: divide vectors along an axis by their norms."""
    return NotImplemented if out is not None else input / input.norm(p, dim, keepdim=True).clamp_min(eps)


def glu(input: Tensor, dim: int = -1) -> Any:
    """`F.glu`: the first half times the sigmoid of the second."""
    first, second = input.chunk(2, dim)
    return first * second.sigmoid()


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """`F.batch_norm` with running statistics, if its weights depend on the code."""
    if training or running_mean is None or running_var is None:
        return NotImplemented
    shape = (1, -1, *[1] * (input.dim() - 2))
    return _affine((input - running_mean.view(shape)) * (running_var.view(shape) + eps).rsqrt(), weight, bias, shape)


def lerp(input: Tensor, end: Tensor, weight: Tensor | float) -> Any:
    """`torch.lerp`."""
    return input + weight * (end - input)


def add(input: Tensor, other: Any, *, alpha: float = 1) -> Any:
    """`torch.add` with a factor `alpha`."""
    return input + other * alpha


def sub(input: Tensor, other: Any, *, alpha: float = 1) -> Any:
    """`torch.sub` with a factor `alpha`."""
    return input - other * alpha


def addcmul(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Any:
    """`torch.addcmul` with a factor `value`."""
    return input + tensor1 * tensor2 * value


def addcdiv(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Any:
    """`torch.addcdiv`."""
    return input + tensor1 / tensor2 * value


def baddbmm(input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float = 1, alpha: float = 1) -> Any:
    """`torch.baddbmm`."""
    made = batch1 @ batch2
    made = made if alpha == 1 else made * alpha
    return made if beta == 0 else input + made if beta == 1 else input * beta + made


def addmm(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1) -> Any:
    """`torch.addmm`."""
    return baddbmm(input, mat1, mat2, beta=beta, alpha=alpha)


def masked_fill(input: Tensor, mask: Tensor, value: Any) -> Any:
    """`Tensor.masked_fill`."""
    return torch.where(mask, value, input) if isinstance(input, Traced) or isinstance(value, Tensor) else NotImplemented


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    """`F.linear` with a weight or a bias that depends on the code."""
    if weight.dim() != 2 or not (isinstance(weight, Traced) or isinstance(bias, Traced)):
        return NotImplemented
    made = input @ weight.t() if isinstance(weight, Traced) else F.linear(input, weight)
    return made if bias is None else made + bias


def var_mean(input: Tensor, *args: Any, **kwargs: Any) -> Any:
    """`torch.var_mean`."""
    return input.var(*args, **kwargs), _mean(input, args, kwargs)


def std_mean(input: Tensor, *args: Any, **kwargs: Any) -> Any:
    """`torch.std_mean`."""
    return input.std(*args, **kwargs), _mean(input, args, kwargs)


def _mean(x: Tensor, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    """The mean over the axes in the arguments of a `var` or `std` call."""
    if args and isinstance(args[0], bool):
        return x.mean()
    dim = args[0] if args else kwargs.get("dim")
    return x.mean(dim, keepdim=kwargs.get("keepdim", bool(args[2:] and args[2])))


def log_softmax(input: Tensor, dim: int, *args: Any, **kwargs: Any) -> Any:
    """`F.log_softmax`. A call that asks for another dtype is left to torch."""
    other = any(argument is not None for argument in (args[-1:] or [kwargs.get("dtype")]))
    return NotImplemented if other else input - input.logsumexp(dim, keepdim=True)


def outer(input: Tensor, vec2: Tensor) -> Any:
    """`torch.outer`."""
    return input[:, None] * vec2[None]


def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Any:
    """`F.cosine_similarity`."""
    first, second = (x / x.norm(dim=dim, keepdim=True).clamp_min(eps) for x in (x1, x2))
    return (first * second).sum(dim)


def einsum(equation: Any, *given: Any) -> Any:
    """`torch.einsum` as matrix products of two operands at a time, from the left."""
    operands = list(given[0]) if len(given) == 1 and isinstance(given[0], list | tuple) else list(given)
    if not isinstance(equation, str) or "." in equation:
        return NotImplemented
    left, arrow, output = equation.replace(" ", "").partition("->")
    words = left.split(",")
    if not arrow:
        every = "".join(words)
        output = "".join(sorted(letter for letter in set(every) if every.count(letter) == 1))
    unlike = any(len(set(word)) < len(word) for word in (*words, output))
    if unlike or len(words) != len(operands) or any(len(w) != x.dim() for w, x in zip(words, operands, strict=True)):
        return NotImplemented
    sizes: dict[str, int] = {}
    for word, operand in zip(words, operands, strict=True):
        for letter, side in zip(word, operand.shape, strict=True):
            if sizes.setdefault(letter, side) != side:  # an axis of length 1 that broadcasts
                return NotImplemented
    word, made = words[0], operands[0]
    for index in range(1, len(words)):
        wanted = set(output).union(*words[index + 1 :])
        word, made = _pair(word, made, words[index], operands[index], wanted, sizes)
    word, made = _summed(word, made, set(output))
    return made.permute([word.index(letter) for letter in output])


def _pair(
    first: str, left: Tensor, second: str, right: Tensor, wanted: set[str], sizes: dict[str, int]
) -> tuple[str, Tensor]:
    """The product of two operands of an einsum, summed over the letters that no later operand or output needs."""
    first, left = _summed(first, left, wanted | set(second))
    second, right = _summed(second, right, wanted | set(first))
    batch = [letter for letter in first if letter in second and letter in wanted]
    inner = [letter for letter in first if letter in second and letter not in wanted]
    rows = [letter for letter in first if letter not in second]
    columns = [letter for letter in second if letter not in first]

    def sides(letters: Sequence[str]) -> list[int]:
        return [sizes[letter] for letter in letters]

    def flat(*groups: Sequence[str]) -> list[int]:
        return [torch.Size(sides(group)).numel() for group in groups]

    left = left.permute([first.index(letter) for letter in (*batch, *rows, *inner)]).reshape(flat(batch, rows, inner))
    right = right.permute([second.index(c) for c in (*batch, *inner, *columns)]).reshape(flat(batch, inner, columns))
    made = torch.bmm(left, right).reshape(sides([*batch, *rows, *columns]))
    return "".join([*batch, *rows, *columns]), made


def _summed(word: str, x: Tensor, wanted: set[str]) -> tuple[str, Tensor]:
    axes = [index for index, letter in enumerate(word) if letter not in wanted]
    kept = "".join(letter for letter in word if letter in wanted)
    return (kept, x.sum(axes)) if axes else (word, x)


def _inverse_deviation(x: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
    return (x.var(axes, unbiased=False, keepdim=True) + eps).rsqrt()


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None, shape: tuple[int, ...]) -> Tensor:
    x = x if weight is None else x * weight.view(shape)
    return x if bias is None else x + bias.view(shape)


COMPOSITIONS: dict[str, Callable[..., Any]] = {
    "group_norm": group_norm,
    "layer_norm": layer_norm,
    "rms_norm": rms_norm,
    "normalize": normalize,
    "glu": glu,
    "lerp": lerp,
    "add": add,
    "sub": sub,
    "addcmul": addcmul,
    "addcdiv": addcdiv,
    "baddbmm": baddbmm,
    "addmm": addmm,
    "masked_fill": masked_fill,
    "var_mean": var_mean,
    "std_mean": std_mean,
    "log_softmax": log_softmax,
    "outer": outer,
    "ger": outer,
    "cosine_similarity": cosine_similarity,
    "scaled_dot_product_attention": scaled_dot_product_attention,
    "multi_head_attention_forward": multi_head_attention_forward,
    "cdist": cdist,
    "pdist": pdist,
    "einsum": einsum,
}
"""Compositions by name of the operation."""
FUNCTIONAL: dict[Callable[..., Any], Callable[..., Any]] = {
    F.instance_norm: instance_norm,
    F.batch_norm: batch_norm,
    F.linear: linear,
}
"""Compositions by function, where torch has another function of the same name with other arguments."""


def composed(
    func: Callable[..., Any], name: str, args: Sequence[Any], kwargs: dict[str, Any], result: Any
) -> Any | None:
    """The result of an operation by its composition, with tangents; None if no composition covers the call."""
    composition = FUNCTIONAL.get(func, COMPOSITIONS.get(name))
    wanted, spec = tree_flatten(result)
    if composition is None or any(torch.is_autocast_enabled(w.device.type) for w in wanted if isinstance(w, Tensor)):
        return None
    try:
        with torch._C._EnableTorchFunction():  # record each inner operation
            found = tree_flatten(composition(*args, **kwargs))[0]
    except Exception as error:  # a form of the call that only torch's own derivative covers
        raise_if_no_way_helps(error)
        return None
    if len(found) != len(wanted):
        return None
    for index, (own, new) in enumerate(zip(wanted, found, strict=True)):
        if not isinstance(own, Tensor):
            continue
        if not isinstance(new, Traced) or not _alike(new, own):
            return None
        wanted[index] = new.tape.wrap(own, new.terms)
    return tree_unflatten(wanted, spec)


def _alike(made: Traced, native: Tensor) -> bool:
    """Whether a composition reproduces the result of torch's operation, up to round-off."""
    mine = made.primal
    if mine.shape != native.shape or mine.dtype != native.dtype:
        return False
    scale = float(native.abs().max()) if native.numel() else 0.0
    return bool(torch.allclose(mine, native, rtol=1e-2, atol=1e-3 * scale))
