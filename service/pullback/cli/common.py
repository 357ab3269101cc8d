"""Shared by the commands: exit codes, common options, loading jobs and opening sweeps."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from pullback.cli.completion import complete_job, complete_sweep
from pullback.cli.numbers import only_numbers, stream
from pullback.cli.terminal import messages, shell_word

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pullback.analysis.protocol import Result
    from pullback.store.reader import Sweep
    from pullback.sweep.plan import Plan

EXIT_INTERRUPTED = 130


def store_at(target: str) -> str:
    """Return the address of a sweep that is given by its address or by its job's file.

    Raises:
        SpecError: the job is invalid.
        StoreError: the store holds the sweep of another job.
    """
    if not Path(target).is_file():
        return target
    from pullback.generators import zoo
    from pullback.spec import load_job
    from pullback.sweep.identity import refuse_another

    job = load_job(Path(target), zoo())
    refuse_another(job)
    return str(job.store or job.store_path)


Job = Annotated[
    Path,
    typer.Argument(
        autocompletion=complete_job, help="A job's YAML file, such as jobs/quickstart.yaml.", show_default=False
    ),
]
SweepPath = Annotated[
    str,
    typer.Argument(
        callback=store_at,
        autocompletion=complete_sweep,
        help="A sweep: a folder, an address such as s3://bucket/prefix, or the YAML file of its job.",
        show_default=False,
    ),
]
Snapshot = Annotated[
    str | None,
    typer.Option(
        help="Read this snapshot, one of `pullback snapshots`; by default the last.",
        show_default=False,
    ),
]
With = Annotated[
    list[str] | None,
    typer.Option(
        "--with",
        autocompletion=complete_sweep,
        help="A further sweep, for statistics that compare several, such as comparison; can be given several times. "
        "SWEEP@SNAPSHOT names a snapshot.",
        show_default=False,
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", callback=only_numbers, is_eager=True, help="Print JSON instead of a table.")
]

FamilyOptions = Annotated[
    list[str] | None,
    typer.Option("--option", "-o", help="An option of the family, KEY=VALUE; may be repeated.", show_default=False),
]
Csv = Annotated[
    Path | None,
    typer.Option("--csv", help="Also write each table as a CSV file into this new folder.", show_default=False),
]

err = messages()


def make_plan_of(job: Path, measure: bool = False, serial: bool = False) -> "Plan":
    """Plan the job in a file; with `serial`, for one worker."""
    from pullback.generators import zoo
    from pullback.spec import load_job
    from pullback.sweep.plan import make_plan

    spec = load_job(job, zoo())
    if serial:
        spec = spec.model_copy(update={"resources": spec.resources.model_copy(update={"workers": 1})})
    return make_plan(spec, measure=measure, source=str(job))


def open_at(sweep: str, snapshot: str | None = None) -> "Sweep":
    """Open a sweep at a snapshot, by default the last."""
    from pullback.store.reader import open_sweep

    return open_sweep(sweep, snapshot)


def open_others(named: list[str] | None) -> "list[Sweep]":
    """Open the further sweeps that `--with` names."""
    from pullback.store.location import split_snapshot

    opened = []
    for text in named or ():
        place, snapshot = split_snapshot(text)
        opened.append(open_at(store_at(place), snapshot))
    return opened


def shown(path: object) -> str:
    """Return a path or an address for a printed command, quoted for a shell."""
    return escape(shell_word(str(path), err.encoding))


def key_values(pairs: list[str] | None, option: str) -> dict[str, Any]:
    """Values of an option `KEY=VALUE` that may be repeated; each value is read as YAML, as in a job.

    Raises:
        SpecError: a pair has no `=`, or its value is no YAML.
    """
    import yaml

    from pullback.errors import SpecError

    found: dict[str, Any] = {}
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        try:
            if not (equals and key):
                raise ValueError
            found[key] = yaml.safe_load(value)
        except (ValueError, yaml.YAMLError) as error:
            raise SpecError(
                [f"{option} {pair}: write KEY=VALUE, such as resolution=256"], "the command line"
            ) from error
    return found


def write_csv(results: "Mapping[str, Result]", folder: Path) -> None:
    """Write the tables of results as CSV files into a new folder; raises StoreError if it is taken or not writable."""
    from pullback.interchange.tables import write_tables

    files = write_tables(results, folder)
    err.print(f"wrote {len(files)} tables into {escape(str(folder))}")


def print_json(content: Any) -> None:
    """Print JSON to standard output, which has no other text."""
    print(json.dumps(content, indent=2, allow_nan=False), file=stream(), flush=True)
