"""Commands that make sweeps and look at them."""

from collections.abc import Container
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from pullback import display, progress
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
from pullback.errors import StoreError, SweepError

if TYPE_CHECKING:
    from pullback.analysis import Analysis
    from pullback.store.reader import Sweep

app = typer.Typer()

Draws = Annotated[int, typer.Option(min=10, help="Bootstrap samples behind each interval.")]
Points = Annotated[
    int, typer.Option(min=2, help="Metrics that are compared in pairs at most; the rest is of all samples.")
]


@app.command()
def plan(job: Job, as_json: AsJson = False) -> None:
    """Show what a job would do: shards, bytes, expected memory and time. Writes nothing."""
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
    """Run a job to its end, or go on with one that was interrupted. What is done is never done again."""
    from pullback.sweep.pools import serial_pool
    from pullback.sweep.run import run_sweep

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
        err.print(f"{word}: {done} of {status.planned} samples are saved; nothing that was saved is lost.")
        err.print(f"to go on: pullback run {shown(job)}")
        raise typer.Exit(outcome.exit_code)
    if outcome.computed == 0:
        err.print(f"nothing to do: all {status.planned} samples of {escape(str(path))} are done.")
    else:
        err.print(f"done: {status.good} good samples of {status.planned} in {escape(str(path))}.")
    if status.quarantined:
        err.print(f"[yellow]{status.quarantined} samples are quarantined:[/] see pullback show {shown(path)}")
    if status.good > 1:  # statistics over points need two
        err.print(f"next: pullback report {shown(path)}")
    if outcome.exit_code:
        raise typer.Exit(outcome.exit_code)


@app.command("ls")
def list_(
    folder: Annotated[str, typer.Argument(help="The folder that holds sweeps, or s3://bucket/prefix.")] = "sweeps",
    as_json: AsJson = False,
) -> None:
    """List the sweeps in a folder, and the state of each."""
    from pullback.store.reader import list_sweeps

    sweeps = []
    for sweep in list_sweeps(folder):
        try:
            sweeps.append(_told(sweep))
        except StoreError as error:  # one damaged sweep must not hide the others
            err.print(f"[yellow]left out:[/] {escape(str(error))}")
    sweeps = sorted(
        [*sweeps, *_without_store(folder, {sweep["path"] for sweep in sweeps})], key=lambda row: row["name"]
    )
    if as_json:
        print_json(sweeps)
    elif sweeps:
        display.sweeps_table(sweeps, display.out())
    else:
        err.print(f"no sweeps in {escape(str(folder))}; make one with: pullback run jobs/quickstart.yaml")


def _without_store(folder: str, listed: Container[str]) -> list[dict[str, Any]]:
    """What was submitted in a folder and has no results yet, as far as is known of it."""
    from pullback.cluster.jobs import state_of
    from pullback.store.location import locate
    from pullback.sweep.beside import driven
    from pullback.sweep.control import WITHOUT_STORE

    place = locate(folder)
    rows = []
    for name in driven(place.path) if place.is_local else []:
        path = place.path / name
        with suppress(StoreError):  # a store that cannot be read was told of
            found = state_of(path)
            if str(path) not in listed and not found.snapshot and found.state in WITHOUT_STORE:
                rows.append(display.without_store_dict(found, str(path)))
    return rows


@app.command()
def show(sweep: SweepPath, snapshot: Snapshot = None, as_json: AsJson = False) -> None:
    """Show one sweep: how far it is, and what it was computed from."""
    content = _told(open_at(sweep, snapshot))
    print_json(content) if as_json else display.sweep_table(content, display.out())


@app.command()
def snapshots(
    sweep: SweepPath,
    most: Annotated[int, typer.Option("--limit", min=1, help="How many at most.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List a sweep's snapshots, the last one first: what `--snapshot` takes."""
    from pullback.store.reader import history

    rows = [commit.as_dict() for commit in history(sweep, most)]
    print_json(rows) if as_json else display.snapshots_table(rows, display.out())


def _told(sweep: "Sweep") -> dict[str, Any]:
    from pullback.sweep.control import state_of

    return display.sweep_dict(sweep, state_of(sweep.location).state)


@app.command()
def export(
    sweep: SweepPath,
    out: Annotated[Path, typer.Argument(help="The Zarr folder to write, such as out.zarr.", show_default=False)],
) -> None:
    """Write a sweep as a plain Zarr folder, for those without icechunk."""
    opened = open_at(sweep)
    with progress.waiting(err, f"writing {out}"):
        opened.export(out)
    err.print(f"wrote {escape(str(out))}; open it with xarray.open_zarr({str(out)!r}, consolidated=False)")


@app.command()
def analyze(
    sweep: SweepPath,
    snapshot: Snapshot = None,
    draws: Draws = 1000,
    points: Points = 1000,
    as_json: AsJson = False,
) -> None:
    """Compute anisotropy, homogeneity and the mean metric of a sweep, and keep them beside it."""
    opened = open_at(sweep, snapshot)
    analysis = _analyze(opened, draws, points)
    if as_json:
        print_json(analysis.to_json())
    else:
        display.analysis_table(analysis, opened, display.out())
        given = {"--snapshot": (snapshot, None), "--draws": (draws, 1000), "--points": (points, 1000)}
        how = "".join(f" {option} {value}" for option, (value, usual) in given.items() if value != usual)
        err.print(f"next: pullback report {shown(sweep)}{how}")


@app.command()
def report(
    sweep: SweepPath,
    out: Annotated[Path | None, typer.Option(help="The HTML file; by default SWEEP.report.html.")] = None,
    snapshot: Snapshot = None,
    draws: Draws = 1000,
    points: Points = 1000,
) -> None:
    """Write a sweep's report: one self-contained HTML file with figures and image strips."""
    from pullback.analysis.kept import load_analysis
    from pullback.report import write_report

    opened = open_at(sweep, snapshot)
    if out is None and not opened.location.is_local:
        raise StoreError(f"{opened.location} is in an object store, and a report is a file: add --out report.html")
    analysis = load_analysis(opened, draws=draws, points=points) or _analyze(opened, draws, points)
    target = out if out is not None else opened.path.with_name(f"{opened.path.name}.report.html")
    with progress.waiting(err, "walking along the axes and drawing"):
        missing = write_report(opened, analysis, target)
    if missing is not None:
        err.print(f"[yellow]without image strips:[/] {escape(missing)}")
    err.print(f"the report is {escape(str(target))}")


def _analyze(sweep: "Sweep", draws: int, points: int) -> "Analysis":
    from pullback.analysis import analyze as compute
    from pullback.analysis.kept import save_analysis

    with progress.counting(err, "homogeneity") as count:
        analysis = compute(sweep, draws=draws, points=points, progress=count)
    try:
        save_analysis(analysis, sweep)
    except StoreError as error:  # a sweep in a folder of someone else's can still be looked at
        err.print(f"[yellow]the analysis is not kept beside the sweep:[/] {escape(str(error))}")
    return analysis
