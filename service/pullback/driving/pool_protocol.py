"""The pool protocol: the driver's interface to its workers. Also the simplest pool: one worker in this process.

The driver (`run`) depends only on what a pool yields. `tests/cluster/test_pool_conformance.py` tests every pool.
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
    """An entry of the journal, such as a shard's second try.

    Attributes:
        name: what happened, in a word or two.
        facts: JSON values, such as `shard`, `attempt`, `worker` and `message`.
    """

    name: str
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class PoolState:
    """Number of shards and workers by state, and the reason why the workers cannot write, if they cannot."""

    shards: Mapping[str, int]
    workers: Mapping[str, int]
    trouble: str = ""


@dataclass(frozen=True)
class ShardFailed:
    """A shard given up after its retries. Its samples stay pending.

    Attributes:
        shard: its number.
        error: the last error.
        attempts: how often the whole shard was tried.
    """

    shard: int
    error: str
    attempts: int = 1


Results = Generator[ShardDone | ShardFailed | Event | PoolState | None, None, None]


class Pool(Protocol):
    """Runs one or many workers (`sweep.worker.Worker`)."""

    def results(self, shards: Sequence[int], stop: Callable[[], bool]) -> Results:
        """Yield the outcome of each shard as it arrives, and None now and then in between, so that the driver can act.

        Args:
            shards: the shards to compute.
            stop: called now and then. Once it returns True, each worker stops after its current batch; finished
                results are still yielded.
        """
        ...


PoolFactory = Callable[[WorkOrder, Plan], AbstractContextManager[Pool]]


class SerialPool:
    """One worker in this process, for debugging and for machines without Ray."""

    def __init__(self, order: WorkOrder) -> None:
        self._worker = Worker(order)

    def results(self, shards: Sequence[int], stop: Callable[[], bool]) -> Results:
        """Yield each shard, computed on demand. An error is not retried but raised, so that the user sees it."""
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
    """Pool factory of `--serial`."""
    yield SerialPool(order)
