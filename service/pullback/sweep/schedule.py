"""Which worker computes what next: the failure policy of a sweep, as a state machine without processes, clock or Ray.

Whoever runs the workers tells what happened and when, and asks for the next task. The same object therefore runs a
sweep on Ray, a simulation of ten thousand GPUs, and its tests.

The policy. An error is tried again; the last try is made sample by sample, and a sample that raises alone is
quarantined with its neighbours untouched. A process that dies while it computes may have been killed by a sample: after
some deaths the shard is taken apart, half by half, until the sample that kills is found and left out. A machine that is
lost or preempted costs a shard nothing but time. Near the end, what takes much longer than usual is started twice, and
the first result counts.

Invariants: a shard has one accepted result; a task is given to one worker at a time, except such a second start; no
sequence of events makes a shard wait for ever.
Leaves to others: computing (`worker`), processes (`cluster`), and what is committed (`run`).
"""

from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from statistics import median


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
    deaths_in_a_row: int = 8
    """Workers (for each that there should be) that may die without any result in between."""

    def of(self, failure: Failure) -> int:
        """Retries after a failure of a kind."""
        return {
            Failure.ERROR: self.error,
            Failure.MEMORY: self.memory,
            Failure.CRASH: self.crash,
            Failure.LOST: self.lost,
            Failure.PREEMPTED: self.preempted,
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


@dataclass
class _Shard:
    samples: range
    state: ShardState = ShardState.PENDING
    attempts: int = 0
    failures: dict[Failure, int] = field(default_factory=dict)
    running: int = 0
    """Copies of the whole shard that are being computed."""
    error: str = ""
    probes: int = 0
    """Parts that wait to be tried, or are being tried."""
    searches: int = 0
    """How often it was taken apart."""
    strikes: dict[int, int] = field(default_factory=dict)
    """Deaths of processes by the sample that was alone there."""
    guilty: set[int] = field(default_factory=set)


@dataclass
class _Running:
    task: Task
    actor: str
    since: float


_WAITS = 2.0
"""A task that runs this many times as long as the middle one is started a second time, once nothing else waits."""
_KNOWN = 3
"""Durations that must be known before that."""
_REMEMBERED = 256
"""Durations that are kept."""
_SEARCHES = 3
"""How often a shard is taken apart before it is given up."""


class Scheduler:
    """Hands out the shards of one run.

    Args:
        shards: the pending ones, with the samples of each.
        budgets: see `Budgets`.
        depth: tasks a worker has at once; with 2 it computes one while it writes the one before.
        actors: how many workers there should be.
    """

    def __init__(
        self, shards: Mapping[int, range], budgets: Budgets | None = None, depth: int = 2, actors: int = 1
    ) -> None:
        self.budgets = budgets or Budgets()
        self._depth, self._wanted = depth, actors
        self._shards = {number: _Shard(samples) for number, samples in shards.items()}
        self._waiting: deque[tuple[int, tuple[int, ...] | None]] = deque((number, None) for number in self._shards)
        self._running: OrderedDict[int, _Running] = OrderedDict()
        self._held: dict[str, list[int]] = {}
        self._actors: dict[str, ActorState] = {}
        self._open = len(self._shards)
        self._durations: deque[float] = deque(maxlen=_REMEMBERED)
        self._next_number = 0
        self._deaths = 0
        self._ever_ready = False
        self.fatal: str | None = None
        """Why the run cannot go on, once it cannot."""
        self.repeated = 0
        """Tasks whose result came second, and was thrown away."""

    # What is known

    @property
    def over(self) -> bool:
        """Whether every shard is committed or given up, or the run cannot go on."""
        return self._open == 0 or self.fatal is not None

    @property
    def waiting(self) -> int:
        """Tasks that no worker has."""
        return len(self._waiting)

    def states(self) -> dict[ShardState, int]:
        """How many shards are in each state."""
        counts = dict.fromkeys(ShardState, 0)
        for shard in self._shards.values():
            counts[shard.state] += 1
        return counts

    def actors(self) -> dict[ActorState, int]:
        """How many workers are in each state."""
        counts = dict.fromkeys(ActorState, 0)
        for state in self._actors.values():
            counts[state] += 1
        return counts

    def state_of(self, shard: int) -> ShardState:
        """Where a shard is."""
        return self._shards[shard].state

    def given_up(self) -> list[tuple[int, int, str]]:
        """The failed shards: the number of each, how often it was tried whole, and its last error."""
        failed = [(number, shard) for number, shard in self._shards.items() if shard.state is ShardState.FAILED]
        return [(number, shard.attempts, shard.error) for number, shard in failed]

    def missing(self) -> int:
        """How many workers should be started now: as many as are wanted and of use, and not there."""
        alive = sum(state is not ActorState.DEAD for state in self._actors.values())
        useful = min(self._wanted, len(self._waiting) + len(self._running))
        return 0 if self.over else max(0, useful - alive)

    # Workers

    def starting(self, actor: str) -> None:
        """A worker's process was asked for."""
        self._actors[actor] = ActorState.STARTING
        self._held[actor] = []

    def ready(self, actor: str) -> None:
        """It has loaded what it needs, or answers again."""
        self._ever_ready = True
        self._actors[actor] = ActorState.READY

    def unavailable(self, actor: str) -> None:
        """It does not answer: what it held is given to others at once, and it gets nothing until it is ready again."""
        self._actors[actor] = ActorState.UNAVAILABLE
        for number in list(self._held[actor]):
            self._put_back(self._running[number], Failure.LOST, "its worker does not answer")

    def could_not_start(self, actor: str, message: str) -> None:
        """Its constructor raised: that of all others will, unless one did start."""
        self._actors[actor] = ActorState.DEAD
        self._deaths += 1
        if not self._ever_ready:
            self.fatal = message
        self._too_many_deaths(message)

    def dead(self, actor: str, failure: Failure, message: str) -> None:
        """Its process is gone.

        Of the tasks it held, the oldest is the one that it was computing; the others pay nothing.
        """
        if self._actors.get(actor) is ActorState.DEAD:
            return
        self._actors[actor] = ActorState.DEAD
        trying = any(self._running[number].task.samples is not None for number in self._held[actor])
        if failure in (Failure.CRASH, Failure.MEMORY) and not trying:  # where a sample is searched, deaths are expected
            self._deaths += 1
        for place, number in enumerate(list(self._held[actor])):
            self._put_back(self._running[number], failure if place == 0 else Failure.PREEMPTED, message)
        self._too_many_deaths(message)

    # Tasks

    def next_task(self, actor: str, now: float) -> Task | None:
        """What a worker should do next; None where it is busy enough, or nothing is left for it."""
        held = self._held[actor]
        if self._actors[actor] is not ActorState.READY or self.fatal is not None:
            return None
        trying = any(self._running[number].task.samples is not None for number in held)
        if len(held) >= self._depth or trying:  # a part that may kill its process is alone there
            return None
        for _ in range(len(self._waiting)):
            shard, part = self._waiting.popleft()
            if self._shards[shard].state in (ShardState.COMMITTED, ShardState.FAILED):
                continue  # a second copy was faster
            if part is not None and held:
                self._waiting.append((shard, part))
                continue
            return self._give(shard, part, actor, now)
        return self._second_start(actor, now)

    def succeeded(self, number: int, now: float) -> bool:
        """A task ended well; whether its result is the first of its shard (a part of a shard has none)."""
        running = self._release(number)
        if running is None:  # its worker was given up before it answered: a result is a result all the same
            return False
        self._deaths = 0
        shard = self._shards[running.task.shard]
        self._durations.append(now - running.since)
        if running.task.samples is not None:
            self._probed(running.task.shard)
            return False
        shard.running -= 1
        if shard.state is ShardState.COMMITTED:
            self.repeated += 1
            return False
        if shard.state is not ShardState.FAILED:  # a second copy may come through after all
            self._open -= 1
        shard.state = ShardState.COMMITTED
        return True

    def failed(self, number: int, failure: Failure, message: str) -> None:
        """A task failed and its worker lives."""
        running = self._running.get(number)
        if running is not None:
            self._put_back(running, failure, message)

    # How

    def _give(self, shard: int, part: tuple[int, ...] | None, actor: str, now: float) -> Task:
        entry = self._shards[shard]
        errors = entry.failures.get(Failure.ERROR, 0)
        task = Task(
            self._next_number,
            shard,
            entry.attempts,
            part,
            isolate=part is not None or errors >= self.budgets.error,
            skip=frozenset(entry.guilty),
        )
        self._next_number += 1
        if part is None:
            entry.state = ShardState.RUNNING
            entry.running += 1
        self._running[task.number] = _Running(task, actor, now)
        self._held[actor].append(task.number)
        return task

    def _second_start(self, actor: str, now: float) -> Task | None:
        if len(self._durations) < _KNOWN or self._held[actor]:
            return None
        patience = _WAITS * median(self._durations)
        for running in self._running.values():  # the oldest first
            if now - running.since <= patience:
                return None
            entry = self._shards[running.task.shard]
            if running.task.samples is None and entry.running == 1 and entry.state is ShardState.RUNNING:
                return self._give(running.task.shard, None, actor, now)
        return None

    def _release(self, number: int) -> _Running | None:
        running = self._running.pop(number, None)
        if running is not None:
            self._held[running.actor].remove(number)
        return running

    def _put_back(self, running: _Running, failure: Failure, message: str) -> None:
        self._release(running.task.number)
        number, part = running.task.shard, running.task.samples
        shard = self._shards[number]
        if part is None:
            shard.running -= 1
        if shard.state in (ShardState.COMMITTED, ShardState.FAILED):
            return
        shard.error = message
        if part is not None:
            self._part_failed(number, part, failure)
            return
        shard.attempts += 1
        shard.failures[failure] = shard.failures.get(failure, 0) + 1
        beyond = shard.failures[failure] > self.budgets.of(failure)
        left = [sample for sample in shard.samples if sample not in shard.guilty]
        if beyond and failure is Failure.CRASH and shard.searches < _SEARCHES and left:
            shard.state, shard.failures[failure] = ShardState.RETRY, 0
            shard.searches += 1
            self._try_parts(number, left)
        elif beyond:
            self._give_up(shard)
        elif shard.running == 0:  # else a second copy is still at it
            shard.state = ShardState.RETRY
            self._waiting.append((number, None))

    def _try_parts(self, number: int, samples: Sequence[int]) -> None:
        middle = (len(samples) + 1) // 2
        for part in (tuple(samples[:middle]), tuple(samples[middle:])):
            if part:
                self._shards[number].probes += 1
                self._waiting.appendleft((number, part))

    def _part_failed(self, number: int, part: tuple[int, ...], failure: Failure) -> None:
        shard = self._shards[number]
        if failure not in (Failure.CRASH, Failure.MEMORY):  # it tells nothing about the samples
            shard.failures[failure] = shard.failures.get(failure, 0) + 1
            if shard.failures[failure] > self.budgets.of(failure):
                self._give_up(shard)
            else:
                self._waiting.append((number, part))
            return
        if len(part) > 1:
            self._try_parts(number, part)
        else:
            (sample,) = part
            shard.strikes[sample] = shard.strikes.get(sample, 0) + 1
            if shard.strikes[sample] <= self.budgets.crash:
                self._waiting.appendleft((number, part))
                return
            shard.guilty.add(sample)
        self._probed(number)

    def _probed(self, number: int) -> None:
        """One of the parts has been tried; with the last of them the whole shard is computed, without the guilty."""
        shard = self._shards[number]
        shard.probes -= 1
        if shard.probes or shard.state is not ShardState.RETRY:
            return
        if len(shard.samples) > 1 and len(shard.guilty) == len(shard.samples):
            self._give_up(shard)  # no sample survived: it is the place that kills, and samples are not condemned for it
        else:
            self._waiting.append((number, None))

    def _give_up(self, shard: _Shard) -> None:
        shard.state = ShardState.FAILED
        self._open -= 1

    def _too_many_deaths(self, message: str) -> None:
        if self._deaths > self.budgets.deaths_in_a_row * max(1, min(self._wanted, len(self._shards))):
            self.fatal = self.fatal or message
