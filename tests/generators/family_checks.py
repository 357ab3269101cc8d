"""Checks that every generator family shares: images of the original, no operation without a rule, the exact metric."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pullback.distances import load_distance
from pullback.metric import metric_at
from pullback.metric.forward import rules
from pullback.metric.forward.linearize import Linearization
from pullback.metric.jacobian import feature_map

DATA = Path(__file__).parent.parent / "data" / "generators"
"""Small checkpoints with the images of the original implementations; see the README there."""

FILE_LAYOUTS = ("torch", "old torch", "safetensors", "wrapped", "averages", "state_dict")
"""Ways in which one state dict is saved; see `saved`."""


def state_of(name):
    """The state dict of a stored checkpoint."""
    return load_file(DATA / name)


def expected(name):
    """Codes and images of a stored checkpoint as tensors, by name."""
    with np.load(DATA / f"{name}.expected.npz") as held:
        return {key: torch.from_numpy(held[key]) for key in held}


def thinned(images):
    """The pixels that are stored of images [..., height, width]."""
    return images[..., ::2, 1::2]


def saved(folder, state, layout, stem="G_ema"):
    """The path of a file that holds a state dict in one of `FILE_LAYOUTS`."""
    path = folder / f"{stem}.pth"
    if layout == "safetensors":
        path = folder / f"{stem}.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    elif layout == "old torch":
        torch.save(state, path, _use_new_zipfile_serialization=False)
    elif layout == "wrapped":
        torch.save({f"module._orig_mod.{name}": tensor for name, tensor in state.items()}, path)
    elif layout == "averages":
        raw = {name: tensor * 0.5 if tensor.is_floating_point() else tensor for name, tensor in state.items()}
        torch.save({"g": raw, "g_ema": state, "step": 7}, path)
    else:
        torch.save(
            {"state_dict": state, "optimizer": {"state": {}, "param_groups": []}} if layout != "torch" else state, path
        )
    return path


def furthest(made, expected):
    """The largest absolute difference of two images."""
    return float((made - torch.as_tensor(expected)).abs().max())


def assert_same_images(generator, codes, expected32, expected64=None, condition=None):
    """`native` equals the original's images: to 1e-5 in float32, and to 1e-9 in float64 where these are given.

    Tolerances are relative to the largest value of the images where that exceeds 1.
    """
    scale = max(1.0, float(abs(expected32).max()))
    with torch.no_grad():
        made = generator.float().native(codes.float(), condition)
        assert made.shape[1:] == expected32.shape[1:]
        assert furthest(made[: len(expected32)], expected32) < 1e-5 * scale
        if expected64 is not None:
            floating = condition is not None and condition.is_floating_point()
            condition = condition.double() if floating else condition
            made = generator.double().native(codes.double(), condition)
            assert furthest(made[: len(expected64)], expected64) < 1e-9 * scale


def assert_fast_and_exact(generator, code, condition=None):
    """Every operation has a rule, and the metric of MSE equals double backpropagation in float64 to 1e-5.

    Args:
        generator: in any dtype; it is converted to float64.
        code: one code [n].
        condition: class index [1], labels [1, classes] or embedding [1, size], or None.
    """
    generator, distance, code = generator.double(), load_distance("mse").double(), code.double()[None]

    def refuse(tape, func, *_):
        raise AssertionError(f"{func} has no rule")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rules, "_by_jvp", refuse)
        Linearization(feature_map(generator, distance, condition), code)
        made = metric_at(generator, distance, code, condition=condition, precision="float64")
    assert made.method == "gauss_newton"
    assert made.matrix is not None

    def images(z):
        return generator(z) if condition is None else generator(z, condition)

    reference = images(code).detach()
    wanted = torch.autograd.functional.hessian(lambda z: (reference - images(z[None])).square().mean(), code[0])
    assert float(wanted.norm()) > 0
    assert float((made.matrix[0] - wanted).norm() / wanted.norm()) < 1e-5
