"""Sections of a report: what the template shows of one result, with its numbered figures, and its control beside it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from pullback.analysis import Analysis, Result, Table
from pullback.analysis.drawing import Figure
from pullback.errors import PluginError
from pullback.report import figures
from pullback.report.figures import Embedded
from pullback.report.sweep_figures import SWEEP_FIGURES, Named
from pullback.store.reader import Sweep


@dataclass(frozen=True)
class Control:
    """A control sweep with its analysis, to stand beside those of the sweep that is reported."""

    sweep: Sweep
    analysis: Analysis


@dataclass(frozen=True)
class ShownFigure:
    """A numbered figure of a report."""

    number: int
    caption: str
    shown: Embedded


@dataclass(frozen=True)
class ShownTable:
    """A numbered table of a report; rows of the control are marked."""

    number: int
    title: str
    headings: list[str]
    numeric: list[bool]
    rows: list[tuple[bool, list[str]]]


@dataclass
class Section:
    """What the template shows of a result."""

    title: str
    line: str
    sentences: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    figures: list[ShownFigure] = field(default_factory=list)
    tables: list[ShownTable] = field(default_factory=list)
    problem: str | None = None


class Sections:
    """Makes the sections of one report; figures and tables are numbered through all of them.

    Args:
        name: the sweep's name; files to download are named after it.
        entries: the sweep and its control, as figures show them together; empty without a control.
    """

    def __init__(self, name: str, entries: list[Named] | None = None) -> None:
        self._name = name
        self._entries = entries or []
        self._figures: Iterator[int] = count(1)
        self._tables: Iterator[int] = count(1)

    def next_figure(self) -> int:
        """Return the number of the next figure."""
        return next(self._figures)

    def of(self, result: Result) -> Section:
        """Return the section of a result; a plug-in that fails costs its own section only."""
        section = Section(result.title, result.line)
        control = self._control(result)
        try:
            section.sentences = result.sentences()
            section.notes = result.notes()
            section.tables = self._shown_tables(result, control)
            with result.guard("figure"):
                section.figures = [self._embed(*drawn) for drawn in self._drawn(result, control)]
        except PluginError as error:
            section.problem = str(error)
        return section

    def _control(self, result: Result) -> Result | None:
        """Return the control's result of the same statistic, if both have it."""
        if not self._entries or result.further or type(result) is not Result:
            return None
        return self._entries[-1].analysis.get(result.statistic)

    def _drawn(self, result: Result, control: Result | None) -> Iterator[tuple[str, str, Figure]]:
        """Yield the name, the caption and the drawing of each figure."""
        for caption, drawn in result.figures().items():
            yield _name(result, drawn), caption, drawn
        if control is None:
            return
        together = [
            (name, figure) for name, figure in SWEEP_FIGURES.items() if figure.statistics == (result.statistic,)
        ]
        for name, figure in together:
            for caption, drawn in figure.draw(self._entries).items():
                yield f"{name}-{drawn.get_label()}", caption, drawn
        if not together:
            for caption, drawn in control.figures().items():
                yield (
                    f"control-{_name(control, drawn)}",
                    f"The same of the control, {control.about.name}. {caption}",
                    drawn,
                )

    def _embed(self, name: str, caption: str, drawn: Figure) -> ShownFigure:
        number = self.next_figure()
        return ShownFigure(number, caption, figures.embedded(drawn, f"{self._name}-figure-{number}-{name}"))

    def _shown_tables(self, result: Result, control: Result | None) -> list[ShownTable]:
        own = result.tables()
        others = [] if control is None else control.tables()
        shown = []
        for position, table in enumerate(own):
            beside = others[position] if position < len(others) else None
            rows = [(False, row) for row in table.text()]
            if beside is not None and _alike(table, beside):
                name = self._entries[-1].name
                rows = [row for pair in zip(rows, _marked(beside, name), strict=True) for row in pair]
                beside = None
            shown.append(self._shown(table, result.title, rows))
            if beside is not None:
                shown.append(self._shown(beside, result.title, [(True, row) for row in beside.text()], "Control: "))
        return shown

    def _shown(self, table: Table, section: str, rows: list[tuple[bool, list[str]]], prefix: str = "") -> ShownTable:
        numeric = [column.startswith(">") for column in table.columns]
        title = f"{prefix}{table.title or section}"
        return ShownTable(next(self._tables), title, table.headings, numeric, rows)


def or_nothing(say: Callable[[], list[str]]) -> list[str]:
    """Return sentences of a plug-in; none if it fails."""
    try:
        return say()
    except PluginError:  # its section shows the problem
        return []


def _name(result: Result, drawn: Any) -> str:
    label = str(drawn.get_label())
    return f"{result.statistic}-{label}" if label else result.statistic


def _alike(one: Table, other: Table) -> bool:
    """Return whether the rows of two tables are about the same things."""
    firsts = [[str(row[0]) for row in table.rows] for table in (one, other)]
    return len(one.columns) == len(other.columns) and firsts[0] == firsts[1]


def _marked(table: Table, name: str) -> list[tuple[bool, list[str]]]:
    """Return the rows of the control's table, each named after it."""
    return [(True, [f"{row[0]}, {name}" if row[0] else name, *row[1:]]) for row in table.text()]
