"""What fails in a worker, at every step of a shard, costs no more than it must, and no result that is not right."""

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from fragile_generators import BRIGHT
from pool_runs import MARK, arrays_of, assert_equals_a_clean_run, bad_samples, events, run_here

from pullback.driving.sweep_state import sweep_state
from pullback.errors import StoreError
from pullback.store.audit import audit
from pullback.store.reader import open_sweep
from pullback.store.schema import GOOD, Reason
from pullback.sweep.tasks import Budgets

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]


def mark(fault: str) -> Path:
    return Path(f"{os.environ[MARK]}-{fault}")


def tally(job, event: str) -> int:
    return sum(each["event"] == event for each in events(job))


@pytest.mark.parametrize("fault", ["before_the_write", "after_the_write"])
def test_a_worker_that_dies_around_its_write_costs_one_more_computation(our_ray, make_job, fault):
    job = make_job(f"fragile_generators:dying_{fault}", count=6, shard_size=2, workers=1)
    outcome, workers = run_here(job)
    assert mark(fault.replace("_", "-")).exists(), "nobody died: nothing was tested"
    assert workers == 2
    assert (outcome.status.good, outcome.failed) == (6, ())
    assert sorted(each["shard"] for each in events(job) if each["event"] == "shard") == [0, 1, 2]
    assert_equals_a_clean_run(job)
    assert not audit(job.store_path).damages, "what the dead worker left is not part of the sweep"


def test_a_full_disk_ends_the_run_with_one_message_and_the_next_run_goes_on(our_ray, make_job):
    job = make_job("fragile_generators:on_a_full_disk", count=64, shard_size=32, workers=1)
    with pytest.raises(StoreError, match=r"could not be written[\s\S]*not full, then run the sweep again"):
        run_here(job, budgets=Budgets(storage_seconds=0.5))
    assert sweep_state(job.store_path).state == "failed"
    assert open_sweep(job.store_path).status().pending == 64
    mark("room").touch()
    outcome, _ = run_here(job)
    assert outcome.status.good == 64
    assert_equals_a_clean_run(job)


def test_a_storage_that_refuses_for_a_while_costs_only_time_and_is_reported_meanwhile(our_ray, make_job):
    job = make_job("fragile_generators:refused_for_a_while", count=6, shard_size=3, workers=1)
    reported = set()

    def report(progress):
        reported.add((progress.trouble, sweep_state(job.store_path).message))

    outcome, workers = run_here(job, report=report)
    assert (outcome.status.good, outcome.failed, workers) == (6, (), 1)
    assert tally(job, "failed") >= 1
    assert any("it is busy" in trouble for trouble, _ in reported)
    assert any("it is busy" in message for _, message in reported), "and `status` says so"
    assert sweep_state(job.store_path).message == ""
    assert_equals_a_clean_run(job)


def test_wrong_eigenvectors_of_a_broken_eigh_are_caught_sample_by_sample(our_ray, make_job):
    job = make_job("fragile_generators:with_a_broken_eigh", count=12, shard_size=3, workers=1)
    outcome, _ = run_here(job)
    found = arrays_of(job.store_path)
    wrong = set(np.flatnonzero(found["trace"] > BRIGHT))
    assert 0 < len(wrong) < 6
    assert outcome.status.quarantined == len(wrong)
    assert set(found["reason"][sorted(wrong)]) == {Reason.EIGEN_RESIDUAL}
    assert_equals_a_clean_run(job, bad=wrong)


def test_slow_constructors_cost_their_time_and_no_retry(our_ray, make_job):
    job = make_job("fragile_generators:starting_slowly", count=3, workers=1)
    seen = []
    outcome, workers = run_here(job, retries=0, report=lambda progress: seen.append(sweep_state(job.store_path).state))
    assert outcome.status.good == 3
    assert workers == 1
    assert tally(job, "failed") == 0
    assert seen[0] in ("starting", "running")


def test_a_device_with_less_memory_than_planned_computes_in_smaller_pieces(our_ray, make_job):
    job = make_job("fragile_generators:hungry", count=16, shard_size=8, batch=8, tangents=6, workers=1)
    outcome, workers = run_here(job, retries=0)
    assert outcome.status.good == 16
    assert workers == 1, "memory that is short kills nobody"
    assert_equals_a_clean_run(job)


def test_a_code_that_fits_no_memory_costs_its_shard_and_no_other(our_ray, make_job):
    job = make_job("fragile_generators:starving", count=4, workers=1)
    bad = bad_samples(job)
    assert bad == {3}
    outcome, _ = run_here(job)
    assert {failure.shard for failure in outcome.failed} == bad
    assert "memory" in outcome.failed[0].error
    assert set(np.flatnonzero(arrays_of(job.store_path)["status"] == GOOD)) == {0, 1, 2}
    assert sweep_state(job.store_path).state == "failed"


def test_a_generator_that_gives_nan_everywhere_is_ended_as_broken_and_reported(our_ray, make_job):
    job = make_job("fragile_generators:dark", count=60, shard_size=2, max_quarantined=0.2, workers=1)
    outcome, _ = run_here(job)
    assert "more than resources.max_quarantined (0.2) allows" in outcome.broken
    assert 0 < outcome.status.quarantined < 60, "it goes on no longer than it must"
    found = arrays_of(job.store_path)
    assert set(found["reason"][found["status"] == 2]) == {Reason.NOT_FINITE}
    state = sweep_state(job.store_path)
    assert (state.state, state.message) == ("failed", outcome.broken)


def test_readers_see_whole_snapshots_while_a_sweep_runs(our_ray, make_job):
    job = make_job("toy_generators:slow", count=6, shard_size=1, workers=1)
    over, problems, counts = threading.Event(), [], []

    def read():
        while not over.is_set():
            try:
                sweep = open_sweep(job.store_path)
            except StoreError:
                continue  # not there yet
            before, good = sweep.status(), sweep.dataset().load()
            counts.append(before.good)
            if len(good["sample"]) != before.good or not np.isfinite(good["eigenvalue"].values).all():
                problems.append(before)
            if sweep.status() != before:
                problems.append((before, sweep.status()))
            time.sleep(0.2)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        run_here(job)
    finally:
        over.set()
        reader.join(timeout=30)
    assert problems == []
    assert counts == sorted(counts)
    assert len(set(counts)) > 1, "nothing was read while it ran"
