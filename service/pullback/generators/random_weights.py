"""Generators of the paper's shapes with seeded random weights, for benchmarks and tests.

Name them in jobs and in `load_generator` as `pullback.generators.random_weights:biggan_deep_128`. Time, memory and
array sizes equal those of the real generator. The images are textures and the metric belongs to a random network: do
not report it as the metric of the trained one.

Invariants: the weights depend only on the seed (up to round-off, which depends on the number of threads); torch's
global random state does not change; images of standard normal codes differ visibly from code to code.
"""

import math
from typing import TypeVar

import torch
from torch import Tensor, nn

from pullback.generators.families import biggan_deep as deep
from pullback.generators.families import stylegan2
from pullback.generators.families.biggan_deep import LAYOUTS, BigGanDeep, Norm, SelfAttention
from pullback.generators.families.deepsim import FC6_WIDTHS, SLOPE, DeepSim, fc_options
from pullback.generators.families.stylegan2 import Colour, ModulatedConv, StyledLayer, StyleGan2

_FEW = 4
"""Number of codes from which norm statistics are computed. They give at least 64 values per channel, enough to bring
activations to order 1. More codes cost time: this pass takes most of the time to build a large generator."""
_MANY = 64
"""The same number for tiny generators: with few channels, activations differ more from code to code."""
_BEFORE_TANH = 0.5
"""Standard deviation of the values that enter a tanh: large enough for contrast, and rarely in its flat part."""
_AROUND_MEAN = 0.08
"""Standard deviation of an FC6 image's values around the mean colour. They are unbounded, and few may leave [0, 1]."""
_AT_MOST = 0.35
"""Largest deviation of an FC6 image's values from the mean colour, for the codes that set the contrast. If the values
spread widely, this bound decides instead of `_AROUND_MEAN`."""

_RGB = 0.3
"""Standard deviation of the values of a StyleGAN2's images around 0, before they are rescaled to [0, 1]."""

_TINY_BIGGAN = deep.Options(
    layers=((True, 4, 4), (True, 4, 2), (True, 2, 1)),
    attention_layer_position=2,
    channel_width=8,
    z_dim=8,
    num_classes=10,
)

Shape = TypeVar("Shape", BigGanDeep, DeepSim, StyleGan2)
Device = torch.device | str
"""The device on which a generator is built. The same seed gives different weights on a GPU than on the CPU."""


def biggan_deep_128(seed: int = 0, device: Device = "cpu") -> BigGanDeep:
    """BigGAN-deep of 128-pixel images: codes [batch, 256], images [batch, 3, 128, 128]."""
    return _biggan("biggan-deep-128", seed, LAYOUTS[128], _FEW, device)


def biggan_deep_256(seed: int = 0, device: Device = "cpu") -> BigGanDeep:
    """BigGAN-deep of 256-pixel images: codes [batch, 256], images [batch, 3, 256, 256]."""
    return _biggan("biggan-deep-256", seed, LAYOUTS[256], _FEW, device)


def biggan_deep_tiny(seed: int = 0, device: Device = "cpu") -> BigGanDeep:
    """A small BigGAN-deep with every kind of layer: codes [batch, 16], images [batch, 3, 32, 32]."""
    return _biggan("biggan-deep-tiny", seed, _TINY_BIGGAN, _MANY, device)


def fc6(seed: int = 0, device: Device = "cpu") -> DeepSim:
    """The DeePSiM generator of FC6 codes: codes [batch, 4096], images [batch, 3, 256, 256]."""
    return _deepsim("fc6", seed, 4096, 256, FC6_WIDTHS, _FEW, device)


def fc6_tiny(seed: int = 0, device: Device = "cpu") -> DeepSim:
    """A small DeePSiM generator with every kind of layer: codes [batch, 64], images [batch, 3, 32, 32]."""
    return _deepsim("fc6-tiny", seed, 64, 8, ((16, 16), (8,), (3,)), _MANY, device)


def stylegan2_256(seed: int = 0, device: Device = "cpu") -> StyleGan2:
    """StyleGAN2's synthesis of 256-pixel images from W: codes [batch, 512], images [batch, 3, 256, 256]."""
    return _stylegan2("stylegan2-256", seed, StyleGan2(_stylegan2_options(256, 512, 16384, 512)), _FEW, device)


def stylegan2_tiny(seed: int = 0, device: Device = "cpu") -> StyleGan2:
    """A small StyleGAN2 with every kind of layer: codes [batch, 16], images [batch, 3, 32, 32]."""
    return _stylegan2("stylegan2-tiny", seed, StyleGan2(_stylegan2_options(32, 16, 256, 16)), _MANY, device)


BUILDERS = (
    "biggan_deep_128",
    "biggan_deep_256",
    "biggan_deep_tiny",
    "fc6",
    "fc6_tiny",
    "stylegan2_256",
    "stylegan2_tiny",
)
"""The functions of this module that build a generator from a seed and a device."""


