"""StyleGAN (Karras et al., "A style-based generator architecture for generative adversarial networks", CVPR 2019).

Each layer is a convolution, noise, a leaky ReLU and adaptive instance normalisation. This normalises each channel of a
sample, then applies a scale and a shift that are affine in the code in W. The first layer starts from a constant.
Implementations differ in the scaling of weights and in the order of bias and blur; `_CONVENTIONS` lists the variants.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pullback.errors import ArgumentError
from pullback.generators.family import FamilyGenerator, Found, load_state
from pullback.generators.style import progressive, stylegan1_layouts
from pullback.generators.style.base import StyleGenerator, WAverage
from pullback.generators.style.dense import Conv, Dense
from pullback.generators.style.mapping import Mapping as MappingNetwork
from pullback.generators.style.mapping import Norm
from pullback.generators.style.resampling import filtered, unit_filter, widened
from pullback.spec import options as base
from pullback.weights.content import Content

SUMMARY = "StyleGAN (Karras et al., 2019), with and without classes"
READS = (
    "rosinality/style-based-gan-pytorch .model (give `resolution:`, which is not in the file)",
    "pytorch_GAN_zoo .pth of StyleGAN",
    "genforce .pth of StyleGAN",
)
_START = 4
_GAIN = math.sqrt(2)


@dataclass(frozen=True)
class _Convention:
    """Differences between implementations that use the same weights."""

    mapping_lr: float
    """Learning rate multiplier of the mapping network."""
    norm: Norm
    """The vectors that are normalised before the mapping network."""
    style_gain: float
    """Multiplies the weights of styles, in addition to 1 / sqrt(inputs)."""
    style_offset: float
    """Added to scales; 1 if the stored bias does not include the 1."""
    colour_gain: float
    """Multiplies the weights of layers to RGB, in addition to 1 / sqrt(inputs)."""
    eps: float
    """Added to a channel's variance."""
    scale_bias: bool = False
    """Whether a bias is multiplied by the same constant as its weight."""
    bias_before_blur: bool = False
    """Whether the bias is added before the blur; this changes the values at the border."""
    blurs: bool = True
    """Whether doubled features are blurred."""
    scale_noise: bool = False
    """Whether the strengths of noise are multiplied by sqrt(2 / channels)."""
    share_noise: bool = False
    """Whether the two layers of a resolution share their noise map."""
    fused_gain: float = 1.0
    """Multiplies the sum of four shifted kernels in a fused upsampling."""


_CONVENTIONS = {
    "rosinality": _Convention(
        mapping_lr=1.0,
        norm="apart",
        style_gain=_GAIN,
        style_offset=0.0,
        colour_gain=_GAIN,
        eps=1e-5,
        bias_before_blur=True,
        scale_noise=True,
        share_noise=True,
        fused_gain=0.25,
    ),
    "genforce": _Convention(
        mapping_lr=0.01, norm="together", style_gain=1.0, style_offset=1.0, colour_gain=1.0, eps=1e-8
    ),
    "zoo": _Convention(
        mapping_lr=0.01,
        norm="apart",
        style_gain=_GAIN,
        style_offset=0.0,
        colour_gain=_GAIN,
        eps=1e-8,
        scale_bias=True,
        blurs=False,
    ),
}


class Options(base.Options):
    """Options of a StyleGAN."""

    layout: Literal["rosinality", "genforce", "zoo"]
    """The implementation whose arithmetic is used: the scaling of weights and the order of operations."""
    resolution: int | None = None
    """Height and width of the images in pixels. rosinality's files have layers up to 1024 pixels, even if training
    stopped at a lower resolution."""
    step: int | None = None
    """rosinality: the number of doublings from 4 pixels, instead of `resolution`."""
    channels: tuple[int, ...]
    """Channels of each resolution in the file, from 4 pixels on."""
    z_dim: int
    """Size of a code in Z."""
    w_dim: int
    """Size of a code in W."""
    mapping: tuple[int, ...]
    """Widths of the mapping network's layers."""
    classes: int = 0
    """Number of classes; 0 without."""
    embedding: int = 0
    """Size of the class embedding in the mapping network."""
    image_channels: int = 3
    """Channels of the images."""
    fused_from: int | None = None
    """Resolution from which doubling and convolution are one transposed convolution; null for none."""
    lod: float = 0.0
    """Level of detail of a network that is still growing: 0.4 gives the previous block's doubled image weight 0.4."""
    alpha: float | None = None
    """The implementation's own measure of the level of detail. rosinality: the weight of the last block's image, -1 for
    a complete network; pytorch_GAN_zoo: the weight of the previous block's image."""
    slope: float = 0.2
    """Slope of the leaky ReLUs below 0."""
    equalized: bool = True
    """Whether weights are scaled by their number of inputs when they are used."""
    phi_truncation: float = 1.0
    """pytorch_GAN_zoo: the truncation that its networks always apply; 1 switches it off."""
    final_tanh: bool = False
    """Whether the image passes a tanh."""
    w_avg: WAverage = None
    """Mean of W for truncation: numbers, a `.npy` file, or the number of codes to average. Default: the file's mean."""


