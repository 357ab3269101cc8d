"""Generators of every family at a small but real size, with random weights: n of about 64, images of 32 or 64 pixels.

    pullback bench metric --generator sized_families:pggan        (in this folder)
    python families.py sized_families:pggan ...

Each function builds the family's own network from the family's own options. Weights are random, and norms have the
statistics of the network's own features, so that no layer saturates.
"""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pullback.generators import random_weights
from pullback.generators.biggan_network import BigGan
from pullback.generators.families import (
    autoencoder,
    bigbigan,
    biggan,
    biggan_deep,
    dcgan,
    pggan,
    studiogan,
    stylegan1,
    stylegan2,
    stylegan3,
)
from pullback.generators.family import FamilyGenerator
from pullback.generators.style.dense import Dense

WIDTHS = (64, 64, 48, 32, 16)
"""Channels at 4, 8, 16, 32 and 64 pixels."""
_N = 64
_BIGGAN = {
    "resolution": 64,
    "channels": tuple(itertools.pairwise(WIDTHS)),
    "attention": (2,),
    "dim_z": 65,  # five equal parts
    "n_classes": 10,
    "shared_dim": 16,
    "hier": True,
    "spectral": False,
    "spectral_gains": False,
}


@torch.no_grad()
def filled(build: Callable[[], FamilyGenerator], family: str, space: str = "z", contrast: float = 0.3) -> nn.Module:
    """Build a network and draw its weights.

    Args:
        build: makes the network.
        family: its family's name.
        space: the latent space.
        contrast: standard deviation of the images around their mean, on a scale from -1 to 1.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator = build().eval().requires_grad_(False)
        for name, tensor in generator.state_dict().items():
            if tensor.is_floating_point() and not bool(tensor.any()) and "mean" not in name and "avg" not in name:
                if name.endswith("filter"):  # of a resampling: a smooth window of sum 1
                    window = torch.hann_window(len(tensor) + 2, periodic=False)[1:-1]
                    tensor.copy_(window / window.sum())
                else:
                    tensor.normal_(0, 1.0 if tensor.dim() > 1 else 0.1)
        generator.family, generator.name = family, f"{family}-sized"
        for part in generator.modules():
            if isinstance(part, Dense):  # whatever factor multiplies the stored weight
                part.weight.normal_(0, 1 / (part.gain * part.weight.shape[1] ** 0.5))
        generator.use(space=space)
        hooks = [part.register_forward_pre_hook(_set_statistics) for part in generator.modules()]
        codes = torch.randn(32, generator.latent_dim)
        classes = torch.arange(32) % len(generator.classes) if generator.classes else None
        images = generator.native(codes, classes)
        for hook in hooks:
            hook.remove()
        last: nn.Module | None = None
        factor = contrast / float(images.std())
        for part in generator.modules():
            weight = getattr(part, "weight", None)
            if isinstance(weight, Tensor) and weight.dim() == 4 and 3 in weight.shape[:2]:  # the layers of the image
                weight.mul_(factor)
                last = part
        if getattr(last, "bias", None) is not None:
            for _ in range(3):  # decoders may double the image after their last layer
                last.bias.sub_(generator.native(codes, classes).mean((0, 2, 3)) / 2)
    return generator


def _set_statistics(part: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    for mean, var in (("running_mean", "running_var"), ("stored_mean", "stored_var")):
        if isinstance(getattr(part, var, None), Tensor):
            found = torch.var_mean(inputs[0], dim=(0, 2, 3))
            getattr(part, var).copy_(found[0])
            getattr(part, mean).copy_(found[1])


def biggan_sized() -> nn.Module:
    """BigGAN of BigGAN-PyTorch."""
    options = biggan.Options(**_BIGGAN, BN_eps=1e-5)
    return filled(lambda: BigGan(options, deep=False, eps=1e-5, last_eps=1e-5), "biggan")


def bigbigan_sized() -> nn.Module:
    """BigBiGAN: the same network without classes."""
    options = bigbigan.Options(**_BIGGAN)
    return filled(lambda: BigGan(options, deep=False, eps=1e-4, last_eps=1e-5, fixed_class=0), "bigbigan")


def studiogan_sized() -> nn.Module:
    """The ResNet generator of StudioGAN, of one class embedding and without hierarchical codes."""
    options = studiogan.Options(**{**_BIGGAN, "dim_z": _N, "hier": False})
    return filled(lambda: BigGan(options, deep=False, eps=1e-4, last_eps=1e-4), "studiogan")


def biggan_deep_sized() -> nn.Module:
    """BigGAN-deep of pytorch-pretrained-biggan, of noise and class embedding together."""
    layers = ((True, 8, 8), (False, 8, 8), (True, 8, 4), (True, 4, 2), (False, 2, 2), (True, 2, 1))
    layout = biggan_deep.Options(
        layers=layers, attention_layer_position=3, channel_width=16, z_dim=_N // 2, num_classes=10
    )
    return random_weights._biggan("biggan-deep-sized", 0, layout, 32, "cpu")


def dcgan_sized() -> nn.Module:
    """DCGAN."""
    return filled(lambda: dcgan.Dcgan(dcgan.Options(widths=(_N, 128, 64, 32, 16, 3))), "dcgan")


def deepsim_sized() -> nn.Module:
    """DeePSiM of fully connected codes."""
    return random_weights._deepsim("deepsim-sized", 0, _N, 32, ((32, 32), (32,), (16,), (3,)), 32, "cpu")


def pggan_sized(latent_dim: int = _N) -> nn.Module:
    """PGGAN of pytorch_GAN_zoo; n may be chosen, to see how times depend on it."""
    return filled(lambda: pggan.Pggan(pggan.Options(layout="zoo", channels=WIDTHS, inputs=latent_dim)), "pggan")


def pggan_n8() -> nn.Module:
    """The same with n = 8."""
    return pggan_sized(8)


def pggan_n16() -> nn.Module:
    """The same with n = 16."""
    return pggan_sized(16)


def pggan_n32() -> nn.Module:
    """The same with n = 32."""
    return pggan_sized(32)


def stylegan1_sized(space: str = "z") -> nn.Module:
    """StyleGAN of genforce."""
    options = stylegan1.Options(
        layout="genforce", resolution=64, channels=WIDTHS, z_dim=_N, w_dim=_N, mapping=(_N,) * 4
    )
    return filled(lambda: stylegan1.StyleGan1(options), "stylegan1", space)


def stylegan1_w() -> nn.Module:
    """The same in W."""
    return stylegan1_sized("w")


def stylegan2_sized(space: str = "z") -> nn.Module:
    """StyleGAN2 of NVIDIA's code."""
    options = stylegan2.Options(resolution=64, channels=WIDTHS, z_dim=_N, w_dim=_N, mapping=(_N,) * 4, conv_clamp=None)
    return filled(lambda: stylegan2.StyleGan2(options), "stylegan2", space)


