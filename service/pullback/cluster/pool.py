"""A pool of Ray actors that compute shards; each holds a generator and a distance.

Ray places and watches processes. Retries are ours (`driving.schedule`), and actors never restart by themselves: Ray
would spend its own retries while a slow constructor loads weights. Only tasks, forks (a few KB) and the work order go
through Ray's object store.

If an actor is killed while it computes a shard, another one computes it again. If the driver is killed, Ray's processes
end with it.
"""

import logging
import math
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager, suppress
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
from pullback.driving.pool_protocol import Event, Pool, PoolState, Results, ShardFailed
from pullback.driving.schedule import Scheduler
from pullback.errors import DeviceError, MemoryPlanError, PullbackError, RefusedError, SweepError, WorkCancelledError
from pullback.signals import around_ray
from pullback.standard_streams import open_closed_streams
from pullback.store.folder_locks import abandoned, held
from pullback.sweep.plan import Plan
from pullback.sweep.tasks import Budgets, Failure, Task, gathering_seconds
from pullback.sweep.worker import WorkOrder

_PREFIX = "pullback-ray-"
_TICK_SECONDS = 0.5
_DEPTH = 2
"""Shards that a worker has at once: one is computed while the other is written."""
_OBJECT_STORE_BYTES = 100 * 2**20
"""Close to the minimum that Ray accepts: nothing larger than a few KB is stored in it."""


