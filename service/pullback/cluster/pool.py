"""A pool of Ray actors, each holding a generator and a distance, that computes shards.

Ray places and watches processes; retries are ours (`sweep.schedule`), because Ray would spend its own while a slow
constructor loads weights: actors never restart by themselves. Only tasks, forks (a few KB) and the work order go
through Ray's object store.

What a failure leaves: an actor killed in mid-shard leaves the shard to be computed again by another one; a killed
driver takes Ray's processes with it.
"""

import logging
import math
import os
import secrets
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.exceptions import (
    ActorUnavailableError,
    GetTimeoutError,
    NodeDiedError,
    OutOfMemoryError,
    RayError,
    RayTaskError,
)

from pullback.cluster.actor import Actor
from pullback.errors import DeviceError, MemoryPlanError, PullbackError, RefusedError, SweepError, WorkCancelledError
from pullback.sweep.plan import Plan
from pullback.sweep.pools import Event, Pool, PoolState, Results, ShardFailed
from pullback.sweep.schedule import Scheduler
from pullback.sweep.tasks import Budgets, Failure, Task, gathering_seconds
from pullback.sweep.worker import WorkOrder

_PREFIX = "pullback-ray-"
_TICK_SECONDS = 0.5
_DEPTH = 2
"""Shards a worker has at once: one is computed while the other is written."""
_OBJECT_STORE_BYTES = 100 * 2**20
"""Near the least that Ray accepts: nothing larger than a few KB is put into it."""


