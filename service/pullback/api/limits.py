"""Limits of concurrency and time: a bounded pool of threads, and a time limit for each answer."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from pullback.api.problem_details import RequestError

T = TypeVar("T")


class Threads:
    """Runs blocking calls in threads.

    A call that exceeds its time cannot be stopped. It counts as running until it ends, so that slow requests cannot
    pile up.

    Args:
        threads: how many calls run at once.
        waiting: how many more may wait.
        seconds: longest time of a call, including its wait.
    """

    def __init__(self, threads: int, waiting: int, seconds: float) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="pullback-api")
        self._most = threads + waiting
        self._seconds = seconds
        self._running = 0

    async def run(self, work: Callable[[], T], late: str = "") -> T:
        """Call `work` in a thread and return its result.

        Args:
            work: the call.
            late: advice for the message if it takes too long; by default, to ask again.

        Raises:
            RequestError: (503) too many calls are running; (504) this one took too long.
        """
        if self._running >= self._most:
            raise RequestError(503, "the service is busy; ask again in a moment", {"Retry-After": "1"})
        self._running += 1
        loop = asyncio.get_running_loop()
        future = self._executor.submit(work)
        future.add_done_callback(lambda done: self._end(loop, done))
        try:
            async with asyncio.timeout(self._seconds):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            raise RequestError(
                504, f"this took longer than {self._seconds:g} s and was abandoned; {late or 'ask again in a moment'}"
            ) from None

    def close(self) -> None:
        """Accept no more calls. Running ones end by themselves."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _end(self, loop: asyncio.AbstractEventLoop, done: "Future[T]") -> None:
        def end() -> None:
            self._running -= 1

        if not loop.is_closed():
            loop.call_soon_threadsafe(end)
