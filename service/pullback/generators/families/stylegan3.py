"""StyleGAN3 (Karras et al., "Alias-free generative adversarial networks", NeurIPS 2021), configurations T and R.

A code in W rotates and shifts an input of Fourier features. Each layer is a modulated convolution and a filtered
nonlinearity: features are upsampled, pass a leaky ReLU, and are downsampled. Both resamplings use a low-pass filter, so
the nonlinearity causes no aliasing. Cutoffs, sampling rates and sizes of the layers follow a schedule (appendix C of
the paper). R uses 1×1 convolutions and radially symmetric filters.

As in `stylegan2`, the scales of modulation act on features, so that convolutions have fixed weights.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pullback.errors import ArgumentError
from pullback.generators.family import FamilyGenerator, Found, load_state
from pullback.generators.style import stylegan3_layouts
from pullback.generators.style.base import StyleGenerator, WAverage
from pullback.generators.style.dense import Dense, fan_in
from pullback.generators.style.mapping import SLOPE
from pullback.generators.style.mapping import Mapping as MappingNetwork
from pullback.generators.style.resampling import filtered, upsampled
from pullback.spec import options as base
from pullback.weights.content import Content

SUMMARY = "StyleGAN3 (Karras et al., 2021), T and R, with and without classes"
READS = (
    "NVIDIA .pkl of stylegan3, and the state dict of its G_ema",
    "Hammer .pth",
)
_EPS = 1e-8


class Options(base.Options):
    """Options of a StyleGAN3. The names of the schedule's options are those of NVIDIA's code."""

    resolution: int
    """Height and width of the images in pixels."""
    channels: tuple[int, ...]
    """Output channels of each layer; the last number is the channels of the image."""
    kernel: int
    """Size of the convolutions: 3 in T, 1 in R."""
    z_dim: int
    """Size of a code in Z."""
    w_dim: int
    """Size of a code in W."""
    mapping: tuple[int, ...]
    """Widths of the mapping network's layers."""
    num_critical: int = 2
    """Layers at the end that are critically sampled."""
    first_cutoff: float = 2.0
    """Cutoff frequency of the first layer, in cycles an image."""
    first_stopband: float = 2**2.1
    """Frequency at which the first layer's stopband begins, in cycles per image."""
    last_stopband_rel: float = 2**0.3
    """Frequency at which the last layer's stopband begins, relative to its cutoff (half of the resolution)."""
    margin_size: int = 10
    """Pixels on each side beyond the image, in all layers but the last two."""
    filter_size: int = 6
    """Taps of a filter for each unit of its resampling factor."""
    lrelu_upsampling: int = 2
    """Factor by which features are upsampled for the nonlinearity."""
    output_scale: float = 0.25
    """Multiplies the image."""
    conv_clamp: float | None = 256.0
    """Bound on the absolute value of each nonlinearity's result; null for none."""
    mapping_lr: float = 0.01
    """Learning rate multiplier of the mapping network, which multiplies its weights."""
    classes: int = 0
    """Number of classes; 0 without."""
    embedding: int = 0
    """Size of the class embedding in the mapping network."""
    final_tanh: bool = False
    """Whether the image passes a tanh."""
    per_layer: bool = False
    """Whether the mapping network returns a code for each layer."""
    stored_grid: bool = False
    """Whether the file holds the coordinates of the input's pixels."""
    sizes: tuple[int, ...] = ()
    """Height and width after each layer, if the file names them. The schedule must give the same sizes."""
    w_avg: WAverage = None
    """Mean of W for truncation: numbers, a `.npy` file, or the number of codes to average. Default: the file's mean."""


@dataclass(frozen=True)
class _Layer:
    """The schedule of one layer."""

    size: int
    up: int
    up_taps: int
    down: int
    down_taps: int
    pad: tuple[int, int]


@dataclass(frozen=True)
class _Schedule:
    """Frequencies of the input and of the layers."""

    size: int
    rate: float
    bandwidth: float
    layers: tuple[_Layer, ...]


def schedule(o: Options) -> _Schedule:
    """Return the sizes, resampling factors and paddings of all layers.

    Cutoffs grow geometrically from `first_cutoff` to half of the resolution. The sampling rate of a layer is the power
    of two that covers its stopband.
    """
    count = len(o.channels) - 1
    last = o.resolution / 2
    exponents = np.minimum(np.arange(count + 1) / (count - o.num_critical), 1)
    cutoffs = o.first_cutoff * (last / o.first_cutoff) ** exponents
    stopbands = o.first_stopband * (last * o.last_stopband_rel / o.first_stopband) ** exponents
    rates = np.exp2(np.ceil(np.log2(np.minimum(stopbands * 2, o.resolution))))
    sizes = rates + o.margin_size * 2
    sizes[-2:] = o.resolution
    layers = []
    for index in range(count + 1):
        before, colour = max(index - 1, 0), index == count
        rate = max(rates[before], rates[index]) * (1 if colour else o.lrelu_upsampling)
        up, down = round(rate / rates[before]), round(rate / rates[index])
        up_taps = o.filter_size * up if up > 1 and not colour else 1
        down_taps = o.filter_size * down if down > 1 and not colour else 1
        kernel = 1 if colour else o.kernel
        total = (int(sizes[index]) - 1) * down + 1 - (int(sizes[before]) + kernel - 1) * up + up_taps + down_taps - 2
        low = (total + up) // 2
        layers.append(_Layer(int(sizes[index]), up, up_taps, down, down_taps, (low, total - low)))
    return _Schedule(int(sizes[0]), float(rates[0]), float(cutoffs[0]), tuple(layers))


