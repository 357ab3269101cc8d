"""Run statistics over the good samples of a sweep.

Cached results are loaded, and the missing ones are computed and cached one by one, so that an interrupted run continues
with the next statistic. Samples are opened only if something has to be computed.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pullback.analysis.protocol import Result, guarded
from pullback.analysis.request import DEFAULT_STATISTICS, choose, decisive_options, reads_several, refuse_unfit
from pullback.analysis.result import Analysis
from pullback.analysis.samples import Samples, StoredSweep
from pullback.errors import PluginError, StoreError
from pullback.plugins import STATISTICS
from pullback.spec.options import Options

logger = logging.getLogger(__name__)

NamedProgress = Callable[[str, int, int], None]
"""Called with the name of the statistic that is being computed, the steps done, and their total."""

DRAWS = 1000
"""Bootstrap samples by default."""

POINTS = 1000
"""Samples that are compared in pairs by default, as many as in the paper. Twice as many take four times as long."""


def run_statistics(
    sweep: StoredSweep,
    asked: Mapping[str, Options],
    progress: NamedProgress | None = None,
    *,
    unsaved: Callable[[StoreError], None] = lambda error: logger.warning("%s", error),
    samples: Callable[[], Samples] | None = None,
    others: Sequence[StoredSweep] = (),
) -> Analysis:
    """Return the results of statistics over a sweep's good samples: cached ones, and new ones, which are cached.

    Args:
        sweep: an open sweep.
        asked: the options of each statistic by name, in the order in which they are computed and shown.
        progress: called while something is computed.
        unsaved: called if a result cannot be cached beside the sweep; by default it is logged.
        samples: returns the sweep's samples, for callers that share them among several calls; by default they are
            opened when the first result has to be computed.
        others: further open sweeps, for statistics of several.

    Raises:
        PluginError: a statistic does not exist or cannot be loaded.
        SpecError: a statistic reads another number of sweeps.
        PullbackError: fewer than 2 good samples, metrics that are all zero, numbers that are not finite, or an error
            that a statistic raises on purpose.
    """
    from pullback.analysis.cache import load_result, save_result

    refuse_unfit(asked, len(others))
    results: dict[str, Result] = {}
    opened = cache(samples or (lambda: Samples.of_sweep(sweep)))
    opened_others = cache(lambda: tuple(map(Samples.of_sweep, others)))
    for name, options in asked.items():
        known = load_result(sweep, name, options, others)
        if known is None:
            known = compute(opened(), name, options, progress, opened_others() if reads_several(name) else ())
            try:
                with guarded(STATISTICS.module(name), name, "storing the result"):
                    save_result(known, sweep)
            except StoreError as error:
                unsaved(error)
        results[name] = known
    return Analysis(results)


def compute_statistics(
    samples: Samples,
    asked: Mapping[str, Options],
    progress: NamedProgress | None = None,
    others: Sequence[Samples] = (),
) -> Analysis:
    """Compute statistics over samples, without the cache; arguments and errors as for `run_statistics`."""
    refuse_unfit(asked, len(others))
    return Analysis({name: compute(samples, name, options, progress, others) for name, options in asked.items()})


def compute(
    samples: Samples,
    name: str,
    options: Options,
    progress: NamedProgress | None = None,
    others: Sequence[Samples] = (),
) -> Result:
    """Compute one statistic; arguments and errors as for `run_statistics`."""
    module = STATISTICS.module(name)
    others = tuple(others) if reads_several(name) else ()

    def report(done: int, total: int) -> None:
        if progress is not None:
            progress(name, done, total)

    with guarded(module, name, "compute"):
        inputs = (samples, others) if others else (samples,)
        dataset = module.compute(*inputs, options, report)
    options = decisive_options(name, options, len(samples))
    if not hasattr(dataset, "data_vars"):
        raise PluginError(f"compute of {name!r} ({module.__name__}) returns {type(dataset).__name__}, not a Dataset")
    return Result(name, options, dataset, samples.about, further=tuple(each.about for each in others))


def analyze(
    sweep: StoredSweep | Path | str,
    *statistics: str,
    others: Sequence[StoredSweep | Path | str] = (),
    draws: int = DRAWS,
    seed: int = 0,
    points: int = POINTS,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Analysis:
    """Compute statistics of a sweep, without the cache; by default those that `pullback analyze` computes.

    Every statistic uses all good samples, except homogeneity where there are more than `points` of them. Each result
    has its numbers as an xarray Dataset, `analysis["anisotropy"].dataset`; `analysis.to_xarray()` has all of them.

    Args:
        sweep: an open sweep, or its folder or address.
        statistics: names of statistics, as `pullback plugins` lists them.
        others: further sweeps, for statistics that compare several.
        draws: bootstrap samples, at least 1.
        seed: seed of the bootstrap, and of the choice of samples.
        points: largest number of samples that are compared in pairs, at least 2; the cost grows with its square.
        progress: called with steps done and their total.
        options: further options of the statistics, by the names of `pullback analyze --help`.

    Raises:
        PullbackError: see `run_statistics`.
        SpecError: an option is out of its range, or no named statistic has it.
        StoreError: there is no sweep at an address.
    """
    given = {"draws": (draws, DRAWS), "seed": (seed, 0), "points": (points, POINTS)}
    # A named statistic need not have these options, so only those that differ from the defaults are passed on.
    own = {name: value for name, (value, usual) in given.items() if not statistics or value != usual}
    asked = choose(statistics or DEFAULT_STATISTICS, {**own, **options})
    report = None if progress is None else lambda name, done, total: progress(done, total)
    samples, *further = (Samples.of_sweep(_opened(each)) for each in (sweep, *others))
    return compute_statistics(samples, asked, report, further)


def _opened(sweep: StoredSweep | Path | str) -> StoredSweep:
    if not isinstance(sweep, Path | str):
        return sweep
    from pullback.store.reader import open_sweep

    return open_sweep(sweep)
