"""StyleGAN2's checkpoints: translate names and options of each implementation to those of `families.stylegan2`.

Sizes follow from the shapes of the tensors. Options that no tensor shows (the clamp, the mapping network's learning
rate multiplier) come from constructor arguments, if the file or a JSON file beside it has them.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pullback.generators.family import Found
from pullback.generators.style import lucidrains, tensorflow
from pullback.generators.style.keys import count, missing, refuse_unknown
from pullback.weights.content import Content
from pullback.weights.networks import Misfit

State = Mapping[str, Tensor]
_NVIDIA_BLOCK = re.compile(r"synthesis\.b(\d+)\.conv1\.weight$")
MAPPING_NAMES = r"mapping\.((fc\d+|embed)\.(weight|bias)|w_avg)"
"""Tensors of NVIDIA's mapping networks."""
_NVIDIA_NAMES = (
    rf"{MAPPING_NAMES}|synthesis\.b\d+\.(const|resample_filter|(skip|torgb|conv[01])\.(weight|bias|noise_const|"
    r"noise_strength|resample_filter|affine\.(weight|bias)))"
)
_ROSINALITY_NAMES = (
    r"style\.\d+\.(weight|bias)|input\.input|noises\.noise_\d+|(conv1|to_rgb1|convs\.\d+|to_rgbs\.\d+)\."
    r"(conv\.(weight|modulation\.(weight|bias)|blur\.kernel)|noise\.weight|activate\.bias|bias|upsample\.kernel)"
)
GENFORCE_MAPPING = r"(truncation\.)?w_avg|mapping\.((dense\d+|embedding)\.(weight|bias)|label_weight)"
"""Tensors of the mapping networks of genforce and Hammer."""
_GENFORCE_NAMES = (
    rf"{GENFORCE_MAPPING}|synthesis\.(lod|filter|early_layer\.const|upsample\.kernel|(residual|skip_layer)\d+\."
    r"(weight|filter|filter\.kernel)|(layer|output)\d+\.(weight|bias|noise|noise_strength|filter|filter\.kernel|"
    r"style\.(weight|bias)))"
)


def read(content: Content) -> Found | None:
    """Recognise a StyleGAN2 generator; return None for any other network.

    Raises:
        Misfit: it is a StyleGAN2 generator that is not supported, for example because of its activation.
    """
    try:
        return _read(content)
    except KeyError as error:
        raise missing(error, "a StyleGAN2 generator") from error


def _read(content: Content) -> Found | None:
    state = content.state
    if any(_NVIDIA_BLOCK.match(name) for name in state):
        refuse_unknown(state, _NVIDIA_NAMES, "NVIDIA's StyleGAN2")
        return _nvidia(state, _arguments(content), _clamp_of_layers(content), content)
    tf = {name.removeprefix("synthesis/"): value for name, value in state.items()}
    if "4x4/Conv/mod_weight" in tf:
        return _tensorflow(tf, content)
    if "conv1.conv.modulation.weight" in state and "input.input" in state:
        refuse_unknown(state, _ROSINALITY_NAMES, "rosinality's StyleGAN2")
        return _rosinality(state, content)
    if "synthesis.layer0.style.weight" in state and "synthesis.early_layer.const" in state:
        refuse_unknown(state, _GENFORCE_NAMES, "genforce's StyleGAN2")
        return _genforce(state, content)
    return lucidrains.read(content)


def mapping_options(state: State, depth: int, w_dim: int) -> dict[str, Any]:
    """Return the options of a mapping network whose tensors have the names of `style.mapping.Mapping`."""
    names = [f"mapping.layers.{i}.weight" for i in range(count(state, r"mapping\.layers\.\d+\.weight"))]
    if not names:
        return {"mapping": (), "z_dim": w_dim, "w_dim": w_dim}
    table = state.get("mapping.embedding.weight")
    embedding, classes = (0, 0) if table is None else (int(table.shape[0]), int(table.shape[1]))
    widths = tuple(int(state[name].shape[0]) for name in names)
    return {
        "mapping": widths,
        "z_dim": int(state[names[0]].shape[1]) - embedding,
        "w_dim": w_dim,
        "classes": classes,
        "embedding": embedding,
        "per_layer": widths[-1] == depth * w_dim != w_dim,
    }


