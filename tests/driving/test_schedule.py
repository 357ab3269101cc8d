"""The failure policy: what a scheduler does after every kind of failure, and laws that hold whatever happens."""

import math
import random
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pullback.driving.schedule import Scheduler
from pullback.sweep.tasks import ActorState, Budgets, Failure, ShardState
from schedulers import samples_of, started


def run(scheduler, actors, killers=(), raisers=(), most=10_000):
    """Work until it is over; tasks with a killer end their worker, those with a raiser fail. Gives what was done."""
    done, now, names = {}, 0.0, list(actors)
    for step in range(most):
        if scheduler.over:
            return done
        actor = names[step % len(names)]
        task = scheduler.next_task(actor, now)
        now += 1.0
        if task is None:
            continue
        samples = task.samples or tuple(scheduler._shards[task.shard].samples)
        computed = [sample for sample in samples if sample not in task.skip]
        if set(computed) & set(killers):
            scheduler.dead(actor, Failure.CRASH, "it died", 0.0)
            names[step % len(names)] = f"{actor}+"
            scheduler.starting(f"{actor}+")
            scheduler.ready(f"{actor}+")
        elif set(computed) & set(raisers) and not task.isolate:
            scheduler.failed(task.number, Failure.ERROR, "it raised", 0.0)
        elif scheduler.succeeded(task.number, now):
            done[task.shard] = task
    raise AssertionError("it went on for ever")


def test_each_shard_is_given_once_and_in_order():
    scheduler = started(3)
    for shard in range(3):
        task = scheduler.next_task("a", 0.0)
        assert (task.shard, task.attempt, task.samples, task.isolate, task.skip) == (shard, 0, None, False, frozenset())
        assert scheduler.next_task("a", 0.0) is None, "it has one already"
        assert scheduler.shard_state(shard) is ShardState.RUNNING
        assert scheduler.succeeded(task.number, 1.0)
    assert scheduler.over
    assert scheduler.states()[ShardState.COMMITTED] == 3


def test_a_worker_that_is_not_ready_gets_nothing():
    scheduler = Scheduler(samples_of(1))
    scheduler.starting("a")
    assert scheduler.next_task("a", 0.0) is None
    scheduler.ready("a")
    assert scheduler.next_task("a", 0.0) is not None


def test_with_two_tasks_a_worker_computes_one_while_it_writes_the_other():
    scheduler = started(5, depth=2)
    assert [scheduler.next_task("a", 0.0).shard for _ in range(2)] == [0, 1]
    assert scheduler.next_task("a", 0.0) is None


def test_an_error_is_tried_again_and_the_last_time_sample_by_sample():
    scheduler = started(1, error=2)
    isolated = []
    for _ in range(3):
        task = scheduler.next_task("a", 0.0)
        isolated.append(task.isolate)
        scheduler.failed(task.number, Failure.ERROR, "it raised", 0.0)
    assert isolated == [False, False, True]
    assert scheduler.over
    assert scheduler.given_up() == [(0, 3, "it raised")]


@pytest.mark.parametrize("failure", list(Failure))
def test_each_kind_of_failure_has_its_own_budget(failure):
    budgets = dict.fromkeys(("error", "memory", "lost", "preempted", "crash", "storage"), 0) | {failure.name.lower(): 3}
    scheduler = started(1, **budgets)
    for turn in range(3):
        task = scheduler.next_task("a", 10.0 * turn)
        scheduler.failed(task.number, failure, "no", 10.0 * turn)
        assert scheduler.shard_state(0) is ShardState.RETRY
    others = [other for other in Failure if other is not failure]
    for other in others[:1]:
        scheduler.failed(scheduler.next_task("a", 99.0).number, other, "another", 99.0)
    assert other is Failure.CRASH or scheduler.shard_state(0) is ShardState.FAILED


def test_the_sample_that_kills_is_found_and_its_neighbours_are_computed():
    scheduler = started(2, size=16, crash=1)
    done = run(scheduler, ["a"], killers=[21])
    assert done[0].skip == frozenset()
    assert done[1].skip == {21}
    assert scheduler.given_up() == []


def test_a_shard_without_an_innocent_sample_that_goes_on_dying_is_given_up():
    scheduler = Scheduler(samples_of(1), Budgets(crash=1, deaths_in_a_row=1000))
    for worker in map(str, range(100)):
        if scheduler.over:
            break
        assert scheduler.missing(0.0) == 1, "or it would wait for ever"
        scheduler.starting(worker)
        scheduler.ready(worker)
        assert scheduler.next_task(worker, 0.0) is not None
        scheduler.dead(worker, Failure.CRASH, "while it writes", 0.0)
    assert scheduler.over
    ((number, _, error),) = scheduler.given_up()
    assert (number, error) == (0, "while it writes")


