"""Generators that fail on purpose, to see what a pool of workers does about it. Named in jobs by `module:factory`."""

import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pullback.driving import run
from pullback.errors import RefusedError
from pullback.generators.checks import check_once
from pullback.metric import result
from pullback.metric.curvature import AT_ONCE
from pullback.spec import SamplesSpec
from pullback.store.repository import SweepStore
from pullback.store.schema import ShardRecord
from pullback.sweep import worker
from pullback.sweep.latents import sample_latents
from pullback.sweep.tasks import Task
from toy_generators import Smooth

BAD_SIGN = -1.0
IN_A_WORKER = "default_worker" in sys.argv[0]  # Ray's; the plan, made in the test's own process, is not to fail


def _rounded(row: list[float]) -> tuple[float, ...]:
    return tuple(round(value, 4) for value in row)


def first_time(fault: str) -> bool:
    """Whether a fault is due that is to come once; it leaves a mark."""
    mark = Path(f"{os.environ['PULLBACK_TEST_MARK']}-{fault}")
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


class _Fragile(Smooth):
    """Fails, in a worker, on batches with a code of the tests' jobs whose first coordinate is below a threshold."""

    name = "fragile"

    def __init__(self) -> None:
        super().__init__()
        codes = sample_latents(SamplesSpec(count=64, seed=1), range(64), 6)
        self.bad = {_rounded(row) for row in codes.tolist() if row[0] < BAD_SIGN}

    def fail(self) -> None:
        raise NotImplementedError

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        try:
            rows = z.detach().as_subclass(Tensor).tolist()
        except RuntimeError:  # inside vmap; the plain passes of the probe are enough to fail in
            rows = []
        if IN_A_WORKER and any(_rounded(row) in self.bad for row in rows):
            self.fail()
        return super().forward(z)


class Raising(_Fragile):
    """Raises."""

    def fail(self) -> None:
        raise ValueError("this code is one that I cannot draw")


class Dying(_Fragile):
    """Kills its process, every time."""

    def fail(self) -> None:
        os._exit(1)


class DyingOnce(_Fragile):
    """Kills its process the first time, and leaves a mark so that it works from then on."""

    def fail(self) -> None:
        if first_time("in-compute"):
            os._exit(1)


class Faulting(_Fragile):
    """Raises what torch raises when a GPU faults."""

    def fail(self) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


def faulting() -> Faulting:
    return Faulting()


def dying_at_once() -> Smooth:
    """Kills the worker that constructs it."""
    if IN_A_WORKER:
        os._exit(1)
    return Smooth()


def raising() -> Raising:
    return Raising()


def dying() -> Dying:
    return Dying()


def dying_once() -> DyingOnce:
    return DyingOnce()


# Faults of a worker outside its generator: the user's code is the one place where a test is inside that process.


def dying_before_the_write() -> Smooth:
    """The first worker that is about to write a shard dies."""
    plain = worker.write_shard

    def write(fork: bytes, record: ShardRecord) -> bytes:
        if first_time("before-the-write"):
            os._exit(1)
        return plain(fork, record)

    return _in_a_worker("write_shard", write)


def dying_after_the_write() -> Smooth:
    """The first worker that has written a shard dies before it can say so."""
    plain = worker.write_shard

    def write(fork: bytes, record: ShardRecord) -> bytes:
        result = plain(fork, record)
        if first_time("after-the-write"):
            os._exit(1)
        return result

    return _in_a_worker("write_shard", write)


def writing_once_the_next_is_computed() -> Smooth:
    """The first write ends when the computing of another shard has begun; it is marked where that does not happen."""
    plain, compute, begun = worker.write_shard, worker.Worker.compute, []

    def write(fork: bytes, record: ShardRecord) -> bytes:
        end = time.monotonic() + 20
        while len(begun) < 2 and time.monotonic() < end:
            time.sleep(0.01)
        if len(begun) < 2:
            first_time("waited-in-vain")
        return plain(fork, record)

    def computing(self: worker.Worker, task: Task) -> tuple[ShardRecord, list[str]]:
        begun.append(task.shard)
        return compute(self, task)

    if IN_A_WORKER:
        worker.Worker.compute = computing
    return _in_a_worker("write_shard", write)


