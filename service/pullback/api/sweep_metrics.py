"""How the sweeps of a folder are, as numbers for Prometheus: read when they are asked for, from stores and records."""

from collections.abc import Iterator
from typing import get_args

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from pullback.api.catalog import Catalog
from pullback.errors import PullbackError
from pullback.sweep.control import State, state_of


class SweepCollector(Collector):
    """Gauges of every sweep in a catalog; one that cannot be read is counted as such and hides no other."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """See `prometheus_client`."""
        samples = GaugeMetricFamily("pullback_samples", "Samples of a sweep.", labels=["sweep", "status"])
        states = GaugeMetricFamily("pullback_sweep_state", "1 for the state a sweep is in.", labels=["sweep", "state"])
        shards = GaugeMetricFamily("pullback_shards", "Shards of a run.", labels=["sweep", "state"])
        workers = GaugeMetricFamily("pullback_workers", "Workers of a run.", labels=["sweep", "state"])
        rate = GaugeMetricFamily("pullback_samples_per_second", "Rate of a run.", labels=["sweep"])
        commit = GaugeMetricFamily("pullback_commit_seconds", "Duration of the last commit.", labels=["sweep"])
        memory = GaugeMetricFamily("pullback_driver_memory_bytes", "Resident memory of a driver.", labels=["sweep"])
        unreadable = 0
        for sweep in self._catalog.ids():
            try:
                found = state_of(self._catalog.place(sweep))
            except PullbackError:
                unreadable += 1
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
        yield GaugeMetricFamily("pullback_unreadable_sweeps", "Sweeps that cannot be read.", value=unreadable)
