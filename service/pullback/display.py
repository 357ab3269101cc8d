"""What the command line shows: tables, and the JSON forms that other tools rely on. Pure presentation.

Leaves to others: what is shown while work goes on (`progress`).
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pullback.progress import duration

if TYPE_CHECKING:
    from pullback.analysis import Analysis
    from pullback.store.reader import Sweep
    from pullback.sweep.control import SweepState
    from pullback.sweep.plan import Plan


def out() -> Console:
    """Standard output. Where it is not a terminal, wide enough that no table is folded."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=250)


def plan_dict(plan: "Plan") -> dict[str, Any]:
    """`pullback plan --json`."""
    layout = plan.layout
    return {
        "name": plan.job.name,
        "sweep_id": plan.sweep_id,
        "store": str(plan.place),
        "generator": plan.job.generator.name,
        "distance": plan.job.distance.label,
        "samples": layout.samples,
        "latent_dim": layout.latent_dim,
        "components": layout.components,
        "shards": layout.shards,
        "shard_size": layout.shard_size,
        "workers": plan.workers,
        "device": plan.device,
        "method": plan.method,
        "batch": plan.fit.batch,
        "tangents": plan.fit.tangents,
        "stored_bytes": plan.stored_bytes,
        "memory_bytes_per_worker": plan.fit.bytes,
        "seconds_per_sample": plan.seconds_per_code,
        "finished": plan.finished,
        "seconds": plan.seconds,
    }


def plan_table(plan: "Plan", console: Console) -> None:
    """`pullback plan`."""
    layout, fit = plan.layout, plan.fit
    seconds = plan.seconds
    asked = plan.job.metric.method
    rows = {
        "sweep": f"{plan.job.name} ({plan.sweep_id})",
        "metric": f"{plan.job.generator.name} under {plan.job.distance.label}",
        "method": plan.method if asked == plan.method else f"{plan.method} (the choice of {asked})",
        "samples": f"{layout.samples} codes of n = {layout.latent_dim}, {layout.components} eigenpairs kept of each",
        "shards": f"{layout.shards} of {layout.shard_size} samples",
        "workers": f"{plan.workers} on {plan.device}, each {fit.batch} codes × {fit.tangents} tangents at once",
        "memory": f"about {size(fit.bytes)} a worker beyond the weights, of {size(fit.available)} that it may use",
        "store": f"{plan.place}, up to {size(plan.stored_bytes)}"
        f"{f', {plan.finished} samples are done already' if plan.finished else ''}",
    }
    if seconds is not None and plan.seconds_per_code is not None:
        left = f"about {duration(seconds)}" if seconds else "nothing to do"
        start = " besides what the workers take to start" if seconds else ""
        rows["time"] = f"{left}{start} ({plan.seconds_per_code:.2g} s a sample and worker, measured here)"
    console.print(two_columns(rows))


def sweep_line(plan: "Plan") -> str:
    """One line that says what is run."""
    layout = plan.layout
    return (
        f"{plan.job.name} ({plan.sweep_id}): {layout.samples} metrics of {escape(plan.job.generator.name)} under "
        f"{plan.job.distance.label}, {plan.workers} worker{'s' if plan.workers > 1 else ''} on {plan.device}"
    )


def state_table(state: "SweepState", console: Console) -> None:
    """`pullback status`."""
    rows = {"sweep": state.name, "state": state.state}
    if state.planned:
        rows["samples"] = (
            f"{state.good} good, {state.quarantined} quarantined, {state.pending} pending of {state.planned}"
        )
    driver = state.driver
    if driver is not None and state.exit_code == 3 and (driver.pid or driver.address):
        rows["driver"] = f"process {driver.pid} on {driver.host}" if driver.pid else driver.address
    if driver is not None and state.state in ("running", "cancelling"):
        rows["speed"] = _speed(state, driver.samples_per_second)
        for name, counts in (("shards", driver.shards), ("workers", driver.workers)):
            if counts:  # without them it is too early, or one process does it all (`--serial`)
                rows[name] = ", ".join(f"{many} {what}" for what, many in counts.items() if many) or "none yet"
    if state.message:
        rows["note"] = state.message
    console.print(two_columns(rows))


