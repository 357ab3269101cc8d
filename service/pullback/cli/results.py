"""Helpers of the commands that plan, run and show analyses and applications; `pullback apply`."""

import difflib
from collections.abc import Mapping
from inspect import Parameter, Signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from typer.core import TyperCommand, TyperGroup

from pullback.cli import display, progress
from pullback.cli.common import AsJson, Csv, Snapshot, err, print_json, shown, write_csv
from pullback.cli.completion import complete_generator, complete_sweep
from pullback.cli.plugin_options import given_options, option_parameters
from pullback.errors import PluginError
from pullback.plugins import APPLICATIONS

if TYPE_CHECKING:
    from rich.console import Console

    from pullback.analysis import Result
    from pullback.driving.sweep_state import SweepState
    from pullback.jobs.plan import ResultPlan

_TAKEN = ("--generator", "--snapshot", "--device", "--workers", "--output", "--csv", "--json", "--help")
"""Flags that every subcommand of `pullback apply` has."""


def results_of(job: Path) -> "ResultPlan | None":
    """Return the plan of an analysis or an application; None if the file is a sweep's job.

    Raises:
        PullbackError: the job is wrong, or cannot be planned.
    """
    from pullback.generators import zoo
    from pullback.spec import JobSpec, load_any_job

    spec = load_any_job(job, zoo())
    if isinstance(spec, JobSpec):
        return None
    from pullback.jobs.plan import plan_results

    return plan_results(spec, source=str(job))


def results_line(plan: "ResultPlan") -> str:
    """Describe the results that a job computes and their source, in one line with escaped markup."""
    what = escape(", ".join(plan.options))
    subject = plan.base if plan.sweep is not None else getattr(plan.job.generator, "name", plan.base)  # type: ignore[union-attr]
    return f"{escape(plan.job.name)} ({plan.job_id}): {what} of {escape(str(subject))}"


def show_plan(plan: "ResultPlan", as_json: bool, job: Path) -> None:
    """Print which results a job would compute."""
    if as_json:
        print_json(plan.as_dict())
        return
    console = display.out()
    console.print(results_line(plan))
    table = display.table_of("result", "options", "state")
    for part in plan.parts:
        options = plan.options[part.name].model_dump(mode="json")
        table.add_row(
            escape(part.name),
            escape(", ".join(f"{key} {value}" for key, value in options.items())) or "–",
            "kept" if part.finished else "to compute",
        )
    console.print(table)
    err.print(f"next: pullback run {shown(job)}")


def results_state(state: "SweepState", console: "Console") -> None:
    """Print `pullback status` of an analysis or an application."""
    rows = {"job": state.name, "state": state.state}
    if state.planned:
        rows["results"] = f"{state.good} of {state.planned} finished"
    driver = state.driver
    if driver is not None and state.exit_code == 3 and (driver.pid or driver.address):
        rows["driver"] = f"process {driver.pid} on {driver.host}" if driver.pid else driver.address
    if state.message:
        rows["note"] = state.message
    console.print(display.two_columns(rows))


def run_here(plan: "ResultPlan", again: str) -> None:
    """Compute the missing results of a job in this process.

    Args:
        plan: the job's plan.
        again: the command that resumes the job if this one is cancelled.
    """
    from pullback.jobs.run import run_results

    err.print(results_line(plan))
    with progress.counting_each(err) as count:
        outcome = run_results(plan, count)
    where = f"beside {escape(str(plan.base))}"
    if outcome.exit_code:
        err.print(f"cancelled: {outcome.finished} of {outcome.planned} results are kept {where}.")
        err.print(f"to resume: {again}")
        raise typer.Exit(outcome.exit_code)
    if outcome.computed == 0:
        err.print(f"nothing to do: all {outcome.planned} results are kept {where}.")
    else:
        err.print(f"done: {outcome.computed} of {outcome.planned} results computed and kept {where}.")


def show_results(plan: "ResultPlan", as_json: bool) -> None:
    """Print the kept results of a job."""
    results = {part.name: part.load() for part in plan.parts}
    if as_json:
        print_json({name: result.json for name, result in results.items()})
        return
    print_results(results)


def print_results(results: "Mapping[str, Result]") -> None:
    """Print the tables and sentences of results."""
    console = display.out()
    for name, result in results.items():
        for table in result.tables():
            drawn = display.table_of(*table.columns, title=escape(table.title or name))
            for row in table.text():
                drawn.add_row(*map(escape, row))
            console.print(drawn)
        for sentence in [*result.sentences(), *result.cautions()]:
            console.print(escape(sentence))


Output = Annotated[
    Path | None,
    typer.Option(
        "--output", help="Also write the result's figures and images as PNG files into this folder.", show_default=False
    ),
]


