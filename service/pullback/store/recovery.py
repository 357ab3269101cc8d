"""Going back to the newest readable commit if the last one cannot be read, for drivers and repairs."""

from pathlib import Path

import icechunk

from pullback.errors import RefusedError
from pullback.store.creation import configuration
from pullback.store.failures import cause
from pullback.store.location import Location, locate
from pullback.store.object_tip import reset_object_tip
from pullback.store.opening import is_repository, open_repository, open_tip, read_session, root_group
from pullback.store.root import Root
from pullback.store.tip import find_tip, restore


def recover(address: Location | Path | str) -> str:
    """Set a sweep back to its newest readable commit, if its last one cannot be read. Requires the driver lock.

    Returns:
        A sentence about what was lost; empty if the last commit is whole, or there is no sweep.

    Raises:
        UnavailableError: something cannot be read at the moment; nothing was changed.
        StoreError: no commit can be read, or the folder cannot be written to.
    """
    location = locate(address)
    if not is_repository(location):
        return ""
    if not location.is_local:
        return _recover_objects(location)
    tip = find_tip(location, thorough=True)
    try:
        restore(location, tip)
        if not _splits_manifests(location):
            _save_configuration(location)
    except (icechunk.IcechunkError, OSError) as error:
        raise RefusedError(f"{location} could not be reset to a readable commit ({cause(error)})") from error
    return "" if tip.whole else tip.warning(location)


def _recover_objects(location: Location) -> str:
    repository, tip = open_tip(location)
    if tip.whole:
        return ""
    try:
        reset_object_tip(repository, tip)
    except icechunk.IcechunkError as error:
        raise RefusedError(f"{location} could not be reset to a readable commit ({cause(error)})") from error
    return tip.warning(location)


def _splits_manifests(location: Location) -> bool:
    """Whether the stored configuration is complete: its last lines define how manifests are split."""
    config = icechunk.Repository.fetch_config(location.storage())
    if config is None or config.manifest is None or config.manifest.splitting is None:
        return False
    sizes = config.manifest.splitting.split_sizes
    return bool(sizes) and all(conditions for _, conditions in sizes)


def _save_configuration(location: Location) -> None:
    """Write the configuration again: without it, manifests would no longer be split."""
    group = root_group(read_session(open_repository(location), location), location)
    config = configuration(Root.of(group, location).layout)
    icechunk.Repository.open(location.storage(), config=config).save_config()
