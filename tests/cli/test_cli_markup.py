"""Users' strings are printed as they are written: neither pictures nor colours come of them."""

import io

import pytest
from rich.markup import escape

from pullback.cli import display, progress
from pullback.cli.tables import Columns, Pairs
from pullback.cli.terminal import Messages, Output

STRINGS = [":smile:", "[bold]x[/]", "[/]", "a[link=file:///x]b", "\\[x]", "[red", ":x:/:heart:", "sweeps/:boom:/x"]


def console(kind=Output, terminal=False):
    return kind(file=io.StringIO(), width=200, force_terminal=terminal, color_system=None, highlight=False)


@pytest.mark.parametrize("text", STRINGS)
@pytest.mark.parametrize("kind", [Output, Messages])
def test_what_is_escaped_is_printed_as_it_is(text, kind):
    out = console(kind)
    out.print(f"into {escape(text)}")
    assert f"into {text}" in out.file.getvalue()


@pytest.mark.parametrize("text", STRINGS)
def test_tables_show_what_they_are_given(text):
    out = console()
    out.print(Pairs({"name": text}))
    table = Columns(["=name"])
    table.add_row(escape(text))
    out.print(table)
    assert out.file.getvalue().count(text) == 2


@pytest.mark.parametrize("text", STRINGS)
def test_tables_of_stored_texts_show_them(text):
    out = console()
    display.snapshots_table([{"id": "1", "written": "now", "message": text}], out)
    display.weights_table([{"name": text, "what": text, "licence": text, "path": text}], out)
    row = {"name": text, "what": text, "latent_dim": 1, "image_size": 1, "licence": text, "here": True}
    display.generators_table([{**row, "classes": [text]}], out)
    assert out.file.getvalue().count(text) == 9


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("text", STRINGS)
def test_progress_shows_what_it_is_given(text, terminal):
    out = console(terminal=terminal)
    with progress.waiting(out, f"writing {text}"):
        pass
    with progress.counting(out, text) as count:
        count(1, 2)
        count(2, 2)
    assert text in out.file.getvalue()