class ShortForm(TyperCommand):
    """`pullback NAME` for `pullback apply NAME`, with the same options. They are looked up when it is used."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters of the application's subcommand."""
        return list(_subcommand(str(self.name)).get_params(ctx))

    def invoke(self, ctx: Any) -> Any:
        """Run the application's subcommand."""
        return _subcommand(str(self.name)).invoke(ctx)


class _Applications(TyperGroup):
    """A subcommand for each registered application. They are looked up when the group is used."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the applications."""
        return APPLICATIONS.names()

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the subcommand of an application; None, or a usage error with the nearest name, if there is none."""
        if cmd_name in APPLICATIONS.names():
            return _subcommand(cmd_name)
        if not ctx.resilient_parsing and (close := difflib.get_close_matches(cmd_name, APPLICATIONS.names(), n=1)):
            ctx.fail(f"No such command {cmd_name!r}. Did you mean {close[0]!r}?")
        return None


apply_app = typer.Typer(
    cls=_Applications,
    help="Apply a sweep's metrics: one subcommand for each application. The result is kept beside the sweep.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@apply_app.callback()
def _apply() -> None:
    pass


def _subcommand(name: str) -> Any:
    """The command of one application, with its options."""
    try:
        module = APPLICATIONS.module(name)
    except PluginError as error:
        return _broken(name, error)
    from pullback.applications.protocol import needs_of

    needs_sweep = "sweep" in needs_of(module)
    source = f"pullback apply {name}"

    def command(**given: Any) -> None:
        job = {
            "kind": "application",
            "name": name,
            "sweep": given["sweep"],
            "snapshot": given["snapshot"],
            "generator": given["generator"],
            "application": {"name": name, **given_options(module.Options, given, source)},
            "resources": {"device": given["device"], "workers": given["workers"]},
        }
        content = {key: value for key, value in job.items() if value is not None}
        _apply_job(content, source, given["as_json"], given["csv"], given["output"])

    argument = typer.Argument(
        autocompletion=complete_sweep,
        help="A sweep: a folder, an address such as s3://bucket/prefix, or the YAML file of its job.",
        show_default=False,
    )
    generator = typer.Option(
        autocompletion=complete_generator, help="Another generator than the sweep's.", show_default=False
    )
    parameters = [
        Parameter(
            "sweep",
            Parameter.KEYWORD_ONLY,
            default=Parameter.empty if needs_sweep else None,
            annotation=Annotated[str, argument] if needs_sweep else Annotated[str | None, argument],
        ),
        *option_parameters(module.Options, _TAKEN, name),
        Parameter("generator", Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, generator]),
        Parameter("snapshot", Parameter.KEYWORD_ONLY, default=None, annotation=Snapshot),
        Parameter(
            "device",
            Parameter.KEYWORD_ONLY,
            default="auto",
            annotation=Annotated[str, typer.Option(help="auto, cpu, cuda or one GPU, as cuda:1.")],
        ),
        Parameter(
            "workers",
            Parameter.KEYWORD_ONLY,
            default=1,
            annotation=Annotated[int, typer.Option(help="Processes, for applications that can use several.")],
        ),
        Parameter("output", Parameter.KEYWORD_ONLY, default=None, annotation=Output),
        Parameter("csv", Parameter.KEYWORD_ONLY, default=None, annotation=Csv),
        Parameter("as_json", Parameter.KEYWORD_ONLY, default=False, annotation=AsJson),
    ]
    return _made(name, command, parameters, f"{module.SUMMARY[0].upper()}{module.SUMMARY[1:]}.")


def plan_of(content: dict[str, Any], source: str) -> "ResultPlan":
    """Return the plan of an analysis or an application that a command's options describe.

    Raises:
        PullbackError: an option is wrong, or the job cannot be planned.
    """
    from pullback.generators import zoo
    from pullback.jobs.plan import plan_results
    from pullback.spec import JobSpec, job_of

    job = job_of(content, source, zoo())
    assert not isinstance(job, JobSpec)
    return plan_results(job, source=source)


def _apply_job(
    content: dict[str, Any], source: str, as_json: bool, csv: Path | None, output: Path | None = None
) -> None:
    plan = plan_of(content, source)
    run_here(plan, f"{source} with the same options")
    if csv is not None:
        write_csv({part.name: part.load() for part in plan.parts}, csv)
    if output is not None:
        from pullback.applications.result_files import write_files

        for part in plan.parts:
            for path in write_files(part.load(), output):
                err.print(f"wrote {shown(path)}")
    show_results(plan, as_json)


def _broken(name: str, error: PluginError) -> Any:
    def command() -> None:
        raise error

    return _made(name, command, [], "cannot be loaded; run it to see why")


def _made(name: str, command: Any, parameters: list[Parameter], summary: str) -> Any:
    """A command from a function and its parameters."""
    command.__signature__ = Signature(parameters)
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    command.__doc__ = summary
    holder = typer.Typer(add_completion=False, rich_markup_mode=None)
    holder.command(name)(command)
    return typer.main.get_command(holder)
