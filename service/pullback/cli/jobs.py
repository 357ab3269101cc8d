"""Commands for jobs of any kind that run elsewhere: `submit`, `status`, `logs`, `cancel`."""

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from pullback.cli import display, progress
from pullback.cli.common import AsJson, Job, err, make_plan_of, print_json, shown
from pullback.cli.completion import complete_sweep
from pullback.cli.results import results_line, results_of, results_state
from pullback.errors import PullbackError, StoreError, SweepError
from pullback.regular_files import open_regular

if TYPE_CHECKING:
    from pullback.driving.background import BackgroundJob
    from pullback.driving.sweep_state import SweepState
    from pullback.jobs.plan import ResultPlan
    from pullback.jobs.state import JobTarget

app = typer.Typer()

Target = Annotated[
    Path,
    typer.Argument(
        autocompletion=complete_sweep,
        help="A job's YAML file, or its address: a sweep's folder, or what `pullback submit` printed.",
        show_default=False,
    ),
]


def dashboard(address: str | None) -> str | None:
    """Return the address of a cluster's dashboard without a slash at its end; raises a usage error if it is no URL."""
    if address is None:
        return None
    if not address.startswith(("http://", "https://")) or not address.partition("://")[2].strip("/"):
        raise typer.BadParameter(f"{address!r} is not the address of a dashboard; give one like http://HEAD:8265")
    return address.rstrip("/")


Address = Annotated[
    str | None,
    typer.Option(callback=dashboard, help="The dashboard of a Ray cluster, http://HEAD:8265; else this machine."),
]
_LOOK_SECONDS = 1.0
_SILENCE_SECONDS = 120.0
"""Seconds for which a watched cluster may be silent."""


@app.command()
def submit(
    job: Job,
    address: Address = None,
    now: Annotated[bool, typer.Option("--now", help="Start at once, without waiting for earlier submissions.")] = False,
) -> None:
    """Run a job in the background, here or on a Ray cluster. The same job again attaches to it, or resumes it.

    On this machine, one submission runs at a time; the others are queued.
    """
    with progress.waiting(err, "reading the job"):
        results = results_of(job)
    if results is not None:
        begun = _submit_results(results, now, address)
    else:
        begun = _submit_here(job, now) if address is None else _submit_to(job, address)
    if begun is not None:
        message, place = begun
        err.print(f"{message}, into {escape(place)}")
        err.print(f"next: pullback status {shown(place)} --watch")


def _submit_results(plan: "ResultPlan", now: bool, address: str | None) -> tuple[str, str] | None:
    """Submit an analysis or an application. Returns the same as `_submit_here`."""
    from pullback.cluster.submission import submit_to
    from pullback.jobs.submission import background_job, cluster_job

    place, finished = str(plan.place), plan.finished
    if finished == len(plan.parts):
        err.print(f"nothing to do: all {finished} results are kept beside {escape(str(plan.base))}.")
        return None
    if address is None:
        message = _start_here(background_job(plan), now)
    else:
        with progress.waiting(err, f"asking {address}"):
            message = _outcome(submit_to(address, cluster_job(plan)))
    return message + results_line(plan), place


def _submit_here(job: Path, now: bool) -> tuple[str, str] | None:
    """Submit a sweep on this machine. Returns a message and the job's address, or None if nothing was left to do."""
    from pullback.driving.background import BackgroundJob

    with progress.waiting(err, "loading the generator and the distance"):
        plan = make_plan_of(job)
    if plan.finished == plan.layout.samples:
        _nothing_to_do(plan.finished, str(plan.place))
        return None
    return _start_here(BackgroundJob.of_sweep(plan.job), now) + display.sweep_line(plan), str(plan.place)


def _start_here(job: "BackgroundJob", now: bool) -> str:
    """Start a driver on this machine, unless one runs. Returns what happened, with a colon at the end."""
    from pullback.driving.background import start
    from pullback.driving.control import read_record
    from pullback.driving.queue import waiting_for
    from pullback.jobs.state import state_of

    known = read_record(job.store)
    # A sweep that a cluster drives may be in an object store, which has no lock.
    driven = known is not None and bool(known.submission) and state_of(job.store).exit_code == 3
    ahead = [] if now or driven else waiting_for()
    with progress.waiting(err, "starting a driver"):  # waits for the end of a cancelled driver
        begun = not driven and start(job, queue="now" if now else "wait")
    if begun and ahead:
        return f"queued behind {', '.join(map(escape, ahead))} (`pullback submit --now` starts it at once): "
    if not begun and known is not None and known.life == "queued":
        return "already queued, starting now: " if now else f"already queued, {escape(known.message)}: "
    return _outcome(begun)


