"""Commands that compute sweeps and show them."""

from collections.abc import Container
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from pullback.cli import display, progress
from pullback.cli.common import (
    AsJson,
    Job,
    Snapshot,
    SweepPath,
    err,
    make_plan_of,
    open_at,
    print_json,
    shown,
)
from pullback.cli.results import results_of, run_here, show_plan
from pullback.errors import StoreError, SweepError

if TYPE_CHECKING:
    from pullback.store.reader import Sweep

app = typer.Typer()


@app.command()
def plan(job: Job, as_json: AsJson = False) -> None:
    """Show what a job needs: shards, bytes, memory and time. Writes nothing."""
    if (results := results_of(job)) is not None:
        show_plan(results, as_json, job)
        return
    with progress.waiting(err, "measuring a piece of the work"):
        planned = make_plan_of(job, measure=True)
    if as_json:
        print_json(display.plan_dict(planned))
    else:
        display.plan_table(planned, display.out())
        err.print(f"next: pullback run {shown(job)}")


@app.command()
def run(
    job: Job,
    serial: Annotated[bool, typer.Option("--serial", help="Compute in this process, without Ray.")] = False,
) -> None:
    """Run a job, or resume it. Samples that are done are not computed again."""
    from pullback.driving.pool_protocol import serial_pool
    from pullback.driving.run import run_sweep

    if (results := results_of(job)) is not None:
        run_here(results, f"pullback run {shown(job)}")
        return
    with progress.waiting(err, "loading the generator and the distance"):
        planned = make_plan_of(job, serial=serial)
    if serial:
        pool = serial_pool
    else:
        from pullback.cluster.pool import ray_pool as pool
    path = planned.place
    err.print(f"{display.sweep_line(planned)}, into {escape(str(path))}")
    with progress.sweep_progress(err) as report:
        outcome = run_sweep(planned, pool, report)
    status = outcome.status
    for failure in outcome.failed:
        err.print(f"[red]shard {failure.shard} was given up:[/] {escape(failure.error)}")
    done = status.good + status.quarantined
    if outcome.broken:
        raise SweepError(outcome.broken)
    if outcome.interrupted or outcome.cancelled or status.pending:
        word = "interrupted" if outcome.interrupted else "cancelled" if outcome.cancelled else "not finished"
        err.print(f"{word}: {done} of {status.planned} samples are stored; nothing stored is lost.")
        err.print(f"to resume: pullback run {shown(job)}")
        raise typer.Exit(outcome.exit_code)
    if outcome.computed == 0:
        err.print(f"nothing to do: all {status.planned} samples of {escape(str(path))} are done.")
    else:
        err.print(f"done: {status.good} good samples of {status.planned} in {escape(str(path))}.")
    if status.quarantined:
        count = "1 sample is" if status.quarantined == 1 else f"{status.quarantined} samples are"
        err.print(f"[yellow]{count} quarantined:[/] see pullback show {shown(path)}")
    for sentence in _zero_metrics(str(path)):
        err.print(f"[yellow]zero metrics:[/] {escape(sentence)}")
    if status.good > 1:  # statistics need two samples
        err.print(f"next: pullback report {shown(path)}")
    if outcome.exit_code:
        raise typer.Exit(outcome.exit_code)


def _zero_metrics(store: str) -> list[str]:
    """Return sentences about samples whose metric is exactly zero; none if the store cannot be read now."""
    from pullback.analysis.statements import zero_metrics

    with suppress(StoreError):
        return zero_metrics(open_at(store).zero_metrics().as_dict())
    return []


@app.command("ls")
def list_(
    folder: Annotated[str, typer.Argument(help="The folder of the sweeps, or s3://bucket/prefix.")] = "sweeps",
    as_json: AsJson = False,
) -> None:
    """List the sweeps in a folder with their states."""
    from pullback.store.reader import list_sweeps

    def left_out(error: Exception) -> None:
        err.print(f"[yellow]left out:[/] {escape(str(error))}")

    sweeps = []
    for sweep in list_sweeps(folder, left_out):
        try:
            sweeps.append(_document(sweep))
        except (StoreError, OSError) as error:  # one damaged sweep must not hide the others
            left_out(error)
    sweeps = sorted(
        [*sweeps, *_without_store(folder, {sweep["path"] for sweep in sweeps})], key=lambda row: row["name"]
    )
    if as_json:
        print_json(sweeps)
    elif sweeps:
        display.sweeps_table(sweeps, display.out())
    else:
        err.print(f"no sweeps in {escape(str(folder))}; compute one with: pullback run jobs/quickstart.yaml")


def _without_store(folder: str, listed: Container[str]) -> list[dict[str, Any]]:
    """List the submitted jobs in a folder that have no results yet."""
    from pullback.api.documents import LocalSubmission
    from pullback.cluster.submission import sweep_state_with_cluster
    from pullback.driving.sidecar_files import known_drivers
    from pullback.driving.states import WITHOUT_STORE
    from pullback.jobs.address import is_address
    from pullback.store.location import locate

    place = locate(folder)
    rows = []
    names = known_drivers(place.path) if place.is_local else []
    for name in names:
        path = place.path / name
        if is_address(name):  # an analysis or an application
            continue
        with suppress(StoreError, OSError):  # unreadable stores are reported above
            found = sweep_state_with_cluster(path)
            if str(path) not in listed and not found.snapshot and found.state in WITHOUT_STORE:
                rows.append(LocalSubmission.of(found, str(path)).as_dict())
    return rows


@app.command()
def show(sweep: SweepPath, snapshot: Snapshot = None, as_json: AsJson = False) -> None:
    """Show one sweep: its progress, and what it was computed from."""
    opened = open_at(sweep, snapshot)
    content = _document(opened)
    print_json(content) if as_json else display.sweep_table(content, display.out())


@app.command()
def snapshots(
    sweep: SweepPath,
    most: Annotated[int, typer.Option("--limit", min=1, help="Largest number of snapshots.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List a sweep's snapshots, the newest first: values for `--snapshot`."""
    from pullback.store.history import history

    rows = [commit.as_dict() for commit in history(sweep, most)]
    print_json(rows) if as_json else display.snapshots_table(rows, display.out())


def _document(sweep: "Sweep") -> dict[str, Any]:
    """Return the JSON of `pullback show`."""
    from pullback.api.documents import LocalSweep
    from pullback.driving.sweep_state import sweep_state

    return LocalSweep.of(sweep, path=str(sweep.location), state=sweep_state(sweep.location).state).as_dict()
