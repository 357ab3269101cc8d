"""What every pool must do, whatever runs its workers: one suite for the pool in this process and for the one of Ray.

A new pool passes these tests once it is added to `POOLS`. What only Ray can do (lost workers, second starts) is in
`test_pool` and `test_faults`.
"""

from contextlib import closing, contextmanager

import fragile_generators
import numpy as np
import pytest
from pool_runs import arrays_of, assert_equals_a_clean_run, bad_samples, order_of

from pullback.driving.pool_protocol import Event, PoolState, SerialPool, ShardFailed, serial_pool
from pullback.driving.run import run_sweep
from pullback.errors import SweepError
from pullback.store.audit import audit
from pullback.store.reader import open_sweep
from pullback.store.repository import SweepStore
from pullback.store.schema import GOOD, QUARANTINED
from pullback.sweep.plan import make_plan
from pullback.sweep.worker import ShardDone


@contextmanager
def ray_pool_of_the_module(order, plan):
    """A pool on the Ray that this module holds: starting one for each test would take seconds."""
    from pullback.cluster.pool import RayPool

    yield RayPool(order, plan.workers, plan.job.resources.retries)


POOLS = [
    pytest.param(serial_pool, id="serial"),
    pytest.param(ray_pool_of_the_module, id="ray", marks=[pytest.mark.ray, pytest.mark.xdist_group("ray")]),
]


@pytest.fixture(params=POOLS)
def pool(request):
    """A pool factory, as `run_sweep` takes it."""
    if request.param is ray_pool_of_the_module:
        request.getfixturevalue("our_ray")
    return request.param


@contextmanager
def started(pool, job):
    """A pool that works on a new store of a job; yields the pool, the driver's side of the store, and the shards."""
    order, store = order_of(job)
    with pool(order, make_plan(job)) as workers:
        yield workers, store, list(range(order.layout.shards))


def test_each_shard_comes_once_with_the_counts_of_its_samples(pool, make_job):
    with started(pool, make_job("toy_generators:smooth", count=7, shard_size=2)) as (workers, store, shards):
        results = list(workers.results(shards, lambda: False))
        done = [each for each in results if isinstance(each, ShardDone)]
        assert sorted(each.shard for each in done) == shards
        assert {each.shard: each.good + each.quarantined for each in done} == {0: 2, 1: 2, 2: 2, 3: 1}
        assert all(isinstance(each, ShardDone | ShardFailed | Event | PoolState | None) for each in results)
        for each in done:
            assert store.merge(each.shard, each.fork)
            assert not store.merge(each.shard, each.fork), "a second result of a shard is ignored"
        store.commit("all")
    assert open_sweep(store.location).status().good == 7
    assert audit(store.location).damages == ()


def test_only_the_shards_that_were_asked_for_are_computed(pool, make_job):
    with started(pool, make_job("toy_generators:smooth", count=6, shard_size=1, workers=1)) as (workers, _, _):
        done = [each.shard for each in workers.results([4, 1], lambda: False) if isinstance(each, ShardDone)]
        assert sorted(done) == [1, 4]


def test_no_shards_are_no_work(pool, make_job):
    with started(pool, make_job("toy_generators:smooth", count=2)) as (workers, _, _):
        found = list(workers.results([], lambda: False))
        assert not any(isinstance(each, ShardDone | ShardFailed) for each in found)


def test_nothing_is_visible_before_the_driver_commits(pool, make_job):
    with started(pool, make_job("toy_generators:smooth", count=4, shard_size=2, workers=1)) as (workers, store, shards):
        for result in workers.results(shards, lambda: False):
            if isinstance(result, ShardDone):
                store.merge(result.shard, result.fork)
            assert open_sweep(store.location).status().pending == 4
        store.commit("all")
        assert open_sweep(store.location).status().pending == 0


def test_a_stopped_pool_ends_and_what_it_finished_counts(pool, make_job):
    done = []
    with started(pool, make_job("toy_generators:smooth", count=40, shard_size=1, workers=1)) as (
        workers,
        store,
        shards,
    ):
        for result in workers.results(shards, lambda: len(done) >= 2):
            if isinstance(result, ShardDone):
                done.append(result.shard)
                assert store.merge(result.shard, result.fork)
        store.commit("some")
    assert 2 <= len(done) < 40
    assert open_sweep(store.location).status().good == len(done)
    assert sorted({*range(40)} - {*done}) == SweepStore.open(store.location).pending_shards()


def test_a_pool_whose_results_are_no_longer_wanted_can_be_closed_at_any_moment(pool, make_job):
    with started(pool, make_job("toy_generators:smooth", count=20, shard_size=1, workers=1)) as (
        workers,
        store,
        shards,
    ):
        with closing(workers.results(shards, lambda: False)) as results:
            first = next(each for each in results if isinstance(each, ShardDone))
        store.merge(first.shard, first.fork)
        store.commit("one")
        assert audit(store.location).damages == ()
        rest = [shard for shard in shards if shard != first.shard][:2]
        again = [each.shard for each in workers.results(rest, lambda: False) if isinstance(each, ShardDone)]
        assert sorted(again) == rest, "it can be asked again"


def test_a_sweep_has_the_numbers_of_a_clean_run_and_a_second_run_has_nothing_to_do(pool, make_job):
    job = make_job("toy_generators:smooth", count=7, shard_size=2)
    assert run_sweep(make_plan(job), pool).exit_code == 0
    assert_equals_a_clean_run(job)
    again = run_sweep(make_plan(job), pool)
    assert (again.computed, again.exit_code) == (0, 0)


def test_a_sweep_goes_on_where_it_was_left(pool, make_job):
    job = make_job("toy_generators:smooth", count=6, shard_size=1, workers=1)
    with started(pool, job) as (workers, store, _):
        for result in workers.results([0, 3], lambda: False):
            if isinstance(result, ShardDone):
                store.merge(result.shard, result.fork)
        store.commit("two")
    outcome = run_sweep(make_plan(job), pool)
    assert (outcome.computed, outcome.status.good) == (4, 6)
    assert_equals_a_clean_run(job)


def test_a_sample_that_raises_never_counts_as_good(pool, make_job, monkeypatch):
    """Serially the error is shown and ends the run; with several workers the sample is quarantined."""
    job = make_job("fragile_generators:raising", count=8, shard_size=2, workers=1)
    bad = bad_samples(job)
    assert bad
    if pool is serial_pool:
        monkeypatch.setattr(fragile_generators, "IN_A_WORKER", True)
        with pytest.raises(SweepError, match=r"sample \d.*cannot draw"):
            run_sweep(make_plan(job), pool)
    else:
        assert run_sweep(make_plan(job), pool).exit_code == 4
        assert {*np.flatnonzero(arrays_of(job.store_path)["status"] == QUARANTINED).tolist()} == bad
    assert not any(arrays_of(job.store_path)["status"][sample] == GOOD for sample in bad)


def test_the_serial_pool_is_what_serial_runs_use(make_job):
    order, _ = order_of(make_job("toy_generators:smooth", count=2))
    with serial_pool(order, None) as workers:
        assert isinstance(workers, SerialPool)
