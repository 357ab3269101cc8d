"""Translate variables of NVIDIA's TensorFlow StyleGAN2 to the names of its PyTorch code.

Kernels are stored as [height, width, in, out], matrices as [in, out], and biases of styles with 1 subtracted.
Transposed convolutions and skips flip their kernels.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def translated(tf: Mapping[str, Tensor], arguments: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the constructor arguments and the state dict of NVIDIA's PyTorch code.

    Args:
        tf: variables by name, without `synthesis/`.
        arguments: the static arguments of the TensorFlow network.
    """
    state: dict[str, Tensor] = {}

    def put(name: str, new: str) -> None:
        flips = name.endswith(("Conv0_up", "Skip"))
        if f"{name}/weight" in tf:
            weight = tf[f"{name}/weight"].permute(3, 2, 0, 1)
            state[f"{new}.weight"] = weight.flip(2, 3) if flips else weight
        if f"{name}/mod_weight" in tf:
            state[f"{new}.affine.weight"] = tf[f"{name}/mod_weight"].t()
            state[f"{new}.affine.bias"] = tf[f"{name}/mod_bias"] + 1
        for old in ("bias", "noise_strength"):
            if f"{name}/{old}" in tf:
                state[f"{new}.{old}"] = tf[f"{name}/{old}"]

    sides = sorted(int(match[1]) for match in (re.match(r"(\d+)x\1/", name) for name in tf) if match)
    for number, side in enumerate(dict.fromkeys(sides)):
        old, new = f"{side}x{side}", f"synthesis.b{side}"
        put(f"{old}/Conv0_up", f"{new}.conv0")
        put(f"{old}/{'Conv1' if number else 'Conv'}", f"{new}.conv1")
        put(f"{old}/ToRGB", f"{new}.torgb")
        put(f"{old}/Skip", f"{new}.skip")
        for index, conv in ((2 * number - 1, "conv0"), (2 * number, "conv1")):
            if f"noise{index}" in tf and f"{new}.{conv}.noise_strength" in state:
                state[f"{new}.{conv}.noise_const"] = tf[f"noise{index}"].reshape(side, side)
    state["synthesis.b4.const"] = tf["4x4/Const/const"].reshape(tf["4x4/Const/const"].shape[-3:])
    kernel = arguments.get("resample_kernel") or arguments.get("resample_filter") or (1, 3, 3, 1)
    line = torch.tensor([float(tap) for tap in kernel])
    smallest = min((side for side in sides if side > 4), default=8)
    state[f"synthesis.b{smallest}.conv0.resample_filter"] = torch.outer(line, line) / line.sum() ** 2
    for name, value in tf.items():
        if match := re.fullmatch(r"(?:mapping/)?Dense(\d+)/(weight|bias)", name):
            state[f"mapping.fc{match[1]}.{match[2]}"] = value.t() if match[2] == "weight" else value
        elif match := re.fullmatch(r"(?:mapping/)?LabelEmbed/(weight|bias)", name):
            state[f"mapping.embed.{match[1]}"] = value.t() if match[1] == "weight" else value
        elif re.fullmatch(r"(?:mapping/)?LabelConcat/weight", name):
            state["mapping.embed.weight"] = value.t()
    if "dlatent_avg" in tf:
        state["mapping.w_avg"] = tf["dlatent_avg"]
    made = {
        "conv_clamp": arguments.get("conv_clamp"),
        "activation": arguments.get("nonlinearity", arguments.get("act", "lrelu")),
        "mapping_kwargs": {
            "lr_multiplier": arguments.get("mapping_lrmul", 0.01),
            "activation": arguments.get("mapping_nonlinearity", "lrelu"),
        },
    }
    return made, state
