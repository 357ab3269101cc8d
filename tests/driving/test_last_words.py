"""Why a process ended is one sentence, and never a traceback."""

import pytest

from pullback.driving.last_words import last_words, reason_of
from pullback.errors import SweepError

TRACEBACK = """Traceback (most recent call last):
  File "/srv/secret/venv/lib/pullback/cli/entry.py", line 93, in _run
    return app()
  File "/srv/secret/venv/lib/pullback/sweep/plan.py", line 363, in _fit
    budget = int(asked * GIB)
OverflowError: cannot convert float infinity to integer
"""
CASES = {
    "": "",
    "loading\nerror: it is full. Make room.\n": "it is full. Make room",
    "error: the job: 2 problems\n  - a: b\n  - c: d": "the job: 2 problems\n  - a: b\n  - c: d",
    "Killed": "Killed",
    TRACEBACK: "it failed with OverflowError: cannot convert float infinity to integer",
    TRACEBACK[TRACEBACK.index("    budget") :]: "OverflowError: cannot convert float infinity to integer",
    f"error: first\n{TRACEBACK}": "it failed with OverflowError: cannot convert float infinity to integer",
    "Traceback (most recent call last):\n  File 3": "it failed with an error that it did not name",
    "Traceback (most recent call last):\n  File x\nray.exceptions.RayError\n": "it failed with ray.exceptions.RayError",
}


@pytest.mark.parametrize(("printed", "words"), CASES.items())
def test_the_reason_of_an_end_is_a_sentence(printed, words):
    assert last_words(printed) == words


def test_a_long_reason_keeps_its_beginning():
    words = last_words("error: /srv/secret/file " + "x" * 10_000)
    assert words.startswith("/srv/secret/file x")
    assert len(words) < 2100


def test_an_error_is_reported_without_the_traceback_in_it():
    assert reason_of(SweepError("it is full.\nMake room.")) == "it is full.\nMake room."
    assert reason_of(RuntimeError("a\nb")) == "b"
    assert reason_of(OverflowError()) == "it failed with OverflowError"
    for kind in (RuntimeError, SweepError):
        assert "/srv/secret" not in reason_of(kind(f"worker died\n{TRACEBACK}"))
