"""How pytest-xdist divides the tests among its processes (`--dist loadgroup`): by file, the longest files first.

`loadgroup` alone hands out every test by itself, so each process makes the fixtures of each file anew. A file's tests
stay together here, unless they carry a mark `xdist_group`. Long files at the end would leave the other processes idle.
"""

from collections import defaultdict
from collections.abc import Iterable

import pytest
from xdist.scheduler import LoadScopeScheduling

from slow_list import function_of

_PROCESS_SECONDS, _SLOW_SECONDS, _SECONDS = 8.0, 2.0, 0.02
"""Rough seconds of a test that starts processes, of another one on the list of slow tests, and of any other."""


class FileScheduling(LoadScopeScheduling):
    """Hands out whole files, or whole groups of tests of one mark `xdist_group`, in the order of collection."""

    def __init__(self, config: pytest.Config, log: object = None) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False  # that would put files of many small tests first

    def _split_scope(self, nodeid: str) -> str:
        """Return the group of a test, which xdist appends to its id, or its file."""
        at = nodeid.rfind("@")
        return nodeid[at + 1 :] if at > nodeid.rfind("]") else nodeid.partition("::")[0]


def longest_first(items: Iterable[pytest.Item], slow: frozenset[str]) -> list[pytest.Item]:
    """Order tests by the time that their files or groups take, roughly; tests of one file keep their order."""
    groups: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        mark = item.get_closest_marker("xdist_group")
        groups[mark.args[0] if mark else item.nodeid.partition("::")[0]].append(item)
    ordered = sorted(groups.values(), key=lambda group: -sum(_seconds(item, slow) for item in group))
    return [item for group in ordered for item in group]


def _seconds(item: pytest.Item, slow: frozenset[str]) -> float:
    if item.get_closest_marker("ray") or item.get_closest_marker("end_to_end"):
        return _PROCESS_SECONDS
    return _SLOW_SECONDS if function_of(item.nodeid) in slow else _SECONDS
