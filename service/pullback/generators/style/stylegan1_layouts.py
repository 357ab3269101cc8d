"""StyleGAN's checkpoints: translate names and options of each implementation to those of `families.stylegan1`."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from pullback.generators.family import Found
from pullback.generators.style.keys import count, missing, refuse_unknown
from pullback.generators.style.stylegan2_layouts import GENFORCE_MAPPING, genforce_mapping, mapping_options
from pullback.weights.content import Content
from pullback.weights.networks import Misfit

State = Mapping[str, Tensor]
_ROSINALITY_NAMES = (
    r"style\.\d+\.linear\.(weight_orig|bias)|(generator\.)?(to_rgb\.\d+\.conv\.(weight_orig|bias)|progression\.\d+\."
    r"(conv1\.input|conv1\.1\.conv\.(weight_orig|bias)|conv1\.[012]\.(weight|bias|weight_flip)|"
    r"conv2\.conv\.(weight_orig|bias)|noise[12]\.weight_orig|adain[12]\.style\.linear\.(weight_orig|bias)))"
)
_ZOO_NAMES = (
    r"baseScale0|mean_w|(mapping\.FC\.\d+|conv0|adain0[01]\.styleModulator|noiseMod0[01]|noiseModulators\.\d+\.[01]|"
    r"scaleLayers\.\d+\.[0-3](\.styleModulator)?|toRGBLayers\.\d+)\.module\.(weight|bias)"
)
_GENFORCE_NAMES = (
    rf"{GENFORCE_MAPPING}|synthesis\.(lod|output\d+\.(weight|bias)|layer\d+\.(weight|bias|const|"
    r"apply_noise\.(weight|noise)|style\.(weight|bias)|blur\.kernel))"
)
_FUSED_FROM = 128
"""genforce's default for the lowest resolution at which doubling and convolution are fused."""


def read(content: Content) -> Found | None:
    """Recognise a StyleGAN generator; return None for any other network."""
    try:
        return _read(content)
    except KeyError as error:
        raise missing(error, "a StyleGAN generator") from error


def _read(content: Content) -> Found | None:
    state = content.state
    if any(re.search(r"progression\.0\.conv1\.input$", name) for name in state) and "style.1.linear.bias" in state:
        refuse_unknown(state, _ROSINALITY_NAMES, "rosinality's StyleGAN")
        return _rosinality(state)
    if "baseScale0" in state and "adain00.styleModulator.module.weight" in state:
        refuse_unknown(state, _ZOO_NAMES, "pytorch_GAN_zoo's StyleGAN")
        return _zoo(state, content)
    if "synthesis.layer0.const" in state and "synthesis.layer0.apply_noise.weight" in state:
        refuse_unknown(state, _GENFORCE_NAMES, "genforce's StyleGAN")
        return _genforce(state)
    return None


def used(state: State, layers: int, colours: Sequence[str]) -> dict[str, Tensor]:
    """Return the tensors that a network with `layers` layers and these layers to RGB needs."""
    made = {}
    for name, value in state.items():
        match = re.match(r"(layers|colours)\.(\d+)\.", name)
        if match and match[1] == "layers" and int(match[2]) >= layers:
            continue
        if match and match[1] == "colours" and match[2] not in colours:
            continue
        if (noise := re.fullmatch(r"noise(\d+)", name)) and int(noise[1]) >= layers:
            continue
        made[name] = value
    return made


def _common(state: State, layout: str) -> dict[str, Any]:
    """Return the options that follow from the tensors, which have the names of `families.stylegan1.StyleGan1`."""
    blocks = count(state, r"layers\.\d+\.strength") // 2
    channels = tuple(int(state[f"layers.{2 * number + 1}.weight"].shape[0]) for number in range(blocks))
    colour = next(name for name in state if re.fullmatch(r"colours\.\d+\.weight", name))
    w_dim = int(state["layers.0.style.affine.weight"].shape[1])
    options = mapping_options(state, 2 * blocks, w_dim)
    if options.pop("per_layer"):
        raise Misfit("has a mapping network that gives each layer its own code, which is not supported for StyleGAN")
    return {"layout": layout, "channels": channels, "image_channels": int(state[colour].shape[0]), **options}


