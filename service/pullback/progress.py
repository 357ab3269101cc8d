"""What the command line shows while work goes on: a bar on a terminal, and elsewhere (a log file, a job scheduler) one
line every few seconds.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from pullback.sweep.control import SweepState
    from pullback.sweep.run import Progress as SweepProgress

_LINE_SECONDS = 5.0


@contextmanager
def waiting(console: Console, what: str) -> Iterator[None]:
    """A spinner on a terminal, nothing elsewhere."""
    if console.is_terminal:
        with console.status(escape(what)):
            yield
    else:
        yield


@contextmanager
def sweep_progress(console: Console) -> Iterator[Callable[["SweepProgress"], None]]:
    """A report for `run_sweep`: samples done, rate, time left and quarantined."""
    with _bar_or_lines(console, "samples") as show:
        first: tuple[float, int] | None = None  # rates are counted from the first result: starting workers is no work

        def report(progress: "SweepProgress") -> None:
            nonlocal first
            now, computed = time.monotonic(), progress.done - progress.started_with
            first = first or ((now, computed) if computed else None)
            rate = (computed - first[1]) / (now - first[0]) if first and computed > first[1] else 0.0
            note = f"{rate:.2f}/s" if rate else "computing" if computed else "starting workers"
            if rate and progress.done < progress.planned:
                note += f", {duration((progress.planned - progress.done) / rate)} left"
            trouble = f"; {progress.trouble.splitlines()[0]}" if progress.trouble else ""
            show(progress.done, progress.planned, f"{note}, {progress.quarantined} quarantined{escape(trouble)}")

        yield report


@contextmanager
def counting(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    """A report of how many of how many are done."""
    with _bar_or_lines(console, what) as show:
        yield lambda done, total: show(done, total, "")


@contextmanager
def _bar_or_lines(console: Console, what: str) -> Iterator[Callable[[int, int, str], None]]:
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as progress:
            task = progress.add_task(what, total=None, note="")
            yield lambda done, total, note: progress.update(task, completed=done, total=total, note=note)
        return
    last = 0.0

    def line(done: int, total: int, note: str) -> None:
        nonlocal last
        if last and done < total and time.monotonic() - last < _LINE_SECONDS:
            return
        last = time.monotonic()
        console.print(f"{what}: {done} of {total}{f', {note}' if note else ''}")

    yield line


@contextmanager
def watching(console: Console) -> Iterator[Callable[["SweepState"], None]]:
    """A report of a sweep that runs elsewhere."""
    with _bar_or_lines(console, "samples") as show:

        def report(state: "SweepState") -> None:
            rate = state.driver.samples_per_second if state.driver is not None and state.state == "running" else 0.0
            note = f"{state.state}, {state.quarantined} quarantined" + (f", {rate:.2f}/s" if rate else "")
            show(state.planned - state.pending, state.planned, note)

        yield report


def duration(seconds: float) -> str:
    """Seconds for a reader: `42 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{max(whole, 1)} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
