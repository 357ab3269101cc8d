"""Expressions that name axes: ranks, ranges, names, and combinations such as `2*1-0.5*3`.

| text | axes |
|---|---|
| `3` | the axis of rank 3, from 1 |
| `1-6` | ranks 1 to 6 |
| `smile` | the axis of this name in the file of names |
| `tag:mouth` | every named axis with this tag, in the order of the file |
| `2*1-0.5*3`, `smile+0.5*4` | twice axis 1 minus half of axis 3, scaled to unit length |
| `all`, `spectrum` | every axis; up to 24 of them, evenly spaced in the logarithm of the rank |

Commas separate several.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pullback.errors import PullbackError

TAG = "tag:"
"""What a tag begins with."""
SPECTRUM_AXES = 24
"""Axes of `spectrum`, at most."""
_LONGEST = 300
_RANGE = re.compile(r"(\d+)\s*-\s*(\d+)")
_TERM = re.compile(r"\s*([+-]?)\s*(?:(\d+(?:\.\d*)?|\.\d+)\s*\*\s*)?(\d+|[^\W\d][\w .']*)\s*")
_NO_RESULT = "Nothing was computed, and nothing is lost."


@dataclass(frozen=True)
class Expression:
    """A linear combination of axes.

    Attributes:
        text: as the user wrote it, without spaces at its ends.
        terms: factor and rank, from 1, of each term.
        name: the name of the axis, if one was used alone; else empty.
    """

    text: str
    terms: tuple[tuple[float, int], ...]
    name: str = ""

    @property
    def rank(self) -> int | None:
        """The rank, if the expression is a single axis; else None."""
        return self.terms[0][1] if len(self.terms) == 1 and self.terms[0][0] == 1.0 else None


def parse_axes(
    texts: Sequence[str | int],
    count: int,
    names: Mapping[str, str | int] | None = None,
    what: str = "axes",
    tags: Mapping[str, Sequence[str]] | None = None,
) -> list[Expression]:
    """Return the axes that expressions name, in their order.

    Args:
        texts: expressions.
        count: number of axes; ranks run from 1 to it.
        names: the expression of each named axis, in ranks.
        what: the axes in errors, such as "the mean metric's axes".
        tags: the names with each tag.

    Raises:
        PullbackError: a text is no expression, a name or a tag is unknown, a rank is out of range, or a combination is
            zero.
    """
    known = dict(names or {})
    found: list[Expression] = []
    for text in (part.strip() for each in texts for part in str(each).split(",")):
        for one in _tagged(text, tags or {}) if text.startswith(TAG) else (text,):
            found += _parse(one, count, known, what)
    if not found:
        raise PullbackError(f"no axis is named: write ranks such as 1-6. {_NO_RESULT}")
    return found


def _tagged(text: str, tags: Mapping[str, Sequence[str]]) -> Sequence[str]:
    tag = text.removeprefix(TAG).strip()
    if tag not in tags:
        raise PullbackError(f"no axis has the tag {tag!r}; there are {', '.join(tags) or 'no tags'}. {_NO_RESULT}")
    return tags[tag]


def _parse(text: str, count: int, names: Mapping[str, str | int], what: str) -> list[Expression]:
    if len(text) > _LONGEST:
        raise PullbackError(f"an expression of axes has {len(text)} characters, and at most {_LONGEST}. {_NO_RESULT}")
    if text == "all":
        return [_single(rank) for rank in range(1, count + 1)]
    if text == "spectrum":
        ranks = np.unique(np.rint(np.geomspace(1, count, min(count, SPECTRUM_AXES))).astype(int))
        return [_single(int(rank)) for rank in ranks]
    if text in names:
        (one,) = _parse(str(names[text]), count, {}, what)
        return [Expression(text, one.terms, text)]
    if ends := _RANGE.fullmatch(text):
        first, last = int(ends[1]), int(ends[2])
        if first > last:
            raise PullbackError(f"the range of axes {text!r} descends; write {last}-{first}. {_NO_RESULT}")
        return [_single(_within(rank, count, what)) for rank in range(first, min(last, count + 1) + 1)]
    return [Expression(text, _terms(text, count, names, what))]


def _single(rank: int) -> Expression:
    return Expression(str(rank), ((1.0, rank),))


def _terms(text: str, count: int, names: Mapping[str, str | int], what: str) -> tuple[tuple[float, int], ...]:
    totals: dict[int, float] = {}
    place = 0
    while place < len(text):
        term = _TERM.match(text, place)
        if term is None or (place and not term[1]):
            raise PullbackError(
                f"{text!r} names no axis: write a rank (3), a range (1-6), a name, or a combination (2*1-0.5*3). "
                f"{_NO_RESULT}"
            )
        factor = float(term[2] or 1) * (-1 if term[1] == "-" else 1)
        for inner, rank in _reference(term[3].strip(), text, count, names, what):
            totals[rank] = totals.get(rank, 0.0) + factor * inner
        place = term.end()
    terms = tuple((factor, rank) for rank, factor in totals.items() if factor)
    if not terms:
        raise PullbackError(f"the combination of axes {text!r} is zero. {_NO_RESULT}")
    return terms


def _reference(
    text: str, whole: str, count: int, names: Mapping[str, str | int], what: str
) -> tuple[tuple[float, int], ...]:
    if text.isdigit():
        return ((1.0, _within(int(text), count, what)),)
    if text in names:
        return _terms(str(names[text]), count, {}, what)
    close = difflib.get_close_matches(text, list(names), n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"named are {', '.join(names) or 'none'}"
    where = "" if text == whole else f" in {whole!r}"
    raise PullbackError(f"there is no axis {text!r}{where}; {hint}. Ranks and ranges work too, as 1-6. {_NO_RESULT}")


def _within(rank: int, count: int, what: str) -> int:
    if not 1 <= rank <= count:
        raise PullbackError(f"there is no axis {rank}: {what} have ranks 1 to {count}. {_NO_RESULT}")
    return rank
