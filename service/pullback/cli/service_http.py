"""Commands of the HTTP service: `pullback serve` and `pullback tokens`."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape

from pullback.cli import display
from pullback.cli.common import AsJson, err, print_json, shown
from pullback.cli.jobs import Address
from pullback.errors import PullbackError

app = typer.Typer()
tokens_app = typer.Typer(help="Manage the tokens of the HTTP service.", no_args_is_help=True)
app.add_typer(tokens_app, name="tokens")

TokensFile = Annotated[Path, typer.Option("--file", help="The file of hashed tokens.")]
_TOKENS = Path("tokens.json")


@app.command()
def serve(
    folder: Annotated[str, typer.Argument(help="The folder of the sweeps.")] = "sweeps",
    host: Annotated[str, typer.Option(help="Address to listen on; anything but loopback needs --tokens.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    tokens: Annotated[Path | None, typer.Option(help="File of tokens; with it, every request needs a token.")] = None,
    audit: Annotated[Path | None, typer.Option(help="File of the audit log; standard error by default.")] = None,
    allow_code: Annotated[
        bool, typer.Option("--allow-code", help="Allow jobs that name code and files of this machine.")
    ] = False,
    address: Address = None,
    root_path: Annotated[
        str, typer.Option(help="Path under which a proxy serves this, such as /pullback.", show_default=False)
    ] = "",
    drivers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How many jobs may run at once; 4 on this machine and 32 on a cluster by default.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Serve the sweeps of a folder over HTTP: jobs, states, events, spectra, analyses, reports."""
    from pullback.api.app import Settings, create_app, root_path_of
    from pullback.api.backend import ClusterBackend, LocalBackend
    from pullback.api.guard import is_loopback
    from pullback.api.observe import Observer
    from pullback.api.server import listen, run, tokens_for

    if "://" in folder:
        raise PullbackError(
            f"serve needs a folder of this machine, and {folder} is in an object store; the service was not started. "
            "Every other command reads single sweeps there, and so does `pullback.open_sweep`."
        )
    root = root_path_of(root_path)
    known = tokens_for(host, tokens)
    observer = Observer(audit)
    try:
        made = create_app(
            Path(folder),
            LocalBackend(drivers or 4) if address is None else ClusterBackend(address, drivers or 32),
            known,
            observer,
            Settings(allow_code=allow_code, root_path=root),
        )

        def ready(url: str) -> None:
            header = "" if known is None else ", with a token in the header `Authorization: Bearer TOKEN`, or at /login"
            err.print(f"serving {escape(folder)} at {url} (routes: {url}/docs{header}); Ctrl-C stops it")
            if root:
                err.print(f"links begin with {root}, for a proxy that serves them there")
            if not Path(folder).is_dir():
                err.print(f"[yellow]there is no folder {escape(folder)} yet;[/] the first job creates it")
            if not is_loopback(host):
                err.print(
                    "[yellow]plain HTTP exposes tokens on the network:[/] put the service behind a proxy with TLS"
                )

        run(made, listen(host, port), ready)
    except KeyboardInterrupt:  # the usual end of a service
        err.print("stopped; submitted jobs keep running")
    finally:
        observer.close()


@tokens_app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="Name of the token, such as anna-notebook.", show_default=False)],
    scope: Annotated[
        Literal["read", "submit"], typer.Option(help="read, or submit, which includes read.", show_default=False)
    ],
    file: TokensFile = _TOKENS,
) -> None:
    """Create a token and print it. Only its hash is stored, so it is shown once."""
    from pullback.api.tokens import add_token

    print(add_token(file, name, scope))
    err.print(f"stored its hash in {escape(str(file))}; the token cannot be shown again.")
    err.print(f"next: pullback serve --tokens {shown(file)}")


@tokens_app.command("list")
def list_(file: TokensFile = _TOKENS, as_json: AsJson = False) -> None:
    """List the tokens of a file: name, scope, time of creation."""
    from pullback.api.tokens import TokenFile

    tokens = [
        {"name": token.name, "scope": token.scope, "created": token.created} for token in TokenFile(file).tokens()
    ]
    if as_json:
        print_json(tokens)
    elif tokens:
        display.tokens_table(tokens, display.out())
    else:
        err.print(f"no tokens in {escape(str(file))}; create one with: pullback tokens add NAME --scope read")


@tokens_app.command("remove")
def remove(
    name: Annotated[str, typer.Argument(help="Name of the token.", show_default=False)],
    file: TokensFile = _TOKENS,
) -> None:
    """Remove a token. A running service refuses it at once."""
    from pullback.api.tokens import remove_token

    remove_token(file, name)
    err.print(f"removed {escape(name)} from {escape(str(file))}")