@pytest.mark.parametrize("shards", [1, 2])
def test_where_every_process_dies_no_sample_is_condemned(shards):
    scheduler = Scheduler(samples_of(shards, 8), Budgets(deaths_in_a_row=1000))
    for worker in map(str, range(1000)):
        if scheduler.over:
            break
        scheduler.starting(worker)
        scheduler.ready(worker)
        assert scheduler.next_task(worker, 0.0) is not None
        scheduler.dead(worker, Failure.CRASH, "killed", 0.0)
    assert scheduler.over
    assert [number for number, _, _ in scheduler.given_up()] == list(range(shards)), "a later run tries them again"


def test_several_samples_that_kill_are_found_together():
    done = run(started(1, size=16, actors=("a", "b")), ["a", "b"], killers=[0, 7, 8, 15])
    assert done[0].skip == {0, 7, 8, 15}


def test_a_process_that_dies_of_something_else_makes_no_sample_guilty():
    scheduler = started(1, size=2, crash=1, deaths_in_a_row=100)
    for turn in range(2):  # the shard, until it is taken apart
        task = scheduler.next_task(f"a{'+' * turn}" if turn else "a", 0.0)
        name = f"a{'+' * (turn + 1)}"
        scheduler.dead("a" if turn == 0 else "a+", Failure.CRASH, "killed by hand", 0.0)
        scheduler.starting(name)
        scheduler.ready(name)
    task = scheduler.next_task("a++", 0.0)
    assert len(task.samples) == 1
    scheduler.dead("a++", Failure.CRASH, "killed by hand", 0.0)
    assert run_with_new(scheduler)[0].skip == frozenset()


def run_with_new(scheduler):
    scheduler.starting("new")
    scheduler.ready("new")
    return run(scheduler, ["new"])


def test_a_part_that_may_kill_is_alone_with_its_worker():
    scheduler = started(3, size=2, depth=2, crash=0)
    scheduler.next_task("a", 0.0)
    scheduler.dead("a", Failure.CRASH, "it died", 0.0)
    scheduler.starting("b")
    scheduler.ready("b")
    assert scheduler.next_task("b", 0.0).samples is not None
    assert scheduler.next_task("b", 0.0) is None


def test_of_the_tasks_of_a_dead_worker_only_the_one_it_computed_pays():
    scheduler = started(2, depth=2, crash=0, size=4)
    scheduler.next_task("a", 0.0)
    scheduler.next_task("a", 0.0)
    scheduler.dead("a", Failure.CRASH, "it died", 0.0)
    scheduler.starting("b")
    scheduler.ready("b")
    shards = {task.shard: task.samples for task in (scheduler.next_task("b", 0.0),)}
    assert shards == {0: (2, 3)}, "the first is taken apart"
    assert scheduler.shard_state(1) is ShardState.RETRY


def test_a_shard_of_a_lost_machine_is_given_to_another_at_once_and_pays_nothing():
    scheduler = started(1, actors=("a", "b"), crash=0, error=0)
    scheduler.next_task("a", 0.0)
    scheduler.dead("a", Failure.LOST, "node died", 0.0)
    task = scheduler.next_task("b", 0.0)
    assert (task.shard, task.samples, task.isolate) == (0, None, True)


def test_a_worker_that_does_not_answer_gets_nothing_until_it_does():
    scheduler = started(2, actors=("a", "b"))
    first = scheduler.next_task("a", 0.0)
    scheduler.unavailable("a")
    assert scheduler.actors()[ActorState.UNAVAILABLE] == 1
    assert scheduler.next_task("a", 0.0) is None
    second = scheduler.next_task("b", 0.0)
    assert scheduler.succeeded(second.number, 1.0)
    assert scheduler.next_task("b", 1.0).shard == first.shard
    scheduler.ready("a")
    assert scheduler.actors()[ActorState.READY] == 2


def test_a_constructor_that_raises_ends_the_run_at_once_with_its_message():
    scheduler = Scheduler(samples_of(9), actors=4)
    for name in "abcd":
        scheduler.starting(name)
    scheduler.could_not_start("a", "there is no such checkpoint", 0.0)
    assert scheduler.over
    assert scheduler.fatal == "there is no such checkpoint"
    assert scheduler.missing(0.0) == 0


def test_a_constructor_that_raises_on_one_machine_does_not_end_what_runs_on_others():
    scheduler = started(3, actors=("a", "b"))
    scheduler.starting("c")
    scheduler.could_not_start("c", "this disk is broken", 0.0)
    assert scheduler.fatal is None


