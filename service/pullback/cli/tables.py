"""Tables for terminals of any width. Cells fold between words; if a table is still too wide, each row becomes a block.

Names, paths and numbers are never folded.
"""

from collections.abc import Iterator, Mapping, Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.segment import Segment
from rich.text import Text

from pullback.cli.terminal import folded

_GAP = 2
_LEAST = 16
"""Least width of a folded value; a narrower one is printed below its name."""


class Columns:
    """A plain table.

    Args:
        headings: one for each column. `>name` is a column of numbers, aligned to the right; `=name` is one of names or
            paths.
        title: a line above; rich markup.
    """

    def __init__(self, headings: Sequence[str], title: str | None = None) -> None:
        self.title = title
        self._right = [heading.startswith(">") for heading in headings]
        self._whole = [heading.startswith((">", "=")) for heading in headings]
        self._headings = [heading.lstrip(">=") for heading in headings]
        self._rows: list[Sequence[str]] = []

    def add_row(self, *cells: str) -> None:
        """Add a row of cells, in rich markup."""
        self._rows.append(cells)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.title:
            yield from _line(console, [console.render_str(self.title, style="bold")])
        heads = [console.render_str(heading, style="bold") for heading in self._headings]
        rows = [[console.render_str(cell) for cell in row] for row in self._rows]
        widths = self._widths(heads, rows, options.max_width)
        if widths is None:
            for number, row in enumerate(rows):
                if number:
                    yield Segment.line()
                yield from _pairs(console, options.max_width, list(zip(self._headings, row, self._whole, strict=True)))
            return
        foldable = [not whole for whole in self._whole]
        yield from self._row(console, heads, widths, [True] * len(heads))
        for row in rows:
            yield from self._row(console, row, widths, foldable)

    def _row(
        self, console: Console, cells: Sequence[Text], widths: Sequence[int], foldable: Sequence[bool]
    ) -> Iterator[Segment]:
        parts = [
            folded(cell, width) if folds else [cell] for cell, width, folds in zip(cells, widths, foldable, strict=True)
        ]
        for at in range(max(map(len, parts))):
            lines = [part[at] if at < len(part) else Text() for part in parts]
            yield from _line(console, list(map(_aligned, lines, widths, self._right)))

    def _widths(self, heads: Sequence[Text], rows: Sequence[Sequence[Text]], available: int) -> list[int] | None:
        """Return the widths of the columns; None if names and words do not fit."""
        columns = [[row[at] for row in rows] for at in range(len(heads))]
        most = [max(map(_width, [head, *cells])) for head, cells in zip(heads, columns, strict=True)]
        least = [
            max([_longest_word(head), *map(_width if whole else _longest_word, cells)])
            for head, cells, whole in zip(heads, columns, self._whole, strict=True)
        ]
        room = available - _GAP * (len(most) - 1) - sum(least)
        if room < 0:
            return None
        widths = list(least)
        while room > 0 and (wanting := [at for at, wide in enumerate(most) if widths[at] < wide]):
            share = max(1, room // len(wanting))
            for at in wanting:
                more = min(share, most[at] - widths[at], room)
                widths[at] += more
                room -= more
        return widths


class Pairs:
    """Names and values, one pair below the other.

    Args:
        rows: plain text by name; a text may have several lines.
    """

    def __init__(self, rows: Mapping[str, str]) -> None:
        self._rows = rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rows = [(name, console.render_str(escape(text)), False) for name, text in self._rows.items()]
        yield from _pairs(console, options.max_width, rows)


def _pairs(console: Console, available: int, rows: Sequence[tuple[str, Text, bool]]) -> Iterator[Segment]:
    names = [console.render_str(name, style="bold") for name, _, _ in rows]
    indent = max(map(_width, names), default=0) + _GAP
    for name, (_, value, whole) in zip(names, rows, strict=True):
        room = available - indent
        fits = (_width(value) if whole else _longest_word(value)) <= room and (room >= _LEAST or _width(value) <= room)
        if not fits:
            yield from _line(console, [name])
        lines = [value] if whole else folded(value, room if fits else available - _GAP)
        for at, line in enumerate(lines):
            before = _aligned(name if at == 0 else Text(), indent - _GAP, False) if fits else Text()
            yield from _line(console, [before, line])


def _line(console: Console, cells: Sequence[Text]) -> Iterator[Segment]:
    """Render one line of cells, without trailing spaces."""
    line = Text(" " * _GAP).join(cells)
    line.rstrip()
    yield from line.render(console, end="\n")


def _aligned(text: Text, width: int, right: bool) -> Text:
    missing = max(0, width - cell_len(text.plain))
    padded = text.copy()
    padded.pad_left(missing) if right else padded.pad_right(missing)
    return padded


def _width(text: Text) -> int:
    return max(map(cell_len, text.plain.splitlines()), default=0)


def _longest_word(text: Text) -> int:
    return max(map(cell_len, text.plain.split()), default=0)
