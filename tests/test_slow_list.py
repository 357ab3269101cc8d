"""The list of slow tests is renewed from measurements."""

from slow_list import CASE_SECONDS, FUNCTION_SECONDS, renewed

HERE = "tests/test_slow_list.py"


def test_a_test_is_slow_by_one_case_or_by_all_of_them():
    listed = frozenset({"tests/a.py::was_slow"})
    measured = {
        "tests/a.py::was_slow": [0.1],
        "tests/a.py::case": [0.1, CASE_SECONDS + 0.1],
        "tests/a.py::many": [FUNCTION_SECONDS / 8] * 9,
    }
    assert renewed(listed, measured) == ["tests/a.py::case", "tests/a.py::many"]


def test_a_listed_test_that_did_not_run_stays_unless_it_is_gone():
    kept = f"{HERE}::test_a_listed_test_that_did_not_run_stays_unless_it_is_gone"
    assert renewed(frozenset({kept, f"{HERE}::gone", "tests/gone.py::test"}), {}) == [kept]
