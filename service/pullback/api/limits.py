"""How much the service does at once and for how long: a bounded pool of threads, and a time limit on each answer."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from pullback.api.problems import RequestError

T = TypeVar("T")


class Threads:
    """Runs blocking work apart from the event loop.

    Work that is given up cannot be stopped: it counts as under way until it ends, so that requests that take too
    long cannot pile up either.

    Args:
        threads: how much is done at once.
        waiting: how much more may wait for that.
        seconds: how long one piece may wait and take.
    """

    def __init__(self, threads: int, waiting: int, seconds: float) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="pullback-api")
        self._most = threads + waiting
        self._seconds = seconds
        self._under_way = 0

    async def run(self, work: Callable[[], T], late: str = "") -> T:
        """What the work returns.

        Args:
            work: what is done.
            late: what to say, and to do, where it takes too long; by default, to ask again.

        Raises:
            RequestError: (503) too much is under way; (504) it took too long.
        """
        if self._under_way >= self._most:
            raise RequestError(503, "the service has too much to do; ask again in a moment", {"Retry-After": "1"})
        self._under_way += 1
        loop = asyncio.get_running_loop()
        future = self._executor.submit(work)
        future.add_done_callback(lambda done: self._end(loop, done))
        try:
            async with asyncio.timeout(self._seconds):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            raise RequestError(
                504, f"this took longer than {self._seconds:g} s and was given up; {late or 'ask again in a moment'}"
            ) from None

    def close(self) -> None:
        """Take no more work; what has begun ends by itself."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _end(self, loop: asyncio.AbstractEventLoop, done: "Future[T]") -> None:
        def end() -> None:
            self._under_way -= 1

        if not loop.is_closed():
            loop.call_soon_threadsafe(end)
