"""The command `pullback figure`: figures one by one as PNG, SVG and PDF, with their numbers as CSV."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from pullback.cli import display, progress
from pullback.cli.analysis import StatisticsCommand, analysis_of, asked_of
from pullback.cli.common import AsJson, err, open_others, print_json
from pullback.cli.completion import complete_statistic, complete_sweep
from pullback.errors import SpecError

if TYPE_CHECKING:
    from pullback.analysis import Analysis
    from pullback.store.reader import Sweep

app = typer.Typer()

_FORMATS = ("png", "svg", "pdf")


@app.command(cls=StatisticsCommand)
def figure(
    context: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(
            autocompletion=complete_statistic,
            help="A statistic, an application, or one of the figures that `--list` shows.",
            show_default=False,
        ),
    ] = None,
    sweeps: Annotated[
        list[str] | None,
        typer.Argument(
            autocompletion=complete_sweep,
            help="Sweeps: folders, addresses or job files; SWEEP@SNAPSHOT names a snapshot.",
            show_default=False,
        ),
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format", help="png, svg or pdf; can be given several times. By default all.", show_default=False
        ),
    ] = None,
    output: Annotated[Path, typer.Option(help="The folder for the files; made if it is missing.")] = Path(),
    data: Annotated[bool, typer.Option("--data/--no-data", help="Write the numbers of each figure as CSV.")] = True,
    dpi: Annotated[int, typer.Option(min=30, max=2400, help="Pixels per inch of PNG files.")] = 300,
    listed: Annotated[bool, typer.Option("--list", help="List the figures.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write figures as files for a paper: PNG, SVG and PDF, each with its numbers as CSV.

    Figures such as `spectra` show several sweeps on one axis. Statistics are computed, and cached beside the sweep, if
    they are not cached already."""
    from pullback.report.figure_set import figure_names, figures_of

    if listed:
        _list(figure_names(), as_json)
        return
    if name is None or not sweeps:
        raise SpecError(["name a figure and a sweep; `pullback figure --list` shows the figures"], "the command line")
    kinds = formats or list(_FORMATS)
    if wrong := [kind for kind in kinds if kind not in _FORMATS]:
        raise SpecError([f"--format {wrong[0]}: must be one of {', '.join(_FORMATS)}"], "the command line")

    def analyze(sweep: "Sweep", names: Sequence[str], others: "Sequence[Sweep]") -> "Analysis":
        return analysis_of(sweep, asked_of(context, list(names), [other.name for other in others]), others)

    opened = open_others(sweeps)
    written: list[dict[str, Any]] = []
    for made in figures_of(name, opened, analyze):
        with progress.waiting(err, "drawing"):
            paths = made.write(output, kinds, data, dpi)  # type: ignore[arg-type]
        written.append({"caption": made.caption, "files": [str(path) for path in paths]})
    if not written:
        err.print(f"[yellow]{escape(name)} has no figure for {'this sweep' if len(opened) == 1 else 'these sweeps'}[/]")
    if as_json:
        print_json(written)
        return
    for each in written:
        for path in each["files"]:
            display.out().print(escape(path), soft_wrap=True)
        if each["caption"]:
            display.out().print(f"  {escape(each['caption'])}")


def _list(names: Mapping[str, str], as_json: bool) -> None:
    """Print the name of each figure and what it shows."""
    if as_json:
        print_json(dict(names))
        return
    table = display.table_of("name", "what it shows")
    for name, summary in names.items():
        table.add_row(escape(name), escape(summary))
    display.out().print(table)
