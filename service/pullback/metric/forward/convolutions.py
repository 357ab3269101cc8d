"""Convolutions of tangents: without the bias, and by cheaper operations if possible.

- Transposed convolution whose kernel size K is a multiple of its stride s: it equals a convolution with s² times the
  channels and kernels of size K / s, whose channels are then laid out as pixels. The CPU's own operation is slower. For
  an image of one pixel it is a matrix product.
- Convolution of an image that nearest-neighbour resizing has doubled: it reads each pixel several times. It equals four
  convolutions of the small image whose kernels are sums of taps (16 products instead of 36 for kernels of size 3).
- Convolution of which only the first channels are used: only these channels are computed.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pullback.metric.contents import ContentCache
from pullback.metric.forward.tape import Tape, Term, Traced

Call = Callable[[Tensor, Tensor], Tensor]
"""Maps merged tangents [chunk · batch, ...] and a kernel to their convolution."""


_KERNEL_AT_ONCE = 2**20
"""Largest number of kernel elements that is copied as a whole."""


@dataclass(frozen=True)
class Convolution:
    """How a convolution made a slot, so that a part of the slot can be made instead."""

    func: Callable[..., Tensor]
    source: int
    weight: Tensor
    options: dict[str, Any]


@dataclass(frozen=True)
class Doubling:
    """How nearest-neighbour resizing to twice the size made a slot."""

    source: int
    shape: torch.Size


def weighted(
    func: Callable[..., Tensor], value: Traced, args: Sequence[Any], kwargs: dict[str, Any], result: Tensor
) -> list[Term] | None:
    """The terms of the tangent of a convolution or a linear layer; None if the value has no batch axis."""
    names = ("weight", "bias", "stride", "padding")
    transposed = ("output_padding", "groups", "dilation")
    later = transposed if "transpose" in func.__name__ else ("dilation", "groups")
    options = {**dict(zip((*names, *later), args, strict=False)), **kwargs}
    weight: Tensor = options.pop("weight")
    options.pop("bias", None)
    if value.primal.dim() < max(2, weight.dim()):
        return None
    tape, slot, call, kernel = value.tape, value.tape.whole(value), None, weight
    small = tape.made_by.get(slot)
    if func.__name__ == "conv2d" and isinstance(small, Doubling) and _plain_square(weight, options):
        slot, kernel, call = small.source, _doubled(weight), _of_doubled(small.shape, options)
    elif func.__name__ == "conv_transpose2d":
        found = _transposed(value.primal, weight, options)
        call, kernel = found or (None, weight)
    if call is None:
        call = _directly(func, options)
    term = tape.emit(_merged(call), [slot], result.shape, [kernel])
    if func.__name__ == "conv2d" and kernel is weight and options.get("groups", 1) == 1:
        tape.made_by[term.slot] = Convolution(func, slot, weight, options)
    return [term]


def first_channels(tape: Tape, made: Convolution, count: slice, shape: torch.Size) -> Term:
    """The term of a slice of a convolution's channels."""
    return tape.emit(_merged(_directly(made.func, made.options)), [made.source], shape, [made.weight[count]])


def _directly(func: Callable[..., Tensor], options: dict[str, Any]) -> Call:
    return lambda t, kernel: func(t, kernel, None, **options)


def _merged(call: Call) -> Callable[[Tensor, Tensor], Tensor]:
    """Turn a call on [chunk · batch, ...] into a call on [chunk, batch, ...]."""

    def merged(t: Tensor, kernel: Tensor) -> Tensor:
        made = call(t.flatten(0, 1), kernel)
        return made.view(*t.shape[:2], *made.shape[1:])

    return merged


def _pair(value: Any) -> tuple[Any, Any]:
    """Expand a number, or a sequence of one or two numbers, to two."""
    given = tuple(value) if isinstance(value, tuple | list) else (value,)
    return given[0], given[-1]


def _transposed(x: Tensor, weight: Tensor, options: dict[str, Any]) -> tuple[Call, Tensor] | None:
    """A cheaper transposed convolution and its kernel; None if there is none."""
    stride, pad = _pair(options.get("stride", 1)), _pair(options.get("padding", 0))
    others = _pair(options.get("output_padding", 0)), _pair(options.get("dilation", 1)), options.get("groups", 1)
    if x.device.type != "cpu" or x.dim() != 4 or others != ((0, 0), (1, 1), 1):
        return None
    into, out, high, wide = weight.shape
    if x.shape[2:] == (1, 1) and pad == (0, 0):
        return lambda t, matrix: (t.flatten(1) @ matrix).view(-1, out, high, wide), weight.reshape(into, -1)
    if stride[0] < 2 or stride[0] != stride[1] or high != wide:
        return None
    if high % stride[0]:  # unequal phases need zero padding: for a kernel of size 3, 16 products instead of 9
        return None
    height, width = ((side - 1) * stride[0] - 2 * p + high for side, p in zip(x.shape[2:], pad, strict=True))
    return _by_phases(stride[0], pad, (height, width)), _kept(weight, stride[0], _phases)