class FourierInput(nn.Module):
    """Fourier features, rotated and shifted by the code, then a linear map.

    Args:
        channels: channels of the features.
        code: the size of a code in W.
        plan: supplies the size, the sampling rate and the bandwidth.
        stored_grid: whether pixel coordinates are read from the file instead of computed.
    """

    grid: Tensor
    transform: Tensor
    freqs: Tensor
    phases: Tensor

    def __init__(self, channels: int, code: int, plan: _Schedule, stored_grid: bool = False) -> None:
        super().__init__()
        if stored_grid:
            self.register_buffer("grid", torch.zeros(1, plan.size, plan.size, 2))
        self.rate, self.bandwidth, self.size = plan.rate, plan.bandwidth, plan.size
        self.affine = Dense(code, 4, code**-0.5)
        self.weight = nn.Parameter(torch.zeros(channels, channels))
        self.register_buffer("transform", torch.eye(3))
        self.register_buffer("freqs", torch.zeros(channels, 2))
        self.register_buffer("phases", torch.zeros(channels))

    def forward(self, w: Tensor) -> Tensor:
        """Return features [batch, channels, size, size] of codes [batch, code]."""
        t = self.affine(w)
        t = t / t[:, :2].norm(dim=1, keepdim=True)
        cosine, sine, shift = t[:, :1, None], t[:, 1:2, None], t[:, 2:]
        # rotation · translation · user's transform; the last row of the product is not needed
        moved = self.transform[:2] - shift[:, :, None] * self.transform[2]
        top, bottom = moved[:, :1], moved[:, 1:]
        turned = torch.cat([cosine * top - sine * bottom, sine * top + cosine * bottom], dim=1)  # [batch, 2, 3]
        made = torch.matmul(self.freqs, turned)  # [batch, channels, 3]: two frequencies and a phase
        freqs, phases = made[:, :, :2], made[:, :, 2] + self.phases
        amplitudes = (1 - (freqs.norm(dim=2) - self.bandwidth) / (self.rate / 2 - self.bandwidth)).clamp(0, 1)
        if hasattr(self, "grid"):
            across, down = (freqs[:, :, i, None, None] * self.grid[0, :, :, i] for i in (0, 1))
        else:
            line = self._line(w)
            across, down = freqs[:, :, :1, None] * line, freqs[:, :, 1:, None] * line[:, None]
        angles = across + (down + phases[:, :, None, None])  # [batch, channels, size, size]
        x = (angles * (2 * math.pi)).sin() * amplitudes[:, :, None, None]
        return F.conv2d(x, (self.weight * len(self.weight) ** -0.5)[:, :, None, None])

    def _line(self, like: Tensor) -> Tensor:
        """Return the coordinates of pixel centres along an axis, in units of the image size."""
        index = torch.arange(self.size, dtype=like.dtype, device=like.device)
        return (2 * index + 1 - self.size) / (2 * self.rate)


