"""`pullback bench`."""

from typing import Annotated

import typer
from rich.markup import escape

from pullback import display, progress
from pullback.cli.bench_tables import bench_table, scaling_table, simulation_table
from pullback.cli.common import AsJson, err, print_json

bench_app = typer.Typer(help="Measure speed, memory and accuracy on this machine.", no_args_is_help=True)


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
        print_json(result)
    else:
        bench_table(result, display.out())
    if all("error" in entry for entry in result["methods"].values()):
        raise typer.Exit(1)


@bench_app.command("scaling")
def bench_scaling(
    generator: Annotated[str, typer.Option(help="A registered name, a checkpoint's path, or module:factory.")],
    distance: Annotated[str, typer.Option(help="A distance's name, or module:function.")] = "lpips",
    workers: Annotated[str, typer.Option(help="How many, ascending, with commas between.")] = "1,2",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    samples: Annotated[int | None, typer.Option(min=1, help="For each worker; what takes half a minute.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run one sweep with one worker, two and so on, and tell how its rate grows and where the time goes."""
    from pullback.cluster.scaling import bench_scaling

    try:
        numbers = [int(number) for number in workers.split(",") if number.strip()]
    except ValueError:
        raise typer.BadParameter(f"numbers with commas between, such as 1,2, not {workers!r}") from None
    result = bench_scaling(
        generator,
        distance,
        numbers,
        device,
        samples,
        say=lambda line: err.print(escape(line)),
        watching=lambda: progress.sweep_progress(err),
    )
    print_json(result) if as_json else scaling_table(result, display.out())


@bench_app.command("scheduler")
def bench_scheduler(
    gpus: Annotated[list[int] | None, typer.Option(min=1, help="Simulated GPUs; may be given again.")] = None,
    shard_seconds: Annotated[float, typer.Option(min=0.1, help="What a shard takes on average.")] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Simulate a sweep on thousands of GPUs that fail and are preempted, around the scheduler as it is."""
    from pullback.sweep.simulation import Cluster, simulate

    results = {}
    for many in gpus or [1000, 10000]:
        with progress.waiting(err, f"simulating {many} GPUs"):
            results[str(many)] = simulate(Cluster(gpus=many, shard_seconds=shard_seconds)).as_dict()
    print_json(results) if as_json else simulation_table(results, display.out())
