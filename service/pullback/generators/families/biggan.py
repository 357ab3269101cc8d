"""BigGAN and BigGAN-deep generators of BigGAN-PyTorch (Brock, Donahue and Simonyan, "Large Scale GAN Training for High
Fidelity Natural Image Synthesis", ICLR 2019).

The file holds neither `BN_eps` nor `SN_eps`. They come from the training configuration beside it (`state_dict.pth`) or
from the job. BigGAN-PyTorch's spectral norms make one power iteration at inference (`with_iterated_sigma`).
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from pullback.errors import ArgumentError
from pullback.generators.biggan_layers import with_iterated_sigma
from pullback.generators.biggan_network import BigGan, NetworkOptions
from pullback.generators.family import Found, Misfit, load_state
from pullback.weights.content import Content

SUMMARY = "BigGAN and BigGAN-deep of BigGAN-PyTorch"
READS = ("BigGAN-PyTorch: G_ema.pth or G.pth (state dicts), with BN_eps from state_dict.pth beside it or from the job",)
DEFAULT_EPS = {"BN_eps": 1e-5, "SN_eps": 1e-12}
"""The original constructor's epsilons, for a training configuration that does not give them."""
_BIGBIGAN_BLOCKS = 5
_LAST_EPS = 1e-5
"""Epsilon of the last norm; BN_eps does not change it."""
_FROM_CONFIG = ("BN_eps", "SN_eps", "norm_style")

WIDTHS = {
    32: ((4, 4, 4), (4, 4, 4)),
    64: ((16, 16, 8, 4), (16, 8, 4, 2)),
    128: ((16, 16, 8, 4, 2), (16, 8, 4, 2, 1)),
    256: ((16, 16, 8, 8, 4, 2), (16, 8, 8, 4, 2, 1)),
    512: ((16, 16, 8, 8, 4, 2, 1), (16, 8, 8, 4, 2, 1, 1)),
}
"""Channels before and after each resolution, in units of G_ch, by the size of the images in pixels."""


class Options(NetworkOptions):
    """Options of a BigGAN of BigGAN-PyTorch."""

    model: Literal["BigGAN", "BigGANdeep"] = "BigGAN"
    """The architecture: residual blocks of two convolutions, or bottlenecks of four."""
    BN_eps: float | None = None
    """Added to a variance before its root is taken. The file does not hold it. The original's default is 1e-5."""
    SN_eps: float = DEFAULT_EPS["SN_eps"]
    """Lower bound of the norms in the power iteration. It matters only for weights that are all but zero."""


def read(content: Content) -> Found | None:
    """Recognise a state dict of BigGAN-PyTorch; see `checkpoint`.

    The training configuration is the entry `config` of the file `state_dict.pth` (or `state_dict_SUFFIX.pth`) in the
    same folder.
    """
    if content.asked is None and seems_bigbigan(content.state, content.path):
        return None
    return read_state(content.state, training_config(content))


