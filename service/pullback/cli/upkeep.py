"""Commands that keep sweeps in order."""

import re
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from pullback import display, progress
from pullback.cli.common import AsJson, SweepPath, err, print_json, shown

if TYPE_CHECKING:
    from pullback.store.audit import Audit

app = typer.Typer()

EXIT_DAMAGED = 1

_UNITS = {"s": "seconds", "min": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_SHOWN = 50
"""Damaged shards that a table lists; `--json` lists all."""
_ARRAYS_SHOWN = 3
"""Damaged arrays of each that it lists."""


def _age(text: str) -> timedelta:
    """`30min`, `12h`, `1d` or `2w`."""
    found = re.fullmatch(rf"(\d+(?:\.\d+)?) ?({'|'.join(_UNITS)})", text.strip())
    try:
        if found is not None:
            return timedelta(**{_UNITS[found[2]]: float(found[1])})
    except OverflowError:
        pass
    raise typer.BadParameter(f"{text!r} is no age; write it like 30min, 12h, 1d or 2w")


@app.command()
def audit(
    sweep: SweepPath,
    repair: Annotated[
        bool, typer.Option("--repair", help="Make damaged shards pending again, for the next run to compute.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Read everything a sweep holds and say what is damaged. Leaves with 1 where something stays damaged."""
    from pullback.store import upkeep
    from pullback.store.audit import audit as look

    with progress.counting(err, "shards read") as count:
        found = (upkeep.repair if repair else look)(sweep, count)
    damaged, repaired = bool(found.damages), repair and bool(found.damages)
    if as_json:
        print_json(_audit_dict(found, repaired))
    else:
        _audit_table(found)
    if not damaged:
        err.print(f"clean: all of {found.committed} committed shards of {found.shards} were read and are whole.")
        return
    lost = len(found.lost_shards)
    if repaired:
        err.print(f"repaired: {lost} shards are pending again; to compute them, run the sweep's job again.")
        return
    err.print(f"damaged: {lost} shards cannot be relied on; all others can. Nothing was changed.")
    err.print(f"to make them pending again: pullback audit {shown(sweep)} --repair")
    raise typer.Exit(EXIT_DAMAGED)


@app.command()
def gc(
    sweep: SweepPath,
    older_than: Annotated[
        timedelta, typer.Option(parser=_age, metavar="AGE", help="Leave alone what is younger: a run may need it.")
    ] = "1d",  # type: ignore[assignment]  # parsed as if it were typed
    expire: Annotated[
        timedelta | None,
        typer.Option(parser=_age, metavar="AGE", help="Also forget earlier commits that are older than this."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove what killed workers left in a sweep's storage. No result is touched."""
    from pullback.analysis.kept import forget_analyses
    from pullback.store.upkeep import collect_garbage

    analyses, now = 0, datetime.now(UTC)
    with progress.waiting(err, "looking for what nothing refers to"):
        garbage = collect_garbage(sweep, older_than, expire, dry_run)
        if expire is not None:
            analyses = forget_analyses(sweep, now - expire, dry_run)
    if as_json:
        print_json({**garbage.as_dict(), "analyses": analyses, "dry_run": dry_run})
        return
    word = "would remove" if dry_run else "removed"
    removed = f"{garbage.chunks} chunks, {garbage.manifests} manifests and {garbage.snapshots} snapshots"
    display.out().print(f"{word} {removed}: {display.size(garbage.bytes)}")
    if expire is not None:
        what = f"{garbage.expired} earlier commits, and {analyses} analyses of such"
        display.out().print(f"{'would expire' if dry_run else 'expired'} {what}")


def _audit_dict(found: "Audit", repaired: bool) -> dict[str, Any]:
    """`pullback audit --json`."""
    return {
        "snapshot": found.snapshot,
        "shards": found.shards,
        "committed": found.committed,
        "clean": not found.damages,
        "repaired": repaired,
        "lost_shards": found.lost_shards,
        "damages": [asdict(damage) for damage in found.damages],
    }


def _audit_table(found: "Audit") -> None:
    """`pullback audit`: a line a damaged shard."""
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