@torch.no_grad()
def _biggan(name: str, seed: int, layout: deep.Options, codes: int, device: Device) -> BigGanDeep:
    with torch.random.fork_rng(devices=[]):  # layer constructors draw from torch's global random state
        generator = BigGanDeep(layout, spaces=("z+class",)).to(device)
    stream = torch.Generator(device).manual_seed(seed)
    for layer in generator.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            # The paper's initialisation. Its spectral norm is 1, like the trained weights'.
            nn.init.orthogonal_(layer.weight, generator=stream)
            if layer.bias is not None:
                layer.bias.zero_()
        elif isinstance(layer, SelfAttention):
            layer.gamma.fill_(1.0)  # at 0, the value before training, attention would have no effect

    def set_statistics(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, Norm)
        norm.running_vars[:], norm.running_means[:] = torch.var_mean(inputs[0], dim=(0, 2, 3))

    def set_sharpness(layer: nn.Module, inputs: tuple[Tensor, ...], made: Tensor) -> Tensor:
        # logits of order 1: sharper attention gives mostly subnormal numbers, which a CPU multiplies a hundred times
        # slower
        assert isinstance(layer, nn.Conv2d)
        factor = layer.out_channels**-0.25 / made.std()
        layer.weight.mul_(factor)
        scaled: Tensor = made * factor
        return scaled

    # Each norm's statistics are measured just before it acts, so one pass through the network sets all norms.
    hooks = [
        layer.register_forward_pre_hook(set_statistics) for layer in generator.modules() if isinstance(layer, Norm)
    ]
    for layer in generator.modules():
        if isinstance(layer, SelfAttention):
            hooks += [layer.get_submodule(name).register_forward_hook(set_sharpness) for name in layer.names[:2]]
    z = torch.randn(codes, generator.latent_dim, generator=stream, device=device)
    _set_contrast(generator, generator.conv_to_rgb, z, _BEFORE_TANH)
    for hook in hooks:
        hook.remove()
    return _ready(generator, name, seed)


@torch.no_grad()
def _deepsim(
    name: str,
    seed: int,
    latent_dim: int,
    start: int,
    widths: tuple[tuple[int, ...], ...],
    codes: int,
    device: Device,
) -> DeepSim:
    with torch.random.fork_rng(devices=[]):
        generator = DeepSim(fc_options(latent_dim, start, widths)).to(device)
    stream = torch.Generator(device).manual_seed(seed)
    layers = [layer for layer in generator.children() if isinstance(layer, nn.Linear | nn.ConvTranspose2d)]
    for layer in layers:
        # He et al. (2015): activations keep the same order from layer to layer. The scale depends on the number of
        # inputs of an output, and a stride reduces that number.
        if isinstance(layer, nn.Linear):
            inputs = float(layer.in_features)
        else:
            inputs = layer.in_channels * (layer.kernel_size[0] / layer.stride[0]) ** 2
        layer.weight.normal_(0, (2 / (1 + SLOPE**2) / inputs) ** 0.5, generator=stream)
        assert layer.bias is not None
        layer.bias.zero_()
    z = torch.randn(codes, latent_dim, generator=stream, device=device)
    _set_contrast(generator, layers[-1], z, 255 * _AROUND_MEAN, 255 * _AT_MOST)
    return _ready(generator, name, seed)


def _stylegan2_options(size: int, code: int, base: int, most: int) -> stylegan2.Options:
    """Options of a StyleGAN2 without a mapping network.

    Args:
        size: height and width of the image in pixels, a power of two from 8 on.
        code: the size of a code in W.
        base: upper bound of channels · width in every layer: 32768 in the published networks, 16384 in the 256-pixel
            ones.
        most: upper bound of the channels of a layer.
    """
    sides = [2**exponent for exponent in range(2, int(math.log2(size)) + 1)]
    widths = tuple(min(base // side, most) for side in sides)
    return stylegan2.Options(resolution=size, channels=widths, z_dim=code, w_dim=code, conv_clamp=None)


@torch.no_grad()
def _stylegan2(name: str, seed: int, generator: StyleGan2, codes: int, device: Device) -> StyleGan2:
    generator = generator.to(device)
    stream = torch.Generator(device).manual_seed(seed)
    generator.constant.normal_(generator=stream)
    for layer in generator.modules():
        if isinstance(layer, ModulatedConv):
            # a style around 1 per input channel and a kernel of unit gain, as at the start of training
            layer.style.weight.normal_(generator=stream)
            assert layer.style.bias is not None
            layer.style.bias.fill_(1.0)
            layer.weight.normal_(0, 1 if layer.gain != 1 else layer.weight[0].numel() ** -0.5, generator=stream)
        elif isinstance(layer, StyledLayer):
            layer.noise.normal_(generator=stream)
            layer.strength.fill_(0.1)
    images = generator(torch.randn(codes, generator.latent_dim, generator=stream, device=device))
    factor = _RGB / (2 * images.std())
    for colour in generator.colours:
        assert isinstance(colour, Colour)
        colour.conv.weight.mul_(factor)
    return _ready(generator, name, seed)


def _set_contrast(generator: nn.Module, last: nn.Module, z: Tensor, wanted: float, at_most: float = math.inf) -> None:
    """Rescale the last convolution so that its output for these codes has mean 0 and the wanted standard deviation.

    Args:
        generator: the generator; it is called once.
        last: its last convolution; the bias must be 0.
        z: codes [batch, n].
        wanted: the standard deviation over codes, colours and pixels, in the units of the last convolution.
        at_most: upper bound of the absolute values; it takes precedence over the standard deviation.
    """

    def rescale(layer: nn.Module, inputs: tuple[Tensor, ...], images: Tensor) -> None:
        assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
        assert layer.bias is not None
        mean = images.mean((0, 2, 3))
        around = images - mean[:, None, None]
        factor = min(wanted / float(around.std()), at_most / float(around.abs().max()))
        layer.weight.mul_(factor)
        layer.bias.copy_(-factor * mean)

    hook = last.register_forward_hook(rescale)
    generator(z)
    hook.remove()


def _ready(generator: Shape, name: str, seed: int) -> Shape:
    generator.name = f"{name}-random-{seed}"
    return generator.eval().requires_grad_(False)
