"""The command line: one function a command, and no logic that the Python API lacks.

Exit codes: 0 done, 1 failed, 2 wrong usage or job, 3 still running, 4 done with quarantined samples, 130 interrupted.
Results go to standard output, messages and progress to standard error. Commands import heavy libraries inside their
functions, so that help and mistakes in a job are shown at once.
"""

import io
import logging
import traceback
import warnings
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.markup import escape

import pullback
from pullback.cli import numbers, terminal
from pullback.cli.analysis import app as analysis_app
from pullback.cli.axes import app as axes_app
from pullback.cli.bench import bench_app
from pullback.cli.common import EXIT_INTERRUPTED, err
from pullback.cli.data import generators_app, weights_app
from pullback.cli.figures import app as figures_app
from pullback.cli.interchange import app as interchange_app
from pullback.cli.inversion import app as inversion_app
from pullback.cli.jobs import app as jobs_app
from pullback.cli.maintenance import app as maintenance_app
from pullback.cli.plugins import app as plugins_app
from pullback.cli.results import ShortForm, apply_app
from pullback.cli.service_http import app as service_app
from pullback.cli.sweeps import app as sweeps_app
from pullback.errors import PullbackError, exit_message
from pullback.process_exit import skip_finalization
from pullback.signals import end_on_signals, leave

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
"""Libraries that the metric does not need. A command that needs a missing one names it."""

app = typer.Typer(
    name="pullback",
    help="Compute the pull-back metric of image generators over large sampled sets of latent codes.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(sweeps_app)
app.add_typer(analysis_app)
app.add_typer(interchange_app)
app.add_typer(figures_app)
app.add_typer(inversion_app)
app.add_typer(axes_app)
app.add_typer(jobs_app)
app.add_typer(maintenance_app)
app.add_typer(service_app)
app.add_typer(plugins_app)
app.add_typer(generators_app, name="generators")
app.add_typer(weights_app, name="weights")
app.add_typer(bench_app, name="bench")
app.add_typer(apply_app, name="apply")


@app.command("search", cls=ShortForm)
def _search() -> None:
    """Search for the code whose image excites a network's unit, or a score of your own, the most."""


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


def main() -> NoReturn:
    """Run the command line as a process of its own, and end the process."""
    skip_finalization()
    leave(command())


def command() -> int:
    """Run the command line and return its exit code. A `PullbackError` becomes one message."""
    terminal.prepare()
    numbers.until_exit()
    try:
        end_on_signals()
        code = _run()
        left = terminal.flush()
        if left is not None:
            code = code or _system_refuses(left)
    except KeyboardInterrupt:  # before a command began, or after it ended
        code = EXIT_INTERRUPTED
    return code


def _raised_by_typer(left: SystemExit) -> bool:
    """Return whether typer ended the program, as for `--install-completion`, and not the user's code."""
    return traceback.extract_tb(left.__traceback__)[-1].filename.startswith(str(Path(typer.__file__).parent))


def _run() -> int:
    try:
        return app(standalone_mode=False) or 0
    except typer.Abort:
        err.print("aborted")
        return 1
    except SystemExit as left:  # raised by typer or by the user's code, never by a command
        if _raised_by_typer(left):
            return left.code if isinstance(left.code, int) else 0
        err.print(f"[bold red]error:[/] the user's code failed: {escape(exit_message(left))}")
        return 1
    except PullbackError as error:
        # Zarr's pending reads would each log an asyncio warning.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        warnings.filterwarnings("ignore", message="coroutine .* was never awaited")
        err.print(f"[bold red]error:[/] {escape(str(error))}")
        return error.exit_code
    except KeyboardInterrupt:
        err.print("interrupted")
        return EXIT_INTERRUPTED
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _OPTIONAL:
            raise
        err.print(f"[bold red]error:[/] this needs {error.name}, which is not installed: pip install {error.name}")
        if error.name == "ray":
            err.print("Without Ray, `pullback run --serial` computes in one process.")
        return 1
    except OSError as error:
        return _system_refuses(error)
    except Exception as error:
        if not (hasattr(error, "show") and hasattr(error, "exit_code")):
            raise
        message = io.StringIO()  # a usage error; typer itself would write UTF-8 to a stream that is ASCII
        error.show(message)
        err.print(escape(message.getvalue().rstrip()))
        return int(error.exit_code)


def _system_refuses(error: OSError) -> int:
    """Report a system error and return the exit code. A closed pipe (`pullback ls | head`) needs no message."""
    terminal.flush()  # otherwise Python reports the error again at exit
    if not isinstance(error, BrokenPipeError):
        where = f" {error.filename}" if error.filename else ""
        err.print(f"[bold red]error:[/] a system call failed{escape(where)}: {escape(error.strerror or str(error))}")
    return 1
