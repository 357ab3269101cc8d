"""The Ray actor: a worker in a process of its own.

Networks are loaded by `start`, not by the constructor: an error while loading is then an ordinary error, not the death
of the process.
"""

import os
import threading

from pullback.sweep.tasks import Task
from pullback.sweep.worker import ShardDone, Worker, WorkOrder


class Actor:
    """Holds a `Worker`. Its methods run in threads: `stop`, and two calls of `run`, only one of which computes."""

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._worker: Worker | None = None

    def start(self, order: WorkOrder) -> int:
        """Load the generator and the distance; returns the process id.

        Raises:
            PullbackError: they cannot be loaded.
        """
        self._worker = Worker(order)
        self._worker.stop_when = self._stopped.is_set
        return os.getpid()

    def run(self, task: Task) -> ShardDone | None:
        """See `Worker.run`."""
        assert self._worker is not None
        return self._worker.run(task)

    def stop(self) -> None:
        """Stop after the current batch."""
        self._stopped.set()

    def answers(self) -> bool:
        """Return True: shows that the actor answers."""
        return True