def _by_phases(stride: int, pad: tuple[int, int], size: tuple[int, int]) -> Call:
    """A call that convolves with a kernel from `_phases` and lays the phases out as an image of the given size.

    Pixel o of the result satisfies o + pad = stride · j + phase, where j is the position in the convolution's result.
    """

    def call(t: Tensor, kernel: Tensor) -> Tensor:
        made = _full(t, kernel)
        phases = made.view(len(t), stride, stride, -1, *made.shape[2:])
        result = t.new_empty(len(t), phases.shape[3], *size)
        for row, column in itertools.product(range(stride), repeat=2):
            top, left = (row - pad[0]) % stride, (column - pad[1]) % stride
            j, i = (top + pad[0]) // stride, (left + pad[1]) // stride
            part = result[:, :, top::stride, left::stride]
            part.copy_(phases[:, row, column, :, j : j + part.shape[2], i : i + part.shape[3]])
        return result

    return call


def _full(t: Tensor, kernel: Tensor) -> Tensor:
    """A convolution padded by the reach of its kernel, computed for some of the channels at a time.

    The CPU's convolution copies its kernel into another order. With a large kernel and a small image, the copy takes up
    to half of the time. A part of the kernel stays in the cache, and its copy takes almost no memory.
    """
    reach = kernel.shape[-1] - 1
    parts = kernel.chunk(-(-kernel.numel() // _KERNEL_AT_ONCE))
    return torch.cat([F.conv2d(t, part, padding=reach) for part in parts], dim=1)


def _phases(weight: Tensor, stride: int) -> Tensor:
    """Rearrange a kernel [in, out, K, K] to [stride² · out, in, ⌈K / stride⌉, ⌈K / stride⌉], row phases outermost."""
    into, out, side, _ = weight.shape
    reach = -(-side // stride)
    gap = reach * stride - side
    # [in, out, tap, phase, tap, phase]; the taps are flipped because F.conv2d computes a correlation
    taps = F.pad(weight, (0, gap, 0, gap)).reshape(into, out, reach, stride, reach, stride).flip(2, 4)
    return taps.permute(3, 5, 1, 0, 2, 4).reshape(stride * stride * out, into, reach, reach).contiguous()


def _plain_square(weight: Tensor, options: dict[str, Any]) -> bool:
    """Whether this is an ordinary 3 × 3 convolution that preserves the image size."""
    kind = _pair(options.get("stride", 1)), _pair(options.get("dilation", 1)), options.get("groups", 1)
    pad = options.get("padding", 0)
    return (
        weight.shape[2:] == (3, 3)
        and kind == ((1, 1), (1, 1), 1)
        and pad != "valid"
        and (pad == "same" or _pair(pad) == (1, 1))
    )


def _doubled(weight: Tensor) -> Tensor:
    return _kept(weight, 2, _added_taps)


def _added_taps(weight: Tensor, _: int) -> Tensor:
    """A 3 × 3 kernel [out, in, 3, 3] for images doubled by nearest neighbours, as phases [4 · out, in, 2, 2].

    Row 2j of the convolution reads rows 2j − 1, 2j, 2j + 1 of the doubled image. These are rows j − 1, j, j of the
    small image. Row 2j + 1 reads rows j, j, j + 1.
    """
    even = torch.tensor([[1.0, 0, 0], [0, 1, 1]]).to(weight)
    odd = torch.tensor([[1.0, 1, 0], [0, 0, 1]]).to(weight)
    parts = [torch.einsum("ar,oirs,bs->oiab", row, weight, column) for row in (even, odd) for column in (even, odd)]
    return torch.cat(parts)


def _of_doubled(shape: torch.Size, options: dict[str, Any]) -> Call:
    """A call that convolves small images with a kernel from `_added_taps`; `shape` is the doubled value's shape."""
    # As in `_by_phases`: phase r of row 2j + r of the result is at position j + r.
    height, width = shape[-2:]

    def call(t: Tensor, kernel: Tensor) -> Tensor:
        made = F.conv2d(t, kernel, padding=1)
        phases = made.view(len(t), 2, 2, -1, *made.shape[2:])
        result = t.new_empty(len(t), phases.shape[3], height, width)
        for row, column in itertools.product(range(2), repeat=2):
            part = result[:, :, row::2, column::2]
            part.copy_(phases[:, row, column, :, row : row + height // 2, column : column + width // 2])
        return result

    return call


_kernels = ContentCache()


def _kept(weight: Tensor, stride: int, rearrange: Callable[[Tensor, int], Tensor]) -> Tensor:
    """The rearranged kernel, cached while the weight lives and holds the same numbers."""
    return _kernels.get(weight, (stride, rearrange), lambda: rearrange(weight, stride))
