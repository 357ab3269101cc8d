"""Cache of results beside their sweeps, keyed by snapshot, statistic and options.

A lookup returns a result only if all three match, and the version of the statistic does too. Results that an earlier
version of this package stored (one dataset for a whole analysis) are read too (`former`).
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pullback.analysis import former
from pullback.analysis.protocol import About, Result, strict
from pullback.analysis.request import DEFAULT_STATISTICS, choose, decisive_options, reads_several
from pullback.analysis.result import Analysis
from pullback.analysis.runner import DRAWS, POINTS
from pullback.analysis.samples import StoredSweep
from pullback.errors import DamagedError, PluginError
from pullback.plugins import STATISTICS
from pullback.spec.options import Options
from pullback.store.artifacts import artifact_names, load_artifact, remove_artifact, save_artifact
from pullback.store.history import remaining_snapshots
from pullback.store.location import Location

if TYPE_CHECKING:
    import xarray as xr

logger = logging.getLogger(__name__)

FORMAT = 3
"""The version of a stored result. 1 and 2 stored whole analyses; 1 is computed again."""

_PREFIX = "analysis"
_FRAME = "pullback"
"""The attribute that says which result a dataset is."""


def save_result(result: Result, sweep: StoredSweep) -> None:
    """Write a result beside its sweep, in place of an earlier one with the same key.

    Raises:
        StoreError: it cannot be written; the earlier one is left as it was.
    """
    frame = {
        "format": FORMAT,
        "version": _version(result.statistic),
        "statistic": result.statistic,
        "options": result.options.model_dump(mode="json"),
        "about": asdict(result.about),
        **({"further": [asdict(about) for about in result.further]} if result.further else {}),
    }
    stored = result.dataset.assign_attrs({_FRAME: json.dumps(strict(frame), allow_nan=False)})
    further = [about.snapshot for about in result.further]
    name = _artifact(result.about.snapshot, result.statistic, result.options, result.about.samples, further)
    save_artifact(sweep.path, name, stored)


def load_result(
    sweep: StoredSweep, statistic: str, options: Options, others: Sequence[StoredSweep] = ()
) -> Result | None:
    """Return the cached result of a statistic at the sweep's snapshot, or None.

    Args:
        sweep: an open sweep.
        statistic: its name.
        options: with which it is asked for.
        others: further open sweeps, for a statistic of several.

    Raises:
        PluginError: the statistic cannot be loaded.
        StoreError: an object store does not answer.
    """
    samples = int(sweep.status().good)
    options = decisive_options(statistic, options, samples)
    others = others if reads_several(statistic) else ()
    name = _artifact(sweep.snapshot, statistic, options, samples, [other.snapshot for other in others])
    dataset = _load(sweep, name)
    if dataset is not None:
        frame = _frame(dataset)
        if frame.get("format") == FORMAT and frame.get("version") == _version(statistic):
            about = About.of_sweep(sweep, frame["about"]["zero_metrics"])
            frames = frame.get("further", [])
            further = tuple(
                About.of_sweep(other, each["zero_metrics"]) for other, each in zip(others, frames, strict=True)
            )
            return Result(statistic, options, _without_frame(dataset), about, further=further)
    if others:
        return None
    earlier = former.artifact(artifact_names(sweep.path), sweep.snapshot, statistic, options, samples)
    dataset = None if earlier is None else _load(sweep, earlier)
    part = None if dataset is None else former.part_of(dataset, statistic)
    if part is None or dataset is None:
        return None
    return Result(statistic, options, part, About.of_sweep(sweep, former.zero_metrics(dataset)))


def save_analysis(analysis: Analysis, sweep: StoredSweep) -> None:
    """Write every result of an analysis; raises like `save_result`."""
    for result in analysis.values():
        save_result(result, sweep)


def load_analysis(
    sweep: StoredSweep,
    asked: Mapping[str, Options] | None = None,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    points: int = POINTS,
    others: Sequence[StoredSweep] = (),
) -> Analysis | None:
    """Return the cached results of the sweep's snapshot, or None if one of them is missing.

    Args:
        sweep: an open sweep.
        asked: the options of each statistic by name; the default statistics if it is None.
        draws: as given to `analyze`, for the default statistics.
        seed: as given to `analyze`, likewise.
        points: as given to `analyze`, likewise.
        others: further open sweeps, for statistics of several.

    Raises:
        StoreError: an object store does not answer.
    """
    if asked is None:
        asked = choose(DEFAULT_STATISTICS, {"draws": draws, "seed": seed, "points": points})
    results: dict[str, Result] = {}
    for name, options in asked.items():
        result = load_result(sweep, name, options, others)
        if result is None:
            return None
        results[name] = result
    return Analysis(results)


def cached_statistics(sweep: StoredSweep) -> dict[str, Options]:
    """Return the statistics besides the default ones whose results are cached at the sweep's snapshot.

    Those of several sweeps are left out; `cached_comparisons` returns them. The options are those of the result with
    the default options if there is one, and of the first by name otherwise.

    Raises:
        StoreError: an object store does not answer.
    """
    found: dict[str, Options] = {}
    for name, statistic in _cached_names(sweep):
        if statistic in DEFAULT_STATISTICS or statistic in found or _reads_several(statistic):
            continue
        dataset = _load(sweep, name)
        try:
            if dataset is not None:
                found[statistic] = STATISTICS.options(statistic).model_validate(_frame(dataset).get("options", {}))
        except (PluginError, ValueError) as error:  # of another version of the statistic
            logger.warning("the cached result %s of %s is left out: %s", name, sweep.name, error)
    return found


def cached_comparisons(sweep: StoredSweep) -> list[Result]:
    """Return the cached results of statistics that compare the sweep's snapshot with other sweeps.

    The other sweeps are not opened, and may be gone.

    Raises:
        StoreError: an object store does not answer.
    """
    found = []
    for name, statistic in _cached_names(sweep):
        dataset = _load(sweep, name) if _reads_several(statistic) else None
        frame = {} if dataset is None else _frame(dataset)
        if dataset is None or frame.get("format") != FORMAT or frame.get("version") != _version(statistic):
            continue
        try:
            options = STATISTICS.options(statistic).model_validate(frame["options"])
            further = tuple(About(**each) for each in frame["further"])
        except (KeyError, TypeError, ValueError) as error:  # of another version of the statistic
            logger.warning("the cached result %s of %s is left out: %s", name, sweep.name, error)
            continue
        about = About.of_sweep(sweep, frame["about"]["zero_metrics"])
        found.append(Result(statistic, options, _without_frame(dataset), about, further=further))
    return found


def forget_analyses(sweep: Location | Path | str, before: datetime, dry_run: bool = False) -> int:
    """Remove the results of snapshots that left a sweep's history, or are about to leave it.

    Args:
        sweep: its address.
        before: snapshots older than this count as gone, except the last one.
        dry_run: only count them.

    Returns:
        How many were removed, or would be.

    Raises:
        StoreError: the sweep cannot be read, or a result not be removed.
    """
    there = remaining_snapshots(sweep, before)
    kept = (name for name in artifact_names(sweep) if name.startswith(f"{_PREFIX}-"))
    gone = [name for name in kept if name.split("-")[1] not in there]
    for name in gone if not dry_run else ():
        remove_artifact(sweep, name)
    return len(gone)


def _artifact(snapshot: str, statistic: str, options: Options, samples: int, further: Sequence[str] = ()) -> str:
    """The name under which a result is stored; the default options of a statistic of one sweep have a short one."""
    chosen = decisive_options(statistic, options, samples)
    parts = [_PREFIX, snapshot, statistic]
    required = any(field.is_required() for field in type(options).model_fields.values())
    if required or further or chosen != decisive_options(statistic, type(options)(), samples):
        decisive = chosen.model_dump(mode="json")
        content = json.dumps({"with": list(further), "options": decisive} if further else decisive, sort_keys=True)
        parts.append(hashlib.sha256(content.encode()).hexdigest()[:12])
    return "-".join(parts)


def _cached_names(sweep: StoredSweep) -> list[tuple[str, str]]:
    """The artifacts of the sweep's snapshot with the name of the statistic of each, the shortest first."""
    found = []
    for name in sorted(artifact_names(sweep.path), key=len):
        prefix, snapshot, *rest = [*name.split("-"), "", ""]
        if prefix == _PREFIX and snapshot == sweep.snapshot and rest[0] in STATISTICS.names():
            found.append((name, rest[0]))
    return found


def _reads_several(statistic: str) -> bool:
    """Whether a statistic reads several sweeps; False if it cannot be loaded."""
    try:
        return reads_several(statistic)
    except PluginError:
        return False


def _without_frame(dataset: "xr.Dataset") -> "xr.Dataset":
    attrs = {key: value for key, value in dataset.attrs.items() if key != _FRAME}
    return dataset.drop_attrs(deep=False).assign_attrs(attrs)


def _version(statistic: str) -> int:
    return int(getattr(STATISTICS.module(statistic), "VERSION", 1))


def _load(sweep: StoredSweep, name: str) -> "xr.Dataset | None":
    try:
        return load_artifact(sweep.path, name)
    except DamagedError as error:  # it can be computed again
        logger.warning("%s", error)
        return None


def _frame(dataset: "xr.Dataset") -> dict[str, Any]:
    try:
        return dict(json.loads(dataset.attrs[_FRAME]))
    except (KeyError, ValueError, TypeError):
        return {}
