"""The summary of a report: a few sentences in plain words that an author can quote, computed from the numbers."""

from typing import Any

from pullback.analysis import Analysis, statements
from pullback.store.reader import Sweep

_SHARE = "0.99"


def summary(sweep: Sweep, analysis: Analysis, control: tuple[str, Analysis] | None = None) -> list[str]:
    """Return the sentences of a summary; each is left out if its numbers do not exist.

    Args:
        sweep: the sweep.
        analysis: its default statistics.
        control: the name of a control sweep, and the same statistics of it.
    """
    return [
        *_directions(sweep, analysis),
        *_axes(analysis),
        *_agreement(analysis),
        *([] if control is None else _control(analysis, *control)),
    ]


def _directions(sweep: Sweep, analysis: Analysis) -> list[str]:
    if "anisotropy" not in analysis:
        return []
    found, dim = analysis["anisotropy"].json, analysis["anisotropy"].json["dim"][_SHARE]
    one = dim["needed"] == 1
    return [
        f"Around a latent code of {sweep.provenance['generator']}, {statements.count(dim, found['ranks'])} of "
        f"{found['latent_dim']} directions {'carries' if one else 'carry'} 99 % of the change of the image, as "
        f"{sweep.provenance['distance']} measures it (mean over {analysis.about.samples} random codes"
        f"{_within(dim['needed_ci95'] if dim['needed'] is not None else None)})."
    ]


def _axes(analysis: Analysis) -> list[str]:
    if "mean_metric" not in analysis:
        return []
    dim = analysis["mean_metric"].json["dim"].get(_SHARE)
    if dim is None:
        return []
    verb = "carries" if dim["needed"] == 1 else "carry"
    return [
        f"These directions differ from code to code; if one fixed set is used for all codes, the axes of the mean "
        f"metric, {statements.count(dim)} {verb} 99 %."
    ]


def _agreement(analysis: Analysis) -> list[str]:
    found = _log(analysis)
    if found is None or found["mean"] is None:
        return []
    axes = analysis["homogeneity"].json.get("random_axes") or {}  # None in results of an earlier version
    random = axes.get("log", {}).get("mean")
    chance = "" if random is None else f", and random directions give {round(random, 2) + 0.0:.2f}"
    return [
        f"The metrics of two codes agree to C_log = {found['mean']:.2f}{_within(found['ci95'], 2)}, the correlation "
        f"between the rates of change along each other's directions; 1 would mean the same directions everywhere"
        f"{chance}."
    ]


def _control(analysis: Analysis, name: str, control: Analysis) -> list[str]:
    parts = []
    if "anisotropy" in control:
        found, dim = control["anisotropy"].json, control["anisotropy"].json["dim"][_SHARE]
        parts.append(f"{statements.count(dim, found['ranks'])} of {found['latent_dim']} directions for 99 %")
    log = _log(control)
    if log is not None and log["mean"] is not None:
        parts.append(f"C_log = {log['mean']:.2f}{_within(log['ci95'], 2)}")
    return [f"For comparison, the control {name} has {' and '.join(parts)}."] if parts else []


def _log(analysis: Analysis) -> dict[str, Any] | None:
    return analysis["homogeneity"].json["log"] if "homogeneity" in analysis else None


def _within(ends: Any, digits: int | None = None) -> str:
    """Return an interval as an insertion; nothing where an end is missing."""
    if ends is None or any(end is None for end in ends):
        return ""
    low, high = (str(end) if digits is None else f"{end:.{digits}f}" for end in ends)
    return f", 95 % interval {low} to {high}" if digits is None else f" (95 % interval {low} to {high})"
