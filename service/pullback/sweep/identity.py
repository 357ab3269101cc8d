"""Which sweep a job is: its identity, what is recorded with its results, and whether a store is another's.

Invariant: two jobs have one sweep id exactly when they give the same numbers; the name, the store's path and the
resources are not part of it, every weight file's hash is.
"""

import hashlib
import importlib.metadata
import json
import platform
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pullback.distances import Distance
from pullback.errors import StoreError
from pullback.spec import JobSpec
from pullback.store.location import Location, locate
from pullback.store.opening import is_free
from pullback.store.reader import open_sweep
from pullback.store.repository import SweepStore, create
from pullback.store.schema import Layout

FORMAT = 2
"""Version of the results' meaning; part of every sweep's identity."""
_MAKING_SECONDS = 5.0
"""How long another driver may take to make a store in an object store."""
_CONVENTIONS = {
    "metric": "H = d²/dz² D²(G(z0), G(z)) at z = z0, with no factor of 1/2; 2 JᵀJ where D² is a sum of squares",
    "distance": "D² is the squared distance; LPIPS itself is a D² and is not squared again",
    "images": "generators give images in [0, 1]",
}


def weights_of(generator: nn.Module, distance: Distance) -> dict[str, str]:
    """SHA-256 of everything that the numbers are made from, by its name: weight files, and a user's own source."""
    return {**dict(getattr(generator, "weights", {})), **distance.weights}


def provenance_of(job: JobSpec, generator: nn.Module, distance: Distance, method: str) -> dict[str, Any]:
    """What is recorded with a sweep's results, ready for JSON: `sweep_id`, spec, weights' hashes, versions, ..."""
    weights = weights_of(generator, distance)
    identity = {"format": FORMAT, "spec": _without_paths(job.canonical()), "weights": weights}
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return {
        "format": FORMAT,
        "name": job.name,
        "sweep_id": hashlib.sha256(text.encode()).hexdigest()[:16],
        "identity": identity,
        "generator": job.generator.name,
        "distance": job.distance.label,
        "method": method,  # the choice, where the job says `auto`
        "classes": list(getattr(generator, "classes", ())),
        "spec": job.complete(),
        "weights": weights,
        "conventions": _CONVENTIONS,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,  # which tells the build too, unlike its metadata
            **{name: importlib.metadata.version(name) for name in ("pullback", "numpy", "zarr", "icechunk")},
        },
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def attach_store(address: Location | Path | str, layout: Layout, provenance: dict[str, Any]) -> SweepStore:
    """The store of this very sweep at a place, made if nothing is there.

    Of two drivers that make it in an object store at the same moment, one makes it and the other joins.

    Raises:
        StoreError: something else is there, or it cannot be written.
    """
    deadline = time.monotonic() + (0.0 if locate(address).is_local else _MAKING_SECONDS)
    while (store := existing_store(address, provenance)) is None:
        try:
            return create(address, layout, provenance)
        except StoreError:
            store = existing_store(address, provenance)
            if store is not None:
                return store
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)  # the other one has begun and is not at its end
    return store


def existing_store(address: Location | Path | str, provenance: dict[str, Any]) -> SweepStore | None:
    """The store of this very sweep at a place, or None where the place is free.

    Raises:
        StoreError: something else is there; names the keys in which another sweep differs.
    """
    location = locate(address)
    if is_free(location):
        return None
    store = SweepStore.open(location)
    if store.provenance.get("format") != FORMAT:
        raise StoreError(
            f"{location} holds a sweep of another version of Pullback (format {store.provenance.get('format')}; "
            f"this one writes {FORMAT}), which cannot be gone on with. It was not touched. "
            "Give this job another `store`"
        )
    if store.provenance.get("sweep_id") != provenance["sweep_id"]:
        changed = differences(store.provenance.get("identity", {}), provenance["identity"])
        raise StoreError(
            f"{location} holds another sweep, {store.provenance.get('name')!r}, which differs in {'; '.join(changed)}. "
            "It was not touched. Give this job another `store`"
        )
    return store


def refuse_another(job: JobSpec) -> None:
    """Refuse a job whose store holds a sweep that another job made, as far as it can be told without its networks.

    Raises:
        StoreError: it does; names the keys in which they differ.
    """
    place = locate(job.store_path)
    if is_free(place):
        return
    there = open_sweep(place).provenance
    changed = differences(there.get("identity", {}).get("spec", {}), _without_paths(job.canonical()))
    if changed:
        raise StoreError(
            f"{place} holds another sweep, {there.get('name')!r}, which differs from the job in {'; '.join(changed)}. "
            "Nothing was done. Name that sweep by its folder, or give this job another `store`"
        )


def _without_paths(spec: dict[str, Any]) -> dict[str, Any]:
    """Where a weight file lies does not decide the numbers; its hash does, and that stands beside."""
    generator = {**spec["generator"], "weights": None}
    if Path(generator["name"]).is_file():
        generator["name"] = Path(generator["name"]).name
    distance = {key: value for key, value in spec["distance"].items() if key != "mask" or not isinstance(value, str)}
    return {**spec, "generator": generator, "distance": distance}


def differences(there: dict[str, Any], here: dict[str, Any], path: str = "") -> list[str]:
    """The keys in which two identities or jobs differ, with both values."""
    found: list[str] = []
    for key in sorted({*there, *here}):
        mine, theirs = here.get(key, _DEFAULT), there.get(key, _DEFAULT)
        name = f"{path}.{key}" if path else key
        if isinstance(mine, dict) or isinstance(theirs, dict):
            found += differences(_without_default(theirs), _without_default(mine), name)
        elif mine != theirs:
            shown = ["the default" if side is _DEFAULT else repr(side) for side in (theirs, mine)]
            found.append(f"{name.removeprefix('spec.')} ({shown[0]} there, {shown[1]} here)")
    return found


def _without_default(side: Any) -> dict[str, Any]:
    return side if isinstance(side, dict) else {}


_DEFAULT: Any = object()
"""Stands for a key that an identity leaves out, because it has its default value."""
