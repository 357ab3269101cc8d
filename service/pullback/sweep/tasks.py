"""The words of the failure policy: where shards and workers are, how a task fails, how often it is tried again."""

from dataclasses import dataclass
from enum import StrEnum

STORAGE_SECONDS = 120.0
"""A storage that refuses writes is given so long to come back before the run is ended."""


class ShardState(StrEnum):
    """Where a shard is. COMMITTED: its first result was accepted, and is in the next commit."""

    PENDING = "pending"
    RUNNING = "running"
    RETRY = "retry"
    COMMITTED = "committed"
    FAILED = "failed"


class ActorState(StrEnum):
    """Where a worker is. UNAVAILABLE: it does not answer, and may come back."""

    STARTING = "starting"
    READY = "ready"
    UNAVAILABLE = "unavailable"
    DEAD = "dead"


class Failure(StrEnum):
    """Why a task did not end: each kind has its own budget."""

    ERROR = "error"
    """Code raised: ours, or the user's."""
    MEMORY = "out of memory"
    """The smallest batch did not fit, or the system killed the process for its memory."""
    CRASH = "crash"
    """The process died, or its GPU faulted, while it computed: a sample may be the cause."""
    LOST = "lost machine"
    PREEMPTED = "preempted"
    STORAGE = "storage"
    """The result could not be written, and its computation is lost."""


@dataclass(frozen=True)
class Budgets:
    """How often a shard is tried again after each kind of failure; beyond that it is given up (or taken apart)."""

    error: int = 2
    memory: int = 4
    crash: int = 2
    """Deaths after which the shard is taken apart to find the sample that kills; and those that a sample alone may be
    present at before it is found guilty, since a process may die of something else at any time."""
    lost: int = 50
    preempted: int = 1000
    storage: int = 1000
    storage_seconds: float = STORAGE_SECONDS
    """The run is ended once the storage has refused the results of every worker for so long, and taken none."""
    deaths_in_a_row: int = 8
    """Workers (for each that there should be) that may die without any result in between, unless a worker that was
    there before them is still computing."""

    def of(self, failure: Failure) -> int:
        """Retries after a failure of a kind."""
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
    """What a worker is told to do.

    Attributes:
        number: unique in a run.
        shard: the shard it belongs to.
        attempt: how often the shard was tried before.
        samples: None for the whole shard, whose result is written; else the samples (of the whole sweep) to compute
            and to throw away, to see whether one of them kills the process.
        isolate: whether a sample that raises is quarantined, rather than the whole task failed.
        skip: samples that kill a process; they are quarantined without being computed.
    """

    number: int
    shard: int
    attempt: int = 0
    samples: tuple[int, ...] | None = None
    isolate: bool = False
    skip: frozenset[int] = frozenset()


def gathering_seconds(looking: float) -> float:
    """How long to let results gather before all tasks are looked at, if that takes so many seconds: a fifth of the time
    is spent on it then, while every worker has a next task anyway."""
    return min(4 * looking, 0.2)