class RayPool:
    """Workers as Ray actors, told what to do by a `Scheduler`.

    Args:
        order: what every worker is told.
        workers: how many actors.
        retries: how often a shard that raises is tried again.
        budgets: of the other failures.
    """

    def __init__(self, order: WorkOrder, workers: int, retries: int, budgets: Budgets | None = None) -> None:
        # A GPU actor without `num_cpus=0` would hold a CPU too, and wait for one where there are more GPUs.
        on_gpu = order.device == "cuda"
        remote: Any = ray.remote  # whose annotations know options of functions only
        self._actor_class = remote(
            max_restarts=0,
            max_task_retries=0,
            num_gpus=int(on_gpu),
            num_cpus=int(not on_gpu),
            max_concurrency=_DEPTH + 1,  # the shards it has at once, and `stop`
        )(Actor)
        self._layout = order.layout
        self._order = ray.put(order)
        self._workers = workers
        self._budgets = replace(budgets or Budgets(), error=retries)
        self._handles: dict[str, Any] = {}
        self._calls: dict[Any, tuple[str, Task | None]] = {}
        """What is under way: a reference to the worker's name and the task, None while it starts (or is asked)."""
        self._names = (f"worker-{number}" for number in count())
        self._hungry: set[str] = set()
        self._loaded: set[str] = set()
        self._ask_all = False
        self._looking = 0.0
        """Seconds that it last took to look at everything that is under way."""

    def results(self, shards: Sequence[int], stop: Callable[[], bool]) -> Results:
        """Each shard's outcome as it comes, None every half second in between; see `sweep.pools.Pool`.

        Raises:
            SweepError: no worker can be started, or they die faster than the budget allows.
            RefusedError: no worker could write for long.
        """
        samples = {shard: self._layout.samples_of(shard) for shard in shards}
        scheduler = Scheduler(samples, self._budgets, depth=_DEPTH, actors=self._workers)
        stopping, told = False, -math.inf
        try:
            while not scheduler.over and not (stopping and not any(task for _, task in self._calls.values())):
                if not stopping and stop():
                    stopping = True
                    for handle in self._handles.values():
                        handle.stop.remote()
                if time.monotonic() - told >= _TICK_SECONDS:
                    yield _state_of(scheduler)
                    told = time.monotonic()
                    self._ask_all |= scheduler.may_start_with_time
                if not stopping:
                    for _ in range(scheduler.missing(time.monotonic())):
                        self._start(scheduler)
                    self._hand_out(scheduler)
                yield from self._outcomes(scheduler, stopping)
            yield _state_of(scheduler)
            for shard, attempts, error in scheduler.given_up():
                yield ShardFailed(shard, error, attempts)
        finally:
            # After a shutdown, Ray would answer a kill by starting another Ray.
            for name in list(self._handles) if ray.is_initialized() else []:
                self._end(name)
        if scheduler.fatal_failure is Failure.STORAGE:
            raise RefusedError(scheduler.fatal or "")
        if scheduler.fatal is not None:
            raise SweepError(
                f"the sweep cannot go on: {scheduler.fatal}\nEvery committed shard is kept. If memory is short, lower "
                "resources.workers or resources.memory_gib; `--serial` shows an error where it happens. "
                "Then run the same command again to go on."
            )

    def _start(self, scheduler: Scheduler) -> None:
        name = next(self._names)
        handle = self._handles[name] = self._actor_class.remote()
        self._calls[handle.start.remote(self._order)] = name, None
        scheduler.starting(name)

    def _end(self, name: str) -> None:
        handle = self._handles.pop(name, None)
        if handle is not None:
            with suppress(RayError):
                ray.kill(handle)

    def _hand_out(self, scheduler: Scheduler) -> None:
        """Ask for tasks: for the workers that something came from, or all if any may be free for what was put back."""
        now = time.monotonic()
        for name in self._handles if self._ask_all else self._hungry:
            if (handle := self._handles.get(name)) is not None:
                while (task := scheduler.next_task(name, now)) is not None:
                    self._calls[handle.run.remote(task)] = name, task
        self._ask_all = False
        self._hungry.clear()

    def _outcomes(self, scheduler: Scheduler, stopping: bool) -> Results:
        """Wait for what comes next, and tell the scheduler; yields what concerns the driver."""
        if not self._calls:
            time.sleep(_TICK_SECONDS)
            yield None
            return
        ready, rest = ray.wait(list(self._calls), num_returns=1, timeout=_TICK_SECONDS)
        if ready and rest:
            time.sleep(gathering_seconds(self._looking))
            began = time.perf_counter()
            ready += ray.wait(rest, num_returns=len(rest), timeout=0)[0]
            self._looking = time.perf_counter() - began
        if not ready:
            yield None
        for reference in ready:
            if reference not in self._calls:
                continue  # of a worker that has just been found not to answer
            name, task = self._calls.pop(reference)
            self._hungry.add(name)
            if name not in self._handles:
                continue  # it was given up, and with it everything that it had
            try:
                outcome = ray.get(reference, timeout=60)
            except (GetTimeoutError, ActorUnavailableError) as error:
                if name not in self._loaded:  # whether it loads still cannot be known: another one starts
                    message = f"its worker did not answer while it loaded: {reason_of(error)}"
                    scheduler.dead(name, Failure.LOST, message, time.monotonic())
                    self._end(name)
                    self._ask_all = True
                    yield _event("could not start", name, task, reason_of(error))
                    continue
                # A killed node looks like this for a while: others take its work at once, and it may come back.
                scheduler.unavailable(name)
                self._ask_again(name)
                self._ask_all = True
                yield _event("unavailable", name, task, reason_of(error))
            except RayError as error:
                if isinstance(error, RayTaskError) and isinstance(error.cause, WorkCancelledError):
                    continue
                self._failed(scheduler, name, task, error)
                self._ask_all = True
                what = "failed" if task is not None else "died" if name in self._loaded else "could not start"
                yield _event(what, name, task, reason_of(error))
            else:
                if task is None:
                    self._loaded.add(name)
                    scheduler.ready(name)
                    yield Event("ready", {"worker": name})
                elif scheduler.succeeded(task.number, time.monotonic()) and outcome is not None:
                    yield replace(outcome, worker=name)

    def _ask_again(self, name: str) -> None:
        """Have a worker that did not answer say so once it does; a call to a dead one fails as such."""
        for reference in [each for each, (owner, _) in self._calls.items() if owner == name]:
            del self._calls[reference]
        self._calls[self._handles[name].answers.remote()] = name, None

    def _failed(self, scheduler: Scheduler, name: str, task: Task | None, error: RayError) -> None:
        failure, ended = kind_of(error)
        message, now = reason_of(error), time.monotonic()
        if task is None and not ended:
            scheduler.could_not_start(name, message, now)
        elif ended:
            scheduler.dead(name, failure, f"its worker died: {message}", now)
        else:
            assert task is not None
            scheduler.failed(task.number, failure, message, now)
            return
        self._end(name)


