"""StyleGAN2 (Karras et al., "Analyzing and improving the image quality of StyleGAN", CVPR 2020).

A code in W scales the input channels of each convolution; demodulation then divides each output channel by the norm of
its scaled kernel. Each resolution has two convolutions, and the first doubles the image. The architectures differ in
how they form the image: `skip` sums the RGB images of all resolutions, `resnet` has a skip connection around each pair
of convolutions, `orig` makes one RGB image at the end.

conv(x, W ∘ s) = conv(x ∘ s, W) for one factor s per input channel, and demodulation is one factor per output channel.
So every convolution here has fixed weights, and the scales act on features.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pullback.generators.family import FamilyGenerator, Found, load_state
from pullback.generators.style import lucidrains, stylegan2_layouts
from pullback.generators.style.base import StyleGenerator, WAverage
from pullback.generators.style.dense import Dense, fan_in
from pullback.generators.style.mapping import SLOPE
from pullback.generators.style.mapping import Mapping as MappingNetwork
from pullback.generators.style.resampling import doubled, doubling_pads, filtered, unit_filter
from pullback.spec import options as base
from pullback.weights.content import Content

SUMMARY = "StyleGAN2 (Karras et al., 2020), with and without classes: skip, resnet and orig architectures"
READS = (
    "NVIDIA .pkl of stylegan2-ada-pytorch and stylegan3, and the state dict of its G_ema",
    "NVIDIA .pkl of TensorFlow (stylegan2, stylegan2-ada)",
    "rosinality/stylegan2-pytorch .pt, converted and training checkpoints",
    "genforce .pth, converted and runner checkpoints",
    "Hammer .pth",
    "lucidrains/stylegan2-pytorch model_N.pt",
)
EPS = 1e-8
"""Added to the sum of squares in demodulation."""


@dataclass(frozen=True)
class _Convention:
    """Differences between implementations that use the same weights."""

    scales: bool
    """Whether weights are divided by sqrt(inputs) before demodulation, so that `EPS` acts on scaled weights."""
    offset: float
    """Added to styles; 1 if the stored bias does not include the 1."""


_CONVENTIONS = {
    "nvidia": _Convention(scales=False, offset=0.0),
    "rosinality": _Convention(scales=True, offset=0.0),
    "genforce": _Convention(scales=True, offset=1.0),
    "hammer": _Convention(scales=True, offset=0.0),
}

_GAINS = {
    "linear": 1.0,
    "relu": math.sqrt(2),
    "lrelu": math.sqrt(2),
    "tanh": 1.0,
    "sigmoid": 1.0,
    "elu": 1.0,
    "selu": 1.0,
    "softplus": 1.0,
    "swish": math.sqrt(2),
}
"""Factor that multiplies the result of each activation."""
Activation = Literal["linear", "relu", "lrelu", "tanh", "sigmoid", "elu", "selu", "softplus", "swish"]


class Options(base.Options):
    """Options of a StyleGAN2."""

    resolution: int
    """Height and width of the images in pixels."""
    channels: tuple[int, ...]
    """Channels at each resolution, from the lowest to the highest."""
    z_dim: int = 512
    """Size of a code in Z."""
    w_dim: int = 512
    """Size of a code in W."""
    mapping: tuple[int, ...] = ()
    """Widths of the mapping network's layers; empty where the file has no mapping network."""
    conv_clamp: float | None
    """Bound on the absolute value of each convolution's result; null for none. The default is 256 in NVIDIA's stylegan3
    code, and none in its stylegan2-ada-pytorch code. A plain state dict does not hold it."""
    layout: Literal["nvidia", "rosinality", "genforce", "hammer", "lucidrains"] = "nvidia"
    """The implementation whose arithmetic is used: it determines the scaling of weights."""
    classes: int = 0
    """Number of classes; 0 without."""
    embedding: int = 0
    """Size of the class embedding in the mapping network."""
    embedding_norm: Literal["apart", "together"] = "apart"
    """Whether the code and the class embedding are normalised each by itself or as one vector."""
    embedding_bias: bool = True
    """Whether the class embedding is a linear layer with a bias, rather than a table."""
    mapping_lr: float = 0.01
    """Learning rate multiplier of the mapping network, which multiplies its weights."""
    architecture: Literal["skip", "resnet", "orig"] = "skip"
    """How the layers form the image: `skip` sums RGB images of all resolutions, `resnet` has skip connections of
    features, `orig` makes one RGB image at the end."""
    activation: Activation = "lrelu"
    """Activation after each convolution."""
    image_channels: int = 3
    """Channels of the images."""
    taps: int = 4
    """Size of the resampling filter."""
    final_tanh: bool = False
    """Whether the image passes a tanh."""
    per_layer: bool = False
    """Whether the mapping network returns a code for each layer."""
    constant: bool = True
    """lucidrains: whether the first features are constant, rather than made from the mean style."""
    attention: tuple[int, ...] = ()
    """lucidrains: the blocks that begin with self-attention, counted from 0."""
    noise_stored: bool = True
    """Whether the file holds the noise maps."""
    w_avg: WAverage = None
    """Mean of W for truncation: numbers, a `.npy` file, or the number of codes to average. Default: the file's mean."""


