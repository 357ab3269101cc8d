"""A worker in a process of its own, as Ray runs it.

Light until `start` is called: what loading raises is then an ordinary error, and no death of the process.
"""

import os
import threading

from pullback.sweep.tasks import Task
from pullback.sweep.worker import ShardDone, Worker, WorkOrder


class Actor:
    """Holds a `Worker`. Its methods run in threads: two `run`s, of which one computes, and `stop` besides."""

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._worker: Worker | None = None

    def start(self, order: WorkOrder) -> int:
        """Load what the work needs; returns the process id.

        Raises:
            PullbackError: it cannot be loaded.
        """
        self._worker = Worker(order)
        self._worker.stop_when = self._stopped.is_set
        return os.getpid()

    def run(self, task: Task) -> ShardDone | None:
        """See `Worker.run`."""
        assert self._worker is not None
        return self._worker.run(task)

    def stop(self) -> None:
        """Give up after the batch at hand."""
        self._stopped.set()

    def answers(self) -> bool:
        """True, if it does."""
        return True