def read_state(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> Found | None:
    """Recognise a state dict of BigGAN-PyTorch.

    Args:
        state: the tensors by name.
        config: the training configuration; empty if it is not known.

    Raises:
        Misfit: it is a BigGAN of BigGAN-PyTorch whose tensors contradict each other.
    """
    if not {"linear.weight", "linear.bias", "blocks.0.0.conv1.weight", "output_layer.0.gain"} <= state.keys():
        return None
    made = _plain_names(state)
    options = options_of(made, config)
    options["model"] = "BigGANdeep" if "blocks.0.0.conv4.weight" in made else "BigGAN"
    options["cross_replica"] = "output_layer.0.bn.running_mean" in state
    if config:
        options |= DEFAULT_EPS | {name: config[name] for name in _FROM_CONFIG if name in config}
    return Found(options, own_names(made, table=options["shared_dim"] == 0))


def training_config(content: Content) -> Mapping[str, Any]:
    """Return the training configuration beside a weight file, from `state_dict.pth` or a JSON file; else empty."""
    if content.path is not None:
        name = re.sub(r"^G(_ema)?", "state_dict", content.path.stem) + content.path.suffix
        training = content.sibling(name) if name != content.path.name else None
        if isinstance(training, Mapping) and isinstance(training.get("config"), Mapping):
            config: Mapping[str, Any] = training["config"]
            return config
    return content.config


def seems_bigbigan(state: Mapping[str, Tensor], path: Path | None) -> bool:
    """Return whether a BigGAN is the generator of a BigBiGAN.

    The published file of a BigBiGAN repeats one class embedding for every class. It makes images of 128 pixels (five
    blocks), and lacks the logs of singular values that BigGAN-PyTorch stores.
    """
    shared = state.get("shared.weight")
    if shared is None or "linear.weight" not in state:
        return False
    if path is not None and "bigbigan" in path.stem.lower():
        return True
    blocks = {name.split(".")[1] for name in state if name.startswith("blocks.")}
    without_logs = "linear.u0" in state and "linear.sv0" not in state
    return (without_logs and len(blocks) == _BIGBIGAN_BLOCKS) or (
        len(shared) > 1 and bool((shared == shared[:1]).all())
    )


_STATISTICS = re.compile(r"(bn\d|output_layer\.0)\.bn\.(running|stored)_(mean|var)$")
_DEAD = ("num_batches_tracked", "accumulation_counter")


def _plain_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drop the counters of a state dict, and give the statistics of all three kinds of norm the same name."""
    return {
        _STATISTICS.sub(r"\1.stored_\3", name): tensor for name, tensor in state.items() if not name.endswith(_DEAD)
    }


def own_names(state: Mapping[str, Tensor], table: bool) -> dict[str, Tensor]:
    """Rename the tensors to the names of `BigGan`.

    Args:
        state: the tensors by their names in BigGAN-PyTorch.
        table: whether gains and shifts are tables [classes, channels], which become weights [channels, classes].
    """
    made: dict[str, Tensor] = {}
    layers: dict[tuple[int, int], int] = {}
    places = sorted({(int(m[1]), int(m[2])) for name in state if (m := _LAYER.match(name))})
    layers = {place: index for index, place in enumerate(places)}
    for name, tensor in state.items():
        if match := _LAYER.match(name):
            name = f"layers.{layers[int(match[1]), int(match[2])]}.{name[match.end() :]}"
        name = name.replace("output_layer.0.", "last_norm.").replace("output_layer.2.", "to_rgb.")
        made[name] = tensor.T.contiguous() if table and name.endswith(_GAINS) else tensor
    return made


_LAYER = re.compile(r"blocks\.(\d+)\.(\d+)\.")
_GAINS = (".gain.weight", ".bias.weight")


def options_of(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of `NetworkOptions` that follow from the tensors.

    The input of a gain is the class embedding and, in a hierarchical BigGAN, a chunk of the noise. This chunk has the
    size of the chunk that enters the linear layer. Without a shared embedding a gain is a table [classes, channels].

    Raises:
        Misfit: the tensors contradict each other.
    """
    channels, attention = _blocks(state)
    deep = "blocks.0.0.conv4.weight" in state
    gain, entering = state["blocks.0.0.bn1.gain.weight"], state["linear.weight"].shape[1]
    shared = state.get("shared.weight")
    if shared is None:
        classes, shared_dim, hier, dim_z = gain.shape[0], 0, False, entering
    else:
        classes, shared_dim = shared.shape
        own = gain.shape[1] - shared_dim
        hier = own > 0
        dim_z = entering if not hier else own if deep else own * (len(channels) + 1)
        if hier and own != (entering - shared_dim if deep else entering):
            raise Misfit(
                f"is a BigGAN whose linear layer takes {entering} values, while its norms take {gain.shape[1]}: these "
                f"do not fit a class embedding of {shared_dim}"
            )
    bottom = math.isqrt(state["linear.weight"].shape[0] // channels[0][0])
    depth = _depth(channels, config) if deep else 1
    options: dict[str, Any] = {
        "resolution": bottom * 2 ** (len(channels) // depth),
        "bottom_width": bottom,
        "channels": channels,
        "attention": attention,
        "dim_z": dim_z,
        "n_classes": classes,
        "shared_dim": shared_dim,
        "hier": hier,
        "spectral": "linear.u0" in state or "linear.sigma" in state,
        "spectral_gains": any(f"blocks.0.0.bn1.gain.{part}" in state for part in ("u0", "sigma")),
    }
    if not any(name.endswith("bn1.stored_mean") for name in state) and "norm_style" not in config:
        options["norm_style"] = None
    return options


def _blocks(state: Mapping[str, Tensor]) -> tuple[tuple[tuple[int, int], ...], tuple[int, ...]]:
    """Return the channels before and after each residual block, and the blocks that a self-attention follows."""
    channels: list[tuple[int, int]] = []
    attention: list[int] = []
    while (first := state.get(f"blocks.{len(channels)}.0.conv1.weight")) is not None:
        block = f"blocks.{len(channels)}"
        last = state.get(f"{block}.0.conv4.weight", state.get(f"{block}.0.conv2.weight"))
        if last is None:
            raise Misfit(f"has no {block}.0.conv2.weight")
        if f"{block}.1.theta.weight" in state:
            attention.append(len(channels))
        channels.append((first.shape[1], last.shape[0]))
    return tuple(channels), tuple(attention)


def _depth(channels: tuple[tuple[int, int], ...], config: Mapping[str, Any]) -> int:
    """Return the residual blocks per resolution of a BigGAN-deep, from the configuration or the widths.

    Only the last block of a resolution changes the channels. If several depths fit, the one that matches the original's
    table of widths is chosen, else the original's default of 2.
    """
    count = len(channels)
    if "G_depth" in config:
        return int(config["G_depth"])
    if "resolution" in config:
        return max(1, count // (int(config["resolution"]).bit_length() - 3))
    changes = [index for index, (into, out) in enumerate(channels) if into != out]
    depths = [depth for depth in range(1, count + 1) if count % depth == 0]
    fitting = [depth for depth in depths if all((index + 1) % depth == 0 for index in changes)]
    tabled = [depth for depth in fitting if _is_tabled(channels[depth - 1 :: depth])]
    return next(iter(tabled or [depth for depth in fitting if depth == _USUAL_DEPTH] or fitting))


_USUAL_DEPTH = 2


def _is_tabled(channels: tuple[tuple[int, int], ...]) -> bool:
    """Return whether the last block of each resolution has the width in the original's table."""
    for befores, afters in WIDTHS.values():
        if len(befores) == len(channels):
            return (
                len(
                    {into / b for (into, _), b in zip(channels, befores, strict=True)}
                    | {out / a for (_, out), a in zip(channels, afters, strict=True)}
                )
                == 1
            )
    return False


def build(options: Options, state: Mapping[str, Tensor]) -> BigGan:
    """Build the generator with these options and tensors.

    Raises:
        SpecError: an epsilon is not known.
        Misfit: the tensors do not fit the options.
    """
    if options.norm_style is None:
        raise ArgumentError(
            "norm_style",
            "the file holds no statistics of the norms, and does not say which norms they are. Give gn (groups of "
            "channels) or nonorm (none)",
        )
    if options.BN_eps is None:
        raise ArgumentError(
            "BN_eps",
            "the file of a BigGAN of BigGAN-PyTorch does not hold this epsilon, and no training configuration "
            "(state_dict.pth) lies beside it. Give the value of its training; the original's default is 1e-5",
        )
    generator = BigGan(options, deep=options.model == "BigGANdeep", eps=options.BN_eps, last_eps=_LAST_EPS)
    generator.family = "biggan"
    load_state(generator, with_iterated_sigma(state, options.SN_eps))
    return generator
