"""Errors for users.

Every message says what happened, what it cost and what to do next. The command line prints the message without a
traceback and exits with `exit_code`.
"""

import difflib
import traceback
from collections.abc import Sequence
from pathlib import Path


class PullbackError(Exception):
    """Base class of every error that Pullback raises on purpose."""

    exit_code = 1


class SpecError(PullbackError):
    """A job or an argument is invalid and must be changed. Lists every problem at once.

    Attributes:
        problems: one sentence each, beginning with the path of the value (`samples.count: ...`).
    """

    exit_code = 2

    def __init__(self, problems: Sequence[str], source: str = "the job") -> None:
        self.problems = list(problems)
        self.source = source
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        lines = "\n".join(f"  - {problem}".replace("\n", "\n    ") for problem in self.problems)
        super().__init__(f"{source}: {count}\n{lines}")

    def __reduce__(self) -> tuple[type["SpecError"], tuple[list[str], str]]:
        """Pickle as type and arguments, for other processes."""
        return type(self), (self.problems, self.source)


class ArgumentError(SpecError):
    """Arguments of a function have values that cannot work.

    It names arguments, not keys of a job. `spec.arguments` writes its problems with the paths of a job.

    Attributes:
        argument: the name of the first wrong argument, such as `method`.
        problem: what is wrong with it, and what to do.
        others: names and problems of further wrong arguments.
    """

    def __init__(self, argument: str, problem: str, others: Sequence[tuple[str, str]] = ()) -> None:
        self.argument = argument
        self.problem = problem
        self.others = list(others)
        super().__init__([f"{name}: {wrong}" for name, wrong in self.each])

    @property
    def each(self) -> list[tuple[str, str]]:
        """Name and problem of every wrong argument."""
        return [(self.argument, self.problem), *self.others]

    def __str__(self) -> str:
        return "\n".join(self.problems)

    def __reduce__(self) -> tuple[type["ArgumentError"], tuple[str, str, list[tuple[str, str]]]]:  # type: ignore[override]
        """Pickle as type and arguments, for other processes."""
        return type(self), (self.argument, self.problem, self.others)


class PluginError(PullbackError):
    """A plug-in (a generator family, a distance, a statistic or an application) cannot be loaded."""


class UnknownPluginError(PluginError):
    """No plug-in has the requested name.

    Attributes:
        kind: the kind of plug-in, such as `statistic`.
        name: the unknown name.
        known: the names that exist.
        nearest: the known name that is closest to `name`; None if none is close.
    """

    exit_code = 2

    def __init__(self, kind: str, name: str, known: Sequence[str], why: str = "") -> None:
        self.kind, self.name, self.known, self.why = kind, name, list(known), why
        close = difflib.get_close_matches(str(name), self.known, n=1, cutoff=0.5)
        self.nearest = close[0] if close else None
        reason = f" ({why})" if why else ""
        meant = f"; did you mean {self.nearest!r}?" if self.nearest else ";"
        listed = f"known are {', '.join(self.known)}" if self.known else "none is installed"
        super().__init__(f"unknown {kind} {name!r}{reason}{meant} {listed}")

    def __reduce__(self) -> tuple[type["UnknownPluginError"], tuple[str, str, list[str], str]]:
        """Pickle as type and arguments, for other processes."""
        return type(self), (self.kind, self.name, self.known, self.why)


class WeightsError(PullbackError):
    """A weight file is missing or damaged, or does not fit the network."""


class StoreError(PullbackError):
    """A sweep's store cannot be opened, belongs to another sweep, or is held by another driver."""


class DamagedError(StoreError):
    """A result stored beside a sweep cannot be read. It can be computed again."""


class UnavailableError(StoreError):
    """A storage cannot be read at present. Its contents may be intact."""


class NoSweepError(StoreError):
    """The address holds something other than a sweep."""


class RefusedError(StoreError):
    """A storage refused a write. It may accept the same write later.

    Attributes:
        what: what was refused, and why. The message adds what to do if there are no more attempts.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(
            f"{what}; what was committed is kept. Check that the sweep's storage can be written to (disk mounted, "
            "credentials valid) and is not full, then run the sweep again: it resumes."
        )

    def __reduce__(self) -> tuple[type["RefusedError"], tuple[str]]:
        """Pickle as type and arguments, for other processes."""
        return type(self), (self.what,)


class ClockError(RefusedError):
    """A commit was refused because this machine's clock is behind the last commit, or differs from the storage's.

    Attributes:
        lag: seconds until the clock has caught up; 0 if unknown.
    """

    def __init__(self, what: str, lag: float = 0.0) -> None:
        self.lag = lag
        super().__init__(what)
        self.args = (
            f"{what}. The cause is the clock, not the storage; what was committed is kept. Correct the clock of this "
            "machine (or wait until it has caught up), then run the sweep again: it resumes.",
        )

    def __reduce__(self) -> tuple[type["ClockError"], tuple[str, float]]:  # type: ignore[override]
        """Pickle as type and arguments, for other processes."""
        return type(self), (self.what, self.lag)


class MemoryPlanError(PullbackError):
    """Even the smallest piece of the work does not fit into memory."""


class SweepError(PullbackError):
    """A sweep stopped before its end. Committed samples are kept."""


class DeviceError(PullbackError):
    """A GPU faulted. Everything that its process computes afterwards fails, so the process must end."""


class WorkCancelledError(PullbackError):
    """Work was cancelled on request. Nothing is wrong."""


def is_interrupt(error: BaseException) -> bool:
    """Return whether Ctrl-C caused an error: an interrupt inside torch may surface as an error of torch."""
    chain: list[BaseException | None] = [error]
    while chain:
        link = chain.pop()
        if isinstance(link, KeyboardInterrupt):
            return True
        if link is not None:
            chain += [link.__cause__, link.__context__]
    return False


def with_message(error: Exception) -> Exception:
    """Return the error. If it has no message (a bare `assert`), its message becomes the line of code that raised it."""
    silent = isinstance(error, AssertionError | ValueError | TypeError | RuntimeError) and not str(error).strip()
    if silent and error.__traceback__ is not None:
        last = traceback.extract_tb(error.__traceback__)[-1]
        error.args = (f"`{last.line}` fails ({Path(last.filename).name}, line {last.lineno})",)
    return error


def exit_message(error: BaseException) -> str:
    """Return the message for user code that calls sys.exit() during a computation."""
    code = getattr(error, "code", None)
    return (
        f"it asked to end the program (SystemExit: {code}). Code that a job names must not call sys.exit() or read the "
        'command line (argparse); keep that under `if __name__ == "__main__":`'
    )
