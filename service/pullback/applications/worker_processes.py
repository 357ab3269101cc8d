"""Worker processes over which an application spreads its work: as many as the job's `resources.workers` asks for."""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.context import SpawnContext
from typing import Any

import torch

from pullback.applications.protocol import Subject
from pullback.sweep.plan import threads_of, usable_cores

CONTEXT: SpawnContext = multiprocessing.get_context("spawn")
"""How processes start. Make what they share (events, queues) with it."""


def process_count(subject: Subject) -> int:
    """Return the number of processes for an application; never more than cores or GPUs."""
    return min(subject.workers, max(usable_cores(), torch.cuda.device_count()))


@contextmanager
def worker_processes(
    subject: Subject, start: Callable[..., None], given: tuple[Any, ...]
) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of processes, each with its share of the threads.

    On a machine with several GPUs, processes take them in turn, unless the job names one. If the block raises, the
    tasks that have not begun are cancelled.

    Args:
        subject: the input of the application.
        start: called once in each process with the name of its device and `given`.
        given: can be pickled.
    """
    workers = process_count(subject)
    devices = CONTEXT.SimpleQueue()
    shared = subject.device_name in ("auto", "cuda") and subject.device.type == "cuda"
    for worker in range(workers):
        devices.put(f"cuda:{worker % torch.cuda.device_count()}" if shared else subject.device_name)
    with ProcessPoolExecutor(workers, CONTEXT, _begin, (start, threads_of(workers), devices, given)) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _begin(start: Callable[..., None], threads: int, devices: Any, given: tuple[Any, ...]) -> None:
    torch.set_num_threads(threads)
    start(devices.get(), *given)
