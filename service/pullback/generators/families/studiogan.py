"""ResNet generators of StudioGAN (Kang, Shin and Park, "StudioGAN: A Taxonomy and Benchmark of GANs for Image
Synthesis", TPAMI 2023): `big_resnet` with hierarchical noise, as in BigGAN, and the plain `resnet`.

They are BigGAN-PyTorch's network with other tensor names, torch's spectral norms, and an epsilon of 1e-4 in every norm.
An entry of `blocks` is a residual block or a self-attention.
"""

import re
from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor
from torch.nn import functional as F

from pullback.generators.biggan_layers import with_stored_sigma
from pullback.generators.biggan_network import Activation, BigGan, NetworkOptions
from pullback.generators.family import Found, Misfit, load_state
from pullback.weights.content import Content

SUMMARY = "ResNet GANs of StudioGAN (big_resnet and resnet)"
READS = ("StudioGAN: model=G_ema-best-weights-step=N.pth and the like, a dict with the entry state_dict",)

_EPS = 1e-4
"""Epsilon of every norm."""

ACTIVATIONS: dict[str, Activation] = {
    "ReLU": F.relu,
    "Leaky_ReLU": lambda x: F.leaky_relu(x, 0.1),
    "ELU": F.elu,
    "GELU": F.gelu,
}
"""Activations by their names in StudioGAN's configuration (`g_act_fn`)."""


class Options(NetworkOptions):
    """Options of a ResNet generator of StudioGAN."""

    g_act_fn: Literal["ReLU", "Leaky_ReLU", "ELU", "GELU"] = "ReLU"
    """The activation, which the file does not hold."""


def read(content: Content) -> Found | None:
    """Recognise a ResNet generator of StudioGAN; see `checkpoint`."""
    return read_state(content.state, content.config)


def read_state(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> Found | None:
    """Recognise a state dict of StudioGAN's `big_resnet` or `resnet`.

    Args:
        state: the tensors by name.
        config: constructor arguments; only `z_dim` and `g_act_fn` are used.

    Raises:
        Misfit: it is a different network of StudioGAN, or its tensors contradict each other.
    """
    named = {"linear0.bias", "blocks.0.0.conv2d1.bias", "conv2d5.bias"} <= state.keys()
    if not named:
        return None
    if "blocks.0.0.conv2d4.bias" in state:
        raise Misfit("is a `big_resnet_deep` of StudioGAN, which is not supported; `big_resnet` and `resnet` are")
    made = own_names(with_stored_sigma(state))
    options = _options(made, config)
    if not options["shared_dim"]:
        made.pop("shared.weight", None)  # an unconditional network may store it, but does not use it
    if "g_act_fn" in config:
        options["g_act_fn"] = config["g_act_fn"]
    return Found(options, made)


_RENAMED = (
    (re.compile(r"^linear0\."), "linear."),
    (re.compile(r"^conv2d5\."), "to_rgb."),
    (re.compile(r"^bn4\.weight$"), "last_norm.gain"),
    (re.compile(r"^bn4\.(?:running_)?"), "last_norm.stored_"),
    (re.compile(r"^last_norm\.stored_bias$"), "last_norm.bias"),
    (re.compile(r"^blocks\.(\d+)\.0\."), r"layers.\1."),
    (re.compile(r"\.conv2d0\."), ".conv_sc."),
    (re.compile(r"\.conv2d([12])\."), r".conv\1."),
    (re.compile(r"\.conv1x1_attn\."), ".o."),
    (re.compile(r"\.conv1x1_"), "."),
    (re.compile(r"^(layers\.\d+)\.sigma$"), r"\1.gamma"),
    (re.compile(r"\.bn([12])\.(?:bn\.)?running_"), r".bn\1.stored_"),
    (re.compile(r"\.bn([12])\.weight$"), r".bn\1.gain"),
    (re.compile(r"\.bn([12])\.embed0\."), r".bn\1.gain."),
    (re.compile(r"\.bn([12])\.embed1\."), r".bn\1.bias."),
)


def own_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename tensors to the names of `BigGan`; gain tables [classes, channels] become weights [channels, classes]."""
    made: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        table = ".embed" in name and name.endswith(".weight")
        for pattern, replacement in _RENAMED:
            name = pattern.sub(replacement, name)
        made[name] = tensor.T.contiguous() if table else tensor.reshape(()) if name.endswith(".gamma") else tensor
    return made


def _options(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of `NetworkOptions` that follow from the tensors."""
    channels, attention, index = [], [], 0
    while True:
        if (first := state.get(f"layers.{index}.conv1.weight")) is not None:
            channels.append((first.shape[1], first.shape[0]))
        elif f"layers.{index}.gamma" in state:
            attention.append(len(channels) - 1)
        else:
            break
        index += 1
    entering, units = state["linear.weight"].shape[1], state["linear.weight"].shape[0]
    bottom = round((units // channels[0][0]) ** 0.5)
    gain, shared = state.get("layers.0.bn1.gain.weight"), state.get("shared.weight")
    chunks = len(channels) + 1
    classes = shared_dim = 0
    hier, style = False, "bn"
    if gain is None:
        style, hier = "plain", int(config.get("z_dim", entering)) == chunks * entering
    elif shared is None:
        classes = gain.shape[1]
    else:
        classes, shared_dim = shared.shape
        hier = gain.shape[1] == shared_dim + entering
        if not hier and gain.shape[1] != shared_dim:
            raise Misfit(
                f"is a ResNet of StudioGAN whose norms take {gain.shape[1]} values, which do not fit a class embedding "
                f"of {shared_dim} and a linear layer of {entering}"
            )
    return {
        "resolution": bottom * 2 ** len(channels),
        "bottom_width": bottom,
        "channels": tuple(channels),
        "attention": tuple(attention),
        "dim_z": entering * chunks if hier else entering,
        "n_classes": classes,
        "shared_dim": shared_dim,
        "hier": hier,
        "spectral": "linear.sigma" in state,
        "spectral_gains": "layers.0.bn1.gain.sigma" in state,
        "norm_style": style,
    }


def build(options: Options, state: Mapping[str, Tensor]) -> BigGan:
    """Build the generator with these options and tensors.

    Raises:
        Misfit: the tensors do not fit the options.
    """
    generator = BigGan(options, deep=False, eps=_EPS, last_eps=_EPS, activation=ACTIVATIONS[options.g_act_fn])
    load_state(generator, state)
    return generator
