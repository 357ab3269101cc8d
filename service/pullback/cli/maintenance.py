"""Commands that maintain stores: `audit` and `gc`."""

import re
from collections.abc import Mapping
from dataclasses import asdict
from datetime import timedelta
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from pullback.cli import display, progress
from pullback.cli.common import AsJson, SweepPath, err, print_json, shown

if TYPE_CHECKING:
    from pullback.store.audit import Audit

app = typer.Typer()

EXIT_DAMAGED = 1

_UNITS = {"s": "seconds", "min": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_SHOWN = 50
"""Number of damaged shards in the table; `--json` lists all."""
_ARRAYS_SHOWN = 3
"""Number of damaged arrays listed for each shard."""


def _age(text: str) -> timedelta:
    """Parse an age: `30min`, `12h`, `1d` or `2w`."""
    found = re.fullmatch(rf"(\d+(?:\.\d+)?) ?({'|'.join(_UNITS)})", text.strip())
    try:
        if found is not None:
            return timedelta(**{_UNITS[found[2]]: float(found[1])})
    except OverflowError:
        pass
    raise typer.BadParameter(f"{text!r} is not an age; write it like 30min, 12h, 1d or 2w")


@app.command()
def audit(
    sweep: SweepPath,
    repair: Annotated[
        bool, typer.Option("--repair", help="Make damaged shards pending, so that the next run computes them again.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Read every stored byte of a sweep and list what is damaged. Exit code 1 if damage remains."""
    from pullback.store import maintenance
    from pullback.store.audit import audit as find_damage

    with progress.counting(err, "shards read") as count:
        found = (maintenance.repair if repair else find_damage)(sweep, count)
    damaged = bool(found.damages or found.went_back)
    repaired = repair and damaged
    if as_json:
        print_json(_audit_dict(found, repaired))
    else:
        _audit_table(found)
    if not damaged:
        err.print(f"clean: all {found.committed} committed shards of {found.shards} were read and are intact.")
        return
    lost = len(found.lost_shards)
    if repaired:
        if found.went_back:
            err.print(f"[yellow]went back to an earlier commit:[/] {escape(found.went_back)}")
        err.print(f"repaired: {lost} shards are pending again. To compute them, run the sweep's job again.")
        return
    err.print(f"damaged: {lost} shards. All others are intact. Nothing was changed.")
    err.print(f"to make them pending again: pullback audit {shown(sweep)} --repair")
    raise typer.Exit(EXIT_DAMAGED)


@app.command()
def gc(
    sweep: SweepPath,
    older_than: Annotated[
        timedelta, typer.Option(parser=_age, metavar="AGE", help="Keep younger files, which a running sweep may need.")
    ] = "1d",  # type: ignore[assignment]  # parsed as if it were typed
    expire: Annotated[
        timedelta | None,
        typer.Option(
            parser=_age, metavar="AGE", help="Also remove earlier snapshots older than this, with their analyses."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be removed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove files that no snapshot refers to, such as those of killed workers. Results are kept."""
    from pullback.analysis.cache import forget_analyses
    from pullback.applications.results import forget_results
    from pullback.driving.remote_drivers import driver_since
    from pullback.store.location import locate
    from pullback.store.maintenance import collect_garbage
    from pullback.store.objects import store_time

    analyses = 0
    with progress.waiting(err, "looking for unreferenced files"):
        garbage = collect_garbage(sweep, older_than, expire, dry_run, driver_since)
        if expire is not None:
            before = store_time(locate(sweep)) - expire
            analyses = forget_analyses(sweep, before, dry_run) + forget_results(sweep, before, dry_run)
    if as_json:
        print_json({**garbage.as_dict(), "analyses": analyses, "dry_run": dry_run})
        return
    word = "would remove" if dry_run else "removed"
    removed = f"{garbage.chunks} chunks, {garbage.manifests} manifests and {garbage.snapshots} snapshots"
    display.out().print(f"{word} {removed}: {display.size(garbage.bytes)}")
    if expire is not None:
        what = f"{garbage.expired} earlier snapshots and {analyses} analyses of them"
        display.out().print(f"{'would expire' if dry_run else 'expired'} {what}")


def _audit_dict(found: "Audit", repaired: bool) -> dict[str, Any]:
    """Return the JSON of `pullback audit`."""
    return {
        "snapshot": found.snapshot,
        "shards": found.shards,
        "committed": found.committed,
        "clean": not found.damages and not found.went_back,
        "went_back": found.went_back,
        "repaired": repaired,
        "lost_shards": found.lost_shards,
        "damages": [asdict(damage) for damage in found.damages],
    }


def _audit_table(found: "Audit") -> None:
    """Print the table of `pullback audit`, with one line for each damaged shard."""
    console = display.out()
    shards: Mapping[int, list[str]] = {
        shard: [f"{damage.array} {damage.kind} ({damage.what})" for damage in damages]
        for shard, damages in groupby(found.damages, key=lambda damage: damage.shard)
    }
    for shard, damages in list(shards.items())[:_SHOWN]:
        more = f"; and {len(damages) - _ARRAYS_SHOWN} more arrays" if len(damages) > _ARRAYS_SHOWN else ""
        console.print(f"shard {shard}: {escape('; '.join(damages[:_ARRAYS_SHOWN]))}{more}")
    if len(shards) > _SHOWN:
        console.print(f"and {len(shards) - _SHOWN} more shards; --json lists all")
