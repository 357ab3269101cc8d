"""The inputs that decide a sweep's numbers, and the differences between two sets of inputs.

Invariant: the inputs of one job are equal in every process and on every machine, as long as no file has changed.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from torch import nn

from pullback.distances import Distance
from pullback.distances.mask import Mask
from pullback.generators.fingerprint import GLOBAL, OF_CODE, TENSOR
from pullback.generators.user_code import declared_weights, origin_of
from pullback.generators.user_files import hash_of
from pullback.spec import JobSpec

BUILT = "built"
"""Key of a sweep's identity for the hash of everything that user code has built."""
_SOURCE = " (source)"
_OWN_SOURCE = "pullback."
_SAME_CPU, _SAME_DEVICES = 1e-3, 3e-2
"""Relative differences of `values` up to these are round-off: between two CPUs, and if one side is
a GPU or half precision."""
_EXACT = {"cpu torch.float32", "cpu torch.float64"}
_NAMED = 4
"""Number of entries of one kind that an error names."""


@dataclass(frozen=True)
class Inputs:
    """The inputs that decide a job's numbers, besides the job itself.

    Attributes:
        weights: SHA-256 of each weight file, of a mask, of given codes, and of the source of each module that the job
            names.
        sources: SHA-256 of each source file of the user.
        opened: SHA-256 of each data file that user code read while it built its networks.
        read: SHA-256 of each data file that user code reads while it computes.
        built: the fingerprint of what users' code built (`generators.fingerprint`), with `generator: ` or `distance: `
            before each name.
        unstable: entries of the fingerprint that differ each time the networks are built, and change no image.
        values: images, averaged to a few pixels, and a distance between them; empty if they were not computed.
        device: type of the device that computed `values`, and the dtype.
    """

    weights: Mapping[str, str]
    sources: Mapping[str, str] = field(default_factory=dict)
    opened: Mapping[str, str] = field(default_factory=dict)
    read: Mapping[str, str] = field(default_factory=dict)
    built: Mapping[str, str] = field(default_factory=dict)
    unstable: Sequence[str] = ()
    values: Sequence[float] = field(default=(), repr=False)
    device: str = ""

    @property
    def decisive(self) -> dict[str, str]:
        """Hashes that are part of a sweep's identity, by name."""
        files = {*self.sources.values()}
        # Leave out the hash of a package's folder if its sources are listed one by one.
        weights = {
            name: digest
            for name, digest in self.weights.items()
            if not (self.sources and name.endswith(_SOURCE) and digest not in files)
        }
        others = {name: digest for name, digest in self.sources.items() if digest not in weights.values()}
        if not self.built:
            return {**weights, **others}
        kept = {name: value for name, value in self.built.items() if name not in set(self.unstable)}
        text = json.dumps(kept, sort_keys=True, separators=(",", ":"))
        return {**weights, **others, **self.read, BUILT: hashlib.sha256(text.encode()).hexdigest()}

    def recorded(self) -> dict[str, Any]:
        """The inputs as stored, in plain JSON values; `weights` are stored separately."""
        return {
            "sources": dict(self.sources),
            "opened": dict(self.opened),
            "read": dict(self.read),
            "built": dict(self.built),
            "unstable": list(self.unstable),
            "values": [float(f"{value:.7g}") for value in self.values],
            "device": self.device,
        }


def stored_inputs(provenance: Mapping[str, Any]) -> Inputs:
    """Return the inputs that a sweep has recorded. Early versions recorded `weights` alone; later ones may add more."""
    known = {entry.name for entry in fields(Inputs)} - {"weights"}
    recorded = {name: value for name, value in provenance.get("inputs", {}).items() if name in known}
    return Inputs(dict(provenance.get("weights", {})), **recorded)


def unrecorded(there: Inputs, here: Inputs) -> list[str]:
    """List the user's present files that an earlier version did not record. They cannot be compared.

    Args:
        there: what a sweep has recorded.
        here: the current inputs.
    """
    if there.sources or there.built:
        return []
    known = {*there.weights.values()}
    files = {**here.sources, **here.opened, **here.read}
    return sorted(name for name, digest in files.items() if digest not in known)


def inputs_of(generator: nn.Module, distance: Distance, codes: Mapping[str, str] = MappingProxyType({})) -> Inputs:
    """Collect the inputs of a loaded generator and distance, and the hashes of given codes; `unstable` stays empty."""
    weights = {**declared_weights(generator), **distance.weights, **codes}
    parts = {"generator": origin_of(generator), "distance": origin_of(distance)}
    origins = {part: origin for part, origin in parts.items() if origin is not None}
    sources: dict[str, str] = {}
    opened: dict[str, str] = {}
    read: dict[str, str] = {}
    built: dict[str, str] = {}
    for part, origin in origins.items():
        sources |= origin.sources
        opened |= origin.opened
        read |= origin.read
        built |= {f"{part}: {name}": value for name, value in origin.built.items()}
    return Inputs(weights, sources, opened, read, built)


