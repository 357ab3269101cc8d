"""The simulation of large clusters: it ends, loses nothing, and shows what a scheduler without its protections does."""

import pytest

from pullback.bench.scheduler_simulation import Cluster, simulate
from pullback.driving import schedule

ROUGH = Cluster(gpus=50, shards_a_gpu=10, days_between_failures=0.5, hours_between_preemptions=0.5, seed=3)


def test_every_shard_is_computed_however_often_workers_are_lost():
    found = simulate(ROUGH)
    assert found.deaths > 10
    assert (found.committed, found.failed) == (500, 0)
    assert 0 < found.wasted < 0.2


@pytest.mark.parametrize("gpus", [1_000, 10_000])
def test_thousands_of_gpus_are_kept_busy(gpus):
    found = simulate(Cluster(gpus=gpus, shards_a_gpu=5))
    assert found.busy > 0.95
    assert found.driver_busy < 0.9
    assert found.committed == 5 * gpus


def test_with_one_task_a_worker_each_waits_while_it_writes(monkeypatch):
    """What two tasks at once are for."""
    cluster = Cluster(gpus=20, shards_a_gpu=10, shard_seconds=10.0, write_seconds=5.0)
    both = simulate(cluster)
    init = schedule.Scheduler.__init__
    monkeypatch.setattr(schedule.Scheduler, "__init__", lambda self, *a, **k: init(self, *a, **{**k, "depth": 1}))
    one = simulate(cluster)
    assert both.busy > 0.9
    assert one.busy < 0.75


def test_second_starts_shorten_the_tail(monkeypatch):
    uneven = Cluster(gpus=50, shards_a_gpu=6, spread=1.2, seed=1)
    with_them = simulate(uneven)
    monkeypatch.setattr(schedule.Scheduler, "_second_start", lambda self, actor, now: None)
    without = simulate(uneven)
    assert with_them.committed == without.committed == 300
    assert with_them.seconds < without.seconds
    assert with_them.wasted > without.wasted


def test_the_same_seed_gives_the_same_sweep():
    first, again = simulate(ROUGH), simulate(ROUGH)
    assert (first.committed, first.failed) == (again.committed, again.failed)
    assert first.seconds == pytest.approx(again.seconds, rel=0.1)
