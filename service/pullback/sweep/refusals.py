"""Workers whose results the storage refuses: who pauses, for how long, and when it is everybody, for too long."""

import math

_LONGEST_PAUSE = 60.0
"""Seconds."""
_REFUSALS = 3
"""Times that the storage must have refused before it is for too long, however long one computation takes."""


class Refusals:
    """What the storage refused since it last took something.

    Args:
        seconds: so long it may refuse.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._pauses: dict[str, tuple[int, float]] = {}
        """How often in a row each worker was refused, and until when it pauses."""
        self._count, self._since = 0, 0.0
        self.trouble = ""
        """What was refused last; empty once something is taken."""

    def __bool__(self) -> bool:
        return bool(self._pauses)

    def paused_until(self, actor: str) -> float:
        """Until when a worker gets nothing; long ago, where it does not pause."""
        return self._pauses[actor][1] if actor in self._pauses else -math.inf

    def refused(self, actor: str, what: str, now: float) -> None:
        """A worker's result was refused: it pauses, longer each time."""
        times, until = self._pauses.get(actor, (0, -math.inf))
        if now >= until:  # else of the other task that it had at the time
            self._pauses[actor] = times + 1, now + pause(times + 1)
        self._since = self._since if self._count else now
        self._count += 1
        self.trouble = what

    def written(self, actor: str) -> None:
        """A worker's result was taken."""
        self._count, self.trouble = 0, ""
        self._pauses.pop(actor, None)

    def forget(self, actor: str) -> None:
        """A worker is gone."""
        self._pauses.pop(actor, None)

    def too_long(self, now: float, workers: int) -> bool:
        """Whether every worker, of so many, was refused, and nothing was taken for too long.

        A worker that was not refused since it last wrote may be about to write.
        """
        return self._count >= _REFUSALS and now - self._since >= self._seconds and len(self._pauses) >= workers


def pause(times: int) -> float:
    """Seconds to wait after so many failures in a row, from 1 on: twice as long each time, up to a minute."""
    return min(2.0 ** min(times - 1, 10), _LONGEST_PAUSE)
