"""What a machine that only fails costs the others: no result, no run, and as little time as can be."""

import pytest

from pullback.sweep.tasks import Failure
from schedulers import started


def test_after_a_second_worker_in_a_row_that_could_not_start_the_next_one_waits_longer_each_time():
    scheduler = started(9, actors=("a", "b"))
    scheduler.dead("b", Failure.LOST, "gone", 0.0)
    now, waited = 10.0, []
    for turn in range(8):
        assert scheduler.missing(now) == 1
        scheduler.starting(f"bad-{turn}")
        scheduler.dead(f"bad-{turn}", Failure.LOST, "its machine has no driver", now)
        began = now
        while not scheduler.missing(now):
            now += 0.5
        waited.append(now - began)
    assert waited == [1, 2, 4, 8, 16, 32, 60, 60]
    scheduler.starting("good")
    scheduler.ready("good")
    scheduler.dead("good", Failure.LOST, "gone", now)
    assert scheduler.missing(now) == 1, "one did start: nothing is held against the next"


def test_a_worker_that_cannot_write_pauses_while_another_takes_its_shards():
    scheduler = started(4, actors=("a", "b"), depth=2, storage_seconds=100.0)
    lost = [scheduler.next_task("a", 0.0) for _ in range(2)]
    for task in lost:
        scheduler.failed(task.number, Failure.STORAGE, "read-only file system", 0.0)
    assert "read-only" in scheduler.trouble
    assert scheduler.next_task("a", 0.9) is None, "it pauses, and once for both"
    assert scheduler.may_start_with_time
    done = [scheduler.next_task("b", 0.5) for _ in range(2)]
    for task in done:
        assert scheduler.succeeded(task.number, 1.0)
    assert scheduler.trouble == ""
    again = scheduler.next_task("a", 1.0)
    assert again.shard in {task.shard for task in lost}
    scheduler.failed(again.number, Failure.STORAGE, "read-only file system", 1.0)
    assert scheduler.next_task("a", 2.9) is None, "longer than before"
    done = [scheduler.next_task("b", 200.0) for _ in range(2)]
    assert all(scheduler.succeeded(task.number, 201.0) for task in done)
    assert scheduler.over
    assert scheduler.fatal is None, "the other one could write all the time"


def test_one_machine_that_cannot_write_ends_nothing_while_another_computes_for_long():
    scheduler = started(20, actors=("good", "bad"), storage_seconds=100.0)
    slow, now = scheduler.next_task("good", 0.0), 0.0
    for _ in range(30):
        now += 100.0
        task = scheduler.next_task("bad", now)
        scheduler.failed(task.number, Failure.STORAGE, "read-only file system", now)
    assert scheduler.fatal is None
    scheduler.dead("good", Failure.LOST, "gone", now)
    task = scheduler.next_task("bad", now + 100.0)
    scheduler.failed(task.number, Failure.STORAGE, "read-only file system", now + 100.0)
    assert scheduler.fatal == "read-only file system", "now it is everybody"
    assert slow.shard == 0


@pytest.mark.parametrize("starts", [True, False])
def test_a_machine_on_which_all_die_ends_nothing_while_another_computes_for_long(starts):
    scheduler = started(20, actors=("good", "x0"), deaths_in_a_row=3, crash=1000)
    slow = scheduler.next_task("good", 0.0)
    for turn in range(2000):
        if starts or turn == 0:
            scheduler.next_task(f"x{turn}", 99.0 * turn)
            scheduler.dead(f"x{turn}", Failure.CRASH, "no driver here", 99.0 * turn)
        else:
            scheduler.could_not_start(f"x{turn}", "no driver here", 99.0 * turn)
        assert scheduler.missing(99.0 * turn + 61.0) == 1
        scheduler.starting(f"x{turn + 1}")
        if starts:
            scheduler.ready(f"x{turn + 1}")
    assert scheduler.fatal is None
    assert scheduler.succeeded(slow.number, 2e6)


def test_workers_that_fail_to_start_together_count_as_one_for_the_wait():
    scheduler = started(99, actors=("a", *map(str, range(50))))
    for actor in map(str, range(50)):
        scheduler.dead(actor, Failure.PREEMPTED, "gone", 0.0)
        scheduler.starting(f"{actor}+")
    for actor in map(str, range(50)):
        scheduler.could_not_start(f"{actor}+", "out of sorts", 10.0)
    assert scheduler.missing(10.9) == 0
    assert scheduler.missing(11.0) == 50


def test_the_run_ends_once_nobody_could_write_for_long_and_not_for_one_slow_shard():
    scheduler = started(9, actors=("a", "b"), storage_seconds=100.0)
    now = 0.0
    for turn in range(3):
        assert scheduler.fatal is None
        task = scheduler.next_task("ab"[turn % 2], now)
        now += 90.0
        scheduler.failed(task.number, Failure.STORAGE, "no space left on device", now)
    assert (scheduler.fatal, scheduler.fatal_failure) == ("no space left on device", Failure.STORAGE)
