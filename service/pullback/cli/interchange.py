"""Commands that exchange files with other tools, and `cite`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from pullback.cli import progress
from pullback.cli.common import Snapshot, SweepPath, err, open_at, shown
from pullback.errors import StoreError

app = typer.Typer()


@app.command()
def export(
    sweep: SweepPath,
    out: Annotated[
        Path,
        typer.Argument(
            help="File or folder to write: out.zarr, out.nc or out.csv for the sweep; out.npy, out.npz, out.pt or "
            "out.json for the axes of its mean metric.",
            show_default=False,
        ),
    ],
    layout: Annotated[
        str | None,
        typer.Option(
            help="axes (.npy, .npz), ganspace (.npz), e4e (.pt) or edits (.json): axes of the mean metric; magnet "
            "(.npz): singular values; paper or paper-early: a folder with a file for each metric. By default the "
            "ending decides.",
            show_default=False,
        ),
    ] = None,
    components: Annotated[
        int | None, typer.Option(min=1, help="Number of axes or singular values; all by default.", show_default=False)
    ] = None,
    snapshot: Snapshot = None,
) -> None:
    """Export a sweep: whole, as CSV, as axes of its mean metric, or in the layouts of other tools."""
    from pullback.interchange.exports import export_as, layout_of

    opened = open_at(sweep, snapshot)
    chosen = layout or layout_of(out)
    if chosen is None and components is not None:
        raise StoreError("--components belongs to the layouts of axes and singular values; nothing was written.")
    with progress.waiting(err, f"writing {out}"):
        how = opened.export(out) if chosen is None else export_as(opened, out, chosen, components)
    err.print(f"wrote {escape(str(out))}; open it with {escape(how)}")


@app.command("import")
def import_(
    files: Annotated[
        list[Path],
        typer.Argument(help="Files of the paper's scripts (.npz), one for each metric, or folders of them."),
    ],
    into: Annotated[Path, typer.Option(help="Folder of the new sweep.", show_default=False)],
    generator: Annotated[str, typer.Option(help="The generator's name, for the record.")] = "unknown generator",
    distance: Annotated[str, typer.Option(help="The distance's name, for the record.")] = "unknown distance",
    space: Annotated[str, typer.Option(help="The latent space, for the record.")] = "z",
    block: Annotated[
        str | None,
        typer.Option(help="noise or class: import the metrics of one block of a BigGAN's code.", show_default=False),
    ] = None,
) -> None:
    """Make a sweep of metrics that the paper's scripts stored (eva_BP, evc_BP, H_BP, feat; or eigvals, eigvects)."""
    from pullback.interchange.imported_sweeps import import_metrics

    with progress.counting(err, "files") as count:
        import_metrics(files, into, generator=generator, distance=distance, space=space, block=block, progress=count)
    err.print(f"imported into {escape(str(into))}, in the natural order of the file names")
    err.print(f"next: pullback analyze {shown(into)}")


@app.command()
def cite() -> None:
    """Print BibTeX entries of this version of Pullback and of the paper that defines the method."""
    from pullback.citation import bibtex
    from pullback.cli.numbers import stream

    print(bibtex(), end="", file=stream(), flush=True)
