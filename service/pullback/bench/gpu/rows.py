"""The rows of the GPU check's table. Each is written immediately, so none is lost if a part's process is killed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HEADINGS = ("part", "what", "value", "unit", "goal", "note")


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        part: the part that measured the row.
        what: the quantity.
        value: the number; None if it could not be measured. The note then gives the reason.
        unit: unit of the number; "" for a plain ratio.
        at_least: goal for a quantity that should be large; None for no goal.
        at_most: goal for a quantity that should be small; None for no goal.
        note: information that a reader needs to interpret the number.
    """

    part: str
    what: str
    value: float | None
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""

    @property
    def goal(self) -> str:
        """The goal and whether it is met, as `>= 30: met`; empty without a goal."""
        sign, goal = ("<=", self.at_most) if self.at_least is None else (">=", self.at_least)
        if goal is None:
            return ""
        if self.value is None:
            return f"{sign} {goal:g}"
        met = self.value <= goal if self.at_least is None else self.value >= goal
        return f"{sign} {goal:g}: {'met' if met else 'missed'}"

    def cells(self) -> tuple[str, ...]:
        """The row as text, in the order of `HEADINGS`."""
        value = "–" if self.value is None else f"{self.value:.4g}"
        return self.part, self.what, value, self.unit, self.goal, self.note


class RowFile:
    """A file to which a part writes its rows. Each row is one line of JSON and is flushed at once.

    Args:
        path: the file.
        part: the part's name, set in each row.
    """

    def __init__(self, path: Path, part: str) -> None:
        self._path, self._part = path, part

    def add(self, what: str, value: float | None, unit: str = "", **more: Any) -> None:
        """Write a row. `more` holds further fields of `Row`."""
        finite = None if value is None or value != value or abs(value) == float("inf") else float(value)
        row = Row(self._part, what, finite, unit, **more)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(row)) + "\n")


def read_rows(path: Path) -> list[Row]:
    """Read the complete rows of a file. An incomplete last line is ignored."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(Row(**json.loads(line)))
        except (json.JSONDecodeError, TypeError):
            continue
    return rows


def markdown(rows: Sequence[Row], facts: Mapping[str, Any]) -> str:
    """Format the table as a Markdown page, with the facts about the device."""
    lines = ["# GPU check", ""]
    lines += [f"- {name}: {value}" for name, value in facts.items()]
    lines += ["", f"| {' | '.join(HEADINGS)} |", f"|{'---|' * len(HEADINGS)}"]
    lines += [f"| {' | '.join(cell.replace('|', '/') for cell in row.cells())} |" for row in rows]
    return "\n".join(lines) + "\n"


def plain_table(rows: Sequence[Row]) -> str:
    """Format the table as plain text, for a log."""
    cells = [HEADINGS, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADINGS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
    return "\n".join(line.rstrip() for line in lines)
