"""Commands that compute statistics: `pullback analyze` and `pullback report`.

Their options follow from the registry of statistics: one for each option that a statistic has. They are looked up when
a command is run, helped or completed, so that `pullback --help` imports no statistic.
"""

from collections.abc import Mapping, Sequence
from inspect import Signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from typer.core import TyperCommand

from pullback.cli import display, progress
from pullback.cli.common import (
    AsJson,
    Csv,
    Snapshot,
    SweepPath,
    With,
    err,
    open_at,
    open_others,
    print_json,
    shown,
    write_csv,
)
from pullback.cli.completion import complete_statistic, complete_sweep
from pullback.cli.plugin_options import flag_of, option_parameter
from pullback.cli.terminal import shell_word
from pullback.errors import StoreError
from pullback.spec.option_text import help_text, read_text

if TYPE_CHECKING:
    from rich.console import Console

    from pullback.analysis import Analysis, Result
    from pullback.spec.options import Options
    from pullback.store.reader import Sweep

app = typer.Typer()

_GIVEN = "pullback.statistics"
"""Key of `context.meta` for the options of statistics."""
_SHOWN = ("anisotropy", "homogeneity", "mean_metric")
"""The tables that `pullback analyze` prints if no statistic is named."""

Statistics = Annotated[
    list[str] | None,
    typer.Option(
        "--statistic",
        autocompletion=complete_statistic,
        help="A statistic of `pullback plugins`; can be given several times. By default anisotropy, homogeneity, "
        "mean_metric and certificate.",
        show_default=False,
    ),
]


class StatisticsCommand(TyperCommand):
    """A command that also takes the options of every statistic.

    Attributes:
        statistics: the statistics whose options it takes; None means all.
    """

    statistics: tuple[str, ...] | None = None

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the command's own parameters and those of the statistics."""
        if not hasattr(self, "_with_statistics"):
            *own, usage = super().get_params(ctx)
            self._with_statistics = [*own, *_option_parameters(self.statistics), usage]
        return self._with_statistics


class ComparisonCommand(StatisticsCommand):
    """A command that takes the options of the statistic `comparison`."""

    statistics = ("comparison",)


def _option_parameters(names: Sequence[str] | None) -> list[Any]:
    """Make a command-line option of each option of the named statistics, or of all."""
    from pullback.analysis.request import shared_options

    def command(**given: Any) -> None: ...

    parameters = [
        option_parameter(
            each.name,
            flag_of(each.name),
            each.info,
            each.help if names is None else help_text(each.info),
            _keep(each.name),
        )
        for each in shared_options()
        if names is None or set(names) & set(each.statistics)
    ]
    command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    holder = typer.Typer(add_completion=False, rich_markup_mode=None)
    holder.command(add_help_option=False)(command)
    made = typer.main.get_command(holder).params
    for parameter in made:
        parameter.expose_value = False  # the callback keeps the value
    return list(made)


def _keep(name: str) -> Any:
    def keep(context: typer.Context, value: Any) -> Any:
        if value is not None:
            context.meta.setdefault(_GIVEN, {})[name] = value
        return value

    return keep


def asked_of(context: typer.Context, names: list[str] | None, others: list[str] | None) -> "dict[str, Options]":
    """The statistics that a command asks for, with their options.

    Raises:
        UnknownPluginError: a statistic does not exist.
        SpecError: an option is wrong.
    """
    from pullback.analysis.request import choose, refuse_unfit, shared_options, usual_statistics

    options = {option.name: option for option in shared_options()}
    given = {
        name: read_text(name, options[name].info, value, "the command line")
        for name, value in context.meta.get(_GIVEN, {}).items()
    }
    asked = choose(names or usual_statistics(len(others or ())), given, "the command line")
    refuse_unfit(asked, len(others or ()), "the command line", key="--with")
    return asked


@app.command(cls=StatisticsCommand)
def analyze(
    context: typer.Context,
    sweep: SweepPath,
    statistic: Statistics = None,
    others: With = None,
    snapshot: Snapshot = None,
    csv: Csv = None,
    as_json: AsJson = False,
) -> None:
    """Compute statistics of a sweep and cache them beside it.

    Cached results of the same snapshot and options are shown again instead. `--with` names a second sweep, which is
    compared with the first."""
    asked = asked_of(context, statistic, others)
    opened = open_at(sweep, snapshot)
    analysis = analysis_of(opened, asked, open_others(others))
    if csv is not None:
        write_csv(analysis, csv)
    if as_json:
        print_json(analysis.to_json())
    else:
        print_analysis(analysis, opened, display.out(), statistic or (list(asked) if others else _SHOWN))
        how = _flags(context, statistic, snapshot, others)
        err.print(f"next: pullback report {shown(sweep)}{escape(how)}")


@app.command(cls=ComparisonCommand)
def compare(
    context: typer.Context,
    sweep: SweepPath,
    other: Annotated[
        str,
        typer.Argument(
            autocompletion=complete_sweep,
            help="The sweep to compare with; SWEEP@SNAPSHOT names a snapshot.",
            show_default=False,
        ),
    ],
    snapshot: Snapshot = None,
    csv: Csv = None,
    as_json: AsJson = False,
) -> None:
    """Compare the metrics of two sweeps.

    Short for `pullback analyze SWEEP --with OTHER --statistic comparison`."""
    analyze(context, sweep, list(ComparisonCommand.statistics), [other], snapshot, csv, as_json)


