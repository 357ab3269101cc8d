"""The report of a sweep: one HTML file that needs nothing else, with figures, numbers and where they come from.

Leaves to others: the statistics (`analysis`), drawing (`figures`), and the images along axes (`strips`).
"""

import os
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import yaml

from pullback.analysis import Analysis
from pullback.errors import PullbackError
from pullback.metric.certificate import limits_of
from pullback.report import figures
from pullback.report.strips import Strips, walk
from pullback.store.reader import Sweep


def write_report(sweep: Sweep, analysis: Analysis, target: Path) -> str | None:
    """Write a sweep's report.

    Args:
        sweep: the sweep.
        analysis: its analysis, of the same snapshot.
        target: the HTML file; written whole or not at all.

    Returns:
        Why the report has no image strips, or None where it has them.

    Raises:
        PullbackError: the file cannot be written.
    """
    strips, reason = None, None
    try:
        strips = walk(sweep, analysis)
    except PullbackError as error:  # a report made where the weights are not is still worth having
        reason = str(error)
    except Exception as error:  # so is one of a user's generator that fails far out along an axis
        reason = f"the generator failed along an axis: {type(error).__name__}: {error}"
    html = render(sweep, analysis, strips, reason)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        partial.write_text(html, encoding="utf-8")
        partial.replace(target)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise PullbackError(
            f"the report cannot be written to {target}: {error.strerror}; choose another --out"
        ) from error
    return reason


def render(sweep: Sweep, analysis: Analysis, strips: Strips | None, no_strips: str | None = None) -> str:
    """The report as HTML text; `strips` None leaves the images out, for the reason given."""
    content = analysis.to_json()
    limits = limits_of(sweep.provenance["method"], sweep.provenance["spec"]["metric"]["precision"])
    certificate = [
        {"label": figures.CERTIFICATE_LABELS[name], "limit": limit, **content["certificate"][name]}
        for name, limit in limits.items()
    ]
    checked = {name: analysis.certificate[name] for name in (*limits, "trace_share")}
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["short"] = _short
    environment.filters["fixed"] = lambda value: "–" if value is None else f"{value:.3f}"
    template = environment.from_string(files("pullback.report").joinpath("report.html").read_text(encoding="utf-8"))
    return template.render(
        sweep=sweep,
        provenance=sweep.provenance,
        status=sweep.status(),
        reasons=sweep.reasons(),
        spec=yaml.safe_dump(sweep.provenance["spec"], sort_keys=False, allow_unicode=True),
        content=content,
        certificate=certificate,
        strips=_strips_section(strips) if strips is not None else None,
        no_strips=no_strips,
        pictures={
            "spectrum": figures.to_data_uri(figures.spectrum_figure(analysis)),
            "cumulative": figures.to_data_uri(figures.cumulative_figure(analysis)),
            "homogeneity": figures.to_data_uri(figures.homogeneity_figure(analysis)),
            "certificate": figures.to_data_uri(figures.certificate_figure(checked, limits)),
        },
    )


def _strips_section(strips: Strips) -> dict[str, Any]:
    figure = figures.axes_figure(
        strips.images,
        [f"axis {rank + 1}  λ = {value:.2g}" for rank, value in zip(strips.ranks, strips.eigenvalues, strict=True)],
        [f"{step:+.1f}" if abs(step) > 1e-9 else "0" for step in strips.steps],
        strips.titles,
        strips.distances,
    )
    change = strips.change_at_the_ends
    return {
        "picture": figures.to_data_uri(figure),
        "reach": float(strips.steps[-1]),
        "distance": strips.distance,
        "first": float(change[0]),
        "last": float(change[-1]),
        "last_axis": strips.ranks[-1] + 1,
        "ratio": float(change[0] / change[-1]) if change[-1] > 0 else float(np.inf),
    }


def _short(value: float | int | None) -> str:
    return "–" if value is None else f"{value:d}" if isinstance(value, int) else f"{value:.3g}"
