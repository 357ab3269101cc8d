"""What `pullback bench` shows. Pure presentation."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape

from pullback import display
from pullback.progress import duration

_STEADY = 1.5
"""Times of the same work differ by a smaller factor than this on a machine that does nothing else."""


def bench_table(result: Mapping[str, Any], console: Console) -> None:
    """`pullback bench metric`."""
    floor = result["floor_seconds"]
    told = f"not measured: {result.get('floor_error')}"
    if floor is not None:
        passes = f"{result['latent_dim']} forward passes, {result['floor_batch']} at once"
        told = f"{_spread(floor, result['floor_range'])} s for {passes}"
    rows = {
        "device": f"{result['device'] or 'unknown'}, {result.get('threads') or '?'} CPU threads",
        "metric": f"{result['generator']} under {result['distance']}, n = {result['latent_dim'] or '?'}",
        "floor": told,
    }
    console.print(display.two_columns(rows))
    console.print()
    table = display.table_of("method", ">s per metric", ">× floor", ">speed-up", ">relative error", ">peak memory")
    baseline = "arpack" if "speedup_vs_arpack" in result and not result["speedup_vs_backprop"] else "backprop"
    for name, entry in result["methods"].items():
        ratios = [result[key].get(name) for key in ("times_floor", f"speedup_vs_{baseline}")]
        error, memory = entry["relative_error"], entry["peak_memory_bytes"]
        table.add_row(
            escape(name),
            _spread(entry["seconds"], entry["seconds_range"]),
            *("–" if ratio is None else f"{ratio:.3g}" for ratio in ratios),
            "–" if error is None else f"{error:.1e}",
            "–" if memory is None else display.size(memory),
        )
    console.print(table)
    what = {"backprop": "the paper's method", "arpack": "scipy's eigsh on products by a second backward pass"}[baseline]
    console.print(f"speed-up: over {baseline}, {what}; memory: of one metric, beyond what is loaded")
    for name, entry in result["methods"].items():
        for note in _bench_notes(name, entry):
            console.print(f"{escape(name)}: {escape(note)}")


def scaling_table(result: dict[str, Any], console: Console) -> None:
    """`pullback bench scaling`: how the rate grows with the workers, and where their time goes."""
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
    console.print("compute, verify, write, commit: for each sample. A shard is written while the next one is computed.")


def simulation_table(results: Mapping[str, Mapping[str, Any]], console: Console) -> None:
    """`pullback bench scheduler`."""
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
    console.print("wasted: computing that led to no result; tail: from when the last shard was given out to the end")
    console.print("driver a shard: processor time of the scheduler, measured; driver busy: its share of the time")


def _bench_notes(name: str, entry: Mapping[str, Any]) -> list[str]:
    """What a reader of a method's row must know besides."""
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
    """A median, and from where to where the single values go."""
    return "–" if middle is None or ends is None else f"{middle:.3g} ({ends[0]:.3g}–{ends[1]:.3g})"