def _speed(state: "SweepState", rate: float) -> str:
    if not rate:
        return "no results yet"
    left = f", {duration(state.pending / rate)} left" if state.pending and state.state == "running" else ""
    return f"{rate:.2f} samples/s{left}"


def sweep_dict(sweep: "Sweep", state: str) -> dict[str, Any]:
    """`pullback show --json`."""
    provenance = sweep.provenance
    return {
        "name": sweep.name,
        "path": str(sweep.location),
        "sweep_id": provenance["sweep_id"],
        "snapshot": sweep.snapshot,
        "state": state,
        "samples": sweep.status().as_dict(),
        "quarantine_reasons": sweep.reasons(),
        "generator": provenance["generator"],
        "distance": provenance["distance"],
        "method": provenance["method"],
        "latent_dim": sweep.layout.latent_dim,
        "components": sweep.layout.components,
        "shards": sweep.layout.shards,
        "spec": provenance["spec"],
        "weights": provenance["weights"],
        "conventions": provenance["conventions"],
        "versions": provenance["versions"],
        "created": provenance["created"],
    }


def without_store_dict(state: "SweepState", path: str) -> dict[str, Any]:
    """A row of `pullback ls --json` for what has no results yet; what only a store knows is null."""
    samples = {name: getattr(state, name) for name in ("planned", "good", "quarantined", "pending")}
    unknown = dict.fromkeys(("sweep_id", "snapshot", "generator", "distance", "method", "latent_dim", "components"))
    return {"name": state.name, "path": path, "state": state.state, "samples": samples, **unknown}


def sweep_table(content: Mapping[str, Any], console: Console) -> None:
    """`pullback show`; of what `sweep_dict` gives."""
    samples = content["samples"]
    reasons = ", ".join(
        f"{count} {name.lower().replace('_', ' ')}" for name, count in content["quarantine_reasons"].items()
    )
    rows = {
        "sweep": f"{content['name']} ({content['sweep_id']})",
        "path": content["path"],
        "state": content["state"],
        "samples": f"{samples['good']} good of {samples['planned']} planned, {samples['pending']} pending, "
        f"{samples['quarantined']} quarantined{f' ({reasons})' if reasons else ''}",
        "generator": content["generator"],
        "distance": content["distance"],
        "latent size": f"{content['latent_dim']}, {content['components']} eigenpairs kept",
        "snapshot": content["snapshot"],
        "created": f"{content['created']} with {_pairs(content['versions'])}",
        "weights": "\n".join(f"{name}: {digest}" for name, digest in content["weights"].items()),
        "spec": "\n".join(f"{key}: {_pairs(value)}" for key, value in content["spec"].items()),
    }
    console.print(two_columns(rows))


def sweeps_table(sweeps: Sequence[Mapping[str, Any]], console: Console) -> None:
    """`pullback ls`."""
    table = table_of("name", "state", "generator", "distance", ">n", ">good", ">pending", ">quarantined", "path")
    for sweep in sweeps:
        samples = sweep["samples"]
        counts = [f"{samples['good']}/{samples['planned']}", str(samples["pending"]), str(samples["quarantined"])]
        table.add_row(
            *(escape(str(sweep[key] or "–")) for key in ("name", "state", "generator", "distance", "latent_dim")),
            *counts,
            escape(sweep["path"]),
        )
    console.print(table)


def tokens_table(tokens: Sequence[Mapping[str, str]], console: Console) -> None:
    """`pullback tokens list`."""
    table = table_of("name", "scope", "created")
    for token in tokens:
        table.add_row(escape(token["name"]), token["scope"], token["created"])
    console.print(table)


