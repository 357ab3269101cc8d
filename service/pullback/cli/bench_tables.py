"""Tables of `pullback bench`."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape

from pullback.cli import display
from pullback.cli.progress import duration

_STEADY = 1.5
"""On an idle machine, the longest and the shortest time of one method differ by less than this factor."""


def bench_table(result: Mapping[str, Any], console: Console) -> None:
    """Print the table of `pullback bench metric`."""
    floor = result["floor_seconds"]
    floor_text = f"not measured: {result.get('floor_error')}"
    if floor is not None:
        passes = f"{result['latent_dim']} forward passes, {result['floor_batch']} at once"
        floor_text = f"{_spread(floor, result['floor_range'])} s for {passes}"
    rows = {
        "device": f"{result['device'] or 'unknown'}, {result.get('threads') or '?'} CPU threads",
        "metric": f"{result['generator']} under {result['distance']}, n = {result['latent_dim'] or '?'}",
        **({"family": f"{result['family']}, space {result['space']}"} if result.get("family") else {}),
        "floor": floor_text,
    }
    console.print(display.two_columns(rows))
    console.print()
    titles = (">s per metric", ">× floor", ">speed-up", ">relative error", ">peak memory", ">certificate")
    table = display.table_of("=method", *titles)
    baseline = "arpack" if "speedup_vs_arpack" in result and not result["speedup_vs_backprop"] else "backprop"
    for name, entry in result["methods"].items():
        times, speedup = (result[key].get(name) for key in ("times_floor", f"speedup_vs_{baseline}"))
        share = entry.get("certificate_share")
        error, memory = entry["relative_error"], entry["peak_memory_bytes"]
        table.add_row(
            escape(name),
            _spread(entry["seconds"], entry["seconds_range"]),
            "–" if times is None else f"{times:.3g}",
            "–" if speedup is None else f"{speedup:.3g}",
            "–" if error is None else f"{error:.1e}",
            "–" if memory is None else display.size(memory),
            f"{100 * share:.0f} %" if share else "–",
        )
    console.print(table)
    described = {"backprop": "the paper's method", "arpack": "scipy's eigsh on products by a second backward pass"}[
        baseline
    ]
    console.print(f"speed-up: over {baseline}, {described}; memory: for one metric, beyond generator and distance")
    for name, entry in result["methods"].items():
        for note in _bench_notes(name, entry):
            console.print(f"{escape(name)}: {escape(note)}")


def scaling_table(result: dict[str, Any], console: Console) -> None:
    """Print the table of `pullback bench scaling`."""
    names = ("compute", "verify", "write", "commit")
    table = display.table_of(">workers", ">samples/s", ">efficiency", ">computing", *(f">{name}" for name in names))
    table.title = (
        f"{result['generator']} with {result['distance']}, {result['device']}, shards of {result['shard_size']}"
    )
    for run in result["runs"]:
        parts = run["seconds_a_sample"]
        table.add_row(
            str(run["workers"]),
            f"{run['samples_per_second']:.2f}",
            f"{run['efficiency']:.1%}",
            f"{run['computing_share']:.1%}",
            *(f"{1000 * parts[name]:.1f} ms" for name in names),
        )
    console.print(table)
    console.print("compute, verify, write, commit: time a sample. A shard is written while the next one is computed.")


def simulation_table(results: Mapping[str, Mapping[str, Any]], console: Console) -> None:
    """Print the table of `pullback bench scheduler`."""
    table = display.table_of(
        ">GPUs", ">busy", ">wasted", ">tail", ">deaths", ">driver a shard", ">driver busy", ">commits/s"
    )
    for gpus, found in results.items():
        table.add_row(
            gpus,
            f"{found['busy']:.1%}",
            f"{found['wasted']:.2%}",
            duration(found["tail_seconds"]),
            str(found["deaths"]),
            f"{1e6 * found['driver_seconds_a_shard']:.0f} µs",
            f"{found['driver_busy']:.0%}",
            f"{found['commits'] / found['seconds']:.2f}",
        )
    console.print(table)
    console.print("wasted: share of computing without a result; tail: time from the start of the last shard to the end")
    console.print("driver a shard: processor time of the scheduler, measured; driver busy: its share of the time")


def _bench_notes(name: str, entry: Mapping[str, Any]) -> list[str]:
    """Return remarks on the row of a method."""
    if "error" in entry:
        return [f"failed: {entry['error']}"]
    notes = [] if entry["method"] == name.partition("@")[0] else [f"it used {entry['method']}"]
    notes += ["not every metric passed its certificate"] if entry["certified"] is False else []
    least, most = entry["seconds_range"]
    if most > _STEADY * least:
        notes.append(f"its times differ by a factor of {most / least:.2g}; measure again while nothing else runs")
    of = {"eigenvalues": "its error is that of the eigenvalues", "residual": "its error is the residual of eigenpairs"}
    return [*notes, *([of[entry["error_of"]]] if entry["error_of"] in of else [])]


def _spread(middle: float | None, ends: Sequence[float] | None) -> str:
    """Format a median and its range."""
    return "–" if middle is None or ends is None else f"{middle:.3g} ({ends[0]:.3g}–{ends[1]:.3g})"


def analysis_table(result: Mapping[str, Any], console: Console) -> None:
    """Print the table of `pullback bench analysis`."""
    settings, baseline = result["settings"], result["baseline"]
    table = display.table_of("=homogeneity", ">s", ">times the loop", ">in CPU time", ">peak memory", "error")
    table.title = f"{settings['samples']} samples, n = {settings['latent_dim']}, {result['cores']} cores"
    table.add_row("the paper's loop", f"{baseline['seconds']:.3g}", "1", "1", "–", "")
    full, sampled = result["full"], result["sampled"]
    errors = {
        "full": f"{full['precision_error']:.1e} against float64",
        "sampled": f"standard error {sampled['standard_error_log']:.1e}, {sampled['standard_error_linear']:.1e}",
    }
    names = {"full": f"all pairs, {settings['workers']} processes", "sampled": f"{sampled['pairs']} sampled pairs"}
    for key, label in names.items():
        found = result[key]
        table.add_row(
            label,
            f"{found['seconds']:.3g}",
            f"{found['times_faster']:.3g}",
            f"{found['times_less_cpu']:.3g}",
            display.size(max(found["peak_bytes"], found.get("worker_peak_bytes") or 0)),
            errors[key],
        )
    console.print(table)
    shared, stream = result["shared"], result["stream"]
    rows = {
        "loop": f"extrapolated {baseline['extrapolated']}",
        "processes": f"{shared['workers']} are {shared['times_faster']:.2f} times one of one thread "
        f"({shared['samples']} samples{'' if shared['same_bits'] else '; results differ'})",
        "streaming": f"{stream['samples']} samples, k = {stream['kept']} of n = {stream['latent_dim']}: anisotropy "
        f"{stream['seconds_anisotropy']:.3g} s, mean metric {stream['seconds_mean_metric']:.3g} s, reading alone "
        f"{stream['seconds_reading']:.3g} s, {display.size(stream['peak_bytes'])} of memory",
    }
    console.print(display.two_columns(rows))
    goals = display.table_of("=goal", ">at least or at most", ">measured", "")
    for each in result["goals"]:
        reached = "reached" if each["reached"] else "not reached"
        goals.add_row(each["what"], f"{each['goal']:g}", f"{each['measured']:.3g}", reached)
    console.print(goals)
