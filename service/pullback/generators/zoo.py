"""Generators by name: the registered ones, a user's checkpoint, or a user's own factory."""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal

import torch
import yaml
from pydantic import BaseModel, ConfigDict
from torch import nn

from pullback.errors import PullbackError, SpecError, WeightsError
from pullback.generators import dcgan
from pullback.generators.checks import check_generator
from pullback.generators.user_code import made_by, weights_told
from pullback.generators.weights import locate, sha256_of
from pullback.spec import names_code, nearest


class ZooEntry(BaseModel):
    """A registered generator."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    family: Literal["dcgan"]
    what: str
    weights: str
    latent_dim: int
    image_size: int
    classes: tuple[str, ...] = ()


@cache
def zoo() -> dict[str, ZooEntry]:
    """Every registered generator by its name."""
    text = files("pullback.generators").joinpath("zoo.yaml").read_text(encoding="utf-8")
    return {name: ZooEntry.model_validate(entry) for name, entry in yaml.safe_load(text).items()}


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """`auto` is the GPU where there is one, else the CPU.

    Raises:
        SpecError: a GPU is asked for and there is none, or torch knows no such device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        hint = nearest(str(device), ("auto", "cpu", "cuda"))
        raise SpecError([f"resources.device: torch knows no device {str(device)!r}{hint}"]) from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise SpecError(["resources.device: this torch sees no CUDA device; the nearest valid value is 'cpu'"])
    return chosen


def load_generator(name: str, *, weights: str | Path | None = None, device: str | torch.device = "auto") -> nn.Module:
    """A generator, ready for `metric_at`: in evaluation mode, its parameters frozen.

    Args:
        name: a name of `pullback generators list`; or the path of a checkpoint (a plain DCGAN's, torch or
            safetensors); or `module:factory`, where `factory()` gives an `nn.Module` with an attribute `latent_dim`
            that maps codes [batch, latent_dim] to images [batch, 3, height, width] in [0, 1]. One with an attribute
            `classes` (their names) is called with class indices [batch] as a second argument.
        weights: a local file to use in place of a registered generator's own weights.
        device: `auto`, `cpu`, `cuda` or a torch device.

    Raises:
        SpecError: the name is unknown, or the factory cannot be imported.
        WeightsError: the weights are missing, damaged or do not fit.
        PullbackError: a factory or its module failed, or what was loaded does not behave as a generator.
    """
    target = resolve_device(device)
    if name in zoo():
        generator = _registered(name, weights)
    elif names_code(name):
        if weights is not None:
            raise SpecError([f"generator.weights: {name} loads its own weights; remove this key"])
        generator = _from_factory(name)
    elif Path(name).is_file():
        if weights is not None:
            raise SpecError([f"generator.weights: {name} is itself a weight file; remove this key"])
        generator = dcgan.load(Path(name))
        generator.name = Path(name).name
        generator.weights = {Path(name).name: sha256_of(Path(name))}
    else:
        raise SpecError([f"generator.name: {name!r} is neither registered nor a file{nearest(name, zoo())}"])
    generator = generator.to(target)
    check_generator(generator, name)
    return generator


def _registered(name: str, weights: str | Path | None) -> nn.Module:
    entry = zoo()[name]
    if weights is None:
        path, digest = locate(entry.weights)
    else:
        path = Path(weights)
        if not path.is_file():
            raise WeightsError(f"generator.weights: there is no file {path} (from {Path.cwd()})")
        digest = sha256_of(path)
    generator = dcgan.load(path, entry.classes)
    generator.name = name
    generator.weights = {entry.weights: digest}
    return generator


def _from_factory(name: str) -> nn.Module:
    generator, source = made_by(name, "generator.name")
    if getattr(generator, "name", None) is None:
        generator.name = name  # type: ignore[assignment]
    if not isinstance(getattr(generator, "weights", {}), Mapping):
        raise PullbackError(
            f"the generator of {name} has `weights` that are {type(generator.weights).__name__}; that attribute is for "
            "the SHA-256 of each weight file by its name, call yours otherwise"
        )
    generator.weights = {**weights_told(generator), **source}  # type: ignore[assignment]
    return generator.eval().requires_grad_(False)