def _common(state: State, layout: str) -> dict[str, Any]:
    """Return the options that follow from the tensors, which have the names of `families.stylegan2.StyleGan2`."""
    layers = count(state, r"layers\.\d+\.conv\.weight")
    convs = [state[f"layers.{index}.conv.weight"] for index in range(layers)]
    start = int(state["constant"].shape[-1])
    skips = count(state, r"skips\.\d+\.weight")
    colours = count(state, r"colours\.\d+\.conv\.weight")
    w_dim = int(state["layers.0.conv.style.weight"].shape[1])
    return {
        "layout": layout,
        "resolution": start << (layers // 2),
        "channels": tuple(int(conv.shape[0]) for conv in convs[::2]),
        "architecture": "resnet" if skips else "skip" if colours > 1 or layers == 1 else "orig",
        "image_channels": int(state["colours.0.conv.weight"].shape[0]),
        "taps": int(state["taps"].shape[-1]),
        **mapping_options(state, layers + 1, w_dim),
    }


def _finish(state: dict[str, Tensor], kernel: Tensor | None) -> dict[str, Tensor]:
    """Add tensors that a file may lack: unused noise, and the resampling filter."""
    layers = count(state, r"layers\.\d+\.conv\.weight")
    start = state["constant"].shape[-1]
    if kernel is None:
        line = torch.tensor([1.0, 3.0, 3.0, 1.0])
        kernel = torch.outer(line, line) / 64
    state["taps"] = kernel
    for index in range(layers):
        side = int(start) << ((index + 1) // 2)
        state.setdefault(f"layers.{index}.noise", torch.zeros(1, 1, side, side))
        state.setdefault(f"layers.{index}.strength", torch.zeros(()))
        if index % 2:
            state[f"layers.{index}.conv.taps"] = kernel
    for index in range(count(state, r"skips\.\d+\.weight")):
        state[f"skips.{index}.taps"] = kernel
    if "mapping.embedding.weight" in state:
        state.setdefault("mapping.embedding.bias", torch.zeros(len(state["mapping.embedding.weight"])))
    return state


# NVIDIA -------------------------------------------------------------------------------------------------------------


def _arguments(content: Content) -> Mapping[str, Any]:
    """Return the constructor arguments from the pickle, or from a JSON file beside a state dict."""
    given = content.arguments or content.config.get("init_kwargs") or content.config
    return given if isinstance(given, Mapping) else {}


def _clamp_of_layers(content: Content) -> dict[str, Any]:
    """Return the clamp and the activation of a pickled layer; empty if there is none."""
    for path, module in content.modules.items():
        if re.search(r"\.b\d+\.conv1$", path) and "conv_clamp" in module.attributes:
            return {"conv_clamp": module.attributes["conv_clamp"], "activation": module.attributes.get("activation")}
    return {}


def _nvidia(state: State, arguments: Mapping[str, Any], layers: Mapping[str, Any], content: Content) -> Found:
    """Read a state dict of NVIDIA's PyTorch code; `arguments` are those of its Generator."""
    sides = sorted(int(match[1]) for match in map(_NVIDIA_BLOCK.match, state) if match)
    made: dict[str, Tensor] = {}
    kernel = None

    def conv(name: str, new: str) -> None:
        for old, own in (("weight", "conv.weight"), ("affine.weight", "conv.style.weight"),
                         ("affine.bias", "conv.style.bias"), ("bias", "bias")):  # fmt: skip
            if f"{name}.{old}" in state:
                made[f"{new}.{own}"] = state[f"{name}.{old}"]
        if f"{name}.noise_const" in state:
            noise = state[f"{name}.noise_const"]
            made[f"{new}.noise"] = noise.reshape(1, 1, *noise.shape[-2:])
            made[f"{new}.strength"] = state[f"{name}.noise_strength"].reshape(())

    colours = 0
    for number, side in enumerate(sides):
        block = f"synthesis.b{side}"
        if number:
            conv(f"{block}.conv0", f"layers.{2 * number - 1}")
            found = state.get(f"{block}.conv0.resample_filter")
            kernel = found if kernel is None else kernel
        else:
            constant = state[f"{block}.const"]
            made["constant"] = constant.reshape(1, *constant.shape[-3:])
        conv(f"{block}.conv1", f"layers.{2 * number}")
        if f"{block}.torgb.weight" in state:
            conv(f"{block}.torgb", f"colours.{colours}")
            colours += 1
        if f"{block}.skip.weight" in state:
            made[f"skips.{number - 1}.weight"] = state[f"{block}.skip.weight"]
    made |= nvidia_mapping(state)
    options = _common(_finish(made, kernel), "nvidia")
    if colours == 1 and len(sides) == 1 and arguments.get("architecture") in ("orig", "resnet"):
        options["architecture"] = "orig"
    own = arguments.get("synthesis_kwargs")
    synthesis = own if isinstance(own, Mapping) else arguments
    options |= nvidia_mapping_options(arguments)
    options["activation"] = layers.get("activation") or synthesis.get("activation", "lrelu")
    if layers:
        options["conv_clamp"] = layers["conv_clamp"]
    elif "conv_clamp" in synthesis:
        options["conv_clamp"] = synthesis["conv_clamp"]
    elif arguments:
        ada = isinstance(own, Mapping) or content.config.get("module") == "training.networks"
        options["conv_clamp"] = None if ada else 256.0
    return Found(options, made)


def nvidia_mapping(state: State) -> dict[str, Tensor]:
    """Rename NVIDIA's mapping network and mean of W (PyTorch code) to the names of `style.base`."""
    made: dict[str, Tensor] = {}
    for name, value in state.items():
        if match := re.fullmatch(r"mapping\.fc(\d+)\.(weight|bias)", name):
            made[f"mapping.layers.{match[1]}.{match[2]}"] = value
        elif match := re.fullmatch(r"mapping\.embed\.(weight|bias)", name):
            made[f"mapping.embedding.{match[1]}"] = value
        elif name == "mapping.w_avg":
            made["w_avg"] = value
    return made


def nvidia_mapping_options(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that NVIDIA's `mapping_kwargs` set.

    Raises:
        Misfit: the activation is not the leaky ReLU.
    """
    given = arguments.get("mapping_kwargs")
    mapping = given if isinstance(given, Mapping) else {}
    if mapping.get("activation", "lrelu") != "lrelu":
        raise Misfit(f"has a mapping network with the activation {mapping['activation']!r}; only lrelu is supported")
    return {"mapping_lr": float(mapping.get("lr_multiplier", 0.01))}


def _tensorflow(tf: State, content: Content) -> Found:
    """Read the variables of NVIDIA's TensorFlow code; `content` holds its static arguments."""
    translated, state = tensorflow.translated(tf, content.arguments)
    found = _nvidia(state, translated, {}, content)
    if any("LabelConcat" in name for name in tf):  # first version: a table, normalised together with the code
        made = {name: value for name, value in found.state.items() if name != "mapping.embedding.bias"}
        return Found({**found.options, "embedding_norm": "together", "embedding_bias": False}, made)
    return found


# Others -------------------------------------------------------------------------------------------------------------


def _rosinality(state: State, content: Content) -> Found:
    made: dict[str, Tensor] = {"constant": state["input.input"]}
    kernel = None
    for name, value in state.items():
        head, _, rest = name.partition(".")
        if match := re.fullmatch(r"style\.(\d+)\.(weight|bias)", name):
            made[f"mapping.layers.{int(match[1]) - 1}.{match[2]}"] = value  # layer 0 is the normalisation
        elif head == "conv1":
            _rosinality_layer(made, "layers.0", rest, value)
        elif match := re.fullmatch(r"convs\.(\d+)\.(.*)", name):
            if match[2] == "conv.blur.kernel":
                kernel = value / 4
            _rosinality_layer(made, f"layers.{int(match[1]) + 1}", match[2], value)
        elif head == "to_rgb1":
            _rosinality_layer(made, "colours.0", rest, value)
        elif match := re.fullmatch(r"to_rgbs\.(\d+)\.(.*)", name):
            _rosinality_layer(made, f"colours.{int(match[1]) + 1}", match[2], value)
        elif match := re.fullmatch(r"noises\.noise_(\d+)", name):
            made[f"layers.{match[1]}.noise"] = value
    stored = "layers.0.noise" in made
    average = content.root.get("latent_avg") if isinstance(content.root, Mapping) else None
    if isinstance(average, Tensor):
        made["w_avg"] = average.reshape(-1)
    made = _finish(made, kernel)
    options = {**_common(made, "rosinality"), "conv_clamp": None, "noise_stored": stored}
    return Found(options, made)


def _rosinality_layer(made: dict[str, Tensor], new: str, rest: str, value: Tensor) -> None:
    names = {
        "conv.weight": "conv.weight",
        "conv.modulation.weight": "conv.style.weight",
        "conv.modulation.bias": "conv.style.bias",
        "noise.weight": "strength",
        "activate.bias": "bias",
        "bias": "bias",
    }
    if rest in names:
        own = names[rest]
        value = value[0] if own == "conv.weight" else value.reshape(()) if own == "strength" else value
        made[f"{new}.{own}"] = value.reshape(-1) if own == "bias" else value


def _genforce(state: State, content: Content) -> Found:
    """Read a state dict of genforce, or of Hammer, which is based on it."""
    hammer = "w_avg" in state or any(name.endswith(".filter") for name in state)
    made: dict[str, Tensor] = {"constant": state["synthesis.early_layer.const"]}
    kernel = None
    outputs = sorted({int(m[1]) for m in (re.match(r"synthesis\.output(\d+)\.", name) for name in state) if m})
    names = {"weight": "conv.weight", "style.weight": "conv.style.weight", "style.bias": "conv.style.bias",
             "bias": "bias", "noise": "noise", "noise_strength": "strength"}  # fmt: skip
    for name, value in state.items():
        if match := re.fullmatch(r"synthesis\.layer(\d+)\.(.*)", name):
            if match[2] in names:
                if match[2] == "weight" and not hammer and int(match[1]) % 2:
                    value = value.flip(2, 3)  # genforce's transposed convolutions flip their kernels
                made[f"layers.{match[1]}.{names[match[2]]}"] = value
            elif match[2] in ("filter", "filter.kernel"):
                # genforce's kernel also serves `upsample`, so it includes the gain of 4
                kernel = value.reshape(value.shape[-2:])
                kernel = kernel / kernel.sum()
        elif match := re.fullmatch(r"synthesis\.output(\d+)\.(.*)", name):
            if match[2] in names:
                made[f"colours.{outputs.index(int(match[1]))}.{names[match[2]]}"] = value
        elif match := re.fullmatch(r"synthesis\.(?:residual|skip_layer)(\d+)\.weight", name):
            made[f"skips.{int(match[1]) - 1}.weight"] = value
    made |= genforce_mapping(state)
    together = "mapping.label_weight" in state
    made = _finish(made, kernel)
    options = {**_common(made, "hammer" if hammer else "genforce")}
    if together:
        made.pop("mapping.embedding.bias")
        options |= {"embedding_norm": "together", "embedding_bias": False}
    if not hammer:
        return Found({**options, "conv_clamp": None}, made)
    return Found({**options, **hammer_options(content)}, made)


def genforce_mapping(state: State) -> dict[str, Tensor]:
    """Rename the mapping network and the mean of W of genforce and Hammer to the names of `style.base`."""
    made: dict[str, Tensor] = {}
    for name, value in state.items():
        if match := re.fullmatch(r"mapping\.dense(\d+)\.(weight|bias)", name):
            made[f"mapping.layers.{match[1]}.{match[2]}"] = value
        elif match := re.fullmatch(r"mapping\.embedding\.(weight|bias)", name):
            made[f"mapping.embedding.{match[1]}"] = value
        elif name == "mapping.label_weight":
            made["mapping.embedding.weight"] = value.t()
        elif name in ("truncation.w_avg", "w_avg"):
            made["w_avg"] = value
    return made


_HAMMER_FIXED = {
    "normalize_z": True,
    "mapping_use_wscale": True,
    "mapping_wscale_gain": 1.0,
    "embedding_use_wscale": True,
    "embedding_wscale_gian": 1.0,
    "embedding_lr_mul": 1.0,
    "normalize_embedding": True,
    "normalize_embedding_latent": False,
    "const_input": True,
    "demodulate": True,
    "use_wscale": True,
    "wscale_gain": 1.0,
    "lr_mul": 1.0,
    "eps": 1e-8,
}
"""Constructor arguments of Hammer for which only the default is supported."""


def hammer_arguments(content: Content) -> Mapping[str, Any] | None:
    """Return the constructor arguments of the network in a Hammer checkpoint; None if it holds none.

    Raises:
        Misfit: an argument has an unsupported value.
    """
    kwargs = content.root.get("model_kwargs_init") if isinstance(content.root, Mapping) else None
    if not isinstance(kwargs, Mapping):
        return None
    own = kwargs.get(content.key.rpartition(".")[2], kwargs.get("generator_smooth", kwargs.get("generator")))
    if not isinstance(own, Mapping):
        return None
    for name, usual in _HAMMER_FIXED.items():
        if own.get(name, usual) != usual:
            raise Misfit(f"was made with {name}={own[name]!r}; only {usual!r} is supported")
    return own


def hammer_options(content: Content) -> dict[str, Any]:
    """Return the options of a StyleGAN2 that only Hammer's constructor arguments give."""
    own = hammer_arguments(content)
    if own is None:
        return {}
    return {
        "conv_clamp": own.get("conv_clamp"),
        "mapping_lr": float(own.get("mapping_lr_mul", 0.01)),
        "final_tanh": bool(own.get("final_tanh", False)),
    }
