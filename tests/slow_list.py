"""A pytest plug-in that renews slow_tests.txt: `make slow-tests` runs the suite with it, in one process.

It measures the processor time of each test, including processes that it waits for. A test function is listed if one of
its cases takes more than `CASE_SECONDS`, or all of its cases together more than `FUNCTION_SECONDS`.
"""

import os
from collections import defaultdict
from pathlib import Path

import pytest

LIST = Path(__file__).with_name("slow_tests.txt")
CASE_SECONDS = 0.5
FUNCTION_SECONDS = 0.5
_seconds: dict[str, list[float]] = defaultdict(list)


def function_of(nodeid: str) -> str:
    """Return a test's id without its parameters."""
    return nodeid.partition("[")[0]


def slow_functions() -> frozenset[str]:
    """Return the test functions on the list."""
    return frozenset(LIST.read_text(encoding="utf-8").split())


def renewed(listed: frozenset[str], measured: dict[str, list[float]]) -> list[str]:
    """Return the new list, sorted. Functions that did not run keep their entry if they still exist."""
    slow = {name for name, each in measured.items() if max(each) > CASE_SECONDS or sum(each) > FUNCTION_SECONDS}
    return sorted({name for name in listed if name not in measured and exists(name)} | slow)


def exists(name: str) -> bool:
    """Return whether the file of a test function defines it."""
    path, _, function = name.partition("::")
    file = LIST.parents[1] / path
    return file.exists() and f"def {function}(" in file.read_text(encoding="utf-8")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item):
    before = sum(os.times()[:4])
    yield
    _seconds[function_of(item.nodeid)].append(sum(os.times()[:4]) - before)


def pytest_sessionfinish():
    LIST.write_text("".join(f"{name}\n" for name in renewed(slow_functions(), _seconds)), encoding="utf-8")
