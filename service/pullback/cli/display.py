"""Tables of the command line, and the JSON of `pullback plan`. Other JSON is in `api.documents`."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from pullback.cli.progress import duration
from pullback.cli.tables import Columns, Pairs
from pullback.cli.terminal import out as out
from pullback.spec.messages import enumerated

if TYPE_CHECKING:
    from pullback.driving.sweep_state import SweepState
    from pullback.sweep.plan import Plan


def plan_dict(plan: "Plan") -> dict[str, Any]:
    """Return the JSON of `pullback plan`."""
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
        "notes": _plan_notes(plan),
    }


def plan_table(plan: "Plan", console: Console) -> None:
    """Print the table of `pullback plan`."""
    layout, fit = plan.layout, plan.fit
    seconds = plan.seconds
    requested = plan.job.metric.method
    rows = {
        "sweep": f"{plan.job.name} ({plan.sweep_id})",
        "metric": f"{plan.job.generator.name} under {plan.job.distance.label}",
        **_note_rows(_plan_notes(plan)),
        "method": plan.method if requested == plan.method else f"{plan.method} (chosen by {requested})",
        "samples": f"{layout.samples} codes with n = {layout.latent_dim}, {layout.components} eigenpairs kept of each"
        f"{_part_only(plan)}",
        "shards": f"{layout.shards} of {layout.shard_size} samples",
        "workers": f"{plan.workers} on {plan.device}, each {fit.batch} codes × {fit.tangents} tangents at once",
        "memory": f"about {size(fit.bytes)} a worker beyond the weights, of {size(fit.available)} that it may use",
        "store": f"{plan.place}, up to {size(plan.stored_bytes)}"
        f"{f'; {plan.finished} samples are done' if plan.finished else ''}",
    }
    if seconds is not None and plan.seconds_per_code is not None:
        left = f"about {duration(seconds)}" if seconds else "nothing to do"
        start = ", plus the start of the workers" if seconds else ""
        rows["time"] = f"{left}{start} ({plan.seconds_per_code:.2g} s a sample and worker, measured here)"
    console.print(two_columns(rows))


def _plan_notes(plan: "Plan") -> list[str]:
    """Return how the networks were adapted, and why the first choice of method was not taken."""
    return [*plan.provenance.get("notes", ()), *([plan.strategy.note] if plan.strategy.note else [])]


def _note_rows(notes: Sequence[str]) -> dict[str, str]:
    """Return a row that says how the generator was loaded and adapted; no row if there are no notes."""
    return {"note": "\n".join(notes)} if notes else {}


def _part_only(plan: "Plan") -> str:
    """Return a remark for methods that compute only a part of each metric; else an empty text."""
    from pullback.spec import ITERATIVE_METHODS

    if plan.method not in ITERATIVE_METHODS or plan.layout.components == plan.layout.latent_dim:
        return ""
    return "; the mean metric will be of this part only (gauss_newton and backprop sum whole metrics)"


def sweep_line(plan: "Plan") -> str:
    """Describe a run in one line."""
    layout = plan.layout
    return (
        f"{plan.job.name} ({plan.sweep_id}): {layout.samples} metrics of {escape(plan.job.generator.name)} under "
        f"{escape(plan.job.distance.label)}, {plan.workers} worker{'s' if plan.workers > 1 else ''} on {plan.device}"
        f"{''.join(f' ({escape(note)})' for note in plan.provenance.get('notes', ()))}"
    )


def state_table(state: "SweepState", console: Console) -> None:
    """Print the table of `pullback status`."""
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
            if counts:  # absent at the start, and with `--serial`
                rows[name] = ", ".join(f"{many} {what}" for what, many in counts.items() if many) or "none yet"
    if state.message:
        rows["note"] = state.message
    console.print(two_columns(rows))


def _speed(state: "SweepState", rate: float) -> str:
    if not rate:
        return "no results yet"
    left = f", {duration(state.pending / rate)} left" if state.pending and state.state == "running" else ""
    return f"{rate:.2f} samples/s{left}"


def sweep_table(content: Mapping[str, Any], console: Console) -> None:
    """Print the table of `pullback show`; `content` is a `LocalSweep` as a dictionary."""
    from pullback.analysis.statements import zero_metrics

    samples = content["samples"]
    reasons = ", ".join(
        f"{count} {name.lower().replace('_', ' ')}" for name, count in content["quarantine_reasons"].items()
    )
    rows = {
        "sweep": f"{content['name']} ({content['sweep_id'] or 'without an id'})",
        "path": content["path"],
        "state": content["state"],
        "samples": f"{samples['good']} good of {samples['planned']} planned, {samples['pending']} pending, "
        f"{samples['quarantined']} quarantined{f' ({reasons})' if reasons else ''}",
        **({"zero metrics": zero[0]} if (zero := zero_metrics(content["zero_metrics"])) else {}),
        "generator": content["generator"],
        **_note_rows(content["notes"]),
        "distance": content["distance"],
        "latent size": f"{content['latent_dim']}, {content['components']} eigenpairs kept{_share(content)}",
        "snapshot": content["snapshot"],
        "created": f"{content['created'] or 'unknown'} with {_pairs(content['versions'])}",
        "weights": "\n".join(f"{name}: {digest}" for name, digest in content["weights"].items()),
        **_inputs_rows(content["inputs"]),
        "spec": "\n".join(
            f"{key}: {_pairs(value) if isinstance(value, dict) else value}" for key, value in content["spec"].items()
        ),
    }
    console.print(two_columns({name: text for name, text in rows.items() if text is not None}))


def _share(content: Mapping[str, Any]) -> str:
    """Return the share of the trace that the kept eigenpairs carry; empty if all are kept."""
    if content["components"] == content["latent_dim"] or not content["samples"]["good"]:
        return ""
    from pullback.analysis.statements import percent

    about = "" if content["whole_metrics"] else "about "
    return f", which carry {about}{percent(content['trace_share'])} of the trace of the good samples"


def _inputs_rows(inputs: Mapping[str, Any]) -> dict[str, str]:
    """Return rows of the user's own source files and data files, with their hashes."""
    titles = {"sources": "own sources", "opened": "files read", "read": "read in each pass"}
    return {
        title: "\n".join(f"{name}: {digest}" for name, digest in inputs[key].items())
        for key, title in titles.items()
        if isinstance(inputs.get(key), dict) and inputs[key]
    }


