"""The document of `pullback bench search`: what was measured, in plain words, tables and a figure."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

from pullback.analysis.drawing import Figure, draw_band, draw_line, legend_above, new_figure, plain_axes, series
from pullback.bench.search_arms import ARMS
from pullback.bench.search_statistics import Comparison, Outcome, compared
from pullback.errors import PullbackError

REFERENCES = {"pycma": "CMA-ES of pycma", "sphere": "SphereCMA"}
GOAL_RATIO, GOAL_SHARE = 0.75, 0.02
"""The goals: 25 % fewer evaluations than pycma at n = 100, and .02 above SphereCMA's share at n = 4,096."""

_CHANCE = 0.05
_MOST_LINES = 6
_FEWEST = 6
"""Units below which no goal is judged: the signed-rank test of fewer cannot give p < .05."""


def write_document(outcomes: Sequence[Outcome], path: Path, command: str) -> list[Path]:
    """Write the document, and beside it one PNG of each outcome.

    Args:
        outcomes: what was measured.
        path: the Markdown file.
        command: the command that gives it.

    Returns:
        The paths.

    Raises:
        PullbackError: a file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pictures = []
        for found in outcomes:
            picture = path.with_name(f"{path.stem}-{_slug(found)}.png")
            curves_figure(found).savefig(picture, dpi=160, format="png")
            pictures.append(picture)
        path.write_text(document(outcomes, [picture.name for picture in pictures], command), encoding="utf-8")
    except OSError as error:
        raise PullbackError(f"the document cannot be written to {path}: {error.strerror or error}") from error
    return [path, *pictures]


def _slug(found: Outcome) -> str:
    return f"{found.suite.replace(',', '').replace(' ', '-')}-noise-{found.noise:g}"


def document(outcomes: Sequence[Outcome], pictures: Sequence[str], command: str) -> str:
    """Return the document as Markdown."""
    lines = [
        "# Gradient-free search with and without the mean metric",
        "",
        f"Written by `{command}` from its file of rows; the same command with more units or repeats adds rows and "
        f"writes it again. cmaes {_version('cmaes')}, pycma {_version('cma')}, numpy {np.__version__}.",
        "",
        "Every searcher maximises the same black-box score within the same feasible set, ‖z‖ ≤ 1.25 √n (‖z‖ = √n "
        "where the title says `on the sphere`), with the same budget of evaluations, the same streams of normal "
        "numbers, and the same noise. SphereCMA stays on the boundary of the set. The share is a score without noise "
        "divided by the unit's best: the largest possible one where it is known, else the best that any run found. "
        "Differences and ratios are against the reference, paired over units (means over repeats); brackets are 95 % "
        "intervals of a bootstrap over units; p is Wilcoxon's, corrected over arms by Holm, and beside controls that "
        "of a single test. λ^−p scales the first steps along the axes of the mean metric: p > 0 makes steps longer "
        "where the image changes little (Wang & Ponce), p < 0 where it changes much. The first standard deviation of "
        "every CMA-ES is 0.6. It was chosen on units that are not here, numbers 1000 and up, without noise: the best "
        "of 0.3, 0.6 and 1 for pycma on dcgan-faces, and of 0.1, 0.3 and 0.6 for the diagonal CMA-ES in z at n = "
        "4,096. The synthetic generator is a check with a known truth, and the friendliest case for a metric: only "
        "leading axes count, and all codes have the same ones. Its shares are of the largest possible score, and do "
        "not compare with those of Wang & Ponce on FC6 (0.860 for SphereCMA), which are of the best score that any "
        "run found.",
        "",
        "## What it says",
        "",
        *(f"- {sentence}" for found in outcomes for sentence in sentences(found)),
        "",
    ]
    for found, picture in zip(outcomes, pictures, strict=True):
        lines += section(found, picture)
    return "\n".join(lines).rstrip() + "\n"


def _version(name: str) -> str:
    try:
        return version(name)
    except ModuleNotFoundError:
        return "not installed"


def _name(found: Outcome) -> str:
    return f"{found.suite}, noise {found.noise:g}"


def sentences(found: Outcome) -> list[str]:
    """Return what an outcome says about the goals, in words."""
    own = found.arms[found.reference]
    runs = f"{_count(found.repeats, 'run')} each"
    size = f"{_count(len(found.units), 'unit')}, {runs}, {found.budget} evaluations"
    shares = {name: float(arm.last.mean()) for name, arm in found.arms.items()}
    ranked = sorted(shares, key=lambda name: -shares[name])
    listed = ", ".join(f"{ARMS[name].words} {shares[name]:.3f}" for name in ranked[:3])
    statements = [
        f"{_name(found)} ({size}): highest shares in the last generation: {listed}; lowest: {ARMS[ranked[-1]].words} "
        f"{shares[ranked[-1]]:.3f}. {REFERENCES.get(found.reference, found.reference)} has {own.last.mean():.3f}."
    ]
    metric = [name for name in found.comparisons if _by_metric(name)]
    plain = [name for name in found.comparisons if ARMS[name].exponent is None]
    if found.reference == "pycma" and metric:
        best = min(metric, key=lambda name: found.comparisons[name].ratio[0])
        ratio, _, high = found.comparisons[best].ratio
        verdict = _verdict(found, "25 % fewer", ratio <= GOAL_RATIO, found.comparisons[best].ratio_p)
        if ratio <= GOAL_RATIO < high:
            verdict += ", though the interval includes values that miss it"
        statements.append(
            f"{_name(found)}: to 80 % of the best, {ARMS[best].words} takes {_cost(found.comparisons[best])} of "
            f"pycma's evaluations (n = {len(found.units)}): {verdict}. The arm was picked after the fact, among those "
            "with the metric."
        )
        if plain:
            fewest = min(plain, key=lambda name: found.comparisons[name].ratio[0])
            statements.append(
                f"{_name(found)}: of the arms without the metric, {ARMS[fewest].words} takes the fewest, "
                f"{_cost(found.comparisons[fewest])} of pycma's."
            )
        statements += _beside_controls(found, best)
    if found.reference == "sphere" and metric:
        best = max(metric, key=lambda name: found.comparisons[name].difference[0])
        difference, low, high = found.comparisons[best].difference
        p = found.comparisons[best].wilcoxon_p
        verdict = _verdict(found, f"+{GOAL_SHARE}", difference >= GOAL_SHARE, p)
        if low < GOAL_SHARE <= difference:
            verdict += ", though the interval includes values that miss it"
        statements.append(
            f"{_name(found)}: {ARMS[best].words} ends {difference:+.3f}{_ends(low, high, '+')} from SphereCMA's "
            f"share (n = {len(found.units)}, p = {p:.2g}): {verdict}. The arm was picked after the fact, among those "
            "with the metric."
        )
        statements += _beside_controls(found, best)
    losers = [name for name in metric if found.comparisons[name].difference[0] < 0]
    if losers:
        words = ", ".join(f"{ARMS[name].words} ({found.comparisons[name].difference[0]:+.3f})" for name in losers)
        statements.append(f"{_name(found)}: below the reference, though they use the metric: {words}.")
    return statements


def _by_metric(name: str) -> bool:
    """Return whether an arm uses the mean metric."""
    return ARMS[name].exponent is not None and ARMS[name].axes == "mean"


def _controls(found: Outcome, name: str) -> list[str]:
    """Return the arms that are an arm with other axes."""
    same = [(arm.searcher, arm.exponent, arm.share) for arm in ARMS.values()]
    own = (ARMS[name].searcher, ARMS[name].exponent, ARMS[name].share)
    found_here = [each for each, other in zip(ARMS, same, strict=True) if other == own and each in found.arms]
    return [each for each in found_here if ARMS[each].axes != "mean"]


def _beside_controls(found: Outcome, best: str) -> list[str]:
    """Return how an arm does beside the same arm with a random basis, and with the axes of shuffled weights."""
    own, statements = ARMS[best], []
    for name in _controls(found, best):
        other = ARMS[name]
        beside = compared(found.arms[best], found.arms[name])
        value, low, high = beside.difference
        reached = found.arms[best].reached.any() or found.arms[name].reached.any()
        cost = f", and to 80 % of the best it takes {_cost(beside)} of its evaluations" if reached else ""
        where = "a random basis of the same spectrum" if other.axes == "random" else "the axes of shuffled weights"
        statements.append(
            f"{_name(found)}: beside the same searcher with {where}, {own.words} ends {value:+.3f}"
            f"{_ends(low, high, '+')} (p = {beside.wilcoxon_p:.2g}){cost}."
        )
    return statements


def _cost(found: Comparison) -> str:
    """Return a ratio of evaluations with its interval and p."""
    ratio, low, high = found.ratio
    return f"{ratio:.2f}{_ends(low, high)} (p = {found.ratio_p:.2g})"


def _verdict(found: Outcome, goal: str, reached: bool, p: float) -> str:
    if len(found.units) < _FEWEST:
        return f"{_count(len(found.units), 'unit')} cannot judge the goal of {goal}"
    if reached and p >= _CHANCE:
        return f"the estimate is at the goal of {goal}, but chance is not excluded"
    return f"the goal of {goal} is {'' if reached else 'not '}reached"


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _ends(low: float, high: float, sign: str = "") -> str:
    """Return an interval in brackets; nothing if there is none, as with one unit."""
    digits = 3 if sign else 2
    return f" [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]" if np.isfinite([low, high]).all() else ""


def section(found: Outcome, picture: str) -> list[str]:
    """Return the tables and the figure of one outcome."""
    rows = []
    for name in sorted(found.arms, key=lambda name: -float(found.arms[name].last.mean())):
        arm, beside = found.arms[name], found.comparisons.get(name)
        rows.append(
            f"| {ARMS[name].words} | {arm.last.mean():.3f} | {_difference(beside)} | {arm.best.mean():.3f} | "
            f"{arm.area.mean():.3f} | {arm.evaluations.mean():.0f} | {arm.reached.mean():.0%} | {_ratio(beside)} | "
            f"{arm.seconds.mean():.2g} |"
        )
    truth = "known in closed form" if found.known else "the best of any run"
    reference = REFERENCES.get(found.reference, found.reference)
    return [
        f"## {_name(found)}",
        "",
        f"{_count(len(found.units), 'unit')} ({', '.join(found.units)}), {_count(found.repeats, 'run')} of each arm, "
        f"{found.budget} evaluations; the unit's best score is {truth}; the reference is {reference}.",
        "",
        "| arm | share, last generation | difference | share, best | area | evaluations to 80 % | reached | "
        "evaluations ÷ reference | CPU s |",
        "|---|---|---|---|---|---|---|---|---|",
        *rows,
        "",
        f"![Best score so far by evaluations]({picture})",
        "",
    ]


def _difference(found: Comparison | None) -> str:
    if found is None:
        return "–"
    value, low, high = found.difference
    return f"{value:+.3f}{_ends(low, high, '+')}, p {found.wilcoxon_p:.2g}"


def _ratio(found: Comparison | None) -> str:
    if found is None:
        return "1"
    value, low, high = found.ratio
    return f"{value:.2f}{_ends(low, high)}, p {found.ratio_p:.2g}"


def curves_figure(found: Outcome) -> Figure:
    """Draw the best score so far as a share by evaluations: means over units, and their standard errors."""
    drawn = new_figure(f"search-{_slug(found)}", height=3.0)
    axes = plain_axes(drawn, x="evaluations", y="best score so far (share)")
    ranked = sorted(found.arms, key=lambda name: -float(found.arms[name].area.mean()))
    controls = [each for name in ranked if _by_metric(name) for each in _controls(found, name)][:1]
    others = [name for name in ranked if name not in (found.reference, "random", *controls)]
    last = [*controls, found.reference, "random"]
    shown = [*others[: _MOST_LINES - len(last)], *last]
    for place, name in enumerate(name for name in dict.fromkeys(shown) if name in found.arms):
        curve = found.arms[name].curve
        mean, error = curve.mean(axis=0), curve.std(axis=0, ddof=min(1, len(curve) - 1)) / np.sqrt(len(curve))
        draw_band(axes, found.grid, mean - error, mean + error, series(place))
        draw_line(axes, found.grid, mean, series(place), ARMS[name].words, marked=False)
    legend_above(axes, 1)
    return drawn
