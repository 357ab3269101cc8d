"""Backoff of workers whose results the storage refuses, and the decision that it has refused for too long."""

import math

_LONGEST_PAUSE = 60.0
"""Longest pause of a worker, in seconds."""
_REFUSALS = 3
"""Least number of refusals before a run ends, however long one computation takes."""


class Refusals:
    """Refusals of the storage since it last accepted a result.

    Args:
        seconds: how long it may refuse before the run ends.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._pauses: dict[str, tuple[int, float]] = {}
        """By worker: refusals in a row, and the time at which its pause ends."""
        self._count, self._since = 0, 0.0
        self.trouble = ""
        """The latest refusal; empty once a result is accepted."""

    def __bool__(self) -> bool:
        return bool(self._pauses)

    def paused_until(self, actor: str) -> float:
        """Time at which a worker's pause ends; minus infinity if it does not pause."""
        return self._pauses[actor][1] if actor in self._pauses else -math.inf

    def refused(self, actor: str, what: str, now: float) -> None:
        """Record a refusal. The worker pauses, longer each time."""
        times, until = self._pauses.get(actor, (0, -math.inf))
        if now >= until:  # otherwise it belongs to the worker's other task
            self._pauses[actor] = times + 1, now + pause(times + 1)
        self._since = self._since if self._count else now
        self._count += 1
        self.trouble = what

    def written(self, actor: str) -> None:
        """Record that a worker's result was accepted."""
        self._count, self.trouble = 0, ""
        self._pauses.pop(actor, None)

    def forget(self, actor: str) -> None:
        """Forget a worker that is gone."""
        self._pauses.pop(actor, None)

    def too_long(self, now: float, workers: int) -> bool:
        """Whether the storage has refused every worker, and accepted nothing, for too long.

        A worker that was not refused since its last write may be about to write.

        Args:
            now: seconds, by the clock of `refused`.
            workers: number of workers that are ready.
        """
        return self._count >= _REFUSALS and now - self._since >= self._seconds and len(self._pauses) >= workers


def pause(times: int) -> float:
    """Seconds to wait after a number of failures in a row (1 or more): doubled each time, up to a minute."""
    return min(2.0 ** min(times - 1, 10), _LONGEST_PAUSE)
