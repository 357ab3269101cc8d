"""Generators by name: the registered ones, a user's checkpoint, or a user's own factory."""

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import BaseModel, ConfigDict
from torch import nn

from pullback.errors import ArgumentError, PullbackError, WeightsError
from pullback.generators.attributes import add_note
from pullback.generators.base import reference_tensor
from pullback.generators.checkpoint import load_checkpoint
from pullback.generators.checks import check_generator
from pullback.generators.control import Control, make_control
from pullback.generators.family import FamilyGenerator, Noise
from pullback.generators.fingerprint import ORIGIN
from pullback.generators.full_precision import HALF
from pullback.generators.user_code import HASHES, call_factory, declared_weights, origin_of, unmoved
from pullback.generators.user_files import Window, watching
from pullback.spec import GeneratorSpec, code_meant, names_code, nearest
from pullback.spec.arguments import arguments_of
from pullback.weights import pretrained_biggan
from pullback.weights.manifest import locate, sha256_of


class ZooEntry(BaseModel):
    """A registered generator."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    family: str
    what: str
    weights: str
    latent_dim: int
    image_size: int
    classes: tuple[str, ...] = ()
    spaces: tuple[str, ...] = ("z",)
    """The latent spaces in which it is commonly used."""
    options: dict[str, Any] = {}
    """Options of its family that the file does not hold."""
    network: str | None = None
    """The key of its network in the file."""


@cache
def zoo() -> dict[str, ZooEntry]:
    """Return every registered generator by name."""
    text = files("pullback.generators").joinpath("zoo.yaml").read_text(encoding="utf-8")
    return {name: ZooEntry.model_validate(entry) for name, entry in yaml.safe_load(text).items()}


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """Return a torch device; `auto` is the GPU if there is one, else the CPU.

    Raises:
        SpecError: the device is a GPU that this machine lacks, or torch does not know it.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        hint = nearest(str(device), ("auto", "cpu", "cuda"))
        raise ArgumentError("device", f"torch knows no device {str(device)!r}{hint}") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ArgumentError("device", "this torch sees no CUDA device; the nearest valid value is 'cpu'")
    if chosen.type == "cuda" and (chosen.index or 0) >= (here := torch.cuda.device_count()):
        raise ArgumentError("device", f"there is no {chosen}; this machine has {here}, numbered from 0")
    return chosen


@torch.inference_mode(False)  # a caller's inference mode forbids derivatives
def load_generator(
    name: str | Path,
    family: str | None = None,
    space: str = "z",
    truncation: float = 1.0,
    *,
    truncation_cutoff: int | None = None,
    noise: Noise = "const",
    noise_seed: int = 0,
    weights: str | Path | None = None,
    network: str | None = None,
    device: str | torch.device = "auto",
    check: bool = True,
    control: Control | None = None,
    control_seed: int = 0,
    args: Mapping[str, Any] | None = None,
    **options: Any,
) -> nn.Module:
    """Load a generator that is ready for `metric_at`: in evaluation mode, with frozen parameters.

    Args:
        name: a name from `pullback generators list`; or `biggan-deep-128`, `-256` or `-512`, which the package
            `pytorch-pretrained-biggan` finds and downloads; or the path of a checkpoint of a known family
            (`pullback plugins`), a file or a folder; or `module:factory`. `factory()` returns an `nn.Module` with an
            attribute `latent_dim` that maps codes [batch, latent_dim] to images [batch, 3, height, width] in [0, 1].
            If it has an attribute `classes` (their names), it is called with class indices [batch] as second argument.
        family: the family of a checkpoint, if it cannot be recognised or is ambiguous.
        space: the latent space of the codes, such as `z`, `w` or `w+`.
        truncation: ψ of the family's truncation; 1 means none.
        truncation_cutoff: number of layers that are truncated; by default all.
        noise: `const` keeps the stored noise maps, `none` sets them to zero, `seed` draws them from `noise_seed`.
        noise_seed: seed of the noise maps for `seed`.
        weights: a local file to use in place of a registered generator's own weights. A factory is called with its
            path.
        network: the key of the network in a checkpoint that holds several, such as `g_ema`, or `ema.generator` for one
            inside another. By default the generator is chosen, and averaged weights are preferred to raw ones.
        device: `auto`, `cpu`, `cuda` or a torch device.
        check: whether to try the generator on a few codes and raise if its metric could not be trusted.
        control: `shuffled` or `random` replaces the weights (`control.make_control`).
        control_seed: seed of the control's permutations or draws.
        args: keyword arguments of a factory.
        options: options of the family, such as a resolution that the file does not hold.

    Raises:
        SpecError: the name, family, space or an option is unknown, or the factory cannot be imported.
        WeightsError: the weights are missing, damaged or do not fit.
        PullbackError: a factory or its module failed, or the loaded module does not behave as a generator.
    """
    name, target = str(name), resolve_device(device)
    setting: dict[str, Any] = {
        "space": space,
        "truncation": truncation,
        "truncation_cutoff": truncation_cutoff,
        "noise": noise,
        "noise_seed": noise_seed,
    }
    generator: nn.Module
    if args is not None and not names_code(name):
        raise ArgumentError("args", f"only a module:factory takes these, and {name} is not one; omit them")
    if name in zoo():
        if family not in (None, zoo()[name].family):
            raise ArgumentError("family", f"{name} is of the family {zoo()[name].family}; omit it")
        generator = _registered(name, weights, network, options).use(**setting)
    elif names_code(name):
        unused = [key for key, value in {"network": network, "family": family, **options}.items() if value is not None]
        if unused:
            raise _decided_by(name, unused)
        generator = _set(_from_factory(name, weights, args or {}), setting)
    elif name.endswith(".py"):
        module = name.removeprefix("./").removesuffix(".py").replace("/", ".")
        raise ArgumentError(
            "name", f"{name} is Python code: name the function in it that makes the generator, {module}:FUNCTION"
        )
    elif name and Path(name).exists():
        if weights is not None:
            raise ArgumentError("weights", f"{name} is itself a weight file; omit it")
        generator = load_checkpoint(Path(name), family=family, network=network, options=options).use(**setting)
    else:
        raise ArgumentError(
            "name", f"{name!r} is neither registered nor a file{code_meant(name) or nearest(name, zoo())}"
        )
    if control is not None:
        make_control(generator, control, control_seed)
    generator = _single(generator.to(target))
    if not check:
        return generator
    origin = origin_of(generator)
    with unmoved(), watching(Window() if origin is None else origin.used):
        check_generator(generator, name)
    return generator


