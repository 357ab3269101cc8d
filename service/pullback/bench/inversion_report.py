"""The result document of the benchmark of inversion: one Markdown file with figures, written from the rows."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pullback.analysis.side_by_side import holm
from pullback.bench.inversion_goals import FEW, goals
from pullback.bench.inversion_settings import ARMS, SUITES, THRESHOLDS, InversionBench
from pullback.bench.inversion_statistics import (
    MATCHED,
    RECOVERED,
    Outcome,
    compare,
    complete_targets,
    expected_work,
    outcome,
    reached_at,
    wilson,
)
from pullback.bench.inversion_tuning import best_configuration
from pullback.errors import PullbackError

REFERENCE = {"S1": "adam", "S2b": "adam", "S3": "adam", "S4": "lbfgs"}
"""The arm that the others are compared with; the first arm if it is missing."""
_TITLES = {
    "S1": "S1: own samples",
    "S2b": "S2b: own samples of unknown class",
    "S3": "S3: images out of range",
    "S4": "S4: own samples with a start near the target (D² = 0.05 and 0.2)",
}
_LOCAL = (1e-4, 1e-8)
"""Values of f to which the work is told on S4."""

_COLOURS = 6
"""Series of figures that differ in colour."""

Rows = Sequence[Mapping[str, Any]]


def write_report(runs: Sequence[InversionBench], rows: Rows, n: int, path: Path) -> list[Path]:
    """Write the document and its figures beside it; return the files.

    Args:
        runs: settings of the runs that made the rows; they differ in suites, arms and targets.
        rows: from `read_rows`.
        n: size of a code.
        path: the Markdown file.

    Raises:
        PullbackError: no target is complete, or a file cannot be written.
    """
    parts, files = [_head(runs, rows)], [path]
    for suite in SUITES:
        arms = [arm for arm in ARMS if any(row["suite"] == suite and row["arm"] == arm for row in rows)]
        targets = complete_targets(rows, suite, arms) if arms else []
        if not targets:
            continue
        found = [outcome(rows, suite, arm, targets, n) for arm in arms]
        parts.append(_section(suite, found, rows, targets))
        drawn = _ecdf(suite, arms, rows, targets)
        image = path.with_name(f"{path.stem}-{suite}.png")
        parts.append(
            f"![Share of the pairs of a target and a threshold of f that each arm has reached, against work and time]"
            f"({image.name})\n\n*Share of all pairs of a target and a threshold of f ({_thresholds()}) that each arm "
            f"has reached, against the work and against the CPU seconds. Controls are grey.*"
        )
        files.append(image)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            drawn.savefig(image, dpi=200)
        except OSError as error:
            raise PullbackError(f"{image} cannot be written: {error.strerror or error}. The rows are kept") from error
    if len(parts) == 1:
        raise PullbackError("no target of the benchmark is finished by every arm yet; run it on, its rows are kept")
    judged = goals(rows, n, runs[-1].seconds)
    parts.insert(1, "\n".join(["## Goals", "", *(each.line for each in judged)]))
    try:
        path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    except OSError as error:
        raise PullbackError(f"{path} cannot be written: {error.strerror or error}. The rows are kept") from error
    return files


def _thresholds() -> str:
    return f"{max(THRESHOLDS):g} to {min(THRESHOLDS):g}"


def _head(runs: Sequence[InversionBench], rows: Rows) -> str:
    settings = runs[-1]
    seconds = sum(row["seconds"] for row in rows)
    arms = {name: None for run in runs for name in run.arms}
    tuned = [arm for arm in arms if any(row["suite"] == "tuning" and row["arm"] == arm for row in rows)]
    chosen = "; ".join(f"{ARMS[arm].label}: {_in_words(best_configuration(rows, arm))}" for arm in tuned)
    tuning = (
        f"Tuned on {settings.tuning} other targets, by the mean rank of f: {chosen}. The other arms have their default "
        "settings."
        if tuned
        else "No arm was tuned: all have their default settings, and Adam a first rate of 0.05 with a cosine schedule."
    )
    limits = f"{settings.budget:g} forward equivalents ({settings.local_budget:g} on S4)"
    if settings.seconds is not None:
        bound = max((row["work"] for row in rows), default=0.0) >= min(settings.budget, settings.local_budget)
        limits = f"{settings.seconds:g} CPU seconds" + (f" and {limits}" if bound else "")
    starts = [row["start_seconds"] for row in rows if row.get("start_seconds")]
    cost = f" They take {np.median(starts):.2g} CPU seconds a target, which is not counted." if starts else ""
    commands = "\n".join(_command(run) for run in runs)
    text = (
        f"Written by `pullback bench inversion` from {len(rows)} rows, which took {seconds:.0f} CPU seconds with one "
        f"thread. The objective f is {settings.distance} + 10 · MSE (+ prior). A target has at most {limits}. The work "
        "is counted in forward equivalents: 1 for an image, 3 for a gradient, 1 for a column of a Jacobian. All arms "
        "have the same starts for a target: a ridge regression on own samples, the nearest one"
        f"{f', and {settings.random} random ones' if settings.random else ''}.{cost} The mean metric is that of "
        f"{settings.metric_samples} own samples under {settings.distance}. {tuning}"
    )
    text += _speed(rows)
    filled = textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)
    return f"# Solvers of inversion on {settings.generator}\n\n{filled}\n\n```sh\n{commands}\n```"


def _speed(rows: Rows) -> str:
    """How fast the machine was, from the rows of arms that do little else; nothing without such rows."""
    parts = []
    for arm, key, words in (
        ("lbfgs", "gradients", "gradient"),
        ("levenberg_marquardt_exact", "columns", "column of a Jacobian"),
    ):
        seconds = [row["seconds"] / row[key] for row in rows if row["suite"] == "S4" and row["arm"] == arm and row[key]]
        if seconds:
            parts.append(f"{1000 * np.median(seconds):.1f} ms for a {words}")
    return f" On this machine, one code takes {' and '.join(parts)} (medians of S4)." if parts else ""


def _in_words(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {value:g}" for key, value in settings.items())


def _command(run: InversionBench) -> str:
    """The command of a run, with the options that are not the defaults."""
    usual = InversionBench()
    parts = [f"pullback bench inversion --generator {run.generator} --suites {','.join(run.suites)}"]
    parts += [f"--arms {','.join(run.arms)} --targets {run.targets}"]
    for name in ("distance", "budget", "local_budget", "seconds", "random", "tuning", "tuned", "tuning_budget"):
        if (value := getattr(run, name)) != getattr(usual, name):
            text = ",".join(value) if isinstance(value, tuple) else f"{value:g}" if name != "distance" else value
            parts.append(f"--{name.replace('_', '-')} {text}")
    if run.metric_samples != usual.metric_samples:
        parts.append(f"--metric-samples {run.metric_samples}")
    return " ".join([*parts, *(["--held-out"] if run.held_out else []), f"--seed {run.seed}"])


def _section(suite: str, found: Sequence[Outcome], rows: Rows, targets: Sequence[int]) -> str:
    names = [each.arm for each in found]
    reference = found[names.index(REFERENCE[suite])] if REFERENCE[suite] in names else found[0]
    others = [each for each in found if each.arm != reference.arm]
    compared = {each.arm: compare(each, reference) for each in others}
    corrected = dict(zip(compared, holm([each.p for each in compared.values()]), strict=True))
    corrected_success = dict(zip(compared, holm([each.p_success for each in compared.values()]), strict=True))
    count = len(targets)
    known = f"D² < {MATCHED:g}" + (f" and code error < {RECOVERED:g}" if suite != "S3" else "")
    lines = [
        f"## {_TITLES[suite]}",
        f"Targets that every arm has finished: {count}. *Recovered*: {known}. Medians over targets; the comparison is "
        f"with {ARMS[reference.arm].label}, paired by target, p-values corrected for {len(others)} arms (Holm).",
    ]
    judged = suite == "S3" and all(np.isfinite(each.held_out).all() for each in found)
    heads = ["arm", "recovered [95 %]", "median D²", "ratio to reference [95 %]", "Wilcoxon p", "McNemar p"]
    heads += ["work", "gradients", "Jacobians", "CPU s", "‖z‖/√n", *(["LPIPS-vgg"] if judged else [])]
    table = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for each in sorted(found, key=lambda one: float(np.median(one.distance))):
        successes = int(each.recovered.sum())
        low, high = wilson(successes, count)
        versus = compared.get(each.arm)
        cells = [
            ARMS[each.arm].label,
            f"{successes} of {count} [{100 * low:.0f}–{100 * high:.0f} %]",
            f"{np.median(each.distance):.2g}",
            "reference"
            if versus is None
            else f"{versus.ratio:.2g} [{versus.ratio_ci95[0]:.2g}–{versus.ratio_ci95[1]:.2g}]",
            "" if versus is None else f"{corrected[each.arm]:.2g}",
            "" if versus is None else f"{corrected_success[each.arm]:.2g}",
            f"{np.median(each.work):.0f}",
            f"{np.median(each.gradients):.0f}",
            f"{np.median(each.jacobians):.1f}",
            f"{np.median(each.seconds):.1f}",
            f"{np.median(each.norm):.2f}",
            *([f"{np.median(each.held_out):.3f}"] if judged else []),
        ]
        table.append(f"| {' | '.join(cells)} |")
    if count < FEW:
        lines.append(
            f"**{count} of at least {FEW} targets: too few to rank the arms.** Read these numbers as a first look."
        )
    lines.append("\n".join(table))
    lines.append(_work_table(suite, found, rows, targets))
    if (timed := _time_table(suite, found, rows, targets)) is not None:
        lines.append(timed)
    return "\n\n".join(lines)


def _work_table(suite: str, found: Sequence[Outcome], rows: Rows, targets: Sequence[int]) -> str:
    """How many targets reach some values of f, and with what work."""
    thresholds = _LOCAL if suite == "S4" else (0.1, 0.02, 1e-3)
    heads = [f"f ≤ {each:g}: reached | expected work | median CPU s" for each in thresholds]
    table = [f"| arm | {' | '.join(heads)} |", "|---" * (1 + 3 * len(thresholds)) + "|"]
    for each in found:
        cells = [ARMS[each.arm].label]
        for threshold in thresholds:
            seconds = reached_at(rows, suite, each.arm, targets, threshold, 2)
            work = expected_work(rows, suite, each.arm, targets, threshold)
            done = np.isfinite(seconds)
            cells += [
                f"{int(done.sum())} of {len(targets)}",
                f"{work:.0f}" if np.isfinite(work) else "–",
                f"{np.median(seconds[done]):.1f}" if done.any() else "–",
            ]
        table.append(f"| {' | '.join(cells)} |")
    return (
        "Work until the objective f first is at a value: targets that reach it, the expected work (all work spent over "
        "the successes), and the CPU seconds of those that reach it.\n\n" + "\n".join(table)
    )


def _time_table(suite: str, found: Sequence[Outcome], rows: Rows, targets: Sequence[int]) -> str | None:
    """The median f of each arm at some CPU seconds; None if the rows do not say it."""
    medians: dict[str, dict[float, float]] = {}
    for each in found:
        held: dict[float, list[float]] = {}
        for row in rows:
            if row["suite"] == suite and row["arm"] == each.arm and row["target"] in targets:
                for second, value in row.get("at_seconds", []):
                    held.setdefault(second, []).append(value)
        medians[each.arm] = {key: float(np.median(values)) for key, values in held.items() if len(values) == each.count}
    seconds = sorted({second for each in medians.values() for second in each})
    if not seconds:
        return None
    table = [
        f"| arm | {' | '.join(f'f at {second:g} s' for second in seconds)} |",
        "|---" * (1 + len(seconds)) + "|",
    ]
    for each in found:
        values = [medians[each.arm].get(second) for second in seconds]
        cells = ["–" if value is None else f"{value:.2g}" for value in values]
        table.append(f"| {' | '.join([ARMS[each.arm].label, *cells])} |")
    note = "" if suite == "S4" else " The prior is part of f while an arm has it: it adds about 0.01."
    return f"Best f after some CPU seconds, median over targets.{note}\n\n" + "\n".join(table)


def _ecdf(suite: str, arms: Sequence[str], rows: Rows, targets: Sequence[int]) -> Any:
    from pullback.analysis.drawing import PAGE, draw_line, legend_above, log_axis, new_figure, plain_axes

    drawn = new_figure(f"inversion-{suite.lower()}", width=PAGE, height=3.0 + 0.15 * len(arms))
    panels = (("work", "work (forward equivalents)", 1), ("seconds", "CPU seconds", 2))
    for panel, (key, label, column) in enumerate(panels):
        axes = plain_axes(drawn, 121 + panel, x=label, y="share reached" if panel == 0 else "")
        for place, arm in enumerate(arms):
            times = np.concatenate([reached_at(rows, suite, arm, targets, each, column) for each in THRESHOLDS])
            done = np.sort(times[np.isfinite(times)])
            ends = [row[key] for row in rows if row["suite"] == suite and row["arm"] == arm]
            least = 1.0 if key == "work" else 0.05
            steps = np.concatenate([[least], np.maximum(done, least), [max(ends, default=least)]])
            shares = np.concatenate([[0.0], np.arange(1, len(done) + 1), [len(done)]]) / len(times)
            draw_line(axes, steps, shares, _style(place, arm), ARMS[arm].label, marked=False, drawstyle="steps-post")
        axes.set_xscale("log")
        log_axis(axes.xaxis, plain=True)
        axes.set_ylim(0, 1)
        if panel == 0:
            legend_above(axes, columns=2)
    return drawn


def _style(place: int, arm: str) -> Any:
    """The style of an arm: thin and grey for a control; of other arms no two are alike."""
    from pullback.analysis.drawing import CONTROL, series

    if ARMS[arm].metric in ("random", "shuffled"):
        return CONTROL.lighter()
    style = series(place)
    return replace(style, dashes=series(place + 2).dashes) if place >= _COLOURS else style
