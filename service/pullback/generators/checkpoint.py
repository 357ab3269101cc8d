"""Generators from checkpoints: find the network, recognise its family, merge the options, build or convert it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from safetensors.torch import save_file

from pullback.atomic_files import replacing
from pullback.errors import ArgumentError, PluginError, SpecError, UnknownPluginError, WeightsError
from pullback.generators.attributes import add_note
from pullback.generators.family import FamilyGenerator, Found
from pullback.plugins import GENERATORS
from pullback.spec import nearest
from pullback.weights import content as contents
from pullback.weights.content import Content
from pullback.weights.file_kinds import FACTORY, kind_of
from pullback.weights.manifest import sha256_of
from pullback.weights.networks import Misfit, choose

PORTABLE = "pullback"
"""Metadata key under which `convert` describes the tensors of a safetensors file."""


@dataclass(frozen=True)
class _Recognised:
    family: str
    module: ModuleType
    found: Found


def load_checkpoint(
    path: Path,
    *,
    family: str | None = None,
    network: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> FamilyGenerator:
    """Load a generator in evaluation mode, with frozen parameters, in the first space of its family.

    Args:
        path: a weight file, or a folder that holds one.
        family: the family, if it cannot be recognised or is ambiguous.
        network: the key of the network in a file that holds several.
        options: values of the family's options; they override those of the file.

    Raises:
        SpecError: the family, network or option does not exist, or the file lacks an option that is required.
        PluginError: the family cannot be imported.
        WeightsError: the file cannot be read, no family or more than one recognises its network, or the tensors do
            not fit.
    """
    source = find_network(path, family, network, options)
    try:
        built: FamilyGenerator = source.module.build(source.options, source.found.state)
    except Misfit as error:
        raise WeightsError(f"the weight file {path} {error} (family {source.family})") from error
    generator = built.eval().requires_grad_(False)
    generator.family = source.family
    generator.options = source.options.model_dump()
    generator.classes = generator.classes or source.found.classes
    generator.name = path.name
    generator.weights = source.digests
    for note in source.found.notes:
        add_note(generator, note)
    return generator


@dataclass(frozen=True)
class Source:
    """A network of a checkpoint, ready to be built.

    Attributes:
        family: the name of its family.
        module: the family's module.
        options: the family's options, from the file and the caller.
        found: the tensors, class names and notes.
        digests: SHA-256 of each file that was read, by file name.
    """

    family: str
    module: ModuleType
    options: BaseModel
    found: Found
    digests: dict[str, str]


def find_network(
    path: Path, family: str | None = None, network: str | None = None, options: Mapping[str, Any] | None = None
) -> Source:
    """Read a checkpoint, choose its network and recognise the family; arguments and errors as in `load_checkpoint`."""
    content = replace(_read(path), asked=family)
    digests = {name: sha256_of(file) for name, file in content.files.items()}
    if PORTABLE in content.metadata and network is None:
        recognised, note = _portable(content, family), None
    else:
        modules = _modules(family)
        chosen = choose(
            content.root, lambda each: _recognised(content.at(each), modules, family), path, network, _advice(family)
        )
        recognised, note = chosen.built, chosen.note
    found = recognised.found
    merged = _options(recognised.module.Options, {**found.options, **(options or {})}, recognised.family)
    notes = (*(() if note is None else (f"{path.name}: {note}",)), *found.notes)
    for name, file in content.files.items():
        if sha256_of(file) != digests[name]:
            raise WeightsError(f"{file} was written to while it was loaded; run again when it is complete")
    return Source(recognised.family, recognised.module, merged, replace(found, notes=notes), digests)


def _portable(content: Content, asked: str | None) -> _Recognised:
    """Return the network of a file that `convert` wrote.

    Raises:
        WeightsError: its description cannot be read.
        SpecError: the caller asks for another family.
    """
    try:
        described = json.loads(content.metadata[PORTABLE])
        family, options = str(described["family"]), dict(described["options"])
        found = Found(options, dict(content.root), tuple(described["classes"]), tuple(described["notes"]))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise WeightsError(
            f"the description in {content.path} cannot be read: {error}. Convert the file again"
        ) from error
    if asked not in (None, family):
        raise ArgumentError("family", f"{content.path} holds a {family}; omit it")
    return _Recognised(family, _modules(family)[family], found)


def convert(
    path: Path,
    target: Path,
    *,
    family: str | None = None,
    network: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Source:
    """Write a generator's tensors and description into one safetensors file that `load_checkpoint` reads.

    Args:
        path: a checkpoint in any supported format.
        target: the file to write; its name ends in `.safetensors`.
        family, network, options: as for `load_checkpoint`.

    Raises:
        SpecError: the target's name does not end in `.safetensors`, or as in `load_checkpoint`.
        WeightsError: the target exists or cannot be written, or as in `load_checkpoint`.
    """
    if target.suffix != ".safetensors":
        raise SpecError([f"the target {target} must end in .safetensors"])
    if target.exists():
        raise WeightsError(f"{target} exists already and was left alone. Remove it, or name another file")
    source = find_network(path, family, network, options)
    try:
        source.module.build(source.options, source.found.state)  # write only what can be built
    except Misfit as error:
        raise WeightsError(f"the weight file {path} {error} (family {source.family})") from error
    described = {
        "family": source.family,
        "options": source.options.model_dump(mode="json"),
        "classes": list(source.found.classes),
        "notes": list(source.found.notes),
        "made_from": source.digests,
    }
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in source.found.state.items()}
    try:
        with replacing(target) as new:
            save_file(tensors, new, metadata={PORTABLE: json.dumps(described, sort_keys=True)})
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{target} cannot be written: {error}") from error
    return source


def _read(path: Path) -> Content:
    try:
        return contents.read(path)
    except WeightsError as error:
        kind = kind_of(path) if path.is_dir() else None
        if kind is None or kind[0] in str(error):
            raise
        raise WeightsError(f"{path} is {kind[0]}, and its weight file cannot be used: {error}\n{kind[1]}.") from error


def _modules(family: str | None) -> dict[str, ModuleType]:
    """Return the module of one family, or the modules of every family that can be imported.

    Raises:
        SpecError: there is no such family.
        PluginError: the family cannot be imported.
    """
    if family is not None:
        try:
            return {family: GENERATORS.module(family)}
        except UnknownPluginError as error:
            raise ArgumentError("family", f"{error}") from error
    found = {}
    for name in GENERATORS.names():
        try:
            found[name] = GENERATORS.module(name)
        except PluginError:  # a broken plug-in must not stop other families from reading the file
            continue
    return found


def _advice(family: str | None) -> str:
    known = ", ".join(GENERATORS.names())
    if family is not None:
        return f"Remove `family: {family}` to have the family recognised; known are {known}."
    return f"Known families are {known}. For another network: {FACTORY[0].lower()}{FACTORY[1:]}."


def _recognised(content: Content, modules: Mapping[str, ModuleType], asked: str | None) -> _Recognised:
    """Return the family that recognises a network.

    Raises:
        Misfit: no family recognises it, or more than one does.
    """
    reasons: list[str] = []
    hits: list[_Recognised] = []
    for name, module in modules.items():
        try:
            found = module.read(content)
        except Misfit as error:
            reasons.append(str(error))
        else:
            if found is not None:
                hits.append(_Recognised(name, module, found))
    if len(hits) == 1:
        return hits[0]
    if hits:
        several = " and ".join(hit.family for hit in hits)
        raise Misfit(f"could be of the families {several}: choose one with `family:` in the job")
    if reasons:
        raise Misfit("; and it ".join(dict.fromkeys(reasons)))
    raise Misfit(f"is not of the family {asked}" if asked else "is of no known family")


def _options(model: type[BaseModel], given: Mapping[str, Any], family: str) -> BaseModel:
    """Validate the family's options.

    Raises:
        SpecError: an option is unknown, missing or wrong; lists all of them.
    """
    try:
        return model.model_validate({name: _plain(value) for name, value in given.items()})
    except ValidationError as error:
        problems = []
        for each in error.errors():
            name = ".".join(map(str, each["loc"])) or "options"
            field = model.model_fields.get(str(each["loc"][0])) if each["loc"] else None
            if each["type"] == "missing":
                problem = "the file does not hold it; add it to the generator's options"
                about = field.description if field is not None else None
                problem += f" ({' '.join(about.split()).rstrip('.')})" if about else ""
            elif each["type"] == "extra_forbidden":
                known = list(model.model_fields)
                hint = nearest(name, known) or (f" (it has {', '.join(known)})" if known else "")
                problem = f"the family {family} has no such option{hint}"
            else:
                problem = f"{each['msg'][0].lower()}{each['msg'][1:]}, not {each['input']!r}"
            problems.append((name, problem))
        (first, problem), *others = problems
        raise ArgumentError(first, problem, others) from error


def _plain(value: Any) -> Any:
    """Convert a value to plain Python: numpy's and torch's scalars to numbers, lists to tuples."""
    if isinstance(value, np.generic | torch.Tensor) and np.ndim(value) == 0:
        return value.item()
    if isinstance(value, list | tuple | np.ndarray):
        return tuple(_plain(each) for each in value)
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    return value
