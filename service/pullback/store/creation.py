"""Creating the store of a planned sweep: an Icechunk repository with every array at its final shape.

A store appears whole or not at all. In an object store, a killed driver may leave a repository without content, which
the next driver fills.
"""

import inspect
import math
from pathlib import Path
from typing import Any

import icechunk

from pullback.errors import StoreError
from pullback.store.arrays import make_arrays
from pullback.store.failures import cause
from pullback.store.folders import whole_folder
from pullback.store.location import Location, locate
from pullback.store.opening import NO_PRELOAD, becomes_repository, has_content, is_free, open_repository
from pullback.store.repository import SweepStore
from pullback.store.root import Root
from pullback.store.schema import Layout
from pullback.store.tip import BRANCH

_LEAST_SHARDS_A_MANIFEST = 64
"""A commit rewrites the manifests that it touches. Without a split, manifests grow with the sweep: 600 shards,
committed four at a time, left 69 MB of manifests; split, they left 8 MB."""


def create(address: Location | Path | str, layout: Layout, provenance: dict[str, Any]) -> SweepStore:
    """Create the store of a planned sweep, with every array at its final shape and every sample pending.

    The folder (or prefix) itself is the Icechunk repository. Missing parents of a folder are created, and removed again
    on failure.

    Args:
        address: a folder that does not exist or is empty, or a free prefix of an object store.
        layout: the sizes that fix every shape.
        provenance: the record of the sweep's origin (job, inputs, versions), ready for JSON; its `name` is the sweep's.

    Raises:
        StoreError: the location is taken or not writable; the provenance is not JSON.
    """
    location = locate(address)
    attributes = Root(layout, provenance).to_attributes()
    if location.is_local:
        with whole_folder(location.path.resolve()) as temporary:
            _make_sweep(Location(temporary), location, layout, attributes)
    else:
        if not is_free(location):
            raise _taken(location)
        _make_sweep(location, location, layout, attributes)
    return SweepStore.open(location)


def _make_sweep(place: Location, location: Location, layout: Layout, attributes: dict[str, Any]) -> None:
    """Create the repository and commit the arrays; with this commit the sweep at `location` exists."""
    try:
        repository = _make_repository(place, layout)
        session = repository.writable_session(BRANCH)
        if has_content(session):  # another driver has just filled it
            raise _taken(location)
        make_arrays(session.store, layout, attributes)
        session.commit("plan")
    except icechunk.ConflictError as error:
        raise _taken(location) from error
    except icechunk.IcechunkError as error:
        raise StoreError(
            f"{location} cannot be written ({cause(error)}); no sweep was left there. "
            "Check that it is writable and not full, or choose another location."
        ) from error


def _make_repository(place: Location, layout: Layout) -> icechunk.Repository:
    """Create an empty repository, or open one that another driver has begun (and may not have finished)."""
    try:
        repository = icechunk.Repository.create(place.storage(), config=configuration(layout), **_format_options())
    except icechunk.IcechunkError:
        if place.is_local or not becomes_repository(place):
            raise
        return open_repository(place)
    repository.save_config()
    return repository


def _taken(location: Location) -> StoreError:
    return StoreError(f"{location} is taken; it was left as it is. Choose another location.")


def _shards_a_manifest(shards: int) -> int:
    """Shards in each manifest, a balance between large manifests and a long list of them: every result contains the
    list.

    With 64 in each, committing a shard of 20,000 took 4 ms, and with this number 0.6 ms.
    """
    return max(_LEAST_SHARDS_A_MANIFEST, 2 * math.isqrt(shards))


def configuration(layout: Layout) -> icechunk.RepositoryConfig:
    """The configuration of a sweep's repository: manifests are split by shards."""
    by_shard = {icechunk.ManifestSplitDimCondition.Axis(0): _shards_a_manifest(layout.shards)}
    splitting = icechunk.ManifestSplittingConfig.from_dict(
        {icechunk.ManifestSplitCondition.AnyArray(): by_shard}  # type: ignore[dict-item]
    )
    config = icechunk.RepositoryConfig.default()
    config.manifest = icechunk.ManifestConfig(splitting=splitting, preload=NO_PRELOAD)
    return config


def _format_options() -> dict[str, Any]:
    """Options for format 1, which Icechunk 1 and 2 read and write. Icechunk 2 writes format 2 by default."""
    parameters = inspect.signature(icechunk.Repository.create).parameters
    return {"spec_version": 1} if "spec_version" in parameters else {}