def _rosinality(state: State) -> Found:
    made: dict[str, Tensor] = {}
    fused = []
    names = {"noise": "strength", "adain": "style.affine"}
    for full, value in state.items():
        name = full.removeprefix("generator.")
        if match := re.fullmatch(r"style\.(\d+)\.linear\.(weight_orig|bias)", name):
            kind = match[2].removesuffix("_orig")
            made[f"mapping.layers.{int(match[1]) // 2}.{kind}"] = value  # odd numbers are leaky ReLUs
        elif match := re.fullmatch(r"to_rgb\.(\d+)\.conv\.(weight_orig|bias)", name):
            made[f"colours.{match[1]}.{match[2].removesuffix('_orig')}"] = value
        elif match := re.fullmatch(r"progression\.(\d+)\.(.+)", name):
            block, rest = int(match[1]), match[2]
            if rest == "conv1.input":
                made["layers.0.constant"] = value
            elif part := re.fullmatch(r"conv1\.1\.conv\.(weight_orig|bias)", rest):
                made[f"layers.{2 * block}.{part[1].removesuffix('_orig')}"] = value
            elif part := re.fullmatch(r"conv1\.0\.(weight|bias)", rest):
                made[f"layers.{2 * block}.{part[1]}"] = value
                fused.append(4 << block)
            elif part := re.fullmatch(r"conv2\.conv\.(weight_orig|bias)", rest):
                made[f"layers.{2 * block + 1}.{part[1].removesuffix('_orig')}"] = value
            elif part := re.fullmatch(r"(noise|adain)([12])\.(?:style\.linear\.)?(weight_orig|bias)", rest):
                kind = "" if part[1] == "noise" else f".{part[3].removesuffix('_orig')}"
                made[f"layers.{2 * block + int(part[2]) - 1}.{names[part[1]]}{kind}"] = value
    options = _common(made, "rosinality")
    return Found({**options, "fused_from": min(fused) if fused else None}, made)


def _genforce(state: State) -> Found:
    made = dict(genforce_mapping(state))
    made.pop("mapping.embedding.bias", None)
    names = {"weight": "weight", "bias": "bias", "const": "constant", "style.weight": "style.affine.weight",
             "style.bias": "style.affine.bias"}  # fmt: skip
    lod = 0.0
    blocks = count(state, r"synthesis\.output\d+\.weight")
    for name, value in state.items():
        if match := re.fullmatch(r"synthesis\.layer(\d+)\.(.+)", name):
            layer, rest = int(match[1]), match[2]
            if rest == "apply_noise.noise":
                made[f"noise{layer}"] = value
            elif rest == "apply_noise.weight":
                made[f"layers.{layer}.strength"] = value.reshape(1, -1, 1, 1) if value.dim() == 1 else value
            elif rest in names:
                up = rest == "weight" and layer % 2 == 0 and 4 << (layer // 2) >= _FUSED_FROM
                made[f"layers.{layer}.{names[rest]}"] = value.transpose(0, 1) if up else value
        elif match := re.fullmatch(r"synthesis\.output(\d+)\.(weight|bias)", name):
            made[f"colours.{match[1]}.{match[2]}"] = value
        elif name == "synthesis.lod":
            lod = float(value)
    options = {**_common(made, "genforce"), "resolution": 4 << (blocks - 1), "lod": lod, "fused_from": _FUSED_FROM}
    return Found(options, made)


def _zoo(state: State, content: Content) -> Found:
    config = content.root.get("config") if isinstance(content.root, Mapping) else None
    config = config if isinstance(config, Mapping) else content.config
    made = {"layers.0.constant": state["baseScale0"], "w_avg": state["mean_w"].reshape(-1)}
    for name, value in state.items():
        if match := re.fullmatch(r"mapping\.FC\.(\d+)\.module\.(weight|bias)", name):
            made[f"mapping.layers.{match[1]}.{match[2]}"] = value
        elif match := re.fullmatch(r"conv0\.module\.(weight|bias)", name):
            made[f"layers.1.{match[1]}"] = value
        elif match := re.fullmatch(r"adain0([01])\.styleModulator\.module\.(weight|bias)", name):
            made[f"layers.{match[1]}.style.affine.{match[2]}"] = value
        elif match := re.fullmatch(r"noiseMod0([01])\.module\.weight", name):
            made[f"layers.{match[1]}.strength"] = value.reshape(-1)
        elif match := re.fullmatch(r"noiseModulators\.(\d+)\.([01])\.module\.weight", name):
            made[f"layers.{2 * int(match[1]) + 2 + int(match[2])}.strength"] = value.reshape(-1)
        elif match := re.fullmatch(r"scaleLayers\.(\d+)\.([0-3])\.(styleModulator\.)?module\.(weight|bias)", name):
            layer = 2 * int(match[1]) + 2 + int(match[2]) // 2
            made[f"layers.{layer}.{'style.affine.' if match[3] else ''}{match[4]}"] = value
        elif match := re.fullmatch(r"toRGBLayers\.(\d+)\.module\.(weight|bias)", name):
            made[f"colours.{int(match[1]) + 1}.{match[2]}"] = value
    options = _common(made, "zoo")
    options["resolution"] = 4 << (len(options["channels"]) - 1)
    if not config:
        return Found({**options, "phi_truncation": 1.0}, made, notes=("its file has no config; it is not truncated",))
    options |= zoo_options(config)
    return Found({**options, "phi_truncation": float(config.get("phiTruncation", 0.5))}, made)


def zoo_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that pytorch_GAN_zoo's config sets for both StyleGAN and PGAN."""
    options: dict[str, Any] = {
        "alpha": float(config.get("alpha", 0)),
        "slope": float(config.get("leakyReluLeak", 0.2)),
        "equalized": bool(config.get("equalizedlR", True)),
    }
    loss = config.get("lossCriterion")
    if loss is not None:
        options["final_tanh"] = loss in ("DCGAN", "MSE")
    return options
