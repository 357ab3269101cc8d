"""One table gives every rule about a sweep's states."""

from typing import get_args

import pytest

from pullback.driving.states import ACTIVE, ALIVE, FINAL, NOT_BEGUN, STATES, WITHOUT_STORE, Life, State, exit_code
from pullback.driving.sweep_state import SweepState


def test_every_state_has_its_rules_and_no_other_has_any():
    assert set(STATES) == set(get_args(State))
    assert set(STATES) == ACTIVE | FINAL
    assert not ACTIVE & FINAL
    assert WITHOUT_STORE >= ACTIVE, "a driver that runs may not have created its store yet"
    assert NOT_BEGUN <= ALIVE <= set(get_args(Life))
    assert ALIVE <= ACTIVE, "a stage of a live driver is shown as a state"


@pytest.mark.parametrize(
    ("state", "quarantined", "code"),
    [("done", 0, 0), ("done", 2, 4), ("failed", 2, 1), ("stopped", 0, 1), ("cancelled", 0, 1)]
    + [(state, 1, 3) for state in sorted(ACTIVE)],
)
def test_exit_codes_are_those_that_scripts_rely_on(state, quarantined, code):
    assert exit_code(state, quarantined) == code
    assert SweepState(state, "mine", quarantined=quarantined).as_dict()["exit_code"] == code