class RayPool:
    """Workers as Ray actors, which get their tasks from a `Scheduler`.

    Args:
        order: the work order of every worker.
        workers: number of actors.
        retries: how often a shard that raises is tried again.
        budgets: retries after other failures.
    """

    def __init__(self, order: WorkOrder, workers: int, retries: int, budgets: Budgets | None = None) -> None:
        # Without `num_cpus=0` a GPU actor would hold a CPU too, and wait for one if there are fewer CPUs than GPUs.
        on_gpu = order.device.startswith("cuda")
        # Workers that share a GPU hold a part of it; Ray counts in steps of 0.0001.
        named = ":" in order.device  # the job names a GPU, so Ray must neither choose nor hide one
        part = 0.0 if named else 1.0 if order.shared_by == 1 else 10_000 // order.shared_by / 10_000
        remote: Any = ray.remote  # its annotations have the options of functions only
        self._actor_class = remote(
            max_restarts=0,
            max_task_retries=0,
            num_gpus=part if on_gpu else 0,
            num_cpus=int(not on_gpu),
            max_concurrency=_DEPTH + 1,  # the shards it has at once, and `stop`
        )(Actor)
        self._layout = order.layout
        self._order = ray.put(order)
        self._workers = workers
        self._budgets = replace(budgets or Budgets(), error=retries)
        self._handles: dict[str, Any] = {}
        self._calls: dict[Any, tuple[str, Task | None]] = {}
        """Running calls: a reference to the worker's name and its task, which is None for a start or a ping."""
        self._names = (f"worker-{number}" for number in count())
        self._hungry: set[str] = set()
        self._loaded: set[str] = set()
        self._ask_all = False
        self._looking = 0.0
        """Seconds that the last poll of all running calls took."""

    def results(self, shards: Sequence[int], stop: Callable[[], bool]) -> Results:
        """Yield the outcome of each shard as it comes, and None every half second in between; see `pool_protocol.Pool`.

        Raises:
            SweepError: no worker can be started, or workers die faster than the budget allows.
            RefusedError: no worker could write for too long.
        """
        samples = {shard: self._layout.samples_of(shard) for shard in shards}
        scheduler = Scheduler(samples, self._budgets, depth=_DEPTH, actors=self._workers)
        stopping, reported = False, -math.inf
        try:
            while not scheduler.over and not (stopping and not any(task for _, task in self._calls.values())):
                if not stopping and stop():
                    stopping = True
                    for handle in self._handles.values():
                        handle.stop.remote()
                if time.monotonic() - reported >= _TICK_SECONDS:
                    yield _pool_state(scheduler)
                    reported = time.monotonic()
                    self._ask_all |= scheduler.may_start_with_time
                if not stopping:
                    for _ in range(scheduler.missing(time.monotonic())):
                        self._start(scheduler)
                    self._hand_out(scheduler)
                yield from self._outcomes(scheduler, stopping)
            yield _pool_state(scheduler)
            for shard, attempts, error in scheduler.given_up():
                yield ShardFailed(shard, error, attempts)
        finally:
            # After a shutdown, a kill would start another Ray.
            for name in list(self._handles) if ray.is_initialized() else []:
                self._end(name)
        if scheduler.fatal_failure is Failure.STORAGE:
            raise RefusedError(scheduler.fatal or "")
        if scheduler.fatal is not None:
            raise SweepError(
                f"the sweep cannot continue: {scheduler.fatal}\nEvery committed shard is kept. If memory is short, "
                "lower resources.workers or resources.memory_gib; `--serial` shows an error where it happens. "
                "Then run the same command again to resume."
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
        """Give tasks to the workers that have just returned a result, or to all workers if any of them may be idle."""
        now = time.monotonic()
        for name in self._handles if self._ask_all else self._hungry:
            if (handle := self._handles.get(name)) is not None:
                while (task := scheduler.next_task(name, now)) is not None:
                    self._calls[handle.run.remote(task)] = name, task
        self._ask_all = False
        self._hungry.clear()

    def _outcomes(self, scheduler: Scheduler, stopping: bool) -> Results:
        """Wait for results, report them to the scheduler, and yield those that the driver needs."""
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
                continue  # its worker was just found unavailable
            name, task = self._calls.pop(reference)
            self._hungry.add(name)
            if name not in self._handles:
                continue  # the worker was given up, and its tasks were given to others
            try:
                outcome = ray.get(reference, timeout=60)
            except (GetTimeoutError, ActorUnavailableError) as error:
                if name not in self._loaded:  # it may still be loading, but start another one
                    message = f"its worker did not answer while it loaded: {reason_of(error)}"
                    scheduler.dead(name, Failure.LOST, message, time.monotonic())
                    self._end(name)
                    self._ask_all = True
                    yield _event("could not start", name, task, reason_of(error))
                    continue
                # A killed node looks like this for a while. Other workers take its tasks at once, and it may come back.
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
        """Call an unavailable worker, to learn when it answers again. If it is dead, the call fails."""
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
    """Return the kind of failure of a Ray error, and whether the worker's process is gone or must be ended."""
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


def _pool_state(scheduler: Scheduler) -> PoolState:
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
    """The message of a PullbackError, or the most informative line of a Ray error with its remote traceback."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, PullbackError):
        return cause.what if isinstance(cause, RefusedError) else str(cause)
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    causes = [line for line in lines if "Error" in line or "died" in line or "killed" in line]
    text = (causes or lines or [""])[-1]
    return f"{type(cause).__name__}: {text}"[:500]


@contextmanager
def ray_pool(order: WorkOrder, plan: Plan) -> Iterator[Pool]:
    """Start a private Ray on this machine for the length of the block, with one actor for each of the plan's
    workers."""
    if ":" in plan.device:  # Ray's processes inherit it
        os.environ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"] = "1"
    with local_ray(cpus=plan.workers if plan.device == "cpu" else 1):
        yield RayPool(order, plan.workers, plan.job.resources.retries)


@contextmanager
def local_ray(cpus: int) -> Iterator[None]:
    """Start a private Ray on loopback, and remove all traces of it after the block.

    Args:
        cpus: CPU actors that may run at once; GPU actors hold no CPU.

    Raises:
        SweepError: this process has a Ray already.
    """
    if ray.is_initialized():
        raise SweepError(
            "this process is connected to a Ray already, and a sweep starts its own. Nothing was started. "
            "Call ray.shutdown() first, or run serially."
        )
    open_closed_streams()  # Ray copies their descriptors
    _remove_left_folders()
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=_short_temporary_folder()))
    with held(folder), _token(), _quiet():
        try:
            # Ray puts the working directory first on its workers' import path, before Python's own modules. Our
            # workers add it themselves, last (`generators.user_imports`).
            with _starting(), around_ray(), chdir(folder):
                ray.init(
                    address="local",  # never an existing cluster
                    num_cpus=cpus,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    object_store_memory=_OBJECT_STORE_BYTES,
                    _node_ip_address="127.0.0.1",
                    _plasma_directory=_plasma_folder(folder),
                    _temp_dir=str(folder),
                )
            yield
        finally:
            ray.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _starting() -> Iterator[None]:
    """Report in a sentence why Ray cannot be started."""
    try:
        yield
    except PullbackError:
        raise
    except Exception as error:  # Ray raises Exception itself where its processes do not start in time
        advice = (
            "This machine is too busy for Ray to start in time: try again later"
            if "timed out" in str(error)
            else "Check that /tmp and /dev/shm can be written to and are not full"
        )
        raise SweepError(
            f"Ray cannot be started here ({reason_of(error)}); nothing was computed. {advice}, or compute in one "
            "process: pullback run --serial"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Ray from printing five lines to standard output for each worker's death. The journal has one line for it.

    Ray has no setting for this: `log_to_driver` does not affect the thread that prints errors.
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
    """Protect this Ray with a token of its own, because every user of a machine can reach its loopback.

    Ray's processes inherit the token. It is removed from the environment after the block.
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
    """Make Ray read its authentication settings from the environment again. It otherwise reads them on import only."""
    raylet: Any = ray._raylet
    if hasattr(raylet, "AuthenticationTokenLoader"):  # earlier versions of Ray have no tokens
        raylet.Config.initialize("")
        raylet.AuthenticationTokenLoader.instance().reset_cache()


def _short_temporary_folder() -> Path:
    """Return a folder with a short path for Ray's sockets: a path may have 107 bytes, and Ray uses some 70 of them."""
    short = Path("/tmp")
    return short if short.is_dir() and os.access(short, os.W_OK) else Path(tempfile.gettempdir())


def _plasma_folder(folder: Path) -> str | None:
    """Return a folder for Ray's shared memory if /dev/shm cannot be written to; None leaves the choice to Ray.

    By default Ray would wait a minute for an object store that cannot start in /dev/shm.
    """
    shared = Path("/dev/shm")
    return str(folder) if sys.platform == "linux" and not os.access(shared, os.W_OK | os.X_OK) else None


def _remove_left_folders() -> None:
    """Remove the temporary folders of killed drivers, which could not remove them."""
    for folder in _short_temporary_folder().glob(f"{_PREFIX}*-*"):
        owner = folder.name.removeprefix(_PREFIX).partition("-")[0]
        # A process id proves nothing. It is checked because drivers of older versions hold no lock.
        if owner.isdigit() and (int(owner) == os.getpid() or not psutil.pid_exists(int(owner))):
            with abandoned(folder) as free:
                if free:
                    shutil.rmtree(folder, ignore_errors=True)
