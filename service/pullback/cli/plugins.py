"""`pullback plugins`: the generator families, distances, statistics and applications that are installed."""

from typing import Any

import typer
from rich.markup import escape

from pullback.cli import display
from pullback.cli.common import AsJson, err, print_json

app = typer.Typer()


@app.command()
def plugins(as_json: AsJson = False) -> None:
    """List generator families, distances, statistics and applications, and where each comes from."""
    from pullback.plugins import REGISTRIES

    rows = [row for registry in REGISTRIES for row in registry.describe()]
    if as_json:
        print_json(rows)
        return
    usable = [row for row in rows if row["problem"] is None]
    table = display.table_of("kind", "=name", "summary", "=from")
    for row in usable:
        table.add_row(*_cells(row, "kind", "name", "summary", "source"))
    display.out().print(table)
    for row in rows:
        if row["problem"] is not None:
            err.print(f"[yellow]unusable:[/] {escape(row['problem'])}")


def _cells(row: dict[str, Any], *keys: str) -> list[str]:
    return [escape(str(row[key])) for key in keys]
