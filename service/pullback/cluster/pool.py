"""A pool of Ray actors, each holding a generator and a distance, that computes shards.

Everything that imports Ray is in this package. Ray places and watches processes; retries are ours, because Ray would
spend its own while a slow constructor loads weights: actors never restart by themselves, a failed shard is queued
again, a dead actor is replaced, and both have budgets. Only shard numbers, forks (a few KB) and the work order go
through Ray's object store.

What a failure leaves: an actor killed in mid-shard leaves the shard to be computed again by another one; a killed
driver takes Ray's processes with it.
"""

import logging
import os
import shutil
import signal
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from pullback.errors import StoreError, SweepError
from pullback.sweep.plan import Plan
from pullback.sweep.run import Pool, Results, ShardFailed
from pullback.sweep.worker import ShardDone, Worker, WorkOrder

_PREFIX = "pullback-ray-"
_TICK_SECONDS = 0.5
_OBJECT_STORE_BYTES = 100 * 2**20
"""Near the least that Ray accepts: nothing larger than a few KB is put into it."""


class RayPool:
    """Workers as Ray actors.

    Args:
        order: what every worker is told.
        workers: how many actors.
        retries: how often a failed shard is queued again; the same number of deaths for each worker is borne.
    """

    def __init__(self, order: WorkOrder, workers: int, retries: int) -> None:
        # A GPU actor without `num_cpus=0` would hold a CPU too, and wait for one where there are more GPUs.
        on_gpu = order.device == "cuda"
        self._actor_class = ray.remote(
            max_restarts=0, max_task_retries=0, num_gpus=int(on_gpu), num_cpus=int(not on_gpu)
        )(Worker)
        self._order = ray.put(order)
        self._workers = workers
        self._retries = retries
        self._replacements = workers * max(1, retries)

    def results(self, shards: Sequence[int]) -> Results:
        """Each shard's outcome as it comes, None every half second in between; see `sweep.run.Pool`.

        Raises:
            SweepError: workers die faster than the budget of replacements allows.
            StoreError: a worker cannot write, which no retry will change.
        """
        queue = deque(shards)
        tries = dict.fromkeys(shards, 0)
        busy: dict[Any, tuple[Any, int]] = {}
        idle = [self._start() for _ in range(min(self._workers, len(queue)))]
        try:
            while queue or busy:
                while queue and idle:
                    actor, shard = idle.pop(), queue.popleft()
                    busy[actor.run.remote(shard)] = actor, shard
                ready, _ = ray.wait(list(busy), num_returns=1, timeout=_TICK_SECONDS)
                if not ready:
                    yield None
                for reference in ready:
                    actor, shard = busy.pop(reference)
                    try:
                        outcome: ShardDone = ray.get(reference, timeout=60)
                    except RayActorError as error:
                        # Also ActorUnavailableError, which a killed node looks like at first: do not wait for it.
                        idle.append(self._replace(actor, error))
                        failure = f"its worker died: {_reason(error)}"
                    except RayError as error:
                        idle.append(actor)
                        if isinstance(error, RayTaskError) and isinstance(error.cause, StoreError):
                            raise error.cause from None
                        failure = _reason(error)
                    else:
                        idle.append(actor)
                        yield outcome
                        continue
                    tries[shard] += 1
                    if tries[shard] > self._retries:
                        yield ShardFailed(shard, failure)
                    else:
                        queue.append(shard)
        finally:
            # After a shutdown, Ray would answer a kill by starting another Ray.
            for actor in [*idle, *(actor for actor, _ in busy.values())] if ray.is_initialized() else []:
                with suppress(RayError):
                    ray.kill(actor)

    def _start(self) -> Any:
        return self._actor_class.remote(self._order)

    def _replace(self, actor: Any, error: RayActorError) -> Any:
        with suppress(RayError):
            ray.kill(actor)
        self._replacements -= 1
        if self._replacements < 0:
            raise SweepError(
                f"the workers keep dying: {_reason(error)}\nEvery committed shard is kept. If memory is short, lower "
                "resources.workers or resources.memory_gib; `--serial` shows an error where it happens. "
                "Then run the same command again to go on."
            )
        return self._start()


def _reason(error: BaseException) -> str:
    """The last telling line of a Ray error, which carries a whole remote traceback."""
    cause = error.cause if isinstance(error, RayTaskError) else error
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
    try:
        with _own_signals():
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
def _own_signals() -> Iterator[None]:
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
