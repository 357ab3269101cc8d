"""Tables of results as CSV files: one file a table, with the numbers unrounded where a table holds numbers."""

import csv
import io
import math
import re
from collections.abc import Mapping
from pathlib import Path

from pullback.analysis.protocol import Result, Table
from pullback.store.folders import local_path, whole_folder


def write_tables(results: Mapping[str, Result], folder: Path | str) -> list[str]:
    """Write every table of some results into a new folder.

    Args:
        results: results of statistics or of applications, by name.
        folder: a folder that does not exist, or is empty.

    Returns:
        The names of the files: `NAME.csv`, or `NAME-TITLE.csv` for each table of a result with several.

    Raises:
        StoreError: the folder is taken or not writable. Nothing is left there.
    """
    content: dict[str, str] = {}
    for name, result in results.items():
        tables = result.tables()
        for number, table in enumerate(tables, 1):
            stem = _slug(name) if len(tables) == 1 else f"{_slug(name)}-{_slug(table.title) or number}"
            unused = stem if f"{stem}.csv" not in content else f"{stem}-{number}"
            content[f"{unused}.csv"] = table_csv(table)
    with whole_folder(local_path(folder)) as temporary:
        for file, text in content.items():
            (temporary / file).write_text(text, encoding="utf-8", newline="")
    return list(content)


def table_csv(table: Table) -> str:
    """Return a table as CSV: a line of headings, then its rows; a missing number is an empty cell."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(table.headings)
    writer.writerows([_cell(cell) for cell in row] for row in table.rows)
    return buffer.getvalue()


def _cell(cell: str | float | int | None) -> str:
    if cell is None or cell == "–" or (isinstance(cell, float) and not math.isfinite(cell)):
        return ""
    return repr(cell) if isinstance(cell, float) else str(cell)


def _slug(text: str) -> str:
    """Return a title as a part of a file's name: its first words in lower case."""
    words = re.findall(r"[^\W_]+", text.lower())
    return "-".join(words[:6])
