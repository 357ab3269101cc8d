"""Tasks, and the terms of the failure policy: states of shards and workers, kinds of failures, retries."""

from dataclasses import dataclass
from enum import StrEnum

STORAGE_SECONDS = 120.0
"""Seconds for which a storage may refuse writes before the run ends."""


class ShardState(StrEnum):
    """State of a shard. COMMITTED: its first result was accepted and is part of the next commit."""

    PENDING = "pending"
    RUNNING = "running"
    RETRY = "retry"
    COMMITTED = "committed"
    FAILED = "failed"


class ActorState(StrEnum):
    """State of a worker. UNAVAILABLE: it does not answer, and may come back."""

    STARTING = "starting"
    READY = "ready"
    UNAVAILABLE = "unavailable"
    DEAD = "dead"


class Failure(StrEnum):
    """Why a task failed. Each kind has its own budget of retries."""

    ERROR = "error"
    """Our code or the user's raised an error."""
    MEMORY = "out of memory"
    """The smallest batch did not fit, or the system killed the process for its memory."""
    CRASH = "crash"
    """The process died, or its GPU faulted, while it computed: a sample may be the cause."""
    LOST = "lost machine"
    PREEMPTED = "preempted"
    STORAGE = "storage"
    """The result could not be written, and has to be computed again."""


@dataclass(frozen=True)
class Budgets:
    """Retries of a shard by kind of failure. After these it is given up, or split to find a sample that kills."""

    error: int = 2
    memory: int = 4
    crash: int = 2
    """Deaths of processes after which a shard is split. Also the deaths that are allowed to a sample computed alone,
    because a process may die for another reason."""
    lost: int = 50
    preempted: int = 1000
    storage: int = 1000
    storage_seconds: float = STORAGE_SECONDS
    """Seconds for which the storage may refuse the results of every worker before the run ends."""
    deaths_in_a_row: int = 8
    """Deaths without any result in between, for each worker that should run, that end the run. They do not end it while
    a worker that started before them still computes."""

    def of(self, failure: Failure) -> int:
        """Retries allowed after a kind of failure."""
        return {
            Failure.ERROR: self.error,
            Failure.MEMORY: self.memory,
            Failure.CRASH: self.crash,
            Failure.LOST: self.lost,
            Failure.PREEMPTED: self.preempted,
            Failure.STORAGE: self.storage,
        }[failure]


@dataclass(frozen=True)
class Task:
    """A unit of work for one worker.

    Attributes:
        number: unique in a run.
        shard: the shard it belongs to.
        attempt: how often the shard was tried before.
        samples: None for the whole shard, whose result is written. Otherwise indices of samples to compute without
            keeping the result, to find out whether one of them kills the process.
        isolate: whether a sample that raises is quarantined; otherwise the whole task fails.
        skip: samples known to kill a process, which are quarantined without being computed.
    """

    number: int
    shard: int
    attempt: int = 0
    samples: tuple[int, ...] | None = None
    isolate: bool = False
    skip: frozenset[int] = frozenset()


def gathering_seconds(looking: float) -> float:
    """Seconds to let results gather before all tasks are polled.

    Polling then takes a fifth of the driver's time, while every worker has its next task anyway.

    Args:
        looking: seconds that one poll of all tasks takes.
    """
    return min(4 * looking, 0.2)