def changes(there: Inputs, here: Inputs, of_globals: bool = True) -> list[str]:
    """List the files, tensors and attributes in which two sets of inputs differ; empty if they give the same numbers.

    Args:
        there: recorded inputs. If an earlier version recorded only `weights`, only those are compared.
        here: present inputs.
        of_globals: whether global variables are compared.
    """
    if not (there.built or there.sources) or not (here.built or here.sources):
        names = {name for name in (*there.weights, *here.weights) if not name.startswith(_OWN_SOURCE)}
        return sorted(name for name in names if here.weights.get(name) != there.weights.get(name))
    found = _of_weights(there, here)
    for name in sorted({*there.sources, *here.sources}):
        old, new = there.sources.get(name), here.sources.get(name)
        known_by_weights = old in there.weights.values() and new in here.weights.values()
        if old != new and not known_by_weights:
            found.append(name if old and new else f"{name} (not imported {'there' if new else 'here'})")
    found += sorted(name for name in {*there.read} & {*here.read} if there.read[name] != here.read[name])
    if not found:  # changed files already explain other differences
        files = sorted(name for name in {*there.opened} & {*here.opened} if there.opened[name] != here.opened[name])
        built = built_changes(there, here, of_globals=of_globals or bool(files))
        found += files + built if built else []
    return found or other_values(there, here)


def other_values(there: Inputs, here: Inputs) -> list[str]:
    """Compare images and distances. Call it if files and built networks are the same.

    They differ if a library has another version, or if an environment variable that every pass reads has changed.

    Returns:
        A description of the difference; empty if they agree, or were not computed on one side.
    """
    if not there.values or not here.values:
        return []
    exact = {there.device, here.device} <= _EXACT
    if agree(there.values, here.values, _SAME_CPU if exact else _SAME_DEVICES):
        return []
    return ["the images or the distance of the same codes, though no file differs (an environment variable may)"]


def agree(values: Sequence[float], others: Sequence[float], tolerance: float) -> bool:
    """Whether two lists of `values` agree within a relative tolerance."""
    one, two = np.asarray(values, dtype=float), np.asarray(others, dtype=float)
    return one.shape == two.shape and np.allclose(one, two, rtol=tolerance, atol=tolerance**2, equal_nan=True)


def _of_weights(there: Inputs, here: Inputs) -> list[str]:
    def compared(inputs: Inputs) -> dict[str, str]:
        files = {*inputs.sources.values()}
        return {
            name: digest
            for name, digest in inputs.weights.items()
            if not name.endswith(_SOURCE) or (digest in files and not name.startswith(_OWN_SOURCE))
        }

    old, new = compared(there), compared(here)
    return sorted(name for name in {*old, *new} if old.get(name) != new.get(name))


def built_changes(there: Inputs, here: Inputs, unstable: bool = False, of_globals: bool = True) -> list[str]:
    """List the entries in which the built networks differ, with their values if these are short.

    Args:
        there, here: the inputs.
        unstable: whether to include the entries that are known to differ each time.
        of_globals: whether global variables are compared.
    """

    def differs(name: str) -> bool:
        entry = name.partition(": ")[2]
        if not (name in there.built and name in here.built) and entry.startswith(OF_CODE):
            return False  # an attribute or a source differs too, and shows the cause
        if entry.startswith(GLOBAL) and not of_globals:
            return False
        return there.built.get(name) != here.built.get(name)

    if not there.built:  # not recorded
        return []
    left_out = set() if unstable else {*there.unstable, *here.unstable}
    names = [name for name in sorted({*there.built, *here.built} - left_out) if differs(name)]
    tensors = [name for name in names if is_tensor(name)]
    others = [name for name in names if not is_tensor(name)]
    shown = tensors[:_NAMED] + [_with_values(name, there.built, here.built) for name in others[:_NAMED]]
    if more := max(0, len(tensors) - _NAMED) + max(0, len(others) - _NAMED):
        shown.append(f"{more} more")
    return shown


def changed_files(job: JobSpec, recorded: Inputs, folder: Path) -> list[str]:
    """List the files of a sweep that have changed since it was made. Files that have moved are not checked.

    No user code is run, so it is not known whether a change affects the numbers.

    Args:
        job: the job, whose relative paths start in the working directory.
        recorded: the inputs that the sweep has recorded.
        folder: the folder of the user's files.
    """
    files = {**recorded.opened, **recorded.read, **recorded.sources}
    changed = {name for name, digest in files.items() if (folder / name).is_file()}
    changed = {name for name in changed if hash_of(str(folder / name)) != files[name]}
    given = [path for path in (job.generator.weights, job.generator.name) if path is not None and Path(path).is_file()]
    changed |= {path for path in given if hash_of(path) not in recorded.weights.values()}
    mask = job.distance.mask
    if isinstance(mask, str) and Path(mask).is_file() and Mask.of_file(mask).sha256 != recorded.weights.get("mask"):
        changed.add(mask)
    return sorted(changed)


def is_tensor(entry: str) -> bool:
    """Whether an entry of a fingerprint belongs to a parameter or buffer."""
    return entry.partition(": ")[2].startswith(TENSOR)


def _with_values(name: str, there: Mapping[str, str], here: Mapping[str, str]) -> str:
    old, new = there.get(name, "nothing"), here.get(name, "nothing")
    return name if _is_hash(old) and _is_hash(new) else f"{name} ({old} there, {new} here)"


def _is_hash(value: str) -> bool:
    return len(value) == 16 and not value.startswith("'")
