"""What runs the workers, as the driver sees it, and the simplest such pool: one worker in this process.

The driver (`run`) knows no more of a pool than what comes out of it.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from pullback.errors import SweepError, WorkCancelledError
from pullback.sweep.plan import Plan
from pullback.sweep.tasks import Task
from pullback.sweep.worker import ShardDone, Worker, WorkOrder


@dataclass(frozen=True)
class Event:
    """Something that a pool wants to be written down, such as a shard's second try.

    Attributes:
        name: what happened, in a word or two.
        facts: JSON values, such as `shard`, `attempt`, `worker` and `message`.
    """

    name: str
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class PoolState:
    """How many shards and workers are in which state, by the states' names; and what keeps them from going on."""

    shards: Mapping[str, int]
    workers: Mapping[str, int]
    trouble: str = ""


@dataclass(frozen=True)
class ShardFailed:
    """A shard that was given up after its retries; its samples stay pending.

    Attributes:
        shard: its number.
        error: what happened the last time.
        attempts: how often it was tried whole.
    """

    shard: int
    error: str
    attempts: int = 1


Results = Generator[ShardDone | ShardFailed | Event | PoolState | None, None, None]


class Pool(Protocol):
    """Something that runs a `Worker` somewhere, one or many."""

    def results(self, shards: Sequence[int], stop: Callable[[], bool]) -> Results:
        """Each shard's outcome as it comes; None now and then while nothing comes, so that the driver can act.

        Once `stop` says so, every worker gives up after the batch at hand, and what was finished still comes.
        """
        ...


PoolFactory = Callable[[WorkOrder, Plan], AbstractContextManager[Pool]]


class SerialPool:
    """One worker, in this process; for debugging and for machines without Ray."""

    def __init__(self, order: WorkOrder) -> None:
        self._worker = Worker(order)

    def results(self, shards: Sequence[int], stop: Callable[[], bool]) -> Results:
        """Each shard, computed when it is asked for; an error is not retried, it is the user's to see."""
        self._worker.stop_when = stop
        for number, shard in enumerate(shards):
            try:
                result = self._worker.run(Task(number, shard))
            except WorkCancelledError:
                return
            except SweepError as error:
                raise SweepError(
                    f"{error}\nWhat was done before is saved. Without --serial the other shards are computed too."
                ) from error
            yield result


@contextmanager
def serial_pool(order: WorkOrder, plan: Plan) -> Iterator[Pool]:
    """The pool of `--serial`."""
    yield SerialPool(order)