def _submit_to(job: Path, address: str) -> tuple[str, str] | None:
    """Submit a sweep to a cluster, which makes the plan. Returns the same as `_submit_here`."""
    from pullback.cluster.submission import submit_to
    from pullback.generators import zoo
    from pullback.spec import load_job
    from pullback.sweep.plan import identify

    with progress.waiting(err, "loading the generator and the distance"):
        sweep = identify(load_job(job, zoo()), str(job))
    samples = sweep.job.samples.count
    if sweep.finished == samples:
        _nothing_to_do(samples, str(sweep.place))
        return None
    with progress.waiting(err, f"asking {address}"):
        begun = submit_to(address, sweep)
    what = f"{sweep.job.name} ({sweep.sweep_id}): {samples} metrics at {escape(address)}"
    return f"{_outcome(begun)}{what}", str(sweep.place)


def _nothing_to_do(samples: int, store: str) -> None:
    err.print(f"nothing to do: all {samples} samples of {escape(store)} are done.")


def _outcome(begun: bool) -> str:
    return "submitted: " if begun else "attached; it runs already: "


@app.command()
def status(
    target: Target,
    watch: Annotated[bool, typer.Option("--watch", help="Look again until it ends; Ctrl-C leaves it running.")] = False,
    as_json: AsJson = False,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 0 done, 1 failed or stopped, 3 running, 4 quarantined.")
    ] = False,
) -> None:
    """Show how far a job is and which driver is running, whatever became of its driver or cluster."""
    from pullback.jobs.address import is_address

    job = _target(target)
    found, is_sweep = _state(job), not is_address(job.place.name)
    if watch:
        with progress.watching(err, "samples" if is_sweep else "results") as show:
            for look in _looks(job, found):
                show(look)
                found = look
    if as_json:
        print_json(found.as_dict())
    else:
        (display.state_table if is_sweep else results_state)(found, display.out())
    if exit_code and found.exit_code:
        raise typer.Exit(found.exit_code)


@app.command()
def logs(
    target: Target,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the job ends.")] = False,
) -> None:
    """Print a job's journal, one JSON object a line; before it has one, what its driver printed."""
    job = _target(target)
    store = job.place.path
    if not follow:
        _, text = _driver_output(store)
        if not text:
            err.print(_no_output(_state(job)))  # raises if there is no such job
        print(text, end="")
        return
    at: dict[str, int] = {}
    for found in _looks(job, _state(job)):
        try:
            source, text = _driver_output(store)
        except SweepError:  # its cluster does not answer; if that lasts, `_looks` raises
            continue
        if not text and not at:
            err.print(_no_output(found))
        print(text[at.get(source, 0) :], end="", flush=True)
        at[source] = len(text)


def _no_output(found: "SweepState") -> str:
    return f"{found.state}: its driver has logged nothing yet"


def _looks(job: "JobTarget", found: "SweepState") -> Iterator["SweepState"]:
    """Yield a job's state until it ends, beginning with `found`. A cluster or store may be silent for a while.

    Raises:
        PullbackError: the store stays silent.
    """
    heard = -math.inf
    while True:
        yield found
        heard = heard if found.unsure else time.monotonic()
        if found.exit_code != 3 and not (found.unsure and time.monotonic() - heard < _SILENCE_SECONDS):
            return
        time.sleep(_LOOK_SECONDS)
        try:
            found = _state(job)
        except PullbackError:
            if time.monotonic() - heard > _SILENCE_SECONDS:
                raise
            found = replace(found, unsure=True)


def _driver_output(store: Path) -> tuple[str, str]:
    """Return the source of the output of a job's latest driver (a file's name or a submission), and its text.

    Raises:
        StoreError: only another machine has it.
    """
    from pullback.driving.control import events_path, read_record
    from pullback.driving.sidecar_files import sidecar_path
    from pullback.store.location import locate

    record = read_record(store)
    begun = record is not None and record.life != "submitted"
    elsewhere = record is not None and begun and not (locate(store).is_local or record.is_here)
    if record is not None and record.submission and (elsewhere or not begun):
        # The driver has not started yet, or its journal is on another machine's disk.
        from pullback.cluster.submission import log_of

        return record.submission, log_of(record)
    if record is not None and elsewhere:
        raise StoreError(f"the journal of {store} is on {record.host}, where its driver started: read it there.")
    journal, printed = events_path(store), sidecar_path(store, "log")
    for path in (journal, printed) if begun or record is None else (printed, journal):
        if path.exists():
            with open_regular(path) as file:
                return path.name, file.read().decode(errors="replace")
    return "", ""


@app.command()
def cancel(target: Target) -> None:
    """Stop a job after the current batch. Finished work is kept, and the same job resumes."""
    from pullback.cluster.submission import cancel as cancel_job

    job = _target(target)
    if not cancel_job(job.place):
        found = _state(job)  # raises if there is no such job
        place = escape(str(job.place))
        err.print(f"no driver is running for {place}, which is {found.state}; there is nothing to cancel.")
        raise typer.Exit(1)
    err.print(f"asked to stop; to see it end: pullback status {shown(target)} --watch")


def _target(target: Path) -> "JobTarget":
    """The job that a user names by its YAML file or its address."""
    from pullback.jobs.state import target_of

    return target_of(target)


def _state(job: "JobTarget") -> "SweepState":
    """Return the state of a job, wherever its driver runs."""
    from pullback.jobs.state import state_of

    return state_of(job)
