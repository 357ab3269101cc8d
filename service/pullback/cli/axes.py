"""The command `pullback axes`: walks along axes of a sweep, as tables and as pictures."""

from inspect import Signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from typer.core import TyperCommand

from pullback.cli import progress
from pullback.cli.common import AsJson, Csv, Snapshot, SweepPath, err, open_at, print_json, shown, write_csv
from pullback.cli.completion import complete_sweep
from pullback.cli.plugin_options import given_options, option_parameters

if TYPE_CHECKING:
    from pullback.store.reader import Sweep

app = typer.Typer()

_OWN = ("axis", "control", "names")
"""Options of the application that this command gives in its own way."""
_SOURCE = "pullback axes"


class _AxesCommand(TyperCommand):
    """The command with the options of the application."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the command's own parameters and those of the application."""
        if not hasattr(self, "_with_options"):
            *own, usage = super().get_params(ctx)
            self._with_options = [*own, *_application_parameters(), usage]
        return self._with_options


def _application_parameters() -> list[Any]:
    from pullback.applications.axes import Options

    def command(**given: Any) -> None: ...

    parameters = [each for each in option_parameters(Options) if each.name.removeprefix("option_") not in _OWN]
    command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    holder = typer.Typer(add_completion=False, rich_markup_mode=None)
    holder.command(add_help_option=False)(command)
    made = list(typer.main.get_command(holder).params)
    for parameter in made:
        parameter.expose_value = False
        parameter.callback = _keep
    return made


def _keep(context: Any, parameter: Any, value: Any) -> Any:
    context.meta.setdefault(_SOURCE, {})[parameter.name] = value
    return value


@app.command(cls=_AxesCommand)
def axes(
    context: typer.Context,
    sweep: SweepPath,
    axis: Annotated[
        list[str] | None,
        typer.Option(
            help="Axes: ranks from 1, ranges, names, tags and combinations, as 3, 1-6, smile, tag:mouth, 2*1-0.5*3; "
            "all or spectrum. "
            "Can be given several times, or with commas. Default: 1-6.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(help="Name an axis, as 3=smile, in the file of names beside the sweep.", show_default=False),
    ] = None,
    control: Annotated[
        str | None,
        typer.Option(
            "--with",
            autocompletion=complete_sweep,
            help="A control sweep of the generator with shuffled weights: its own axes are scored beside.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write pictures, tables and directions into this folder.", show_default=False)
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option(
            help="Write the axes as directions for other tools: .npy (InterFaceGAN), .npz, .pt (encoder4editing) or "
            ".json (named edits of GANSpace). Alone, it computes nothing.",
            show_default=False,
        ),
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format", help="png, svg, gif, webp or mp4; can be given several times. Default: png.", show_default=False
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or one GPU, as cuda:1.")] = "auto",
    snapshot: Snapshot = None,
    csv: Csv = None,
    as_json: AsJson = False,
) -> None:
    """Walk along axes: images at steps of equal change, where they change, hints of meaning, and scores.

    The result is kept beside the sweep. With --name or --export alone nothing is computed."""
    from pullback.applications.axes import Options
    from pullback.applications.walking.gallery import (
        AxisGallery,
        export_directions,
        options_of,
        set_name,
        with_names,
    )
    from pullback.cli.results import print_results, run_here
    from pullback.interchange.axis_names import names_path, read_names

    opened = open_at(sweep, snapshot)
    given = given_options(Options, context.meta.get(_SOURCE, {}), _SOURCE)
    for assignment in name or ():
        named = set_name(opened, assignment)
        err.print(f"axis {named.axis} is named {escape(named.name)} in {escape(str(names_path(opened.location)))}")
    if name and not (axis or given or output or export):
        err.print(f"next: pullback axes {shown(sweep)} --axis {shown(named.name)} --output pictures")
        return
    if export is not None:
        chosen = with_names(opened, options_of({**given, "axis": axis or ["1-6"]}))
        how = export_directions(opened, chosen, export)
        err.print(f"wrote {escape(str(export))}; open it with {escape(how)}")
        if output is None and csv is None and not as_json:
            return
    _refuse_formats(formats)
    plan = _plan(opened, sweep, {**given, "axis": axis or ["1-6"], "control": control}, device, snapshot)
    run_here(plan, f"{_SOURCE} with the same options")
    (part,) = plan.parts
    gallery = AxisGallery(part.load(), read_names(names_path(opened.location)))
    if csv is not None:
        write_csv({"axes": gallery.result}, csv)
    if as_json:
        print_json(gallery.result.json)
    else:
        print_results({"axes": gallery.result})
    if output is None:
        err.print(f"for pictures: pullback axes {shown(sweep)} --output pictures")
        return
    with progress.waiting(err, f"writing pictures into {output}"):
        files = gallery.save(output, formats or ("png",))
    err.print(f"wrote {len(files)} files into {escape(str(output))}")


def _refuse_formats(formats: list[str] | None) -> None:
    """Raise an error before anything is computed if a format cannot be written."""
    from pullback.applications.walking.pictures import FORMATS, NO_FFMPEG, has_ffmpeg
    from pullback.errors import SpecError

    problems = [
        f"--format: {each!r} is not one of {', '.join(FORMATS)}" for each in formats or () if each not in FORMATS
    ]
    if "mp4" in (formats or ()) and not has_ffmpeg():
        problems.append(f"--format: {NO_FFMPEG}")
    if problems:
        raise SpecError(problems, _SOURCE)


def _plan(opened: "Sweep", sweep: str, given: dict[str, Any], device: str, snapshot: str | None) -> Any:
    from pullback.applications.walking.gallery import options_of, with_names
    from pullback.generators import zoo
    from pullback.jobs.plan import plan_results
    from pullback.spec import JobSpec, job_of

    options = with_names(opened, options_of({key: value for key, value in given.items() if value is not None}))
    job = job_of(
        {
            "kind": "application",
            "name": "axes",
            "sweep": sweep,
            **({} if snapshot is None else {"snapshot": snapshot}),
            "application": {"name": "axes", **options.model_dump(mode="json", exclude_defaults=True)},
            "resources": {"device": device},
        },
        _SOURCE,
        zoo(),
    )
    assert not isinstance(job, JobSpec)
    return plan_results(job, source=_SOURCE)