def kind_of(error: RayError) -> tuple[Failure, bool]:
    """What kind of failure an error of Ray is, and whether the worker's process is gone (or has to go)."""
    if isinstance(error, RayTaskError):
        if isinstance(error.cause, DeviceError):
            return Failure.CRASH, True
        kinds = {MemoryPlanError: Failure.MEMORY, RefusedError: Failure.STORAGE}
        return next((kind for cause, kind in kinds.items() if isinstance(error.cause, cause)), Failure.ERROR), False
    if isinstance(error, OutOfMemoryError):
        return Failure.MEMORY, True
    if getattr(error, "preempted", False):
        return Failure.PREEMPTED, True
    node_died = isinstance(error, NodeDiedError) or ("node" in str(error).lower() and "died" in str(error).lower())
    return (Failure.LOST if node_died and "worker process" not in str(error) else Failure.CRASH), True


def _state_of(scheduler: Scheduler) -> PoolState:
    return PoolState(
        {state.value: many for state, many in scheduler.states().items()},
        {state.value: many for state, many in scheduler.actors().items()},
        scheduler.trouble,
    )


def _event(name: str, worker: str, task: Task | None, message: str) -> Event:
    facts: dict[str, Any] = {"worker": worker, "message": message}
    if task is not None:
        facts |= {"shard": task.shard, "attempt": task.attempt}
        if task.samples is not None:
            facts["samples"] = list(task.samples)
    return Event(name, facts)


def reason_of(error: BaseException) -> str:
    """The last telling line of a Ray error, which carries a whole remote traceback; what an error of ours says."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, PullbackError):
        return cause.what if isinstance(cause, RefusedError) else str(cause)
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    told = [line for line in lines if "Error" in line or "died" in line or "killed" in line]
    text = (told or lines or [""])[-1]
    return f"{type(cause).__name__}: {text}"[:500]


@contextmanager
def ray_pool(order: WorkOrder, plan: Plan) -> Iterator[Pool]:
    """A Ray of our own on this machine, for the length of the block, with one actor for each of the plan's workers."""
    with local_ray(cpus=plan.workers if plan.device == "cpu" else 1):
        yield RayPool(order, plan.workers, plan.job.resources.retries)


@contextmanager
def local_ray(cpus: int) -> Iterator[None]:
    """A Ray on this machine that nothing else shares, on loopback, gone without a trace after the block.

    Args:
        cpus: how many CPU actors may run at once; GPU actors hold no CPU.

    Raises:
        SweepError: this process has a Ray already.
    """
    if ray.is_initialized():
        raise SweepError(
            "this process is connected to a Ray already, and a sweep starts its own. Nothing was started. "
            "Call ray.shutdown() first, or run serially."
        )
    _remove_left_folders()
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=_short_temporary_folder()))
    with _token(), _quiet():
        try:
            with own_signals():
                ray.init(
                    address="local",  # never a cluster that happens to be around
                    num_cpus=cpus,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    object_store_memory=_OBJECT_STORE_BYTES,
                    _node_ip_address="127.0.0.1",
                    _temp_dir=str(folder),
                )
            yield
        finally:
            ray.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Ray from printing each worker's death to standard output, in five lines: the journal tells it in one.

    No setting of Ray's does that: its thread for errors prints them whatever `log_to_driver` says.
    """
    module: Any = ray._private.worker
    printed = getattr(module, "print_to_stdstream", None)
    module.print_to_stdstream = lambda *arguments, **options: None
    try:
        yield
    finally:
        module.print_to_stdstream = printed


@contextmanager
def _token() -> Iterator[None]:
    """Let nobody in without a token of this Ray's own: any user of a machine reaches its loopback.

    Ray's processes inherit it; it is gone from the environment after the block.
    """
    if "RAY_AUTH_MODE" in os.environ:
        yield
        return
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    try:
        read_token_again()
        yield
    finally:
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
            os.environ.pop(name, None)
        read_token_again()


def read_token_again() -> None:
    """Have Ray read how it is to authenticate from the environment, which it otherwise does when it is imported."""
    raylet: Any = ray._raylet
    if hasattr(raylet, "AuthenticationTokenLoader"):  # else a Ray that knows no tokens
        raylet.Config.initialize("")
        raylet.AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def own_signals() -> Iterator[None]:
    """Keep this process's SIGTERM handler: `ray.init` puts one in its place that exits at once, with a stack trace."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def _short_temporary_folder() -> Path:
    """Ray puts sockets into it, whose paths may have 107 bytes, and itself takes some 70 of them."""
    short = Path("/tmp")
    return short if short.is_dir() and os.access(short, os.W_OK) else Path(tempfile.gettempdir())


def _remove_left_folders() -> None:
    """Remove the temporary folders of drivers that were killed, which could not do it themselves."""
    for folder in _short_temporary_folder().glob(f"{_PREFIX}*-*"):
        owner = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)
