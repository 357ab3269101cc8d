"""The identity of a sweep, its provenance, and the check that a store belongs to a job.

Invariant: two jobs have the same sweep id exactly if they give the same numbers. Name, store and resources are not part
of the id; the hashes of all inputs that decide the numbers (`inputs`) are.
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

from pullback.errors import PullbackError, StoreError
from pullback.generators.attributes import class_names, latent_blocks
from pullback.generators.checks import notes_of
from pullback.spec import JobSpec
from pullback.store.creation import create
from pullback.store.location import Location, locate
from pullback.store.opening import is_free, warn_once
from pullback.store.reader import open_sweep
from pullback.store.repository import SweepStore
from pullback.store.schema import Layout
from pullback.sweep.inputs import Inputs, changes, other_values, stored_inputs, unrecorded

FORMAT = 2
"""Version of the results' meaning; part of every sweep's identity."""
IMPORTED = "imported"
"""The key of the provenance that says which files a sweep was imported from; such a sweep has no job."""
_NAMED = 5
"""Number of files that a warning names."""
_MAKING_SECONDS = 5.0
"""Seconds that another driver may take to create a store in an object store."""
_CONVENTIONS = {
    "metric": "H = d²/dz² D²(G(z0), G(z)) at z = z0, with no factor of 1/2; 2 JᵀJ where D² is a sum of squares",
    "distance": "D² is the squared distance; LPIPS itself is a D² and is not squared again",
    "images": "generators give images in [0, 1]",
}


def provenance_of(job: JobSpec, generator: nn.Module, inputs: Inputs, method: str) -> dict[str, Any]:
    """Make the record stored with a sweep's results, ready for JSON: `sweep_id`, spec, hashes of inputs, versions."""
    identity = {"format": FORMAT, "spec": _without_paths(job.canonical()), "weights": inputs.decisive}
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return {
        "format": FORMAT,
        "name": job.name,
        "sweep_id": hashlib.sha256(text.encode()).hexdigest()[:16],
        "identity": identity,
        "generator": job.generator.name,
        "distance": job.distance.label,
        "method": method,  # `auto` is resolved
        "classes": list(class_names(generator)),
        "family": getattr(generator, "family", None),
        "space": job.generator.space,
        "blocks": {name: list(bounds) for name, bounds in latent_blocks(generator).items()},
        "notes": list(notes_of(generator)),
        "spec": job.complete(),
        "weights": dict(inputs.weights),
        "inputs": inputs.recorded(),
        "conventions": _CONVENTIONS,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,  # includes the build; the package's metadata do not
            **{name: importlib.metadata.version(name) for name in ("pullback", "numpy", "zarr", "icechunk")},
        },
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def stored_job(provenance: dict[str, Any], name: str) -> JobSpec:
    """Return the job of a stored sweep, under another name.

    Raises:
        PullbackError: the sweep was imported, so it has no job.
    """
    if IMPORTED in provenance:
        raise PullbackError(
            f"the sweep {provenance.get('name')!r} was imported from files, so its generator and its distance cannot "
            "be loaded. An application takes a generator with --generator."
        )
    return JobSpec.model_validate({"name": name, **provenance["spec"]})


def of_store(provenance: dict[str, Any], store: SweepStore) -> dict[str, Any]:
    """Return a job's provenance with the identity of its store. An earlier version may have hashed fewer inputs."""
    return {**provenance, **{key: store.provenance[key] for key in ("sweep_id", "identity")}}


def attach_store(address: Location | Path | str, layout: Layout, provenance: dict[str, Any]) -> SweepStore:
    """Open the store of a sweep, or create it.

    If two drivers create it in an object store at the same moment, one creates it and the other joins.

    Raises:
        StoreError: the location holds something else, or cannot be written.
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
            time.sleep(0.2)  # another driver is creating it
    return store


def existing_store(address: Location | Path | str, provenance: dict[str, Any]) -> SweepStore | None:
    """Open the store of a sweep; None if the location is free.

    Raises:
        StoreError: the location holds something else; the message names the keys in which another sweep differs.
    """
    location = locate(address)
    if is_free(location):
        return None
    store = SweepStore.open(location)
    if store.provenance.get("format") != FORMAT:
        raise StoreError(
            f"{location} holds a sweep of another version of Pullback (format {store.provenance.get('format')}; "
            f"this one writes {FORMAT}), which this version cannot resume. It was not touched. "
            "Give this job another `store`"
        )
    if store.provenance.get("sweep_id") != provenance["sweep_id"]:
        there, here = store.provenance.get("identity", {}), provenance["identity"]
        changed = differences({"spec": there.get("spec", {})}, {"spec": here["spec"]})
        changed += changes(stored_inputs(store.provenance), stored_inputs(provenance))
    else:
        changed = other_values(stored_inputs(store.provenance), stored_inputs(provenance))
    if changed:
        raise StoreError(
            f"{location} holds another sweep, {store.provenance.get('name')!r}, which differs in "
            f"{'; '.join(changed)}. It was not touched. Give this job another `store`, or restore what has changed"
        )
    unknown = unrecorded(stored_inputs(store.provenance), stored_inputs(provenance))
    if unknown and store.pending_shards():
        shown = ", ".join(unknown[:_NAMED]) + (f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else "")
        warn_once(
            f"{location} was started by an earlier version of Pullback, which did not record {shown}, so changes of "
            "these cannot be detected. If any has changed, the earlier and the new results differ in what they "
            "measure: give this job another `store`."
        )
    return store


def refuse_another(job: JobSpec) -> None:
    """Refuse a job whose store holds another job's sweep. Loads no networks, so some differences are not found.

    Raises:
        StoreError: the store holds another sweep; the message names the keys in which they differ.
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
    """The spec without paths of files: their hashes, not their paths, decide the numbers."""
    generator = {**spec["generator"], "weights": None}
    if Path(generator["name"]).exists():
        generator["name"] = Path(generator["name"]).name
    distance = {key: value for key, value in spec["distance"].items() if key != "mask" or not isinstance(value, str)}
    samples = {key: value for key, value in spec["samples"].items() if key not in ("codes", "directions")}
    return {**spec, "generator": generator, "distance": distance, "samples": samples}


def differences(there: dict[str, Any], here: dict[str, Any], path: str = "") -> list[str]:
    """List the keys in which two identities or jobs differ, with both values."""
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
"""Represents a key that an identity leaves out because it has its default value."""