class Style(nn.Module):
    """Adaptive instance normalisation: each channel of a sample normalised, then scaled and shifted by the code."""

    def __init__(self, channels: int, code: int, convention: _Convention, equalized: bool) -> None:
        super().__init__()
        gain = convention.style_gain / code**0.5 if equalized else 1.0
        self.affine = Dense(code, 2 * channels, gain, gain if convention.scale_bias else 1.0)
        self.offset, self.eps = convention.style_offset, convention.eps

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Return features [batch, channels, height, width] for codes [batch, code]."""
        scale, shift = self.affine(w)[:, :, None, None].chunk(2, dim=1)
        scale = scale + self.offset if self.offset else scale
        centred = x - x.mean((2, 3), keepdim=True)
        deviation = (x.var((2, 3), unbiased=False, keepdim=True) + self.eps).rsqrt()
        made: Tensor = centred * (deviation * scale) + shift
        return made


class Layer(nn.Module):
    """A convolution (or the constant), noise, a leaky ReLU, and a style.

    Args:
        into: input channels; None for the constant.
        out: output channels.
        options: supplies the size of W and the arithmetic.
        up: whether features are doubled.
        fused: whether doubling and convolution are one transposed convolution.
    """

    kernel: Tensor
    bias: Tensor | None

    def __init__(self, into: int | None, out: int, options: Options, up: bool = False, fused: bool = False) -> None:
        super().__init__()
        self.convention = convention = _CONVENTIONS[options.layout]
        self.up, self.fused, self.slope = up, fused, options.slope
        if into is None:
            self.constant = nn.Parameter(torch.zeros(1, out, _START, _START))
        else:
            shape = (into, out, 3, 3) if fused else (out, into, 3, 3)
            self.weight = nn.Parameter(torch.zeros(shape))
            self.gain = _GAIN / math.sqrt(9 * into) if options.equalized else 1.0
            if fused:
                self.gain *= convention.fused_gain
        has_bias = into is not None or options.layout == "genforce"
        self.bias = nn.Parameter(torch.zeros(out)) if has_bias else None
        self.bias_gain = self.gain if convention.scale_bias and into is not None else 1.0
        self.strength = nn.Parameter(torch.zeros(1))
        self.noise_gain = math.sqrt(2 / out) if convention.scale_noise else 1.0
        self.style = Style(out, options.w_dim, convention, options.equalized)
        self.register_buffer("kernel", unit_filter((1, 2, 1)).float(), persistent=False)

    def forward(self, x: Tensor | None, w: Tensor, noise: Tensor) -> Tensor:
        """Apply the layer to x [batch, into, ...], codes [batch, w_dim] and a noise map [1 or batch, 1, side, side]."""
        bias = None if self.bias is None else (self.bias * self.bias_gain)[:, None, None]
        added = noise * self.strength * self.noise_gain
        if x is None:
            x = self.constant.expand(len(w), -1, -1, -1)
        else:
            x = self._convolved(x)
            if self.up and self.convention.blurs:
                if self.convention.bias_before_blur and bias is not None:
                    x, bias = x + bias, None
                x = filtered(x, self.kernel, (1, 1))
        x = x + (added if bias is None else added + bias)
        made: Tensor = self.style(F.leaky_relu(x, self.slope), w)
        return made

    def _convolved(self, x: Tensor) -> Tensor:
        if self.fused:
            return F.conv_transpose2d(x, widened(self.weight * self.gain), stride=2, padding=1)
        x = progressive.doubled(x) if self.up else x
        return F.conv2d(x, self.weight * self.gain, padding=1)


class StyleGan1(StyleGenerator):
    """A StyleGAN generator with the arithmetic of one of its implementations.

    Args:
        options: sizes and variants of the network.

    Raises:
        SpecError: the resolution is missing, or the file has no layers for it.
    """

    def __init__(self, options: Options) -> None:
        o, convention = options, _CONVENTIONS[options.layout]
        self.blocks_used = blocks = _blocks(o)
        mapping = MappingNetwork(
            o.z_dim,
            o.mapping,
            gain=_GAIN if o.equalized else None,
            lr=convention.mapping_lr,
            after=1.0,
            norm=convention.norm,
            classes=o.classes,
            embedding=o.embedding,
            embedding_bias=False,
            scale_bias=convention.scale_bias,
            slope=o.slope,
        )
        super().__init__(mapping, o.z_dim, o.w_dim, 2 * blocks, o.classes, o.w_avg)
        self.noise_stored = o.layout == "genforce"
        self.truncation_in_single = o.layout == "genforce"
        self.phi, self.final_tanh = o.phi_truncation, o.final_tanh
        self.lod = progressive.level(_lod(o), blocks)
        layers = []
        for number in range(progressive.top_block(blocks, self.lod) + 1):
            out, side = o.channels[number], _START << number
            fused = o.fused_from is not None and side >= o.fused_from
            into = o.channels[number - 1] if number else None
            layers += [Layer(into, out, o, up=number > 0, fused=fused), Layer(out, out, o)]
            for index in range(1 if convention.share_noise else 2):
                name = number if convention.share_noise else 2 * number + index
                self.register_buffer(f"noise{name}", torch.zeros(1, 1, side, side))
        self.layers = nn.ModuleList(layers)
        self.share_noise = convention.share_noise
        self.colours = nn.ModuleDict(
            {
                str(number): Conv(
                    o.channels[number],
                    o.image_channels,
                    1,
                    convention.colour_gain,
                    scale_bias=convention.scale_bias,
                    equalized=o.equalized,
                )
                for number in progressive.needed_colours(blocks, self.lod)
            }
        )

    def own_truncation(self, truncation: float) -> float:
        """Return the truncation. If the job sets none, a network of pytorch_GAN_zoo keeps its own."""
        return self.phi if truncation == 1 else truncation

    def noise_buffers(self) -> list[Tensor]:
        """Return the noise maps: one for each layer, or one for each resolution if its two layers share it."""
        count = len(self.layers) // 2 if self.share_noise else len(self.layers)
        return [self.get_buffer(f"noise{index}") for index in range(count)]

    def synthesise(self, styles: Sequence[Tensor]) -> Tensor:
        """Return images [batch, channels, resolution, resolution]; see `StyleGenerator.synthesise`."""
        noises, x, features = self.noise_buffers(), None, []
        for index, layer in enumerate(self.layers):
            x = layer(x, styles[index], noises[index // 2 if self.share_noise else index])
            if index % 2:
                features.append(x)
        image = progressive.blended(features, self.colours, self.blocks_used, self.lod)
        return image.tanh() if self.final_tanh else image


def read(content: Content) -> Found | None:
    """Recognise a StyleGAN generator in one of the layouts of `READS`."""
    return stylegan1_layouts.read(content)


def build(options: Options, state: Mapping[str, Tensor]) -> FamilyGenerator:
    """Build a StyleGAN from a state dict in its own names, without layers beyond the resolution.

    Raises:
        Misfit: the tensors do not fit the options.
        SpecError: the resolution is missing, or options do not fit.
    """
    generator = StyleGan1(options)
    blocks, found = generator.blocks_used, "w_avg" in state
    given = stylegan1_layouts.used(state, len(generator.layers), list(generator.colours))
    if not found:
        given["w_avg"] = generator.w_avg
    for index, layer in enumerate(generator.layers):
        strength = given.get(f"layers.{index}.strength")
        if strength is not None and isinstance(layer, Layer):
            layer.strength = nn.Parameter(torch.zeros(strength.shape))
    for name, buffer in generator.named_buffers(recurse=False):
        if name.startswith("noise"):
            stored = given.setdefault(name, torch.zeros_like(buffer))
            generator.register_buffer(name, torch.zeros(stored.shape))
    assert blocks <= len(options.channels)
    load_state(generator, given)
    generator.set_average(found)
    return generator


def _blocks(o: Options) -> int:
    """Return the number of resolutions of the network."""
    if o.resolution is None and o.step is None:
        largest = _START << (len(o.channels) - 1)
        raise ArgumentError(
            "resolution",
            f"the file has layers up to {largest} pixels, whichever size was trained; give the size of the "
            "images, such as 256 (`train_step-6.model` has step 6: 4 · 2⁶ = 256)",
        )
    side = o.resolution if o.resolution is not None else _START << min(o.step or 0, 30)
    if o.step is not None and side != _START << min(o.step, 30):
        raise ArgumentError("step", f"step {o.step} makes images of {_START << o.step} pixels, not {side}")
    sides = [_START << number for number in range(len(o.channels))]
    if side not in sides:
        raise ArgumentError("resolution", f"must be one of {', '.join(map(str, sides))}, not {side}")
    return sides.index(side) + 1


def _lod(o: Options) -> float:
    if o.alpha is None:
        return o.lod
    if o.layout == "zoo":
        return o.alpha
    return 1 - o.alpha if 0 <= o.alpha < 1 else 0.0
