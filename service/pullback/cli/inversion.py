"""`pullback invert`: the codes of pictures."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from pullback.cli.common import AsJson, Snapshot, err, key_values
from pullback.cli.completion import complete_generator, complete_sweep
from pullback.cli.results import plan_of, run_here, show_results

app = typer.Typer()


@app.command()
def invert(
    images: Annotated[list[str], typer.Argument(help="Pictures, or folders of pictures.", show_default=False)],
    generator: Annotated[
        str | None,
        typer.Option(
            autocompletion=complete_generator,
            help="A registered name, a checkpoint's path, or module:factory; by default the sweep's.",
            show_default=False,
        ),
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option(
            autocompletion=complete_sweep,
            help="A sweep of the generator, whose distance, samples and mean metric are used.",
            show_default=False,
        ),
    ] = None,
    solver: Annotated[
        str | None,
        typer.Option(
            help="hybrid (the default; with a sweep hybrid_lbfgs_metric), hybrid_lbfgs, adam, cma, ...",
            show_default=False,
        ),
    ] = None,
    distance: Annotated[
        str | None, typer.Option(help="The distance, a sum of squares; by default the sweep's, or lpips.")
    ] = None,
    mask: Annotated[
        str | None,
        typer.Option(help="The part that counts: a .npy array, or [top, left, bottom, right].", show_default=False),
    ] = None,
    condition: Annotated[
        str | None, typer.Option(help="Class of all pictures; by default every class is tried.", show_default=False)
    ] = None,
    budget: Annotated[
        float | None, typer.Option(help="Most work for a picture, in images.", show_default=False)
    ] = None,
    seconds: Annotated[float | None, typer.Option(help="Most CPU seconds for a picture.", show_default=False)] = None,
    together: Annotated[int, typer.Option(min=1, help="Pictures inverted at once.")] = 1,
    workers: Annotated[int, typer.Option(min=1, help="Processes that share the pictures.")] = 1,
    option: Annotated[
        list[str] | None,
        typer.Option("--set", help="A further option, KEY=VALUE: prior=0, random=8, seed=1.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for reconstructions (PNG), codes (.npy) and figures.", show_default=False),
    ] = None,
    snapshot: Snapshot = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or one GPU, as cuda:1.")] = "auto",
    as_json: AsJson = False,
) -> None:
    """Find the latent code of pictures: files of any size, or folders. An interrupted run goes on."""
    import yaml

    from pullback.applications.inverting.pictures import files_in

    given: dict[str, Any] = {
        "name": "inversion",
        "images": files_in(images),
        "solver": solver,
        "distance": distance,
        "mask": mask if mask is None else yaml.safe_load(mask),
        "condition": int(condition) if condition is not None and condition.isdecimal() else condition,
        "budget": budget,
        "seconds": seconds,
        "together": together,
        **key_values(option, "--set"),
    }
    content = {
        "kind": "application",
        "name": "inversion",
        "sweep": sweep,
        "snapshot": snapshot,
        "generator": generator,
        "application": {key: value for key, value in given.items() if value is not None},
        "resources": {"device": device, "workers": workers},
    }
    plan = plan_of({key: value for key, value in content.items() if value is not None}, "pullback invert")
    run_here(plan, "pullback invert with the same options")
    if output is not None:
        from pullback.applications.inverting.result_files import write_files

        for part in plan.parts:
            files = write_files(part.load(), output)
            err.print(f"wrote {len(files)} files into {escape(str(output))}")
    show_results(plan, as_json)
