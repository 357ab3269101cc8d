"""Generators of the paper's shapes with seeded random weights, for benchmarks and tests.

Jobs and `load_generator` take them as `pullback.generators.shapes:biggan_deep_128`. Time, memory and the size of every
array are those of the real generator. Images are textures, and the geometry is that of a random network: nothing about
it may be reported as the trained one's.

Invariants: the weights depend on the seed alone (up to round-off, which another number of threads may change); torch's
global random state is as before; images of standard normal codes differ visibly from code to code.
"""

import math
from typing import TypeVar

import torch
from torch import Tensor, nn

from pullback.generators.biggan import LAYOUTS, BigGanDeep, Layout, Norm, SelfAttention
from pullback.generators.deepsim import FC6_WIDTHS, SLOPE, DeepSim

_FEW = 4
"""Codes from which norm statistics are computed: at least 64 values a channel, enough to bring activations to order 1,
and no more, since the pass of these codes is most of the time that a large generator takes to build."""
_MANY = 64
"""As `_FEW`, for tiny generators: with few channels, activations differ more from code to code."""
_BEFORE_TANH = 0.5
"""Standard deviation of the values that enter a tanh: lively, and seldom where it is flat."""
_AROUND_MEAN = 0.08
"""Standard deviation of an FC6 image's values around the mean colour: nothing bounds them, and few may leave [0, 1]."""
_AT_MOST = 0.35
"""The most by which an FC6 image's value may differ from the mean colour, for the codes that set the contrast: where
values are spread over a wide range, this bound decides and not `_AROUND_MEAN`."""

_TINY_BIGGAN = Layout(((True, 4, 4), (True, 4, 2), (True, 2, 1)), 2, channel_width=8, z_dim=8, num_classes=10)

Shape = TypeVar("Shape", BigGanDeep, DeepSim)


def biggan_deep_128(seed: int = 0) -> BigGanDeep:
    """BigGAN-deep of 128-pixel images: codes [batch, 256], images [batch, 3, 128, 128]."""
    return _biggan("biggan-deep-128", seed, LAYOUTS[128], _FEW)


def biggan_deep_256(seed: int = 0) -> BigGanDeep:
    """BigGAN-deep of 256-pixel images: codes [batch, 256], images [batch, 3, 256, 256]."""
    return _biggan("biggan-deep-256", seed, LAYOUTS[256], _FEW)


def biggan_deep_tiny(seed: int = 0) -> BigGanDeep:
    """Every kind of layer of BigGAN-deep, few and thin: codes [batch, 16], images [batch, 3, 32, 32]."""
    return _biggan("biggan-deep-tiny", seed, _TINY_BIGGAN, _MANY)


def fc6(seed: int = 0) -> DeepSim:
    """The DeePSiM generator of FC6 codes: codes [batch, 4096], images [batch, 3, 256, 256]."""
    return _deepsim("fc6", seed, 4096, 256, FC6_WIDTHS, _FEW)


def fc6_tiny(seed: int = 0) -> DeepSim:
    """Every kind of layer of the DeePSiM generator, few and thin: codes [batch, 64], images [batch, 3, 32, 32]."""
    return _deepsim("fc6-tiny", seed, 64, 8, ((16, 16), (8,), (3,)), _MANY)


@torch.no_grad()
def _biggan(name: str, seed: int, layout: Layout, codes: int) -> BigGanDeep:
    with torch.random.fork_rng(devices=[]):  # layers draw first weights from torch's global random state
        generator = BigGanDeep(layout)
    stream = torch.Generator().manual_seed(seed)
    for layer in generator.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            # The paper's initialisation, whose spectral norm is 1, as that of the trained weights is.
            nn.init.orthogonal_(layer.weight, generator=stream)
            if layer.bias is not None:
                layer.bias.zero_()
        elif isinstance(layer, SelfAttention):
            layer.gamma.fill_(1.0)  # at 0, where training starts, attention would do nothing

    def set_statistics(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, Norm)
        norm.running_vars[:], norm.running_means[:] = torch.var_mean(inputs[0], dim=(0, 2, 3))

    def set_sharpness(layer: nn.Module, inputs: tuple[Tensor, ...], made: Tensor) -> Tensor:
        # logits of order 1: sharper attention is all but zero nearly everywhere, in numbers too small to be normal,
        # which a CPU multiplies a hundred times slower
        assert isinstance(layer, nn.Conv2d)
        factor = layer.out_channels**-0.25 / made.std()
        layer.weight.mul_(factor)
        scaled: Tensor = made * factor
        return scaled

    # A norm is measured just before it acts, so that one pass through the network sets all of them.
    hooks = [
        layer.register_forward_pre_hook(set_statistics) for layer in generator.modules() if isinstance(layer, Norm)
    ]
    for layer in generator.modules():
        if isinstance(layer, SelfAttention):
            hooks += [
                part.register_forward_hook(set_sharpness) for part in (layer.snconv1x1_theta, layer.snconv1x1_phi)
            ]
    z = torch.randn(codes, generator.latent_dim, generator=stream)
    _set_contrast(generator, generator.conv_to_rgb, z, _BEFORE_TANH)
    for hook in hooks:
        hook.remove()
    return _ready(generator, name, seed)


@torch.no_grad()
def _deepsim(
    name: str, seed: int, latent_dim: int, start: int, widths: tuple[tuple[int, ...], ...], codes: int
) -> DeepSim:
    with torch.random.fork_rng(devices=[]):
        generator = DeepSim(latent_dim, start, widths)
    stream = torch.Generator().manual_seed(seed)
    layers = [layer for layer in generator.children() if isinstance(layer, nn.Linear | nn.ConvTranspose2d)]
    for layer in layers:
        # He et al. (2015), who keep activations of the same order from layer to layer: by the number of inputs that
        # an output has, which a stride makes fewer.
        if isinstance(layer, nn.Linear):
            inputs = float(layer.in_features)
        else:
            inputs = layer.in_channels * (layer.kernel_size[0] / layer.stride[0]) ** 2
        layer.weight.normal_(0, (2 / (1 + SLOPE**2) / inputs) ** 0.5, generator=stream)
        assert layer.bias is not None
        layer.bias.zero_()
    z = torch.randn(codes, latent_dim, generator=stream)
    _set_contrast(generator, layers[-1], z, 255 * _AROUND_MEAN, 255 * _AT_MOST)
    return _ready(generator, name, seed)


def _set_contrast(generator: nn.Module, last: nn.Module, z: Tensor, wanted: float, at_most: float = math.inf) -> None:
    """Give what leaves the last convolution, for these codes [batch, n], mean 0 and the wanted standard deviation.

    Args:
        generator: called once.
        last: its last convolution, whose bias must be 0 so far.
        z: the codes.
        wanted: the standard deviation over codes, colours and pixels, in the units of the last convolution.
        at_most: what no value may exceed in absolute value; it goes before the standard deviation.
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