@app.command(cls=StatisticsCommand)
def report(
    context: typer.Context,
    sweep: SweepPath,
    out: Annotated[Path | None, typer.Option(help="The HTML file; by default SWEEP.report.html.")] = None,
    statistic: Statistics = None,
    others: With = None,
    control: Annotated[
        str | None,
        typer.Option(
            autocompletion=complete_sweep,
            help="A control sweep, such as one of shuffled weights: tables and figures show its numbers too. "
            "SWEEP@SNAPSHOT names a snapshot.",
            show_default=False,
        ),
    ] = None,
    snapshot: Snapshot = None,
) -> None:
    """Write a sweep's report: one self-contained HTML file with figures and image strips.

    It has the default statistics, those named, and those whose results are cached beside the sweep."""
    from pullback.analysis import Analysis
    from pullback.analysis.cache import cached_comparisons, cached_statistics
    from pullback.analysis.request import DEFAULT_STATISTICS, reads_several, usual_statistics
    from pullback.report import Control, write_report

    further = statistic or (usual_statistics(len(others)) if others else ())
    asked = asked_of(context, [*DEFAULT_STATISTICS, *further], others)
    opened = open_at(sweep, snapshot)
    if out is None and not opened.location.is_local:
        raise StoreError(f"{opened.location} is in an object store, and a report is a file: add --out report.html")
    wanted = {**asked, **{name: each for name, each in cached_statistics(opened).items() if name not in asked}}
    analysis = analysis_of(opened, wanted, open_others(others))
    beside = None
    if control is not None:
        (opened_control,) = open_others([control])
        # A cached result may take hours to compute for the control, so it is shown only if the control has it too.
        cached = cached_statistics(opened_control).keys() & wanted.keys()
        same = {name: each for name, each in wanted.items() if name in cached or name in asked}
        same = {name: each for name, each in same.items() if not reads_several(name)}
        beside = Control(opened_control, analysis_of(opened_control, same))
    known = [_identity(result) for result in analysis.values()]
    comparisons = {
        f"{result.title} {number}": result
        for number, result in enumerate(cached_comparisons(opened))
        if _identity(result) not in known
    }
    analysis = Analysis({**analysis, **comparisons})
    target = out if out is not None else opened.location.sibling(f"{opened.location.name}.report.html").path
    with progress.waiting(err, "generating images along the axes and drawing"):
        missing = write_report(opened, analysis, target, beside)
    if missing is not None:
        err.print(f"[yellow]without image strips:[/] {escape(missing)}")
    err.print(f"the report is {escape(str(target))}")


def _identity(result: "Result") -> tuple[Any, ...]:
    return result.statistic, [about.snapshot for about in result.sweeps], result.options


def analysis_of(sweep: "Sweep", asked: "Mapping[str, Options]", others: "Sequence[Sweep]" = ()) -> "Analysis":
    """Return the results of statistics. Cached ones are read; new ones are computed, and cached if possible."""
    from pullback.analysis import run_statistics

    def unsaved(error: StoreError) -> None:  # a sweep in a folder that cannot be written to can still be analysed
        err.print(f"[yellow]the analysis is not kept beside the sweep:[/] {escape(str(error))}")

    with progress.counting_each(err) as count:
        return run_statistics(sweep, asked, count, unsaved=unsaved, others=others)


def _flags(
    context: typer.Context, names: list[str] | None, snapshot: str | None, others: list[str] | None = None
) -> str:
    """Return the options that a command was given as text, to repeat them in a suggested command."""
    words = [
        *(f"--statistic {name}" for name in names or ()),
        *(f"--with {shell_word(other, err.encoding)}" for other in others or ()),
        *([] if snapshot is None else [f"--snapshot {snapshot}"]),
    ]
    for name, value in context.meta.get(_GIVEN, {}).items():
        flag = flag_of(name)
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        else:
            words.append(f"{flag} {shell_word(str(value), err.encoding)}")
    return "".join(f" {word}" for word in words)


def print_analysis(
    analysis: "Analysis", sweep: "Sweep", console: "Console", names: "tuple[str, ...] | list[str]"
) -> None:
    """Print the tables of an analysis, and the limits of its numbers.

    Args:
        analysis: the analysis.
        sweep: its sweep, of the same snapshot.
        console: the console to print on.
        names: the statistics whose tables are printed.
    """
    from pullback.analysis.statements import zero_metrics

    provenance, about = sweep.provenance, analysis.about
    console.print(
        f"[bold]{escape(about.name)}[/]: {about.samples} metrics of {escape(str(provenance['generator']))} "
        f"under {escape(str(provenance['distance']))}, n = {sweep.layout.latent_dim}"
    )
    others = {each.name: each.samples for name in names for each in analysis[name].further}
    if others:
        listed = ", ".join(f"[bold]{escape(name)}[/] ({samples} metrics)" for name, samples in others.items())
        console.print(f"with {listed}")
    for name in names:
        for table in analysis[name].tables():
            drawn = display.table_of(*table.columns, title=escape(table.title or analysis[name].title))
            for row in table.text():
                drawn.add_row(*map(escape, row))
            console.print(drawn)
    for sentence in [*analysis.cautions(), *zero_metrics(about.zero_metrics)]:
        console.print(escape(sentence))
