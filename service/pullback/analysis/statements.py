"""The wording of numbers that several statistics share, and of zero metrics.

Functions take the JSON form of a result, so that the statements follow from the numbers that are stored and sent.
"""

from collections.abc import Mapping, Sequence
from typing import Any

_GROUPS = 12


def zero_metrics(found: Mapping[str, Any]) -> list[str]:
    """Return how many samples have metrics that are exactly zero, and which; nothing where none has."""
    if not found["count"]:
        return []
    one = found["count"] == 1
    counted = [f"{found[status]} {status}" for status in ("good", "quarantined") if found[status]]
    kept = "The good ones are part of every mean." if found["good"] else "None of them is part of any mean."
    have = "sample has a metric that is" if one else "samples have metrics that are"
    return [
        f"{found['count']} {have} exactly zero ({' and '.join(counted)}): sample{'' if one else 's'} "
        f"{numbers(found['samples'])}. The computed derivative of the distance vanishes there. {kept}"
    ]


def count(dim: Mapping[str, Any], kept: int | None = None) -> str:
    """Return a number of ranks or axes as far as it is known: exactly, between two numbers, or at least.

    Args:
        dim: an entry of `anisotropy.dim` or `mean_metric.dim`.
        kept: the ranks that are kept, for counts of ranks.
    """
    if dim["needed"] is not None:
        return str(dim["needed"])
    least, most = dim["at_least"], dim["at_most"]
    if most is not None:
        return f"{least} to {most}"
    if kept is not None and least > kept:
        return f"more than the {kept} kept" + (f" (at least {least})" if least > kept + 1 else "")
    return f"at least {least}"


def interval(ends: Sequence[float | None], digits: int | None) -> str:
    """Return both ends of an interval, or a dash for a missing interval.

    Args:
        ends: lower and upper end.
        digits: after the decimal point; None for three significant ones.
    """
    low, high = ends
    if low is None or high is None:
        return "–"
    return " – ".join(f"{end:.3g}" if digits is None else f"{end:.{digits}f}" for end in (low, high))


def percent(share: float) -> str:
    """Return a share in per cent: three digits, or as many as are needed so that less than 1 is not shown as 100 %."""
    for digits in range(3, 7):
        text = f"{100 * share:.{digits}g}"
        if share >= 1 or float(text) < 100:
            return f"{text} %"
    return "more than 99.999 %"


def numbers(samples: Sequence[int]) -> str:
    """Return ascending sample numbers with runs drawn together, as `0–3, 7`; the first dozen runs."""
    runs: list[list[int]] = []
    for sample in samples:
        if runs and sample == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], sample]
        else:
            runs.append([sample])
    shown = [f"{run[0]}–{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs[:_GROUPS]]
    left = sum(run[-1] - run[0] + 1 for run in runs[_GROUPS:])
    return ", ".join(shown) + (f" and {left} more" if left else "")


def shown_ranks(count: int) -> list[int]:
    """Return the ranks, from 0, that a table shows: the first ones, some of the rest, and the last."""
    wanted = [0, 1, 2, 3, 4, 5, 9, 19, 49, count // 2, 99, 199, 499, 999, count - 1]
    return sorted({rank for rank in wanted if 0 <= rank < count})
