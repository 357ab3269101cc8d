"""The order of the tests and their division among the processes of pytest-xdist."""

import pytest

from scheduling import FileScheduling, longest_first

SPLIT = {
    "tests/a.py::test_one": "tests/a.py",
    "tests/a.py::test_one[x@y]": "tests/a.py",
    "tests/a.py::test_one[x]@ray": "ray",
    "tests/a.py::test_one@ray": "ray",
}


class Item:
    def __init__(self, nodeid: str, **marks: str) -> None:
        self.nodeid = nodeid
        self._marks = {name: getattr(pytest.mark, name)(*value.split()).mark for name, value in marks.items()}

    def get_closest_marker(self, name: str) -> pytest.Mark | None:
        return self._marks.get(name)


@pytest.mark.parametrize(("nodeid", "group"), SPLIT.items())
def test_tests_of_one_file_or_group_stay_together(nodeid, group):
    assert FileScheduling._split_scope(None, nodeid) == group


def test_long_groups_and_files_come_first_and_each_keeps_its_order():
    names = ["tests/a.py::test_b", "tests/a.py::test_a", "tests/b.py::test_slow[1]", "tests/c.py::test_run"]
    items = [Item(name) for name in names[:3]] + [Item(names[3], ray="")]
    ordered = [item.nodeid for item in longest_first(items, frozenset({"tests/b.py::test_slow"}))]
    assert ordered == [names[3], names[2], names[0], names[1]]


def test_a_group_of_several_files_is_one():
    items = [
        Item("tests/a.py::test", xdist_group="x"),
        Item("tests/b.py::test"),
        Item("tests/c.py::test", xdist_group="x"),
    ]
    assert [item.nodeid[6] for item in longest_first(items, frozenset())] == ["a", "c", "b"]
