"""Commands for sweeps that run elsewhere: `submit`, `status`, `logs`, `cancel`."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from pullback import display, progress
from pullback.cli.common import AsJson, Job, err, make_plan_of, print_json, shown
from pullback.errors import StoreError, SweepError

if TYPE_CHECKING:
    from pullback.sweep.control import SweepState

app = typer.Typer()

Target = Annotated[
    Path, typer.Argument(help="A sweep's folder or address, or the job's YAML file.", show_default=False)
]
Address = Annotated[
    str | None, typer.Option(help="The dashboard of a Ray cluster, http://HEAD:8265; this machine by default.")
]
_LOOK_SECONDS = 1.0


@app.command()
def submit(job: Job, address: Address = None) -> None:
    """Have a job run in the background, here or on a Ray cluster. The same job again attaches, or goes on with it."""
    from pullback.sweep.background import start
    from pullback.sweep.control import DriverRecord, write_record

    with progress.waiting(err, "loading the generator and the distance"):
        plan = make_plan_of(job)
    target = escape(str(plan.place))
    if plan.finished == plan.layout.samples:
        err.print(f"nothing to do: all {plan.layout.samples} samples of {target} are done.")
        return
    if address is None:
        begun = start(plan.job)
    else:
        from pullback.cluster.jobs import submission_of, submit_to

        begun = submit_to(address, plan.job, plan.sweep_id)
        if begun:
            submission = submission_of(plan.sweep_id)
            record = DriverRecord("submitted", updated=time.time(), submission=submission, address=address)
            write_record(plan.place, record)
    err.print(f"{'submitted' if begun else 'attached; it runs already'}: {display.sweep_line(plan)}, into {target}")
    err.print(f"next: pullback status {shown(plan.place)} --watch")


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
    found = _state(target)
    if watch:
        with progress.watching(err) as show:
            show(found)
            while found.exit_code == 3:
                time.sleep(_LOOK_SECONDS)
                found = _state(target)
                show(found)
    print_json(found.as_dict()) if as_json else display.state_table(found, display.out())
    if exit_code and found.exit_code:
        raise typer.Exit(found.exit_code)


@app.command()
def logs(
    target: Target,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the sweep ends.")] = False,
) -> None:
    """Print what happened to a sweep: its journal, a JSON object a line."""
    from pullback.sweep.control import events_path

    store = _store(target)
    journal, at = events_path(store), 0
    if not journal.exists() and not follow:
        raise StoreError(f"{store} has no journal yet; see `pullback status`.")
    while True:
        over = not follow or _state(target).exit_code != 3
        if journal.exists():
            with journal.open(encoding="utf-8") as file:
                file.seek(at)
                print(file.read(), end="", flush=True)
                at = file.tell()
        if over:
            return
        time.sleep(_LOOK_SECONDS)


@app.command()
def cancel(target: Target) -> None:
    """Stop a sweep after the batch at hand. What is done is kept, and the same job goes on from there."""
    from pullback.sweep.control import read_record, request_cancel

    store = _store(target)
    record = read_record(store)
    asked = request_cancel(store)
    if not asked and record is not None and record.submission:
        from pullback.cluster.jobs import stop_at

        asked = stop_at(record.address, record.submission.removeprefix("pullback-"))
    if not asked:
        err.print(f"nobody is at work on {escape(str(store))}; there is nothing to cancel.")
        raise typer.Exit(1)
    err.print(f"asked to stop; to see it end: pullback status {shown(target)} --watch")


def _store(target: Path) -> Path:
    """The store that a target names, itself or by its job."""
    if target.is_file():
        from pullback.generators import zoo
        from pullback.spec import load_job

        return load_job(target, zoo()).store_path
    return target


def _state(target: Path) -> "SweepState":
    """The sweep's state; of one that a cluster drives, with what that cluster says where the store cannot know."""
    from dataclasses import replace

    from pullback.sweep.control import state_of

    found = state_of(_store(target))
    driver = found.driver
    if driver is None or not driver.submission or found.state not in ("submitted", "stopped"):
        return found
    from pullback.cluster.jobs import status_at

    try:
        said = status_at(driver.address, driver.submission.removeprefix("pullback-"))
    except SweepError as error:
        return replace(found, state="stopped", message=str(error))
    if said == "RUNNING":
        return replace(found, state="running")
    if said == "PENDING":
        return replace(found, state="submitted")
    gone = f"its driver on {driver.address} is over ({said or 'unknown there'}), and the sweep is not done"
    return replace(found, state="failed" if said == "FAILED" else "stopped", message=f"{gone}; submit the job again")
