"""Commands for sweeps that run elsewhere: `submit`, `status`, `logs`, `cancel`."""

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from pullback import display, progress
from pullback.cli.common import AsJson, Job, err, make_plan_of, print_json, shown, store_at
from pullback.errors import PullbackError, StoreError, SweepError

if TYPE_CHECKING:
    from pullback.sweep.control import SweepState

app = typer.Typer()

Target = Annotated[
    Path, typer.Argument(help="A sweep's folder or address, or the job's YAML file.", show_default=False)
]


def dashboard(address: str | None) -> str | None:
    """The address of a cluster's dashboard as it is used from here on; a usage error where it is none."""
    if address is None:
        return None
    if not address.startswith(("http://", "https://")) or not address.partition("://")[2].strip("/"):
        raise typer.BadParameter(f"{address!r} is no dashboard's address; give one like http://HEAD:8265")
    return address.rstrip("/")


Address = Annotated[
    str | None,
    typer.Option(callback=dashboard, help="The dashboard of a Ray cluster, http://HEAD:8265; else this machine."),
]
_LOOK_SECONDS = 1.0
_SILENCE_SECONDS = 120.0
"""How long a watched cluster may not answer."""


@app.command()
def submit(job: Job, address: Address = None) -> None:
    """Have a job run in the background, here or on a Ray cluster. The same job again attaches, or goes on with it."""
    begun = _submit_here(job) if address is None else _submit_to(job, address)
    if begun is not None:
        said, store = begun
        err.print(f"{said}, into {escape(store)}")
        err.print(f"next: pullback status {shown(store)} --watch")


def _submit_here(job: Path) -> tuple[str, str] | None:
    """What to say of a job that runs in the background, and its store; None where there was nothing to do."""
    from pullback.cluster.jobs import state_of
    from pullback.sweep.background import start
    from pullback.sweep.control import read_record

    with progress.waiting(err, "loading the generator and the distance"):
        plan = make_plan_of(job)
    if plan.finished == plan.layout.samples:
        _nothing_to_do(plan.finished, str(plan.place))
        return None
    known = read_record(plan.place)
    # what a cluster drives may be in an object store, which has no lock
    driven = known is not None and bool(known.submission) and state_of(plan.place).exit_code == 3
    with progress.waiting(err, "starting a driver"):  # which waits for one that is being cancelled
        begun = not driven and start(plan.job)
    return _told(begun) + display.sweep_line(plan), str(plan.place)


def _submit_to(job: Path, address: str) -> tuple[str, str] | None:
    """As `_submit_here`, for a cluster, which makes the plan."""
    from pullback.cluster.jobs import submit_to
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
    return f"{_told(begun)}{sweep.job.name} ({sweep.sweep_id}): {samples} metrics at {address}", str(sweep.place)


def _nothing_to_do(samples: int, store: str) -> None:
    err.print(f"nothing to do: all {samples} samples of {escape(store)} are done.")


def _told(begun: bool) -> str:
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
    """Tell how far a sweep is and whether anybody is at work on it, whatever became of its driver or cluster."""
    store = _store(target)
    found = _state(store)
    if watch:
        with progress.watching(err) as show:
            for look in _looks(store, found):
                show(look)
                found = look
    print_json(found.as_dict()) if as_json else display.state_table(found, display.out())
    if exit_code and found.exit_code:
        raise typer.Exit(found.exit_code)


@app.command()
def logs(
    target: Target,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the sweep ends.")] = False,
) -> None:
    """Print what happened to a sweep: its journal, a JSON object a line; before it has one, what its driver printed."""
    store = _store(target)
    if not follow:
        _, text = _told_by(store)
        if not text:
            err.print(_nothing_told(_state(store)))  # whose error tells of no such sweep
        print(text, end="")
        return
    at: dict[str, int] = {}
    for found in _looks(store, _state(store)):
        try:
            source, text = _told_by(store)
        except SweepError:  # its cluster is silent; whether it stays so is seen with the state
            continue
        if not text and not at:
            err.print(_nothing_told(found))
        print(text[at.get(source, 0) :], end="", flush=True)
        at[source] = len(text)


def _nothing_told(found: "SweepState") -> str:
    return f"{found.state}: its driver has told nothing yet"


def _looks(store: Path, found: "SweepState") -> Iterator["SweepState"]:
    """A sweep's state, from the one that was found until its end; a cluster or store that has answered may fall silent.

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
            found = _state(store)
        except PullbackError:
            if time.monotonic() - heard > _SILENCE_SECONDS:
                raise
            found = replace(found, unsure=True)


def _told_by(store: Path) -> tuple[str, str]:
    """What there is to read of a sweep's latest driver, and who tells it.

    Raises:
        StoreError: only another machine has it.
    """
    from pullback.store.location import locate
    from pullback.sweep.beside import beside
    from pullback.sweep.control import events_path, read_record

    record = read_record(store)
    begun = record is not None and record.life != "submitted"
    elsewhere = record is not None and begun and not (locate(store).is_local or record.is_here)
    if record is not None and record.submission and (elsewhere or not begun):
        # It did not begin yet, or its journal is on another machine's disk.
        from pullback.cluster.jobs import log_of

        return record.submission, log_of(record)
    if record is not None and elsewhere:
        raise StoreError(f"the journal of {store} lies on {record.host}, where its driver was started: see it there.")
    journal, printed = events_path(store), beside(store, "log")
    for path in (journal, printed) if begun or record is None else (printed, journal):
        if path.exists():
            return path.name, path.read_text(encoding="utf-8", errors="replace")
    return "", ""


@app.command()
def cancel(target: Target) -> None:
    """Stop a sweep after the batch at hand. What is done is kept, and the same job goes on from there."""
    from pullback.cluster.jobs import cancel as cancel_sweep

    store = _store(target)
    if not cancel_sweep(store):
        from pullback.store.location import locate

        found = _state(store)  # for its error, where there is no such sweep
        place = escape(str(locate(store)))
        err.print(f"nobody is at work on {place}, which is {found.state}; there is nothing to cancel.")
        raise typer.Exit(1)
    err.print(f"asked to stop; to see it end: pullback status {shown(target)} --watch")


def _store(target: Path) -> Path:
    """The store that a target names, itself or by its job."""
    return Path(store_at(str(target)))


def _state(store: Path) -> "SweepState":
    """The sweep's state, whoever drives it."""
    from pullback.cluster.jobs import state_of

    return state_of(store)