def test_workers_that_only_die_end_the_run():
    scheduler = started(1, size=1, deaths_in_a_row=3, crash=1000)
    for turn in range(4):
        assert scheduler.fatal is None
        scheduler.next_task(f"{turn}" if turn else "a", 0.0)
        scheduler.dead(f"{turn}" if turn else "a", Failure.CRASH, "it died", 0.0)
        scheduler.starting(f"{turn + 1}")
        scheduler.ready(f"{turn + 1}")
    assert scheduler.fatal == "it died"


def test_what_takes_much_longer_than_usual_is_started_twice_and_the_first_result_counts():
    scheduler = started(5, actors=("a", "b"))
    slow = scheduler.next_task("a", 0.0)
    for turn in range(4):
        task = scheduler.next_task("b", float(turn))
        scheduler.succeeded(task.number, turn + 1.0)
    assert scheduler.next_task("b", 1.5) is None, "not long enough yet"
    again = scheduler.next_task("b", 4.0)
    assert (again.shard, again.number) == (slow.shard, again.number)
    assert scheduler.next_task("b", 100.0) is None, "two are enough"
    assert scheduler.succeeded(again.number, 5.0)
    assert scheduler.over
    assert not scheduler.succeeded(slow.number, 6.0)


def test_a_second_copy_outlives_the_failure_of_the_first():
    scheduler = started(4, actors=("a", "b"), error=0)
    slow = scheduler.next_task("a", 0.0)
    for turn in range(3):
        scheduler.succeeded(scheduler.next_task("b", float(turn)).number, turn + 1.0)
    again = scheduler.next_task("b", 50.0)
    scheduler.dead("a", Failure.LOST, "node died", 0.0)
    assert scheduler.succeeded(again.number, 51.0)
    assert scheduler.states()[ShardState.COMMITTED] == 4
    assert slow.shard == again.shard


def test_workers_are_wanted_as_long_as_they_are_of_use():
    scheduler = Scheduler(samples_of(2), actors=8)
    assert scheduler.missing(0.0) == 2
    scheduler.starting("a")
    scheduler.ready("a")
    assert scheduler.missing(0.0) == 1
    scheduler.dead("a", Failure.LOST, "gone", 0.0)
    assert scheduler.missing(0.0) == 2


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 8), st.integers(1, 9), st.integers(1, 4), st.integers(1, 2), st.floats(0, 0.6), st.integers(0, 2**32)
)
def test_whatever_happens_every_shard_ends_and_none_is_accepted_twice(shards, size, actors, depth, rate, seed):
    """Random successes, failures of all kinds, deaths, silences, and starts that fail."""
    chance = random.Random(seed)
    scheduler = Scheduler(
        samples_of(shards, size), Budgets(deaths_in_a_row=10**6, storage_seconds=math.inf), depth, actors
    )
    accepted, held, names, now = [], {}, iter(range(10**6)), 0.0
    for _ in range(200_000):
        if scheduler.over:
            break
        now += chance.random()
        for _ in range(scheduler.missing(now)):
            name = f"w{next(names)}"
            scheduler.starting(name)
            if held and chance.random() < rate:  # one did start before
                chance.choice((scheduler.could_not_start, partial(scheduler.dead, failure=Failure.LOST)))(
                    name, message="not here", now=now
                )
                continue
            scheduler.ready(name)
            held[name] = []
        if not held:
            continue  # until the wait for the next start is over
        actor = chance.choice(list(held))
        task = scheduler.next_task(actor, now)
        if task is not None:
            held[actor].append(task)
        elif held[actor]:
            task = held[actor].pop(0)
            if chance.random() >= rate:
                if scheduler.succeeded(task.number, now):
                    accepted.append(task.shard)
            elif chance.random() < 0.5:
                scheduler.failed(task.number, chance.choice(list(Failure)), "bad luck", now)
            elif chance.random() < 0.5:
                scheduler.dead(actor, chance.choice(list(Failure)), "worse luck", now)
                del held[actor]
            else:
                scheduler.unavailable(actor)
                held[actor] = []
                scheduler.ready(actor)
    assert scheduler.over
    assert scheduler.fatal is None
    assert len(accepted) == len(set(accepted))
    counts = scheduler.states()
    assert counts == {
        state: sum(scheduler.shard_state(each) is state for each in range(shards)) for state in ShardState
    }
    assert counts[ShardState.COMMITTED] == len(accepted)
    assert counts[ShardState.COMMITTED] + counts[ShardState.FAILED] == shards
