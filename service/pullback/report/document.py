"""The report of a sweep: one self-contained HTML file with figures, numbers and their provenance.

Each result of the analysis makes a section of its own from its tables, figures and notes. Every sentence is computed
from the numbers at hand; none states what only holds for most sweeps.
"""

import html
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import yaml

from pullback.analysis import Analysis, statements
from pullback.applications.results import load_results
from pullback.atomic_files import replace_file
from pullback.citation import bibtex
from pullback.errors import PullbackError
from pullback.report import figures
from pullback.report.glossary import terms_in
from pullback.report.sections import Control, Sections, or_nothing
from pullback.report.strip_figure import distance_text
from pullback.report.strips import Strips, image_strips
from pullback.report.summary import summary
from pullback.report.sweep_figures import named
from pullback.store.reader import Sweep

MARKER = "pullback report 2"
"""Part of every report. A report without it was drawn by a version that took truncated metrics for whole ones."""


def write_report(sweep: Sweep, analysis: Analysis, target: Path, control: Control | None = None) -> str | None:
    """Write a sweep's report.

    Args:
        sweep: the sweep.
        analysis: its analysis at the same snapshot, with the mean metric.
        target: the HTML file; written whole or not at all.
        control: a control sweep, whose numbers stand beside.

    Returns:
        The reason why the report has no image strips, or None where it has them.

    Raises:
        PullbackError: the file cannot be written.
    """
    strips, reason = None, None
    try:
        strips = image_strips(sweep, analysis["mean_metric"].value)
    except PullbackError as error:  # without the weights, a report without images is still useful
        reason = str(error)
    except Exception as error:  # a user's generator may fail far out along an axis
        reason = f"the generator failed along an axis: {type(error).__name__}: {error}"
    page = render(sweep, analysis, strips, reason, control)
    try:
        replace_file(target, page, durable=True)
    except OSError as error:
        raise PullbackError(
            f"the report cannot be written to {target}: {error.strerror}; choose another --out"
        ) from error
    return reason


def render(
    sweep: Sweep,
    analysis: Analysis,
    strips: Strips | None,
    no_strips: str | None = None,
    control: Control | None = None,
) -> str:
    """Return the report as HTML.

    Args:
        sweep: the sweep.
        analysis: its analysis.
        strips: image strips; None leaves the images out.
        no_strips: the reason for that.
        control: a control sweep, whose numbers stand beside.
    """
    entries = [] if control is None else named([(sweep, analysis), (control.sweep, control.analysis)])
    sections = Sections(sweep.name, entries)
    shown_strips = _strips_section(strips, analysis, sections.next_figure(), sweep.name) if strips is not None else None
    content = {
        "marker": MARKER,
        "sweep": sweep,
        "provenance": sweep.provenance,
        "status": sweep.status(),
        "reasons": sweep.reasons(),
        "spec": yaml.safe_dump(sweep.provenance["spec"], sort_keys=False, allow_unicode=True),
        "summary": summary(sweep, analysis, None if control is None else (entries[-1].name, control.analysis)),
        "control": control,
        "cautions": [sentence for result in analysis.values() for sentence in or_nothing(result.cautions)],
        "zero_metrics": statements.zero_metrics(analysis.about.zero_metrics),
        "strips": shown_strips,
        "no_strips": no_strips,
        "sections": [sections.of(result) for result in (*analysis.values(), *load_results(sweep.path, sweep.snapshot))],
        "citations": bibtex(),
        "glossary": {},
    }
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(files("pullback.report").joinpath("report.html").read_text(encoding="utf-8"))
    page = template.render(content)
    return template.render({**content, "glossary": terms_in(_text_of(page))})


def _text_of(page: str) -> str:
    """Return the words that a reader sees."""
    body = re.sub(r"<(style|pre)>.*?</\1>", " ", page, flags=re.DOTALL)
    return html.unescape(re.sub(r"<[^>]+>", " ", body))


def _strips_section(strips: Strips, analysis: Analysis, number: int, name: str) -> dict[str, Any]:
    """Return what the template shows of image strips."""
    mean = analysis["mean_metric"].json
    whole = mean["of"] == "whole metrics"
    share = "" if whole else f" of the kept part ({statements.percent(mean['trace_share'])} of the trace)"
    codes, rows = len(strips.titles), len(strips.ranks)
    tables, _ = figures.table_files([strips.table()], f"{name}-figure-{number}-strips")
    return {
        "number": number,
        "files": tables,
        "steps": strips.step_labels,
        "codes": [
            {
                "title": title,
                "rows": [
                    {
                        "label": label,
                        "ends": [distance_text(strips.distances[code, row, end]) for end in (0, -1)],
                        "picture": figures.strip_picture(strips.images[code, row]),
                    }
                    for row, label in enumerate(strips.row_labels)
                ],
            }
            for code, title in enumerate(strips.titles)
        ],
        "text": [
            f"Each row moves {codes} code{'' if codes == 1 else 's'} along one eigenvector of the mean metric{share}, "
            f"all rows by the same steps t, up to ±{strips.steps[-1]:.3g} latent units.",
            *_changes(strips),
        ],
        "caption": [
            f"Images along ax{'is' if rows == 1 else 'es'} {statements.numbers([rank + 1 for rank in strips.ranks])} "
            f"of {len(mean['eigenvalues'])}, for steps t from {strips.step_labels[0]} to {strips.step_labels[-1]}; "
            "the unmoved image is in the middle. λ is the eigenvalue of the axis in the mean metric"
            f"{share}: the squared rate of image change along it{'' if whole else ', or a lower bound,'} averaged over "
            "all samples. D² is the squared distance of the images at both ends to the unmoved one. The sign of an "
            "axis, and so which end is +, is arbitrary.",
            *_saturation(strips, whole),
        ],
    }


def _changes(strips: Strips) -> list[str]:
    """State how much the image changes along the first and the last axis."""
    first, last = strips.change_at_the_ends[[0, -1]].tolist()
    if len(strips.ranks) == 1:
        return [f"At the ends of the axis the image has changed by {_amount(first)} in {strips.distance}."]
    sentence = (
        f"At the ends of axis {strips.ranks[0] + 1} the image has changed by {_amount(first)} in {strips.distance}, at "
        f"those of axis {strips.ranks[-1] + 1} by {_amount(last)}"
    )
    if not (np.isfinite([first, last]).all() and first > 0 and last > 0):
        return [f"{sentence}."]
    return [f"{sentence}: {_times(first, last)}."]


def _saturation(strips: Strips, whole: bool) -> list[str]:
    """Compare the change that small steps predict at the ends of the first axis with the measured one."""
    expected = float(strips.eigenvalues[0] * strips.steps[-1] ** 2 / 2)
    found = float(strips.change_at_the_ends[0])
    if not (np.isfinite(found) and expected > 0):
        return []
    return [
        f"For small steps the mean change is ½λt²{'' if whole else ' or more'}; at the ends of axis "
        f"{strips.ranks[0] + 1} that would be {expected:.3g}, and {found:.3g} is measured for the codes shown."
    ]


def _times(first: float, last: float) -> str:
    """State how much smaller or larger the last change is than the first."""
    ratio = first / last
    word = "less" if ratio >= 1 else "more"
    ratio = max(ratio, 1 / ratio)
    if ratio < 1.05:
        return "about as much"
    return f"{ratio:.0f} times {word}" if ratio >= 9.5 else f"{ratio:.2g} times {word}"


def _amount(value: float) -> str:
    return f"{value:.3g}" if np.isfinite(value) else "an amount that is not finite"
