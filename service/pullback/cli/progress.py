"""Progress of running work: a bar on a terminal; elsewhere, such as in a log file, one line every few seconds."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pullback.cli.terminal import Output

if TYPE_CHECKING:
    from pullback.driving.run import SweepProgress
    from pullback.driving.sweep_state import SweepState

_LINE_SECONDS = 5.0


@contextmanager
def waiting(console: Output, what: str) -> Iterator[None]:
    """Show a spinner on a terminal, and nothing elsewhere."""
    if console.animates:
        with console.status(console.render_str(escape(what)), spinner=console.spinner):
            yield
    else:
        yield


@contextmanager
def sweep_progress(console: Output) -> Iterator[Callable[["SweepProgress"], None]]:
    """Yield a callback for `run_sweep` that shows samples done, rate, time left and quarantined samples."""
    with _bar_or_lines(console, "samples") as show:
        first: tuple[float, int] | None = None  # the rate excludes the start of the workers

        def report(progress: "SweepProgress") -> None:
            nonlocal first
            now, computed = time.monotonic(), progress.done - progress.started_with
            first = first or ((now, computed) if computed else None)
            rate = (computed - first[1]) / (now - first[0]) if first and computed > first[1] else 0.0
            note = f"{rate:.2f}/s" if rate else "computing" if computed else "starting workers"
            if rate and progress.done < progress.planned and not progress.trouble:
                note += f", {duration((progress.planned - progress.done) / rate)} left"
            trouble = f"; {progress.trouble.splitlines()[0]}" if progress.trouble else ""
            show(progress.done, progress.planned, f"{note}, {progress.quarantined} quarantined{trouble}")

        yield report


@contextmanager
def counting(console: Output, what: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a callback that shows a number of finished items and their total number."""
    with _bar_or_lines(console, what) as show:
        yield lambda done, total: show(done, total, "")


@contextmanager
def counting_each(console: Output) -> Iterator[Callable[[str, int, int], None]]:
    """Yield a progress callback that shows a bar for each name in turn, and nothing until it is first called."""
    with ExitStack() as shown:
        current: tuple[str, Callable[[int, int], None]] | None = None

        def report(name: str, done: int, total: int) -> None:
            nonlocal current
            if current is None or current[0] != name:
                shown.close()
                current = name, shown.enter_context(counting(console, name))
            current[1](done, total)

        yield report


@contextmanager
def _bar_or_lines(console: Output, what: str) -> Iterator[Callable[[int, int, str], None]]:
    if console.animates:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
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
        console.print(escape(f"{what}: {done} of {total}{f', {note}' if note else ''}"))

    yield line


@contextmanager
def watching(console: Output, what: str = "samples") -> Iterator[Callable[["SweepState"], None]]:
    """Yield a callback that shows the state of a job that another process runs; `what` names the counted items."""
    with _bar_or_lines(console, what) as show:

        def report(state: "SweepState") -> None:
            rate = state.driver.samples_per_second if state.driver is not None and state.state == "running" else 0.0
            note = f"{state.state}, {state.quarantined} quarantined" if what == "samples" else state.state
            note += f", {rate:.2f}/s" if rate else ""
            show(state.planned - state.pending, state.planned, note)

        yield report


def duration(seconds: float) -> str:
    """Format seconds: `42 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{max(whole, 1)} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
