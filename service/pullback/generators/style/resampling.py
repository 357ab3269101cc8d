"""Resampling with finite impulse response filters, made of plain torch operations.

Upsampling by a factor s puts s − 1 zeros after each pixel and convolves with a filter: one transposed convolution.
Downsampling convolves and keeps every s-th pixel: one convolution with a stride. Filters are true convolution kernels
f [k] (separable) or [k, k]; all channels use the same filter.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def unit_filter(taps: tuple[float, ...]) -> Tensor:
    """Return the separable filter with these taps as a kernel [k, k] of sum 1 (float64)."""
    line = torch.tensor(taps, dtype=torch.float64)
    return torch.outer(line, line) / line.sum() ** 2


def filtered(x: Tensor, kernel: Tensor, pad: tuple[int, int] = (0, 0), stride: int = 1) -> Tensor:
    """Convolve each channel of x [batch, channels, height, width] with a kernel.

    Args:
        x: the image.
        kernel: [k, k], or [k] for a filter along both axes in turn.
        pad: pixels before and after, along both axes; a negative number crops.
        stride: every `stride`-th pixel is kept.
    """
    if pad[0] == pad[1] and pad[0] >= 0:
        padding = pad[0]
    else:
        padding, x = 0, F.pad(x, (*pad, *pad))
    if kernel.dim() == 1:
        x = _correlate(x, kernel.flip(0)[:, None], (padding, 0), (stride, 1))
        return _correlate(x, kernel.flip(0)[None], (0, padding), (1, stride))
    return _correlate(x, kernel.flip(0, 1), (padding, padding), (stride, stride))


def upsampled(x: Tensor, kernel: Tensor, factor: int, pad: tuple[int, int], gain: float = 1.0) -> Tensor:
    """Put factor − 1 zeros after each pixel of x [batch, channels, height, width], pad, and convolve.

    Args:
        x: the image.
        kernel: [k, k], or [k] for a filter along both axes in turn.
        factor: factor by which the image grows.
        pad: pixels to add before and after the image with its zeros; a negative number crops.
        gain: multiplies the result; factor² keeps the brightness.

    Returns:
        [batch, channels, factor · height + pad[0] + pad[1] − k + 1, ...].
    """
    size = kernel.shape[0]
    before, after = size - 1 - pad[0], size - factor - pad[1]  # excess of the full convolution
    crop = max(0, min(before, after))
    if kernel.dim() == 1:
        x = _spread(x, (kernel * gain)[:, None], (factor, 1), (crop, 0))
        x = _spread(x, kernel[None], (1, factor), (0, crop))
    else:
        x = _spread(x, kernel * gain, (factor, factor), (crop, crop))
    before, after = before - crop, after - crop
    return F.pad(x, (-before, -after, -before, -after)) if before or after else x


def doubling_pads(size: int) -> tuple[int, int]:
    """Return the padding with which a filter of this size doubles an image exactly; see `upsampled`."""
    return (size + 1) // 2, (size - 2) // 2


def doubled(x: Tensor, kernel: Tensor) -> Tensor:
    """Double an image [batch, channels, height, width] with a kernel [k, k] of sum 1."""
    return upsampled(x, kernel, 2, doubling_pads(kernel.shape[0]), 4.0)


def widened(weight: Tensor) -> Tensor:
    """Return the sum [..., 4, 4] of a kernel [..., 3, 3] shifted by 0 and 1 along both axes.

    A transposed convolution of stride 2 with this kernel equals nearest-neighbour doubling followed by a convolution
    with the (flipped) 3×3 kernel. Karras et al. use it in layers of 128 pixels and more.
    """
    w = F.pad(weight, (1, 1, 1, 1))
    return w[..., 1:, 1:] + w[..., :-1, 1:] + w[..., 1:, :-1] + w[..., :-1, :-1]


def _correlate(x: Tensor, kernel: Tensor, padding: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    channels = x.shape[1]
    return F.conv2d(x, kernel.expand(channels, 1, *kernel.shape), stride=stride, padding=padding, groups=channels)


def _spread(x: Tensor, kernel: Tensor, stride: tuple[int, int], crop: tuple[int, int]) -> Tensor:
    channels = x.shape[1]
    weight = kernel.expand(channels, 1, *kernel.shape)
    return F.conv_transpose2d(x, weight, stride=stride, padding=crop, groups=channels)