def on_a_full_disk() -> Smooth:
    """The system refuses every write of a shard, as a full disk does, until a mark is there."""
    plain = worker.write_shard
    worker.WRITE_PAUSES = (0.1,)
    one_at_a_time = threading.Lock()  # the limit is the process's

    def write(fork: bytes, record: ShardRecord) -> bytes:
        with one_at_a_time:
            limits = resource.getrlimit(resource.RLIMIT_FSIZE)
            if not Path(f"{os.environ['PULLBACK_TEST_MARK']}-room").exists():
                resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
            try:
                return plain(fork, record)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    return _in_a_worker("write_shard", write)


def refused_for_a_while() -> Smooth:
    """The storage refuses the first 14 writes: more than a worker tries, twice, for the two results that it has."""
    plain, refused = worker.write_shard, []
    worker.WRITE_PAUSES = (0.1, 0.1)

    def write(fork: bytes, record: ShardRecord) -> bytes:
        if len(refused) < 14:
            refused.append(record.shard)
            raise RefusedError(f"shard {record.shard} could not be written (it is busy)")
        return plain(fork, record)

    return _in_a_worker("write_shard", write)


BRIGHT = 0.09
"""Metrics with a trace above this are those that the broken `eigh` fails on."""


def with_a_broken_eigh() -> Smooth:
    """`eigh` returns wrong vectors for some metrics without an error, as that of a GPU has."""
    plain = result.eigendecompose

    def broken(metric: Tensor) -> tuple[Tensor, Tensor]:
        values, vectors = plain(metric)
        bright = values.sum(dim=1) > BRIGHT
        vectors[bright] = vectors[bright].roll(1, dims=1)
        return values, vectors

    if IN_A_WORKER:
        result.eigendecompose = broken
    return Smooth()


def starting_slowly() -> Smooth:
    """A constructor that loads for a while."""
    if IN_A_WORKER:
        time.sleep(2)
    return Smooth()


class Hungry(Smooth):
    """Has memory for as many images at once as the certificate of one code draws, and no more."""

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        if IN_A_WORKER and len(z) > AT_ONCE:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().forward(z)


def hungry() -> Hungry:
    return Hungry()


class Starving(_Fragile):
    """Has no memory for one code at all."""

    def fail(self) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def starving() -> Starving:
    return Starving()


class Dark(Smooth):
    """Gives right images while it is loaded and checked, and NaN once a worker computes shards with it."""

    computing = False

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        return super().forward(z) * (float("nan") if Dark.computing else 1.0)


def dark() -> Dark:
    plain = worker.metric_at

    def computing(*arguments: Any, **named: Any) -> Any:
        check_once(arguments[0])  # else the check of every generator would see the NaN, and refuse it
        Dark.computing = True
        return plain(*arguments, **named)

    if IN_A_WORKER:
        worker.metric_at = computing
    return Dark()


def _in_a_worker(name: str, function: Callable[..., bytes]) -> Smooth:
    if IN_A_WORKER:
        setattr(worker, name, function)
    return Smooth()


def _killing_the_driver(before: bool, after: bool) -> Smooth:
    """Where this process drives the sweep (it is serial), it dies around its second commit."""
    plain, commits = SweepStore.commit, count(1)

    def commit(store: SweepStore, message: str) -> str:
        due = next(commits) == 2
        if due and before and first_time("before-the-commit"):
            os.kill(os.getpid(), signal.SIGKILL)
        snapshot = plain(store, message)
        if due and after and first_time("after-the-commit"):
            os.kill(os.getpid(), signal.SIGKILL)
        return snapshot

    SweepStore.commit = commit
    run.COMMIT_SECONDS = 0.0
    return Smooth()


def killing_the_driver_before_the_commit() -> Smooth:
    return _killing_the_driver(before=True, after=False)


def killing_the_driver_after_the_commit() -> Smooth:
    return _killing_the_driver(before=False, after=True)
