"""The errors that a user can meet, by who must act.

Every message says what happened, what it cost and what to do next. The command line prints the message and
leaves with `exit_code`; it never prints a traceback for these.
"""

from collections.abc import Sequence


class PullbackError(Exception):
    """Base of every error that Pullback raises on purpose."""

    exit_code = 1


class SpecError(PullbackError):
    """The job as written cannot be run: its author must change it. Lists every problem at once.

    Attributes:
        problems: one sentence each, starting with the path of the offending value (`samples.count: ...`).
    """

    exit_code = 2

    def __init__(self, problems: Sequence[str], source: str = "the job") -> None:
        self.problems = list(problems)
        self.source = source
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        lines = "\n".join(f"  - {problem}".replace("\n", "\n    ") for problem in self.problems)
        super().__init__(f"{source}: {count}\n{lines}")

    def __reduce__(self) -> tuple[type["SpecError"], tuple[list[str], str]]:
        """For other processes, which get an exception as its type and arguments."""
        return type(self), (self.problems, self.source)


class WeightsError(PullbackError):
    """A weight file is missing, damaged or of another shape than its family needs."""


class StoreError(PullbackError):
    """A sweep's store cannot be opened, belongs to another sweep, or is held by another driver."""


class DamagedError(StoreError):
    """A result that was kept beside a sweep cannot be read; it can be computed again."""


class NoSweepError(StoreError):
    """What lies there is something else than a sweep."""


class RefusedError(StoreError):
    """A storage refused to be written to; it may take the same later.

    Attributes:
        what: what was refused, and why; the message adds what to do where nothing is tried again.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(
            f"{what}; what was committed before is kept. Check that the sweep's storage can be written to (its disk "
            "mounted, its credentials good) and is not full, then run the sweep again: it resumes."
        )

    def __reduce__(self) -> tuple[type["RefusedError"], tuple[str]]:
        """For other processes, which get an exception as its type and arguments."""
        return type(self), (self.what,)


class MemoryPlanError(PullbackError):
    """The smallest possible piece of the work does not fit into memory."""


class SweepError(PullbackError):
    """A sweep stopped before its end; what was committed stays."""


class DeviceError(PullbackError):
    """A GPU faulted: whatever its process computes from then on fails, so the process must end."""


class WorkCancelledError(PullbackError):
    """Work was given up because it was asked to be; nothing is wrong."""


def is_interrupt(error: BaseException) -> bool:
    """Whether an error came of a Ctrl-C: torch, broken off amid its own bookkeeping, raises errors of that."""
    chain: list[BaseException | None] = [error]
    while chain:
        link = chain.pop()
        if isinstance(link, KeyboardInterrupt):
            return True
        if link is not None:
            chain += [link.__cause__, link.__context__]
    return False
