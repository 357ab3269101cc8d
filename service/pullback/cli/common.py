"""What the commands share: exit codes, options, and how a sweep or a plan is come by."""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from pullback.store.reader import Sweep
    from pullback.sweep.plan import Plan

EXIT_INTERRUPTED = 130


def store_at(target: str) -> str:
    """The store that a target names, itself or by its job's file.

    Raises:
        SpecError: the job is wrong.
        StoreError: the store holds another job's sweep.
    """
    if not Path(target).is_file():
        return target
    from pullback.generators import zoo
    from pullback.spec import load_job
    from pullback.sweep.identity import refuse_another

    job = load_job(Path(target), zoo())
    refuse_another(job)
    return str(job.store or job.store_path)


Job = Annotated[Path, typer.Argument(help="A job's YAML file, such as jobs/quickstart.yaml.", show_default=False)]
SweepPath = Annotated[
    str,
    typer.Argument(
        callback=store_at,
        help="A sweep: its folder, an address like s3://bucket/prefix, or its job's YAML file.",
        show_default=False,
    ),
]
Snapshot = Annotated[
    str | None,
    typer.Option(
        help="As the sweep was at this snapshot, one of `pullback snapshots`; by default as it is now.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

err = Console(stderr=True, highlight=False, soft_wrap=True)


def make_plan_of(job: Path, measure: bool = False, serial: bool = False) -> "Plan":
    """The plan of a job's file; with `serial`, for one worker."""
    from pullback.generators import zoo
    from pullback.spec import load_job
    from pullback.sweep.plan import make_plan

    spec = load_job(job, zoo())
    if serial:
        spec = spec.model_copy(update={"resources": spec.resources.model_copy(update={"workers": 1})})
    return make_plan(spec, measure=measure, source=str(job))


def open_at(sweep: str, snapshot: str | None = None) -> "Sweep":
    """The sweep at a place, as it was at a snapshot or as it is now."""
    from pullback.store.reader import open_sweep

    return open_sweep(sweep, snapshot)


def shown(path: object) -> str:
    """A path or an address in a command that is printed to be copied into a shell."""
    return escape(shlex.quote(str(path)))


def print_json(content: Any) -> None:
    """Print JSON."""
    print(json.dumps(content, indent=2, allow_nan=False))
