"""Convolutions whose weights depend on the code, as in StyleGAN2 and its successors.

A convolution is linear in the image x and in the weight W. Let W = F ∘ σ with one number σ per input channel. Then
conv(dx, W) + conv(x, F ∘ dσ) = conv(σ ∘ dx + x ∘ dσ, F), which is one convolution with a fixed weight F. One number per
output channel multiplies conv(x, F), which is computed once. The samples of a batch are the groups of the convolution,
each with its own weight.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pullback.metric.forward.convolutions import weighted
from pullback.metric.forward.structures import Piece, gathered, pieces, ratio
from pullback.metric.forward.tape import Tape, Term, Traced, plain


def modulated(
    tape: Tape, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], result: Tensor
) -> list[Term] | None:
    """The terms of a convolution with a traced weight or bias; None if it has no batch axis.

    Args:
        tape: receives the steps.
        func: a convolution of `torch.nn.functional`, transposed or not.
        args: positional arguments of the call: image, weight, bias, ...
        kwargs: keyword arguments of the call.
        result: the result of the call for the primal values.
    """
    transposed = "transpose" in func.__name__
    later = ("output_padding", "groups", "dilation") if transposed else ("dilation", "groups")
    names = ("input", "weight", "bias", "stride", "padding", *later)
    options = {**dict(zip(names, args, strict=False)), **kwargs}
    image, weight, bias = (options.pop(name, None) for name in ("input", "weight", "bias"))
    x, w = plain(image), plain(weight)
    if x.dim() != w.dim():
        return None
    terms: list[Term] = []
    if isinstance(bias, Traced):
        ones = [1] * (w.dim() - 2)
        moved = tape.emit(
            lambda t: t.reshape(len(t), 1, -1, *ones), [tape.whole(bias)], bias.primal.view(1, -1, *ones).shape
        )
        terms.append(moved)
    if not isinstance(weight, Traced):
        made = weighted(func, image, [w], options, result) if isinstance(image, Traced) else []
        return None if made is None else terms + made
    groups = int(options.get("groups", 1))
    layout = _Layout(groups, transposed, w.shape)
    found = pieces(tape, weight)
    by_input: list[Piece] = []
    for piece in found:
        index = layout.split(piece.index)
        if not _varies(index, layout.inner, layout.taps):
            terms.append(_by_output(tape, piece, layout, index, func(x, piece.factor, None, **options)))
        elif not _varies(index, layout.outer, layout.taps):
            by_input.append(piece)
        else:
            terms.append(_by_weight(tape, piece, func, x, options, result))
    parts = _operands(tape, image, w, by_input, layout)
    for kernel, operand in parts:
        made = weighted(func, tape.wrap(x, operand), [kernel], options, result)
        assert made is not None
        terms += made
    return terms


class _Layout:
    """Axes of a weight: [groups, outputs, inputs, taps], or [groups, inputs, outputs, taps] if transposed."""

    def __init__(self, groups: int, transposed: bool, shape: Sequence[int]) -> None:
        self.shape = (groups, shape[0] // groups, shape[1], -1)
        self.outer, self.inner, self.taps = (2, 1, 3) if transposed else (1, 2, 3)
        self.ones = [1] * (len(shape) - 2)

    def split(self, x: Tensor) -> Tensor:
        """Reshape a weight so that groups, outputs and inputs have their own axes."""
        return x.reshape(self.shape)

    def channels(self, x: Tensor, axis: int) -> Tensor:
        """The values along one axis and the groups, as channels of an image [1, channels, 1, ...]."""
        others = [other for other in (1, 2, 3) if other != axis]
        for other in others:
            x = x.narrow(other, 0, 1)
        return x.reshape(1, -1, *self.ones)


def _varies(index: Tensor, *axes: int) -> bool:
    return any(bool((index != index.narrow(axis, 0, 1)).any()) for axis in axes)


def _by_output(tape: Tape, piece: Piece, layout: _Layout, index: Tensor, known: Tensor) -> Term:
    """One number per output channel times the known convolution."""
    channels = layout.channels(index, layout.outer)
    return gathered(tape, piece.slot, channels, channels.shape).times(known)


def _by_weight(
    tape: Tape, piece: Piece, func: Callable[..., Any], x: Tensor, options: dict[str, Any], result: Tensor
) -> Term:
    """The image convolved with the tangents of the weight itself."""

    def convolve(t: Tensor, index: Tensor, factor: Tensor) -> Tensor:
        flat, image = t.flatten(1), x.to(t.dtype)
        return torch.stack([func(image, one[index] * factor, None, **options) for one in flat])

    return tape.emit(convolve, [piece.slot], result.shape, [piece.index, piece.factor])


def _operands(
    tape: Tape, image: Any, w: Tensor, by_input: Sequence[Piece], layout: _Layout
) -> list[tuple[Tensor, list[Term]]]:
    """The kernels, each with the terms of the images that it is applied to."""
    x = plain(image)
    outside = (layout.outer, layout.taps)
    parts: list[tuple[Tensor, list[Term]]] = []
    if isinstance(image, Traced):
        scale = ratio(layout.split(w), layout.split(by_input[0].factor), outside) if by_input else None
        if scale is None:
            parts.append((w, list(image.terms)))
        else:
            channels = layout.channels(scale, layout.inner)
            parts.append((by_input[0].factor, [term.times(channels) for term in image.terms]))
    for piece in by_input:
        channels = layout.channels(layout.split(piece.index), layout.inner)
        term = gathered(tape, piece.slot, channels, channels.shape)
        for kernel, operand in parts:
            share = ratio(layout.split(piece.factor), layout.split(kernel), outside)
            if share is not None:
                operand.append(term.times(x * layout.channels(share, layout.inner)))
                break
        else:
            parts.append((piece.factor, [term.times(x)]))
    return parts
