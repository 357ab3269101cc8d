"""Analyses that are kept beside their sweeps: by snapshot and by how they were computed, so that what was asked for is
never answered with the result of something else."""

import logging
from datetime import datetime
from pathlib import Path

from pullback.analysis.job import DRAWS, POINTS, Analysis, StoredSweep
from pullback.errors import DamagedError
from pullback.store.derived import derived_names, load_derived, remove_derived, save_derived
from pullback.store.location import Location
from pullback.store.reader import history

logger = logging.getLogger(__name__)

_NAME = "analysis"


def save_analysis(analysis: Analysis, sweep: StoredSweep) -> None:
    """Keep an analysis beside its sweep; it replaces what the same computation gave before.

    Raises:
        StoreError: it cannot be written; an earlier one is kept.
    """
    name = _kept_as(analysis.snapshot, analysis.samples, analysis.draws, analysis.seed, len(analysis.compared))
    save_derived(sweep.path, name, analysis.to_dataset())


def load_analysis(sweep: StoredSweep, *, draws: int = DRAWS, seed: int = 0, points: int = POINTS) -> Analysis | None:
    """Return what `analyze` gave for the sweep's snapshot, or None where nothing is kept that can be read.

    Args:
        sweep: an open sweep.
        draws: see `analyze`, as the others.
        seed: likewise.
        points: likewise.

    Raises:
        StoreError: an object store does not answer.
    """
    try:
        dataset = load_derived(sweep.path, _kept_as(sweep.snapshot, sweep.status().good, draws, seed, points))
        return None if dataset is None else Analysis.from_dataset(dataset)
    except KeyError:  # of another version of this package
        return None
    except DamagedError as error:  # it can be computed again
        logger.warning("%s", error)
        return None


def forget_analyses(sweep: Location | Path | str, before: datetime, dry_run: bool = False) -> int:
    """Remove the analyses of snapshots that are no longer in a sweep's history, or will not be.

    Args:
        sweep: its address.
        before: snapshots but the last that are older than this count as gone.
        dry_run: only count them.

    Returns:
        How many were removed, or would be.

    Raises:
        StoreError: the sweep cannot be read, or an analysis not be removed.
    """
    first, *others = history(sweep)
    there = {first.id, *(commit.id for commit in others if commit.written >= before)}
    kept = (name for name in derived_names(sweep) if name.startswith(f"{_NAME}-"))
    gone = [name for name in kept if name.split("-")[1] not in there]
    for name in gone if not dry_run else ():
        remove_derived(sweep, name)
    return len(gone)


def _kept_as(snapshot: str, samples: int, draws: int, seed: int, points: int) -> str:
    """The name under which the store keeps an analysis; a short one of the usual computation."""
    how = (draws, seed, min(points, samples))
    usual = how == (DRAWS, 0, min(POINTS, samples))
    return "-".join([_NAME, snapshot, *([] if usual else map(str, how))])