class ModulatedConv(nn.Module):
    """A convolution whose input channels are scaled by a style.

    Args:
        into: input channels.
        out: output channels.
        kernel: its size, 1 or 3.
        code: the size of a code in W.
        up: whether the image is doubled.
        demodulate: whether each output channel is divided by the norm of its scaled kernel.
        scales: whether weights are divided by sqrt(inputs).
        offset: added to styles.
        taps: the size of the resampling filter.
    """

    taps: Tensor

    def __init__(
        self,
        into: int,
        out: int,
        kernel: int,
        code: int,
        up: bool = False,
        demodulate: bool = True,
        scales: bool = False,
        offset: float = 0.0,
        taps: int = 4,
    ) -> None:
        super().__init__()
        self.up, self.demodulate, self.offset = up, demodulate, offset
        self.style = Dense(code, into, code**-0.5)
        self.weight = nn.Parameter(torch.zeros(out, into, kernel, kernel))
        self.gain = fan_in(self.weight) ** -0.5 if scales else 1.0
        if up:
            self.register_buffer("taps", _taps(taps))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Return features [batch, out, height, width] from features [batch, into, ...] and codes [batch, code]."""
        style = self.style(w)
        style = style + self.offset if self.offset else style
        style = style * self.gain if self.gain != 1 else style
        x = x * style[:, :, None, None]
        if self.up:
            pad = doubling_pads(self.taps.shape[0])
            made = F.conv_transpose2d(x, self.weight.transpose(0, 1), stride=2)
            made = filtered(made, 4 * self.taps, (pad[0] - 1, pad[1]))
        else:
            made = F.conv2d(x, self.weight, padding=self.weight.shape[-1] // 2)
        if not self.demodulate:
            return made
        squares = F.linear(style.square(), self.weight.square().sum((2, 3)))
        return made * (squares + EPS).rsqrt()[:, :, None, None]


class StyledLayer(nn.Module):
    """A modulated convolution, noise, a bias and an activation.

    Args:
        conv: the convolution.
        noise: the shape of the noise map, broadcast to [batch, channels, height, width].
        activation: a key of `_GAINS`.
        clamp: bound on the absolute value of the result.
        scale: multiplies the result and its bound.
    """

    noise: Tensor

    def __init__(
        self,
        conv: ModulatedConv,
        noise: Sequence[int],
        activation: str = "lrelu",
        clamp: float | None = None,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.conv = conv
        self.activation, self.gain = activation, _GAINS[activation] * scale
        self.clamp = None if clamp is None else clamp * scale
        self.bias = nn.Parameter(torch.zeros(len(conv.weight)))
        self.strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("noise", torch.zeros(tuple(noise)))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Return features [batch, out, height, width] from features [batch, into, ...] and codes [batch, code]."""
        x = self.conv(x, w) + (self.noise * self.strength + self.bias[:, None, None])
        x = _activated(x, self.activation) * self.gain
        return x if self.clamp is None else x.clamp(-self.clamp, self.clamp)


