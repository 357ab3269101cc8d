"""StyleGAN3's checkpoints: translate names and options of NVIDIA and Hammer to those of `families.stylegan3`.

The tensors do not hold the schedule of the layers. It follows from constructor arguments, or from their defaults if the
file holds none. Filters are tensors of the file.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pullback.generators.family import Found
from pullback.generators.style.keys import count, missing, refuse_unknown
from pullback.generators.style.stylegan2_layouts import (
    GENFORCE_MAPPING,
    MAPPING_NAMES,
    genforce_mapping,
    hammer_arguments,
    mapping_options,
    nvidia_mapping,
    nvidia_mapping_options,
)
from pullback.weights.content import Content

State = Mapping[str, Tensor]
_NVIDIA_LAYER = re.compile(r"synthesis\.L(\d+)_(\d+)_(\d+)\.(.+)$")
_NVIDIA_NAMES = (
    rf"{MAPPING_NAMES}|synthesis\.(input\.(weight|affine\.(weight|bias)|transform|freqs|phases)|L\d+_\d+_\d+\."
    r"(weight|bias|affine\.(weight|bias)|magnitude_ema|up_filter|down_filter))"
)
_HAMMER_NAMES = (
    rf"{GENFORCE_MAPPING}|synthesis\.(early_layer\.(weight|grid|frequency|phase|transform|affine\.(weight|bias))|"
    r"layer\d+\.(magnitude_ema|conv\.(weight|style\.(weight|bias))|filter\.(bias|up_filter|down_filter)))"
)
_FLOATS = ("first_cutoff", "first_stopband", "last_stopband_rel", "output_scale")
_INTEGERS = ("num_critical", "margin_size", "filter_size", "lrelu_upsampling")


def read(content: Content) -> Found | None:
    """Recognise a StyleGAN3 generator; return None for any other network."""
    try:
        if any(_NVIDIA_LAYER.match(name) for name in content.state) and "synthesis.input.freqs" in content.state:
            refuse_unknown(content.state, _NVIDIA_NAMES, "NVIDIA's StyleGAN3")
            return _nvidia(content)
        if "synthesis.early_layer.frequency" in content.state:
            refuse_unknown(content.state, _HAMMER_NAMES, "Hammer's StyleGAN3")
            return _hammer(content)
    except KeyError as error:
        raise missing(error, "a StyleGAN3 generator") from error
    return None


def _nvidia(content: Content) -> Found:
    state = content.state
    made, sizes = dict(nvidia_mapping(state)), {}
    for name, value in state.items():
        if match := _NVIDIA_LAYER.match(name):
            made[f"layers.{match[1]}.{match[4]}"] = value
            sizes[int(match[1])] = int(match[2])
        elif name.startswith("synthesis.input."):
            made[name.removeprefix("synthesis.")] = value
    given = content.arguments or content.config.get("init_kwargs") or content.config
    arguments: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
    own = arguments.get("synthesis_kwargs")
    arguments = {**arguments, **(own if isinstance(own, Mapping) else {})}
    options = _common(made, [sizes[index] for index in sorted(sizes)], arguments)
    return Found({**options, **nvidia_mapping_options(arguments)}, made)


def _hammer(content: Content) -> Found:
    names = {
        "weight": "weight",
        "frequency": "freqs",
        "phase": "phases",
        "transform": "transform",
        "grid": "grid",
        "affine.weight": "affine.weight",
        "affine.bias": "affine.bias",
    }
    layer_names = {
        "conv.weight": "weight",
        "conv.style.weight": "affine.weight",
        "conv.style.bias": "affine.bias",
        "filter.bias": "bias",
        "filter.up_filter": "up_filter",
        "filter.down_filter": "down_filter",
        "magnitude_ema": "magnitude_ema",
    }
    made = dict(genforce_mapping(content.state))
    for name, value in content.state.items():
        if match := re.fullmatch(r"synthesis\.layer(\d+)\.(.+)", name):
            if match[2] in layer_names:
                made[f"layers.{match[1]}.{layer_names[match[2]]}"] = value
        elif (match := re.fullmatch(r"synthesis\.early_layer\.(.+)", name)) and match[1] in names:
            made[f"input.{names[match[1]]}"] = value
    own = hammer_arguments(content)
    arguments = dict(own or {})
    if "act_upsampling" in arguments:
        arguments["lrelu_upsampling"] = arguments["act_upsampling"]
    options = _common(made, [], arguments)
    if "resolution" in arguments:
        options["resolution"] = int(arguments["resolution"])
    else:
        options.pop("resolution")
    options["stored_grid"] = "input.grid" in made
    options["mapping_lr"] = float(arguments.get("mapping_lr_mul", 0.01))
    options["final_tanh"] = bool(arguments.get("final_tanh", False))
    return Found(options, made)


def _common(state: dict[str, Tensor], sizes: list[int], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that follow from tensors, names and constructor arguments."""
    weights = [state[f"layers.{i}.weight"] for i in range(count(state, r"layers\.\d+\.weight"))]
    if "mapping.embedding.weight" in state:
        state.setdefault("mapping.embedding.bias", torch.zeros(len(state["mapping.embedding.weight"])))
    options: dict[str, Any] = {
        "resolution": sizes[-1] if sizes else 0,
        "sizes": tuple(sizes),
        "channels": tuple(int(weight.shape[0]) for weight in weights),
        "kernel": int(weights[0].shape[-1]),
        **mapping_options(state, len(weights) + 1, int(state["input.affine.weight"].shape[1])),
    }
    options |= {name: float(arguments[name]) for name in _FLOATS if name in arguments}
    options |= {name: int(arguments[name]) for name in _INTEGERS if name in arguments}
    if "conv_clamp" in arguments:
        options["conv_clamp"] = arguments["conv_clamp"]
    return options
