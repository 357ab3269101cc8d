"""The page on the tape shows what the code does."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "tape.md"


def test_the_example_of_the_page_runs():
    (program,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    exec(compile(program, str(PAGE), "exec"), {})


def test_the_modules_that_the_page_names_exist():
    folder = Path(__file__).parents[3] / "service" / "pullback" / "metric" / "forward"
    named = set(re.findall(r"`(\w+\.py)`", PAGE.read_text(encoding="utf-8")))
    assert named
    assert all((folder / name).is_file() for name in named)