def load_for(spec: GeneratorSpec, device: str | torch.device = "auto") -> nn.Module:
    """Load the generator of a job; raises like `load_generator`, with the paths of wrong keys in the job."""
    with arguments_of("generator"):
        return load_generator(
            spec.name,
            spec.family,
            spec.space,
            spec.truncation,
            truncation_cutoff=spec.truncation_cutoff,
            noise=spec.noise,
            noise_seed=spec.noise_seed,
            weights=spec.weights,
            network=spec.network,
            device=device,
            control=spec.control,
            control_seed=spec.control_seed,
            args=spec.args,
            **spec.options,
        )


def _set(generator: nn.Module, setting: Mapping[str, Any]) -> nn.Module:
    """Set the space, truncation and noise of a factory's generator if the job changes the defaults.

    Raises:
        SpecError: it belongs to no family; such a generator sets them itself.
    """
    defaults = {"space": "z", "truncation": 1.0, "truncation_cutoff": None, "noise": "const", "noise_seed": 0}
    asked = [key for key, value in setting.items() if value != defaults[key]]
    if asked and not isinstance(generator, FamilyGenerator):
        named = getattr(generator, "name", "the factory")
        raise _decided_by(named, asked)
    return generator.use(**setting) if isinstance(generator, FamilyGenerator) and asked else generator


def _decided_by(name: str, arguments: Sequence[str]) -> ArgumentError:
    problem = f"{name} decides this itself; omit it, or give it in `args`"
    (first, _), *others = [(argument, problem) for argument in arguments]
    return ArgumentError(first, problem, others)


def _single(generator: nn.Module) -> nn.Module:
    """Convert a generator in half precision or bfloat16 to float32 and add a note; return any other unchanged."""
    dtype = reference_tensor(generator).dtype
    if dtype not in HALF:
        return generator
    generator = generator.float()
    kind = str(dtype).removeprefix("torch.")
    add_note(generator, f"its weights are {kind} and were converted to float32, in which it computes")
    return generator


def _registered(
    name: str, weights: str | Path | None, network: str | None, options: Mapping[str, Any]
) -> FamilyGenerator:
    entry = zoo()[name]
    if weights is None and name in pretrained_biggan.NAMES:
        path = Path(name) if Path(name).exists() else pretrained_biggan.published(name)
    elif weights is None:
        path, _ = locate(entry.weights)
    else:
        path = Path(weights)
        if not path.exists():
            raise WeightsError(f"there is no weight file {path} (from {Path.cwd()})")
    given = {**({"classes": entry.classes} if entry.classes else {}), **entry.options, **options}
    generator = load_checkpoint(path, family=entry.family, network=network or entry.network, options=given)
    generator.name = name
    if len(generator.weights) == 1:
        generator.weights = {entry.weights: next(iter(generator.weights.values()))}
    return generator


def _from_factory(name: str, weights: str | Path | None, args: Mapping[str, Any]) -> nn.Module:
    path = None if weights is None else Path(weights).absolute()
    generator, source, origin = call_factory(name, "name", None if path is None else str(path), args)
    if getattr(generator, "name", None) is None:
        generator.name = name  # type: ignore[assignment]
    own = getattr(generator, "weights", {})
    is_part = isinstance(own, torch.Tensor | nn.Module) or callable(own)
    if not isinstance(own, Mapping) and not is_part:
        raise PullbackError(
            f"the generator of {name} has `weights` that are {type(generator.weights).__name__}; that attribute is for "
            "the SHA-256 of each weight file by its name, call yours otherwise"
        )
    given = {} if path is None else {"generator.weights": sha256_of(path)}
    hashes = {**declared_weights(generator), **given, **source}
    setattr(generator, HASHES if is_part else "weights", hashes)
    setattr(generator, ORIGIN, origin)
    for parameter in generator.parameters():  # a scripted module has no `requires_grad_` of its own
        parameter.requires_grad_(False)
    return generator.eval()