class Layer(nn.Module):
    """A modulated convolution and a filtered leaky ReLU. The last layer of a network has no filter and no nonlinearity.

    Args:
        into: input channels.
        out: output channels.
        kernel: size of the convolution.
        code: the size of a code in W.
        plan: the layer's resampling.
        colour: whether this layer makes the image.
        clamp: bound on the absolute value of the nonlinearity's result.
    """

    magnitude_ema: Tensor
    up_filter: Tensor
    down_filter: Tensor

    def __init__(
        self, into: int, out: int, kernel: int, code: int, plan: _Layer, colour: bool, clamp: float | None
    ) -> None:
        super().__init__()
        self.plan, self.colour, self.clamp = plan, colour, clamp
        self.affine = Dense(code, into, code**-0.5)
        self.weight = nn.Parameter(torch.zeros(out, into, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out))
        self.register_buffer("magnitude_ema", torch.ones(()))
        if plan.up_taps > 1:
            self.register_buffer("up_filter", torch.zeros(plan.up_taps))
        if plan.down_taps > 1:
            self.register_buffer("down_filter", torch.zeros(plan.down_taps))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Return features [batch, out, size, size] from features [batch, into, ...] and codes [batch, code]."""
        x = self._convolved(x, w) + self.bias[:, None, None]
        plan = self.plan
        if plan.up_taps > 1:
            x = upsampled(x, self.up_filter, plan.up, plan.pad, float(plan.up**2))
        elif any(plan.pad):
            x = F.pad(x, (*plan.pad, *plan.pad))
        if not self.colour:
            x = F.leaky_relu(x, SLOPE) * math.sqrt(2)
        if self.clamp is not None:
            x = x.clamp(-self.clamp, self.clamp)
        return filtered(x, self.down_filter, stride=plan.down) if plan.down_taps > 1 else x

    def _convolved(self, x: Tensor, w: Tensor) -> Tensor:
        style, gain = self.affine(w), self.magnitude_ema.rsqrt()
        padding = self.weight.shape[-1] - 1
        if self.colour:
            style = style * (gain * fan_in(self.weight) ** -0.5)
            return F.conv2d(x * style[:, :, None, None], self.weight, padding=padding)
        # The weights of each output channel, and the styles of the batch, are divided by their root mean squares.
        # Demodulation cancels both factors, up to its epsilon. The batch's factor changes images by 1e-9. It is
        # detached, so that a code's derivative does not depend on the other codes.
        style = style * style.detach().square().mean().rsqrt()
        power = self.weight.square()
        unit = power.mean((1, 2, 3)).rsqrt()
        squares = F.linear(style.square(), power.sum((2, 3)) * unit.square()[:, None])
        scale = (squares + _EPS).rsqrt() * (unit * gain)
        return F.conv2d(x * style[:, :, None, None], self.weight, padding=padding) * scale[:, :, None, None]


class StyleGan3(StyleGenerator):
    """A StyleGAN3 generator; it has no noise.

    Args:
        options: sizes and schedule of the network.

    Raises:
        SpecError: the schedule does not reproduce the layer sizes in the file.
    """

    def __init__(self, options: Options) -> None:
        o = options
        count = len(o.channels) - 1
        mapping = None
        if o.mapping:
            mapping = MappingNetwork(
                o.z_dim,
                o.mapping,
                gain=1.0,
                lr=o.mapping_lr,
                after=math.sqrt(2),
                classes=o.classes,
                embedding=o.embedding,
            )
        super().__init__(mapping, o.z_dim, o.w_dim, count + 2, o.classes, o.w_avg, o.per_layer)
        if not 0 < o.num_critical < count:
            raise ArgumentError("num_critical", f"must be from 1 to {count - 1}, not {o.num_critical}")
        plan = schedule(o)
        sizes = tuple(layer.size for layer in plan.layers)
        if o.sizes and sizes != o.sizes:
            raise ArgumentError(
                "sizes",
                f"the layers of the file have the sizes {list(o.sizes)}, and the options give {list(sizes)}. A state "
                "dict does not hold all options; give those that differ from the defaults: "
                "num_critical, first_cutoff, first_stopband, last_stopband_rel, margin_size",
            )
        self.output_scale, self.final_tanh = o.output_scale, o.final_tanh
        self.input = FourierInput(o.channels[0], o.w_dim, plan, o.stored_grid)
        widths = (o.channels[0], *o.channels)
        self.layers = nn.ModuleList(
            [
                Layer(
                    widths[index],
                    widths[index + 1],
                    1 if index == count else o.kernel,
                    o.w_dim,
                    layer,
                    index == count,
                    o.conv_clamp,
                )
                for index, layer in enumerate(plan.layers)
            ]
        )

    def synthesise(self, styles: Sequence[Tensor]) -> Tensor:
        """Return images [batch, channels, resolution, resolution]; see `StyleGenerator.synthesise`."""
        x: Tensor = self.input(styles[0])
        for layer, w in zip(self.layers, styles[1:], strict=True):
            x = layer(x, w)
        x = x * self.output_scale if self.output_scale != 1 else x
        return x.tanh() if self.final_tanh else x


def read(content: Content) -> Found | None:
    """Recognise a StyleGAN3 generator of NVIDIA or Hammer."""
    return stylegan3_layouts.read(content)


def build(options: Options, state: Mapping[str, Tensor]) -> FamilyGenerator:
    """Build a StyleGAN3 from a state dict in its own names.

    Raises:
        Misfit: the tensors do not fit the options.
        SpecError: options do not fit each other, or `w_avg` does not fit.
    """
    generator = StyleGan3(options)
    for number, layer in enumerate(generator.layers):  # radially symmetric filters are 2-D
        kernel = state.get(f"layers.{number}.down_filter")
        if kernel is not None and kernel.dim() == 2 and hasattr(layer, "down_filter"):
            layer.down_filter = torch.zeros_like(kernel, dtype=torch.float32)
    found = "w_avg" in state
    average = state["w_avg"].reshape(generator.w_avg.shape) if found else generator.w_avg
    load_state(generator, {**state, "w_avg": average})
    generator.set_average(found)
    return generator
