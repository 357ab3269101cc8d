"""How the sweeps of a folder are, as numbers for Prometheus: read when they are asked for, from stores and records.

A store is read again only where something may have happened, and a collection reads no longer than a few seconds: of
many sweeps, those that are at work and those that were read longest ago come first, and the others tell what was known.
"""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from pullback.api.catalog import Catalog
from pullback.errors import PullbackError
from pullback.sweep.control import WITHOUT_STORE, Look, State, SweepState, read_record, state_of

_KEPT_SECONDS = 60.0
"""Nobody is at work on it: a store is believed to be as it was for so long, unless there was another driver since."""
_READING_SECONDS = 3.0
"""Prometheus gives up after 10."""


@dataclass(frozen=True)
class _Known:
    """What was read of a sweep; no state where it could not be."""

    read: float
    updated: float
    state: SweepState | None

    @property
    def at_work(self) -> bool:
        return self.state is not None and self.state.exit_code == 3


class SweepCollector(Collector):
    """Gauges of every sweep in a catalog; one that cannot be read is counted as such and hides no other.

    Args:
        catalog: the sweeps.
        state: tells where the sweep in a folder is.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        catalog: Catalog,
        state: Callable[[Path, Look], SweepState] = state_of,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._catalog, self._state, self._clock = catalog, state, clock
        self._known: dict[str, _Known] = {}
        self._lock = threading.Lock()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """See `prometheus_client`."""
        with self._lock:
            ids = self._read()
            known = [(sweep, self._known[sweep].state) for sweep in ids if sweep in self._known]
        samples = GaugeMetricFamily("pullback_samples", "Samples of a sweep.", labels=["sweep", "status"])
        states = GaugeMetricFamily("pullback_sweep_state", "1 for the state a sweep is in.", labels=["sweep", "state"])
        shards = GaugeMetricFamily("pullback_shards", "Shards of a run.", labels=["sweep", "state"])
        workers = GaugeMetricFamily("pullback_workers", "Workers of a run.", labels=["sweep", "state"])
        rate = GaugeMetricFamily("pullback_samples_per_second", "Rate of a run.", labels=["sweep"])
        commit = GaugeMetricFamily("pullback_commit_seconds", "Duration of the last commit.", labels=["sweep"])
        memory = GaugeMetricFamily("pullback_driver_memory_bytes", "Resident memory of a driver.", labels=["sweep"])
        for sweep, found in known:
            if found is None or (not found.snapshot and found.state not in WITHOUT_STORE):
                continue
            for status in ("good", "quarantined", "pending"):
                samples.add_metric([sweep, status], getattr(found, status))
            for state in get_args(State):
                states.add_metric([sweep, state], float(found.state == state))
            driver = found.driver
            if driver is None or not driver.alive:
                continue
            for family, counts in ((shards, driver.shards), (workers, driver.workers)):
                for state, many in counts.items():
                    family.add_metric([sweep, state], many)
            rate.add_metric([sweep], driver.samples_per_second)
            commit.add_metric([sweep], driver.commit_seconds)
            memory.add_metric([sweep], driver.memory_bytes)
        yield from (samples, states, shards, workers, rate, commit, memory)
        unreadable = sum(found is None for _, found in known)
        yield GaugeMetricFamily("pullback_unreadable_sweeps", "Sweeps that cannot be read.", value=unreadable)
        unread = len(ids) - len(known)
        yield GaugeMetricFamily("pullback_unread_sweeps", "Sweeps that were not read yet.", value=unread)

    def _read(self) -> list[str]:
        """Bring what is known up to date, for so long; returns the ids of all sweeps."""
        ids = sorted({*self._catalog.ids(), *self._catalog.submitted()})
        self._known = {sweep: self._known[sweep] for sweep in ids if sweep in self._known}
        until = self._clock() + _READING_SECONDS
        for sweep in sorted(ids, key=self._urgency):
            if self._clock() > until:
                break
            self._look(sweep)
        return ids

    def _urgency(self, sweep: str) -> tuple[bool, float]:
        known = self._known.get(sweep)
        return (True, -1.0) if known is None else (not known.at_work, known.read)

    def _look(self, sweep: str) -> None:
        place, now = self._catalog.folder / sweep, self._clock()
        record = read_record(place)
        updated = 0.0 if record is None else record.updated
        known = self._known.get(sweep)
        if known is not None and known.updated == updated and not known.at_work and now - known.read < _KEPT_SECONDS:
            return
        try:
            found: SweepState | None = self._state(place, self._catalog.see)
        except (PullbackError, OSError):
            found = None
        self._known[sweep] = _Known(now, updated, found)