def stylegan2_w() -> nn.Module:
    """The same in W."""
    return stylegan2_sized("w")


def stylegan3_sized(kernel: int = 3) -> nn.Module:
    """StyleGAN3-T of 32 pixels."""
    options = stylegan3.Options(
        resolution=32,
        channels=(32, 32, 32, 24, 24, 16, 16, 16, 3),
        kernel=kernel,
        z_dim=_N,
        w_dim=_N,
        mapping=(_N,) * 2,
    )
    return filled(lambda: stylegan3.StyleGan3(options), "stylegan3")


def stylegan3_r() -> nn.Module:
    """StyleGAN3 with the kernels of R."""
    return stylegan3_sized(1)


def autoencoder_sized(model: str = "AutoencoderKL") -> nn.Module:
    """The decoder of an AutoencoderKL, from 4 × 4 × 4 to 32 pixels."""
    options = autoencoder.Options(
        model=model,
        latent_channels=4,
        latent_size=4,
        channels=(64, 48, 32, 16) if model == "AutoencoderKL" else (32, 32, 32, 32),
        blocks=(2, 2, 2, 2),
        attentions=(False, False, False, False),
        norm_num_groups=8,
        act_fn="silu" if model == "AutoencoderKL" else "relu",
    )
    return filled(lambda: autoencoder.Autoencoder(options), "autoencoder")


def autoencoder_tiny() -> nn.Module:
    """The decoder of an AutoencoderTiny."""
    return autoencoder_sized("AutoencoderTiny")


NAMES = (
    "biggan_sized",
    "bigbigan_sized",
    "biggan_deep_sized",
    "studiogan_sized",
    "dcgan_sized",
    "deepsim_sized",
    "autoencoder_sized",
    "autoencoder_tiny",
    "pggan_n8",
    "pggan_n16",
    "pggan_n32",
    "pggan_sized",
    "stylegan1_sized",
    "stylegan1_w",
    "stylegan2_sized",
    "stylegan2_w",
    "stylegan3_sized",
    "stylegan3_r",
)
"""The functions that build a generator."""
