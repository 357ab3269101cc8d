"""The command line: thin, one function a command, no logic that the Python face lacks.

Exit codes: 0 done, 1 failed, 2 bad usage or job, 3 still running, 4 done with quarantined samples, 130 interrupted.
Numbers go to standard output, messages and progress to standard error. Heavy imports happen inside the commands, so
that help and mistakes in a job come at once.
"""

import logging
import signal
import sys
import warnings
from typing import Annotated

import typer
from rich.markup import escape

import pullback
from pullback.cli.bench import bench_app
from pullback.cli.common import EXIT_INTERRUPTED, err
from pullback.cli.data import generators_app, weights_app
from pullback.cli.jobs import app as jobs_app
from pullback.cli.service_http import app as service_app
from pullback.cli.sweeps import app as sweeps_app
from pullback.cli.upkeep import app as upkeep_app
from pullback.errors import PullbackError

# The metric runs without these; a command that needs a missing one says which.
_OPTIONAL = {
    "ray",
    "zarr",
    "icechunk",
    "xarray",
    "matplotlib",
    "jinja2",
    "fastapi",
    "fastapi_offline",
    "uvicorn",
    "httpx",
    "pyarrow",
    "prometheus_client",
}

app = typer.Typer(
    name="pullback",
    help="The Riemannian metric of image generators, over large sampled sets of latent codes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(sweeps_app)
app.add_typer(jobs_app)
app.add_typer(upkeep_app)
app.add_typer(service_app)
app.add_typer(generators_app, name="generators")
app.add_typer(weights_app, name="weights")
app.add_typer(bench_app, name="bench")


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
    # a job scheduler's SIGTERM is taken like Ctrl-C: what is done is committed
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app()
    except PullbackError as error:
        # of what Zarr had begun to read besides, asyncio would tell line after line
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        warnings.filterwarnings("ignore", message="coroutine .* was never awaited")
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