class Colour(nn.Module):
    """A modulated 1×1 convolution to RGB, without demodulation."""

    def __init__(self, into: int, out: int, code: int, offset: float, clamp: float | None) -> None:
        super().__init__()
        self.conv = ModulatedConv(into, out, 1, code, demodulate=False, scales=True, offset=offset)
        self.bias = nn.Parameter(torch.zeros(out))
        self.clamp = clamp

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Return images [batch, out, height, width]."""
        x = self.conv(x, w) + self.bias[:, None, None]
        return x if self.clamp is None else x.clamp(-self.clamp, self.clamp)


class Skip(nn.Module):
    """A 1×1 convolution without bias, then doubling: the skip connection of a block in the `resnet` architecture."""

    taps: Tensor

    def __init__(self, into: int, out: int, taps: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(out, into, 1, 1))
        self.register_buffer("taps", _taps(taps))

    def forward(self, x: Tensor) -> Tensor:
        """Return features [batch, out, 2 · height, 2 · width], divided by sqrt(2)."""
        x = F.conv2d(x, self.weight * (fan_in(self.weight) ** -0.5 * math.sqrt(0.5)))
        return doubled(x, self.taps)


class StyleGan2(StyleGenerator):
    """A StyleGAN2 generator of NVIDIA's kind, with the arithmetic of one of its implementations.

    Args:
        options: sizes and variants of the network.
    """

    taps: Tensor

    def __init__(self, options: Options) -> None:
        o, convention = options, _CONVENTIONS[options.layout]
        depth = 2 * len(o.channels)
        mapping = None
        if o.mapping:
            mapping = MappingNetwork(
                o.z_dim,
                o.mapping,
                gain=1.0,
                lr=o.mapping_lr,
                after=math.sqrt(2),
                norm=o.embedding_norm,
                classes=o.classes,
                embedding=o.embedding,
                embedding_bias=o.embedding_bias,
            )
        super().__init__(mapping, o.z_dim, o.w_dim, depth, o.classes, o.w_avg, o.per_layer)
        self.noise_stored = o.noise_stored
        self.truncation_in_single = o.layout == "genforce"
        self.architecture, self.final_tanh = o.architecture, o.final_tanh
        start = o.resolution >> (len(o.channels) - 1)
        self.register_buffer("taps", _taps(o.taps))
        self.constant = nn.Parameter(torch.zeros(1, o.channels[0], start, start))

        def layer(into: int, out: int, side: int, up: bool, scale: float = 1.0) -> StyledLayer:
            conv = ModulatedConv(
                into, out, 3, o.w_dim, up, scales=convention.scales, offset=convention.offset, taps=o.taps
            )
            return StyledLayer(conv, (1, 1, side, side), o.activation, o.conv_clamp, scale)

        def colour(into: int) -> Colour:
            return Colour(into, o.image_channels, o.w_dim, convention.offset, o.conv_clamp)

        resnet = o.architecture == "resnet"
        layers, skips = [layer(o.channels[0], o.channels[0], start, up=False)], []
        for number, (into, out) in enumerate(pairwise(o.channels), 1):
            layers.append(layer(into, out, start << number, up=True))
            layers.append(layer(out, out, start << number, up=False, scale=math.sqrt(0.5) if resnet else 1.0))
            if resnet:
                skips.append(Skip(into, out, o.taps))
        self.layers = nn.ModuleList(layers)
        self.skips = nn.ModuleList(skips)
        self.colours = nn.ModuleList([colour(c) for c in (o.channels if o.architecture == "skip" else o.channels[-1:])])

    def noise_buffers(self) -> list[Tensor]:
        """Return the noise maps, one for each layer."""
        return [layer.noise for layer in self.layers if isinstance(layer, StyledLayer)]

    def synthesise(self, styles: Sequence[Tensor]) -> Tensor:
        """Return images [batch, channels, resolution, resolution]; see `StyleGenerator.synthesise`."""
        x: Tensor = self.layers[0](self.constant.expand(len(styles[0]), -1, -1, -1), styles[0])
        image = self.colours[0](x, styles[1]) if self.architecture == "skip" else None
        for number in range(1, len(self.layers) // 2 + 1):
            before, first, second = x, 2 * number - 1, 2 * number
            x = self.layers[second](self.layers[first](x, styles[first]), styles[second])
            if self.skips:
                x = x + self.skips[number - 1](before)
            if image is not None:
                image = doubled(image, self.taps) + self.colours[number](x, styles[second + 1])
        if image is None:
            image = self.colours[0](x, styles[-1])
        assert isinstance(image, Tensor)
        return image.tanh() if self.final_tanh else image


def read(content: Content) -> Found | None:
    """Recognise a StyleGAN2 generator in one of the layouts of `READS`."""
    return stylegan2_layouts.read(content)


def build(options: Options, state: Mapping[str, Tensor]) -> FamilyGenerator:
    """Build a StyleGAN2 from a state dict in its own names.

    Raises:
        Misfit: the tensors do not fit the options.
        SpecError: the option `w_avg` does not fit.
    """
    kind = lucidrains.LucidrainsStyleGan2 if options.layout == "lucidrains" else StyleGan2
    generator: StyleGenerator = kind(options)
    found = "w_avg" in state
    average = state["w_avg"].reshape(generator.w_avg.shape) if found else generator.w_avg
    given = {**state, "w_avg": average}
    if isinstance(generator, StyleGan2):
        for number, layer in enumerate(generator.layers):  # a map of one pixel per channel, or no map
            noise = given.get(f"layers.{number}.noise")
            if noise is not None and isinstance(layer, StyledLayer):
                layer.noise = torch.zeros(noise.shape)
    load_state(generator, given)
    generator.set_average(found)
    return generator


def _taps(size: int) -> Tensor:
    """Return the usual filter of a size, with sum 1: 1, 3, 3, 1 or another row of Pascal's triangle."""
    return unit_filter(tuple(float(math.comb(size - 1, index)) for index in range(size))).float()


def _activated(x: Tensor, name: str) -> Tensor:
    match name:
        case "lrelu":
            return F.leaky_relu(x, SLOPE)
        case "linear":
            return x
        case "swish":
            return x * x.sigmoid()
        case _:
            made: Tensor = getattr(F, name)(x) if name in ("relu", "elu", "selu", "softplus") else getattr(x, name)()
            return made
