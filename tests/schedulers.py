"""Schedulers for tests, which need no processes."""

from pullback.driving.schedule import Scheduler
from pullback.sweep.tasks import Budgets


def samples_of(shards, size=1):
    """As many shards, each of `size` samples."""
    return {shard: range(shard * size, (shard + 1) * size) for shard in range(shards)}


def started(shards=3, size=1, actors=("a",), depth=1, **budgets):
    """A scheduler of some shards whose workers are ready."""
    scheduler = Scheduler(samples_of(shards, size), Budgets(**budgets), depth=depth, actors=len(actors))
    for actor in actors:
        scheduler.starting(actor)
        scheduler.ready(actor)
    return scheduler
