"""Commands that measure: `pullback bench`."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape

from pullback.cli import display, progress
from pullback.cli.bench_tables import analysis_table, bench_table, scaling_table, simulation_table
from pullback.cli.common import AsJson, FamilyOptions, err, key_values, print_json
from pullback.cli.completion import complete_distance, complete_generator, complete_sweep

Generator = Annotated[
    str,
    typer.Option(autocompletion=complete_generator, help="A registered name, a checkpoint's path, or module:factory."),
]
DistanceName = Annotated[
    str, typer.Option(autocompletion=complete_distance, help="A distance's name, or module:function.")
]

bench_app = typer.Typer(help="Measure speed, memory and accuracy on this machine.", no_args_is_help=True)


@bench_app.callback()
def _bench() -> None:
    pass


@bench_app.command("metric")
def bench_metric(
    generator: Generator,
    family: Annotated[str | None, typer.Option(help="Family of a checkpoint; recognised if not given.")] = None,
    space: Annotated[str | None, typer.Option(help="Latent space of the codes, such as z, w or w+.")] = None,
    option: FamilyOptions = None,
    distance: DistanceName = "lpips",
    trunk: Annotated[str | None, typer.Option(help="LPIPS's feature network: alex, vgg or squeeze.")] = None,
    size: Annotated[int | None, typer.Option(min=1, help="Height and width to which images are resized.")] = None,
    methods: Annotated[
        str, typer.Option(help="Methods of a job, or arpack, separated by commas: gauss_newton@bfloat16,arpack.")
    ] = "gauss_newton,backprop",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    points: Annotated[int, typer.Option(min=1, help="Latent codes in each timed run.")] = 4,
    components: Annotated[int | None, typer.Option(min=1, help="Eigenpairs of each metric; all by default.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; torch's default if not given.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Timed runs of each method, alternating.")] = 3,
    error: Annotated[
        bool, typer.Option(help="Measure the error against float64, which takes one more slow metric.")
    ] = True,
    tf32: Annotated[bool, typer.Option(help="Let backprop and the floor use TF32 on a GPU.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare methods with the paper's (backprop) and with n plain forward passes (the floor)."""
    from pullback.bench.metric import MetricBench, bench_metric

    settings = MetricBench(
        generator=generator,
        family=family,
        space=space,
        options=key_values(option, "--option"),
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
    result = bench_metric(settings, lambda line: err.print(escape(line)))
    if as_json:
        print_json(result)
    else:
        bench_table(result, display.out())
    if all("error" in entry for entry in result["methods"].values()):
        raise typer.Exit(1)


@bench_app.command("scaling")
def bench_scaling(
    generator: Generator,
    distance: DistanceName = "lpips",
    workers: Annotated[str, typer.Option(help="Numbers of workers, ascending, separated by commas.")] = "1,2",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    samples: Annotated[
        int | None, typer.Option(min=1, help="Samples for each worker; by default as many as take half a minute.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a sweep with one worker, two and so on; show how its rate grows and where the time goes."""
    from pullback.bench.scaling import bench_scaling

    try:
        numbers = [int(number) for number in workers.split(",") if number.strip()]
    except ValueError:
        raise typer.BadParameter(f"{workers!r} is not a list of numbers separated by commas, such as 1,2") from None
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
    gpus: Annotated[list[int] | None, typer.Option(min=1, help="Number of simulated GPUs; may be repeated.")] = None,
    shard_seconds: Annotated[float, typer.Option(min=0.1, help="Mean seconds of a shard.")] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Simulate a sweep on thousands of GPUs that fail and are preempted, with the real scheduler."""
    from pullback.bench.scheduler_simulation import Cluster, simulate

    results = {}
    for many in gpus or [1000, 10000]:
        with progress.waiting(err, f"simulating {many} GPUs"):
            results[str(many)] = simulate(Cluster(gpus=many, shard_seconds=shard_seconds)).as_dict()
    print_json(results) if as_json else simulation_table(results, display.out())


@bench_app.command("analysis")
def bench_analysis(
    samples: Annotated[int, typer.Option(min=4, help="Samples whose homogeneity is computed.")] = 1000,
    latent_dim: Annotated[int, typer.Option(min=4, help="n, the size of a latent code.")] = 256,
    workers: Annotated[int, typer.Option(min=1, help="Processes that share the full matrix.")] = 2,
    stream_samples: Annotated[int, typer.Option(min=10, help="Samples of the sweep that is streamed.")] = 100_000,
    quick: Annotated[bool, typer.Option("--quick", help="Run everything at sizes that take seconds.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare homogeneity with the paper's loop over pairs, and stream the statistics of a large sweep."""
    from pullback.bench.analysis import QUICK, AnalysisBench, bench_analysis

    settings = (
        QUICK.model_copy(update={"workers": workers})
        if quick
        else AnalysisBench(samples=samples, latent_dim=latent_dim, workers=workers, stream_samples=stream_samples)
    )
    result = bench_analysis(settings, lambda line: err.print(escape(line)))
    print_json(result) if as_json else analysis_table(result, display.out())


@bench_app.command("inversion")
def bench_inversion(
    generator: Generator = "dcgan-faces",
    distance: DistanceName = "lpips",
    suites: Annotated[str, typer.Option(help="S1, S2b, S3, S4, separated by commas.")] = "S1,S4",
    arms: Annotated[
        str | None, typer.Option(help="Arms separated by commas; an unknown name lists them all.", show_default=False)
    ] = None,
    targets: Annotated[int, typer.Option(min=1, help="Targets of each suite.")] = 64,
    budget: Annotated[float, typer.Option(help="Forward equivalents of a target, for all its starts.")] = 3000.0,
    local_budget: Annotated[float, typer.Option(help="The same for S4, which has one start.")] = 1500.0,
    seconds: Annotated[
        float | None, typer.Option(help="Most CPU seconds of a target, besides the budget.", show_default=False)
    ] = None,
    random: Annotated[int, typer.Option(min=0, help="Random starts of a target.")] = 2,
    tuning: Annotated[int, typer.Option(min=0, help="Other targets on which arms are tuned; 0 for none.")] = 8,
    tuned: Annotated[
        str | None, typer.Option(help="Arms that are tuned, separated by commas; all by default.", show_default=False)
    ] = None,
    tuning_budget: Annotated[float, typer.Option(help="Forward equivalents of a target in tuning.")] = 3000.0,
    metric_samples: Annotated[int, typer.Option(min=1, help="Own samples of the mean metric.")] = 100,
    held_out: Annotated[bool, typer.Option(help="Judge with LPIPS-vgg too.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of targets, starts and order.")] = 0,
    folder: Annotated[
        Path, typer.Option(help="Rows and metrics; the same folder goes on with an interrupted run.")
    ] = Path("benchmarks/inversion"),
    report: Annotated[
        Path | None,
        typer.Option(help="The result document; by default inversion.md in the folder.", show_default=False),
    ] = None,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Write the document from the rows in the folder; run nothing.")
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="8 targets, 4 arms, 1,000 forward equivalents.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare solvers of inversion with shared starts and equal budgets, and write a document with figures."""
    import torch

    from pullback.bench.inversion import read_rows, read_runs, run_inversion_bench
    from pullback.bench.inversion_report import write_report
    from pullback.bench.inversion_settings import DEFAULT_ARMS, InversionBench
    from pullback.generators import load_generator
    from pullback.generators.attributes import latent_size

    def names(text: str) -> tuple[str, ...]:
        return tuple(name.strip() for name in text.split(",") if name.strip())

    usual = ("adam", "adam_basis", "lbfgs", "hybrid") if quick else DEFAULT_ARMS
    settings = InversionBench(
        generator=generator,
        distance=distance,
        suites=names(suites),
        arms=usual if arms is None else names(arms),
        targets=min(targets, 8) if quick else targets,
        budget=min(budget, 1000.0) if quick else budget,
        local_budget=min(local_budget, 500.0) if quick else local_budget,
        seconds=seconds,
        random=random,
        tuning=0 if quick else tuning,
        tuned=None if tuned is None else names(tuned),
        tuning_budget=tuning_budget,
        metric_samples=min(metric_samples, 10) if quick else metric_samples,
        held_out=held_out,
        seed=seed,
    )
    if report_only:
        rows = read_rows(folder)
    else:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # CPU seconds of several threads that wait for each other say nothing
        try:
            rows = run_inversion_bench(settings, folder, lambda line: err.print(escape(line)))
        finally:
            torch.set_num_threads(threads)
    if as_json:
        print_json({"rows": rows})
        return
    runs = read_runs(folder)
    size = latent_size(load_generator(runs[-1].generator, device="cpu", check=False))
    files = write_report(runs, rows, size, report or folder / "inversion.md")
    display.out().print(escape(files[0].read_text(encoding="utf-8")))
    err.print(f"wrote {', '.join(escape(str(file)) for file in files)}")


@bench_app.command("search")
def bench_search(
    sweep: Annotated[
        str | None,
        typer.Argument(
            autocompletion=complete_sweep, help="A sweep, for its generator and mean metric.", show_default=False
        ),
    ] = None,
    control: Annotated[
        str | None,
        typer.Option(autocompletion=complete_sweep, help="A sweep of the generator with shuffled weights."),
    ] = None,
    synthetic: Annotated[bool, typer.Option(help="Also search on the synthetic generator of 4,096 dimensions.")] = True,
    units: Annotated[int, typer.Option(min=1, help="Units of each generator.")] = 10,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each arm on each unit.")] = 2,
    evaluations: Annotated[int, typer.Option(min=40, help="Evaluations of a run on the sweep's generator.")] = 600,
    synthetic_evaluations: Annotated[int, typer.Option(min=40, help="The same on the synthetic one.")] = 3000,
    noise: Annotated[list[float] | None, typer.Option(min=0, help="Noise on the sweep's generator.")] = None,
    trunk: Annotated[Literal["alex", "vgg", "squeeze"], typer.Option(help="Network of the units.")] = "alex",
    sphere: Annotated[bool, typer.Option("--sphere", help="Keep ‖z‖ = √n on the sweep's generator.")] = False,
    condition: Annotated[str | None, typer.Option(help="Class of the sweep's generator.", show_default=False)] = None,
    arms: Annotated[str | None, typer.Option(help="Names of arms, separated by commas.", show_default=False)] = None,
    rows: Annotated[Path, typer.Option(help="The file of rows; what is there is not computed again.")] = Path(
        "jobs/benchmarks/results/search.jsonl"
    ),
    document: Annotated[Path | None, typer.Option(help="Write this Markdown file and its figures.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare gradient-free searchers with and without the mean metric, with controls; resumable by its rows."""
    from dataclasses import asdict

    from pullback.analysis.protocol import strict
    from pullback.bench.search import SYNTHETIC, SearchBench, outcomes_of, read_rows, refuse_unknown, suite_of_sweep
    from pullback.bench.search import bench_search as run
    from pullback.bench.search_arms import LARGE, MAIN, SHUFFLED
    from pullback.bench.search_document import sentences, write_document
    from pullback.bench.search_suites import synthetic_suite

    named = [name.strip() for name in (arms or "").split(",") if name.strip()]
    refuse_unknown(named)
    say = lambda line: err.print(escape(line))  # noqa: E731 - as in the other commands
    if sweep is not None:
        suite = suite_of_sweep(sweep, control, tuple(noise or (0.0,)), trunk=trunk, sphere=sphere, condition=condition)
        usual = MAIN if control is None else (*MAIN, *SHUFFLED)
        run([suite], SearchBench(units, repeats, evaluations, {suite.name: named or usual}), rows, say)
    if synthetic:
        made = synthetic_suite()
        assert made.name == SYNTHETIC
        run([made], SearchBench(units, repeats, synthetic_evaluations, {made.name: named or LARGE}), rows, say)
    found = outcomes_of(read_rows(rows))
    if document is not None:
        for path in write_document(found, document, "pullback bench search"):
            err.print(f"wrote {escape(str(path))}")
    if as_json:
        print_json([strict(asdict(each)) for each in found])
        return
    for each in found:
        for sentence in sentences(each):
            display.out().print(escape(sentence))