def analysis_table(analysis: "Analysis", sweep: "Sweep", console: Console) -> None:
    """`pullback analyze`."""
    content = analysis.to_json()
    console.print(
        f"[bold]{escape(content['name'])}[/]: {content['samples']} metrics of {escape(sweep.provenance['generator'])} "
        f"under {sweep.provenance['distance']}, n = {sweep.layout.latent_dim}"
    )
    shares = table_of(
        "share of the trace",
        ">ranks below it",
        ">95 % interval",
        ">ranks needed",
        ">axes of the mean H",
        title="Anisotropy",
    )
    fixed = content["mean_metric"]["dim"]
    for share, dim in content["anisotropy"]["dim"].items():
        reached = dim["needed"] is not None
        shares.add_row(
            f"{100 * float(share):g} %",
            str(dim["below"]) if reached else f"≥ {dim['below']}",
            _interval(dim["below_ci95"], 0) if reached else "–",
            str(dim["needed"]) if reached else "more than are kept",
            str(fixed[share]["needed"]),
        )
    console.print(shares)
    kept, n = sweep.layout.components, sweep.layout.latent_dim
    if kept < n:
        console.print(f"Only {kept} of {n} eigenpairs are kept: homogeneity is that of the leading {kept} ranks.")
    pairs, points = content["homogeneity"]["pairs"], content["homogeneity"]["points"]
    some = f" of {points} samples" if points < content["samples"] else ""
    likeness = table_of("", ">mean", ">95 % interval", ">std", ">median", title=f"Homogeneity, {pairs} pairs{some}")
    for key, label in (("log", "C_log"), ("linear", "C_lin")):
        row = content["homogeneity"][key]
        likeness.add_row(
            label,
            _number(row["mean"]),
            _interval(row["ci95"], 3),
            _number(row["std"]),
            _number(row["median"]),
        )
    console.print(likeness)
    spectrum = table_of(
        ">rank",
        ">mean λ",
        ">5–95 %",
        ">λ of the mean H",
        ">95 % interval",
        title="Spectrum",
    )
    mean, band = content["anisotropy"]["mean_spectrum"], content["anisotropy"]["band"]
    of_mean = content["mean_metric"]
    for rank in _telling_ranks(len(mean)):
        spectrum.add_row(
            str(rank + 1),
            f"{mean[rank]:.3g}",
            _interval((band["p5"][rank], band["p95"][rank]), None),
            f"{of_mean['eigenvalues'][rank]:.3g}",
            _interval((of_mean["ci95"][0][rank], of_mean["ci95"][1][rank]), None),
        )
    console.print(spectrum)


def snapshots_table(rows: Sequence[Mapping[str, str]], console: Console) -> None:
    """`pullback snapshots`."""
    table = table_of("snapshot", "written", "what")
    for row in rows:
        table.add_row(row["id"], row["written"], row["message"])
    console.print(table)


def generators_table(rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    """`pullback generators list`."""
    table = table_of("name", "what", ">n", ">image", "weights", "classes")
    for row in rows:
        weights = row["weights"] if row["here"] else f"{row['weights']} (missing)"
        image = f"{row['image_size']} × {row['image_size']}"
        table.add_row(row["name"], row["what"], str(row["latent_dim"]), image, weights, ", ".join(row["classes"]))
    console.print(table)


def weights_table(rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    """`pullback weights list`."""
    table = table_of("name", "what", "licence", "where")
    for row in rows:
        table.add_row(row["name"], row["what"], row["licence"], escape(row["path"] or "missing"))
    console.print(table)


def size(count: float) -> str:
    """Bytes for a reader: `12.3 MiB`."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"


def _telling_ranks(count: int) -> list[int]:
    wanted = [0, 1, 2, 3, 4, 5, 9, 19, 49, count // 2, 99, 199, 499, 999, count - 1]
    return sorted({rank for rank in wanted if 0 <= rank < count})


def _interval(ends: Sequence[float | None], digits: int | None) -> str:
    return " – ".join("?" if end is None else f"{end:.3g}" if digits is None else f"{end:.{digits}f}" for end in ends)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _pairs(content: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in content.items() if value is not None)


def table_of(*columns: str, title: str | None = None) -> Table:
    """A plain table; a column whose heading begins with `>` is aligned to the right."""
    made = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        number = column.startswith(">")
        made.add_column(
            column.removeprefix(">"), justify="right" if number else "left", overflow="fold", no_wrap=number
        )
    return made


def two_columns(rows: Mapping[str, str]) -> Table:
    """Names and what they are."""
    made = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    for key, value in rows.items():
        made.add_row(key, escape(value))
    return made
