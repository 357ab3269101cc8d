"""Simulate a sweep on thousands of GPUs, event by event, with the real `Scheduler`.

The scheduler makes every decision. Its processor time is measured and added to the clock of the simulated driver, which
handles one event at a time. The costs of Ray and of commits are assumptions, listed in `Cluster`. GPUs fail and are
preempted at random times, and are replaced.
"""

import heapq
import math
import random
import time
from dataclasses import asdict, dataclass, field
from itertools import count
from typing import Any

from pullback.driving.schedule import Scheduler
from pullback.sweep.tasks import Failure, ShardState, Task, gathering_seconds


@dataclass(frozen=True)
class Cluster:
    """Settings of the simulation. Times are in seconds unless the name says otherwise; rates are per GPU.

    Attributes:
        gpus: number of GPUs, one worker each.
        shards_a_gpu: number of shards per GPU.
        shard_seconds: mean time of a shard.
        spread: standard deviation of the logarithm of that time.
        write_seconds: time to write a shard, while the next shard is computed.
        start_seconds: time to load a generator.
        days_between_failures: mean time between losses of a machine. It is replaced after `replaced_seconds`.
        hours_between_preemptions: mean time between preemptions. The GPU returns after `replaced_seconds`.
        call_seconds: driver's time to submit a task to Ray and to receive its result; assumed.
        wake_seconds_a_task: driver's time per running task for each poll for results, because Ray's `wait` visits all
            running tasks: 13 to 25 ms were measured for 20,000.
        commit_seconds: driver's time for a commit, every two seconds; assumed. `storing_seconds` is added for each
            shard.
        seed: seed of the random numbers.
    """

    gpus: int
    shards_a_gpu: int = 20
    shard_seconds: float = 60.0
    spread: float = 0.2
    write_seconds: float = 2.0
    start_seconds: float = 60.0
    days_between_failures: float = 30.0
    hours_between_preemptions: float = 24.0
    replaced_seconds: float = 120.0
    call_seconds: float = 0.001
    wake_seconds_a_task: float = 1.25e-6
    commit_seconds: float = 0.02
    seed: int = 0


def storing_seconds(shards: int) -> float:
    """Seconds the driver needs to merge and commit one shard, given the number of shards in the sweep.

    Measured in a local store: 1.3 ms for 20,000 shards and 1.7 ms for 60,000. The lists of manifests grow with the
    square root of the shards.
    """
    return 0.0007 + 4e-6 * math.sqrt(shards)


@dataclass(frozen=True)
class Simulated:
    """Results of a simulation. Times are simulated, except for the scheduler's processor time, which is measured.

    Attributes:
        seconds: time from the start of the first worker to the last result.
        busy: share of time that loaded GPUs spent computing, until the last shard was assigned.
        tail_seconds: time from the assignment of the last shard to the end.
        wasted: share of the computing time whose result was discarded (duplicate starts, lost machines).
        driver_seconds_a_shard: processor time of the scheduler per shard.
        driver_busy: share of the time in which the driver was working.
        commits: number of commits.
        deaths: number of lost or preempted workers.
        committed, failed: numbers of shards in these states.
    """

    seconds: float
    busy: float
    tail_seconds: float
    wasted: float
    driver_seconds_a_shard: float
    driver_busy: float
    commits: int
    deaths: int
    committed: int
    failed: int

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)


@dataclass
class _Gpu:
    name: str
    queue: list[Task] = field(default_factory=list)
    """Tasks that wait on this GPU. The task that it computes is in `computing`."""
    computing: Task | None = None
    since: float = 0.0
    alive: bool = True


_COMMIT_EVERY = 2.0
_TICK_SECONDS = 0.5
"""Interval at which all states are reported, and at which idle workers may receive a task that has become due."""


def simulate(cluster: Cluster) -> Simulated:
    """Simulate a sweep to its end."""
    return _Simulation(cluster).run()


