"""`pullback serve` and `pullback tokens`."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape

from pullback import display
from pullback.cli.common import AsJson, err, print_json, shown
from pullback.cli.jobs import Address
from pullback.errors import PullbackError

app = typer.Typer()
tokens_app = typer.Typer(help="Who may use a service beyond this machine.", no_args_is_help=True)
app.add_typer(tokens_app, name="tokens")

TokensFile = Annotated[Path, typer.Option("--file", help="The file of hashed tokens.")]
_TOKENS = Path("tokens.json")


@app.command()
def serve(
    folder: Annotated[str, typer.Argument(help="The folder that holds sweeps.")] = "sweeps",
    host: Annotated[str, typer.Option(help="The address to listen at; others than loopback need --tokens.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes any that is free.")] = 8000,
    tokens: Annotated[Path | None, typer.Option(help="The file of tokens; with it, every request needs one.")] = None,
    audit: Annotated[Path | None, typer.Option(help="The audit log's file; standard error by default.")] = None,
    allow_code: Annotated[
        bool, typer.Option("--allow-code", help="Let jobs name code and files of this machine.")
    ] = False,
    address: Address = None,
    drivers: Annotated[
        int | None,
        typer.Option(
            min=1, help="How many jobs may be at work at once: 4 on this machine, 32 on a cluster.", show_default=False
        ),
    ] = None,
) -> None:
    """Serve the sweeps of a folder over HTTP: submit, status, events, spectra, analyses, reports."""
    from pullback.api.app import Settings, create_app
    from pullback.api.backend import ClusterBackend, LocalBackend
    from pullback.api.guard import is_loopback
    from pullback.api.observe import Observer
    from pullback.api.server import listen, run, tokens_for

    if "://" in folder:
        raise PullbackError(
            f"serve takes a folder of this machine, and {folder} is in an object store; the service was not started. "
            "Single sweeps there are read by every other command, and by `pullback.open_sweep`."
        )
    known = tokens_for(host, tokens)
    observer = Observer(audit)
    try:
        made = create_app(
            Path(folder),
            LocalBackend(drivers or 4) if address is None else ClusterBackend(address, drivers or 32),
            known,
            observer,
            Settings(allow_code=allow_code),
        )

        def ready(url: str) -> None:
            header = "" if known is None else ", with a token in the header `Authorization: Bearer TOKEN`"
            err.print(f"serving {escape(folder)} at {url} (its routes: {url}/docs{header}); Ctrl-C ends it")
            if not Path(folder).is_dir():
                err.print(f"[yellow]there is no folder {escape(folder)} yet;[/] the first job makes it")
            if not is_loopback(host):
                err.print("[yellow]over plain HTTP tokens can be read on the way:[/] put it behind a proxy with TLS")

        run(made, listen(host, port), ready)
    except KeyboardInterrupt:  # how a service ends
        err.print("stopped; jobs that were submitted go on")
    finally:
        observer.close()


@tokens_app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="Whose token it is, such as anna-notebook.", show_default=False)],
    scope: Annotated[Literal["read", "submit"], typer.Option(help="`submit` may read too.", show_default=False)],
    file: TokensFile = _TOKENS,
) -> None:
    """Make a token and print it, once; only its hash is kept."""
    from pullback.api.tokens import add_token

    print(add_token(file, name, scope))
    err.print(f"kept its hash in {escape(str(file))}; the token itself cannot be shown again.")
    err.print(f"next: pullback serve --tokens {shown(file)}")


@tokens_app.command("list")
def list_(file: TokensFile = _TOKENS, as_json: AsJson = False) -> None:
    """List the tokens of a file: name, scope, when made."""
    from pullback.api.tokens import TokenFile

    tokens = [
        {"name": token.name, "scope": token.scope, "created": token.created} for token in TokenFile(file).tokens()
    ]
    if as_json:
        print_json(tokens)
    elif tokens:
        display.tokens_table(tokens, display.out())
    else:
        err.print(f"no tokens in {escape(str(file))}; make one with: pullback tokens add NAME --scope read")


@tokens_app.command("remove")
def remove(
    name: Annotated[str, typer.Argument(help="Whose token to remove.", show_default=False)],
    file: TokensFile = _TOKENS,
) -> None:
    """Remove a token; a running service refuses it from then on."""
    from pullback.api.tokens import remove_token

    remove_token(file, name)
    err.print(f"removed {escape(name)} from {escape(str(file))}")