def sweeps_table(sweeps: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print the table of `pullback ls`."""
    table = table_of("=name", "state", "=generator", "distance", ">n", ">good", ">pending", ">quarantined", "=path")
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
    """Print the table of `pullback tokens list`."""
    table = table_of("=name", "scope", "=created")
    for token in tokens:
        table.add_row(escape(token["name"]), token["scope"], token["created"])
    console.print(table)


def snapshots_table(rows: Sequence[Mapping[str, str]], console: Console) -> None:
    """Print the table of `pullback snapshots`."""
    table = table_of("=snapshot", "=written", "what")
    for row in rows:
        table.add_row(row["id"], row["written"], escape(row["message"]))
    console.print(table)


def generators_table(rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print the table of `pullback generators list`."""
    table = table_of("=name", "what", ">n", ">image", "=weights", "licence", "classes")
    for row in rows:
        weights = "here" if row["here"] else "missing"
        image = f"{row['image_size']} × {row['image_size']}"
        cells = (
            row["name"],
            row["what"],
            str(row["latent_dim"]),
            image,
            weights,
            row["licence"],
            ", ".join(row["classes"]),
        )
        table.add_row(*map(escape, cells))
    console.print(table)


def generator_table(content: Mapping[str, Any], console: Console) -> None:
    """Print the table of `pullback generators show`; `content` comes from `generators.description.described`."""
    rows = {
        "name": content["name"],
        "family": content["family"] or "",
        "options": ", ".join(f"{key} {value}" for key, value in content["options"].items()),
        "space": content["space"] or "",
        "latent size": str(content["latent_dim"]),
        "image": " × ".join(map(str, content["image"][1:])) + (", grey" if content["image"][0] == 1 else ""),
        "classes": enumerated(content["classes"], 12),
        "blocks": ", ".join(f"{name} {start}:{stop}" for name, (start, stop) in content["blocks"].items()),
        "weights": "\n".join(f"{name}: {digest}" for name, digest in content["weights"].items()),
        "networks": "\n".join(content["networks"]),
        **_note_rows(content["notes"]),
    }
    console.print(two_columns({key: value for key, value in rows.items() if value}))


def doctor_table(content: Mapping[str, Any], console: Console) -> None:
    """Print the table of `pullback generators doctor`; `content` comes from `bench.doctor.diagnose`."""
    cost = content["metric"] or {}
    costs = {
        f"metric, {label}": f"{_number(cost[f'{kind}_seconds'])} s, {size(cost[f'{kind}_bytes'])} ({cost['distance']})"
        for kind, label in (("dense", "whole"), ("topk", f"top {cost.get('components')}"))
        if cost.get(f"{kind}_seconds") is not None
    }
    rows = {
        "name": content["name"],
        "family": content["family"] or "",
        "options": ", ".join(f"{key} {value}" for key, value in content["options"].items()),
        "space": content["space"] or "",
        "latent size": str(content["latent_dim"]),
        "blocks": enumerated([f"{name} {a}:{b}" for name, (a, b) in content["blocks"].items()], 8),
        "classes": enumerated(content["classes"], 12),
        "image": " × ".join(map(str, content["image"] or [])),
        "parameters": f"{content['parameters']:,}",
        "fast path": "yes" if content["fast_path"] else f"no: {enumerated(content['fallbacks'], 6)}",
        "one image": f"{_number(content['seconds_per_forward'])} s" if content["seconds_per_forward"] else "",
        **costs,
        "metric": f"cannot be computed: {cost['problem']}" if cost.get("problem") else "",
        **_note_rows(content["notes"]),
    }
    console.print(two_columns({key: value for key, value in rows.items() if value}))
    table = table_of("=check", "", ">value", ">limit", "what it measures")
    for name, check in content["checks"].items():
        value = "" if check["value"] is None else _number(check["value"])
        mark = "ok" if check["passed"] else "FAILED"
        table.add_row(*map(escape, (name, mark, value, _number(check["limit"]), check["detail"])))
    console.print(table)


def weights_table(rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print the table of `pullback weights list`."""
    table = table_of("=name", "what", "licence", "=where")
    for row in rows:
        table.add_row(*map(escape, (row["name"], row["what"], row["licence"], row["path"] or "missing")))
    console.print(table)


def _number(value: float) -> str:
    return f"{value:.3g}"


def size(count: float) -> str:
    """Format bytes: `12.3 MiB`."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"


def _pairs(content: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in content.items() if value is not None)


def table_of(*columns: str, title: str | None = None) -> Columns:
    """Return a plain table. A heading with `>` marks a column of numbers, one with `=` a column of names."""
    return Columns(columns, title)


def two_columns(rows: Mapping[str, str]) -> Pairs:
    """Return a table of names and values."""
    return Pairs(rows)
