"""The states of the sweeps in a folder as Prometheus gauges, read from stores and drivers' records on each collection.

A store is read again only if something may have changed. A collection reads for a few seconds at most: running sweeps
and those read longest ago come first, and the others keep their last values.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from pullback.api.catalog import Catalog
from pullback.driving.control import read_record
from pullback.driving.states import WITHOUT_STORE, State
from pullback.driving.sweep_state import SnapshotReader, SweepState, sweep_state
from pullback.errors import PullbackError

logger = logging.getLogger(__name__)

_KEPT_SECONDS = 60.0
"""How long the values of a sweep without a running driver are reused, unless another driver has run since."""
_READING_SECONDS = 3.0
"""Longest time of one collection. Prometheus gives up after 10 seconds."""


@dataclass(frozen=True)
class _Known:
    """What was last read of a sweep; `state` is None if it could not be read."""

    read: float
    updated: float
    state: SweepState | None

    @property
    def is_running(self) -> bool:
        return self.state is not None and self.state.exit_code == 3


class SweepCollector(Collector):
    """Gauges of every sweep in a catalog. A sweep that cannot be read is counted, and hides no other.

    Args:
        catalog: the sweeps.
        state: returns the state of the sweep in a folder.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        catalog: Catalog,
        state: Callable[[Path, SnapshotReader], SweepState] = sweep_state,
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
        samples = GaugeMetricFamily("pullback_samples", "Samples of a sweep by status.", labels=["sweep", "status"])
        states = GaugeMetricFamily(
            "pullback_sweep_state", "1 for the state of a sweep, else 0.", labels=["sweep", "state"]
        )
        shards = GaugeMetricFamily("pullback_shards", "Shards of a run by state.", labels=["sweep", "state"])
        workers = GaugeMetricFamily("pullback_workers", "Workers of a run by state.", labels=["sweep", "state"])
        rate = GaugeMetricFamily("pullback_samples_per_second", "Samples per second of a run.", labels=["sweep"])
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
        yield GaugeMetricFamily("pullback_unread_sweeps", "Sweeps that have not been read yet.", value=unread)

    def _read(self) -> list[str]:
        """Read sweeps until time is up; returns the ids of all sweeps."""
        try:
            ids = sorted({*self._catalog.ids(), *self._catalog.submitted()})
        except PullbackError as error:  # the request metrics are still shown
            logger.warning("%s", error)
            ids = []
        self._known = {sweep: self._known[sweep] for sweep in ids if sweep in self._known}
        until = self._clock() + _READING_SECONDS
        for sweep in sorted(ids, key=self._urgency):
            if self._clock() > until:
                break
            self._look(sweep)
        return ids

    def _urgency(self, sweep: str) -> tuple[bool, float]:
        known = self._known.get(sweep)
        return (True, -1.0) if known is None else (not known.is_running, known.read)

    def _look(self, sweep: str) -> None:
        place, now = self._catalog.folder / sweep, self._clock()
        record = read_record(place)
        updated = 0.0 if record is None else record.updated
        known = self._known.get(sweep)
        if known is not None and known.updated == updated and not known.is_running and now - known.read < _KEPT_SECONDS:
            return
        try:
            found: SweepState | None = self._state(place, self._catalog.read_snapshot)
        except (PullbackError, OSError):
            found = None
        except Exception:
            logger.exception("the sweep %s cannot be measured", sweep)
            found = None
        self._known[sweep] = _Known(now, updated, found)