class _Simulation:
    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._chance = random.Random(cluster.seed)
        shards = cluster.gpus * cluster.shards_a_gpu
        self._scheduler = Scheduler({shard: range(shard, shard + 1) for shard in range(shards)}, actors=cluster.gpus)
        self._shards = shards
        self._events: list[tuple[float, int, str, Any, Any]] = []
        self._order, self._names = count(), count()
        self._gpus: dict[str, _Gpu] = {}
        self._idle: set[str] = set()
        self._driver_free = self._driver_worked = self._scheduling = 0.0
        self._computed = self._wasted = self._loaded_time = 0.0
        self._loaded: dict[str, float] = {}
        self._commits = self._deaths = self._staged = 0
        self._last_commit = self._last_tick = self._woken = 0.0
        self._tail_from: float | None = None

    def run(self) -> Simulated:
        for _ in range(self._cluster.gpus):
            self._start(0.0)
        now = 0.0
        computed_when_full = loaded_when_full = 0.0
        while self._events and not self._scheduler.over:
            now, _, what, name, task = heapq.heappop(self._events)
            if what == "computed":
                self._computed_one(now, name, task)
                continue
            if what == "loaded" or what == "written":
                if self._gpus[name].alive:
                    self._handle(now, what, name, task)
            elif what == "lost" and self._gpus[name].alive:
                self._lose(now, name)
            elif what == "replace":
                self._start(now)
            if self._tail_from is None and self._scheduler.waiting == 0:
                self._tail_from = now
                under_way = (now - gpu.since for gpu in self._gpus.values() if gpu.alive and gpu.computing is not None)
                computed_when_full = self._computed + sum(under_way)
                loaded_when_full = self._loaded_time + sum(now - since for since in self._loaded.values())
        now = max(now, self._driver_free)
        states = self._scheduler.states()
        return Simulated(
            seconds=now,
            busy=computed_when_full / max(loaded_when_full, 1e-9),
            tail_seconds=now - (self._tail_from or now),
            wasted=self._wasted / max(self._computed, 1e-9),
            driver_seconds_a_shard=self._scheduling / self._shards,
            driver_busy=self._driver_worked / now,
            commits=self._commits,
            deaths=self._deaths,
            committed=states[ShardState.COMMITTED],
            failed=states[ShardState.FAILED],
        )

    def _at(self, when: float, what: str, name: str = "", task: Task | None = None) -> None:
        heapq.heappush(self._events, (when, next(self._order), what, name, task))

    def _start(self, now: float) -> None:
        gpu = _Gpu(f"gpu-{next(self._names)}")
        self._gpus[gpu.name] = gpu
        self._scheduler.starting(gpu.name)
        self._at(now + self._cluster.start_seconds * self._chance.uniform(0.8, 1.5), "loaded", gpu.name)
        rate = 1 / (86400 * self._cluster.days_between_failures) + 1 / (3600 * self._cluster.hours_between_preemptions)
        self._at(now + self._chance.expovariate(rate), "lost", gpu.name)

    def _handle(self, now: float, what: str, name: str, task: Task | None) -> None:
        """Handle an event when the driver is free: ask the scheduler, and assign the next tasks."""
        if now > self._woken:  # else the driver's last poll has already found this event
            self._woken = max(now, self._driver_free)
            waking = self._cluster.wake_seconds_a_task * self._scheduler.under_way
            self._woken += gathering_seconds(waking / 2)  # two polls: the second collects later arrivals
            self._driver_free = self._woken + waking
            self._driver_worked += waking
        began = max(now, self._driver_free)
        asked = [name, *list(self._idle)[:1]]
        ticks = began - self._last_tick >= _TICK_SECONDS
        if ticks:
            self._last_tick = began
        if ticks and self._scheduler.may_start_with_time:
            asked = [gpu.name for gpu in self._gpus.values() if gpu.alive]
        started = time.process_time()
        self._scheduler.missing(began)
        if ticks:
            self._scheduler.states()
            self._scheduler.actors()
        if what == "loaded":
            self._scheduler.ready(name)
            self._loaded[name] = now
        else:
            assert task is not None
            if self._scheduler.succeeded(task.number, began):
                self._staged += 1
            else:
                self._wasted += self._cluster.shard_seconds
        given = []
        for asking in asked:
            while (following := self._scheduler.next_task(asking, began)) is not None:
                given.append((asking, following))
        spent = time.process_time() - started
        self._scheduling += spent
        worked = spent + self._cluster.call_seconds * (1 + len(given))
        if began - self._last_commit >= _COMMIT_EVERY and self._staged:
            worked += self._cluster.commit_seconds + storing_seconds(self._shards) * self._staged
            self._last_commit, self._staged = began, 0
            self._commits += 1
        self._driver_free = began + worked
        self._driver_worked += worked
        for worker, following in given:
            self._gpus[worker].queue.append(following)
            self._compute(self._driver_free, self._gpus[worker])
        for worker in {name, *(worker for worker, _ in given)}:
            gpu = self._gpus[worker]
            busy = gpu.computing is not None or gpu.queue
            (self._idle.discard if busy else self._idle.add)(worker)

    def _compute(self, now: float, gpu: _Gpu) -> None:
        if gpu.computing is None and gpu.queue and gpu.alive:
            gpu.computing, gpu.since = gpu.queue.pop(0), now
            middle = math.log(self._cluster.shard_seconds) - self._cluster.spread**2 / 2
            self._at(
                now + self._chance.lognormvariate(middle, self._cluster.spread), "computed", gpu.name, gpu.computing
            )

    def _computed_one(self, now: float, name: str, task: Task) -> None:
        gpu = self._gpus[name]
        if not gpu.alive:
            return
        self._computed += now - gpu.since
        gpu.computing = None
        self._at(now + self._cluster.write_seconds, "written", name, task)
        self._compute(now, gpu)

    def _lose(self, now: float, name: str) -> None:
        gpu = self._gpus[name]
        gpu.alive = False
        self._deaths += 1
        self._idle.discard(name)
        self._loaded_time += now - self._loaded.pop(name, now)
        if gpu.computing is not None:
            self._computed += now - gpu.since
            self._wasted += now - gpu.since
        started = time.process_time()
        self._scheduler.dead(name, Failure.LOST, "its machine is gone", now)
        self._scheduling += time.process_time() - started
        self._at(now + self._cluster.replaced_seconds, "replace")
