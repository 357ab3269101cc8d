"""The scheduler: which worker computes what next, and the failure policy of a sweep.

It is a state machine without processes, clock or Ray. The caller reports what happened and when, and asks for the next
task. So the same object runs a sweep on Ray, a simulation of ten thousand GPUs, and its tests.

The policy:

- A shard that raises is tried again. The last try computes sample by sample: a sample that raises alone is quarantined,
  and its neighbours are kept.
- A process that dies while it computes may have been killed by a sample. After some deaths its shard is split in
  halves, again and again, until the sample is found and left out.
- A machine that is lost or preempted costs a shard only time.
- A worker that cannot write pauses, longer each time, while others take its shards. The run ends when no worker could
  write for a long time.
- A machine that always fails does not end the run while another worker computes: that one may be hours into its work.
- Near the end of the run, a task that takes much longer than usual is started a second time. The first result counts.

Every query takes constant time: there may be 200,000 shards and 10,000 workers.

Invariants: a shard has one accepted result; a task is given to one worker at a time, except for a second start; no
sequence of events makes a shard wait forever.
Related modules: computing (`sweep.worker`), processes (`cluster`), committing (`run`).
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from pullback.driving.storage_backoff import Refusals, pause
from pullback.sweep.tasks import ActorState, Budgets, Failure, ShardState, Task


@dataclass
class _Shard:
    samples: range
    state: ShardState = ShardState.PENDING
    attempts: int = 0
    failures: dict[Failure, int] = field(default_factory=dict)
    running: int = 0
    """Copies of the whole shard that workers are computing."""
    error: str = ""
    probes: int = 0
    """Parts of the shard that wait for a try or are being tried."""
    searches: int = 0
    """Number of times that it was split to search for a sample that kills."""
    strikes: dict[int, int] = field(default_factory=dict)
    """Number of processes that died, by the sample that they computed alone."""
    guilty: set[int] = field(default_factory=set)


@dataclass
class _Running:
    task: Task
    actor: str
    since: float


_WAITS = 2.0
"""A task that runs this many times the median duration is started a second time, once no other task waits."""
_KNOWN = 3
"""Durations that must be known before a second start."""
_REMEMBERED = 256
"""Latest durations that are kept for the median."""
_SEARCHES = 3
"""Number of times that a shard is split before it is given up."""


class Scheduler:
    """Hands out the shards of one run.

    Args:
        shards: the pending shards, with the samples of each.
        budgets: retries by kind of failure.
        depth: tasks that a worker has at once; with 2 it computes a task while it writes the previous one.
        actors: number of workers that should run.
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
        self._shard_counts = Counter({ShardState.PENDING: len(self._shards)})
        self._actor_counts: Counter[ActorState] = Counter()
        self._open = len(self._shards)
        self._durations: deque[float] = deque(maxlen=_REMEMBERED)
        self._patience = 0.0
        """Seconds that a task may run before a second start; 0 if it has to be computed from the durations."""
        self._next_number = 0
        self._deaths, self._deaths_began = 0, 0
        """Deaths of workers since the last result; number of workers that had been started at the first of them."""
        self._started: dict[str, int] = {}
        """Live workers, each with its number in the order of starts."""
        self._ever_started, self._ever_ready = 0, False
        self._failed_starts, self._start_again = 0, 0.0
        self._refusals = Refusals(self.budgets.storage_seconds)
        self.fatal: str | None = None
        """Why the run must end; None while it can continue."""
        self.fatal_failure: Failure | None = None
        """The kind of failure that ended the run, if it was a task's."""

    # Queries

    @property
    def over(self) -> bool:
        """Whether every shard is committed or given up, or the run must end."""
        return self._open == 0 or self.fatal is not None

    @property
    def waiting(self) -> int:
        """Number of tasks that no worker has."""
        return len(self._waiting)

    @property
    def under_way(self) -> int:
        """Number of tasks that workers have."""
        return len(self._running)

    @property
    def trouble(self) -> str:
        """The storage's latest refusal, while it lasts; empty otherwise."""
        return self._refusals.trouble

    @property
    def may_start_with_time(self) -> bool:
        """Whether an idle worker may get a task merely because time passes: a pause ends, or a second start is due."""
        return bool(self._refusals) or not self._waiting

    def states(self) -> dict[ShardState, int]:
        """Number of shards in each state."""
        return {state: self._shard_counts[state] for state in ShardState}

    def actors(self) -> dict[ActorState, int]:
        """Number of workers in each state."""
        return {state: self._actor_counts[state] for state in ActorState}

    def shard_state(self, shard: int) -> ShardState:
        """The state of a shard."""
        return self._shards[shard].state

    def given_up(self) -> list[tuple[int, int, str]]:
        """The failed shards: number, attempts at the whole shard, and last error of each."""
        failed = [(number, shard) for number, shard in self._shards.items() if shard.state is ShardState.FAILED]
        return [(number, shard.attempts, shard.error) for number, shard in failed]

    def missing(self, now: float) -> int:
        """Number of workers to start now: the wanted and useful number, minus the live workers."""
        alive = len(self._actors) - self._actor_counts[ActorState.DEAD]
        useful = min(self._wanted, len(self._waiting) + len(self._running))
        return 0 if self.over or now < self._start_again else max(0, useful - alive)

    # Workers

    def starting(self, actor: str) -> None:
        """Record that a worker's process was requested."""
        self._set(actor, ActorState.STARTING)
        self._held[actor] = []
        self._started[actor] = self._ever_started
        self._ever_started += 1

    def ready(self, actor: str) -> None:
        """Record that a worker has loaded its networks, or answers again."""
        self._ever_ready = True
        self._failed_starts = 0
        self._set(actor, ActorState.READY)

    def unavailable(self, actor: str) -> None:
        """Record that a worker does not answer. Its tasks go to others at once, and it gets none until `ready`."""
        self._set(actor, ActorState.UNAVAILABLE)
        self._refusals.forget(actor)
        for number in list(self._held[actor]):
            self._put_back(self._running[number], Failure.LOST, "its worker does not answer")

    def could_not_start(self, actor: str, message: str, now: float) -> None:
        """Record that a worker's constructor raised. The run ends if no worker ever started: others would raise too."""
        self._start_failed(now)
        self._bury(actor)
        if not self._ever_ready:
            self.fatal = message
        if not self._actor_counts[ActorState.READY]:
            self._died(message)

    def dead(self, actor: str, failure: Failure, message: str, now: float) -> None:
        """Record that a worker's process is gone.

        It was computing the oldest of its tasks, which is charged with the failure. Its other tasks are not charged.
        """
        if self._actors.get(actor) is ActorState.DEAD:
            return
        started = self._actors.get(actor) is not ActorState.STARTING
        if not started:
            self._start_failed(now)
        self._bury(actor)
        trying = any(self._running[number].task.samples is not None for number in self._held[actor])
        for place, number in enumerate(list(self._held[actor])):
            self._put_back(self._running[number], failure if place == 0 else Failure.PREEMPTED, message)
        # Deaths are expected in the search for a sample; a failed start counts only if no worker is ready.
        expected = trying if started else bool(self._actor_counts[ActorState.READY])
        if failure in (Failure.CRASH, Failure.MEMORY) and not expected:
            self._died(message)

    # Tasks

    def next_task(self, actor: str, now: float) -> Task | None:
        """The next task of a worker; None if it has enough tasks, or none is left."""
        held = self._held[actor]
        if (
            self._actors[actor] is not ActorState.READY
            or self.fatal is not None
            or now < self._refusals.paused_until(actor)
        ):
            return None
        trying = any(self._running[number].task.samples is not None for number in held)
        if len(held) >= self._depth or trying:  # a part that may kill its process gets the worker to itself
            return None
        for _ in range(len(self._waiting)):
            shard, part = self._waiting.popleft()
            if self._shards[shard].state in (ShardState.COMMITTED, ShardState.FAILED):
                continue  # another copy finished first
            if part is not None and held:
                self._waiting.append((shard, part))
                continue
            return self._give(shard, part, actor, now)
        return self._second_start(actor, now)

    def succeeded(self, number: int, now: float) -> bool:
        """Record that a task ended well. Returns whether its result is the first of its shard; a part has no result."""
        running = self._release(number)
        if running is None:  # its worker was given up before it answered, and the task was given to another
            return False
        self._deaths = 0
        if running.task.samples is None:  # something was written
            self._refusals.written(running.actor)
        shard = self._shards[running.task.shard]
        self._durations.append(now - running.since)
        self._patience = 0.0
        if running.task.samples is not None:
            self._probed(running.task.shard)
            return False
        shard.running -= 1
        if shard.state is ShardState.COMMITTED:
            return False
        if shard.state is not ShardState.FAILED:  # a second copy may succeed after the shard was given up
            self._open -= 1
        self._move(shard, ShardState.COMMITTED)
        return True

    def failed(self, number: int, failure: Failure, message: str, now: float) -> None:
        """Record that a task failed while its worker lives on."""
        running = self._running.get(number)
        if running is None:
            return
        self._put_back(running, failure, message)
        if failure is Failure.STORAGE:
            self._refusals.refused(running.actor, message, now)
            if self.fatal is None and self._refusals.too_long(now, self._actor_counts[ActorState.READY]):
                self.fatal, self.fatal_failure = message, Failure.STORAGE

    # Internals

    def _move(self, shard: _Shard, state: ShardState) -> None:
        self._shard_counts[shard.state] -= 1
        self._shard_counts[state] += 1
        shard.state = state

    def _set(self, actor: str, state: ActorState) -> None:
        if actor in self._actors:
            self._actor_counts[self._actors[actor]] -= 1
        self._actor_counts[state] += 1
        self._actors[actor] = state

    def _bury(self, actor: str) -> None:
        self._set(actor, ActorState.DEAD)
        self._refusals.forget(actor)
        self._started.pop(actor, None)

    def _start_failed(self, now: float) -> None:
        """After a failed start, wait longer before each new one, if any worker has ever started."""
        if self._ever_ready and now >= self._start_again:  # otherwise it was started together with others
            self._failed_starts += 1
            self._start_again = now + pause(self._failed_starts)

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
            self._move(entry, ShardState.RUNNING)
            entry.running += 1
        self._running[task.number] = _Running(task, actor, now)
        self._held[actor].append(task.number)
        return task

    def _second_start(self, actor: str, now: float) -> Task | None:
        if len(self._durations) < _KNOWN or self._held[actor]:
            return None
        patience = self._patience = self._patience or _WAITS * median(self._durations)
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
            self._move(shard, ShardState.RETRY)
            shard.failures[failure] = 0
            shard.searches += 1
            self._try_parts(number, left)
        elif beyond:
            self._give_up(shard)
        elif shard.running == 0:  # otherwise a second copy is still running
            self._move(shard, ShardState.RETRY)
            self._waiting.append((number, None))

    def _try_parts(self, number: int, samples: Sequence[int]) -> None:
        middle = (len(samples) + 1) // 2
        for part in (tuple(samples[:middle]), tuple(samples[middle:])):
            if part:
                self._shards[number].probes += 1
                self._waiting.appendleft((number, part))

    def _part_failed(self, number: int, part: tuple[int, ...], failure: Failure) -> None:
        shard = self._shards[number]
        if failure not in (Failure.CRASH, Failure.MEMORY):  # the samples are not the cause
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
        """Record that a part was tried. After the last part the shard is computed without the samples that kill."""
        shard = self._shards[number]
        shard.probes -= 1
        if shard.probes or shard.state is not ShardState.RETRY:
            return
        if len(shard.samples) > 1 and len(shard.guilty) == len(shard.samples):
            self._give_up(shard)  # every sample died: the machine is the cause, so no sample is quarantined
        else:
            self._waiting.append((number, None))

    def _give_up(self, shard: _Shard) -> None:
        self._move(shard, ShardState.FAILED)
        self._open -= 1

    def _died(self, message: str) -> None:
        """Count a death. Too many end the run, unless a worker that started before the first of them still computes."""
        self._deaths_began = self._deaths_began if self._deaths else self._ever_started
        self._deaths += 1
        if self._deaths > self.budgets.deaths_in_a_row * max(1, min(self._wanted, len(self._shards))):
            older = (actor for actor, number in self._started.items() if number < self._deaths_began)
            if not any(self._actors[actor] is ActorState.READY and self._held[actor] for actor in older):
                self.fatal = self.fatal or message
