"""The states of a sweep and of its driver. Exit codes, filters and checks all use this one table."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

State = Literal["submitted", "queued", "starting", "running", "cancelling", "cancelled", "done", "failed", "stopped"]
"""The state of a sweep, as commands and the HTTP service show it."""

Life = Literal["submitted", "queued", "starting", "running", "done", "failed", "cancelled", "interrupted"]
"""The stage of a driver, as it records it."""


@dataclass(frozen=True)
class StateRules:
    """The rules of one state.

    Attributes:
        meaning: in words.
        active: whether a driver is running or about to start.
        may_lack_store: whether a sweep in this state may have no store yet. In any other state a missing store means
            that it was deleted.
        exit_code: of `pullback status --exit-code`; `done` becomes 4 if samples are quarantined.
    """

    meaning: str
    active: bool
    may_lack_store: bool
    exit_code: int


STATES: Mapping[State, StateRules] = {
    "submitted": StateRules("a driver was asked for and has not begun", True, True, 3),
    "queued": StateRules("its driver waits for earlier submissions on the same machine", True, True, 3),
    "starting": StateRules("its driver loads networks and starts workers", True, True, 3),
    "running": StateRules("its driver computes", True, True, 3),
    "cancelling": StateRules("its driver was asked to stop and finishes the batches at hand", True, True, 3),
    "cancelled": StateRules("its driver stopped because it was asked to; not finished", False, False, 1),
    "done": StateRules("every sample is computed", False, False, 0),
    "failed": StateRules("its driver stopped because of an error", False, True, 1),
    "stopped": StateRules("not finished, and no driver is running", False, False, 1),
}
"""Every state of a sweep, with its rules."""

ACTIVE: frozenset[State] = frozenset(state for state, rules in STATES.items() if rules.active)
"""States in which a driver is running or about to start."""
FINAL: frozenset[State] = frozenset(STATES) - ACTIVE
"""States that last until the job is run again."""
WITHOUT_STORE: frozenset[State] = frozenset(state for state, rules in STATES.items() if rules.may_lack_store)
"""States in which a sweep may have no store yet."""

ALIVE: frozenset[Life] = frozenset({"submitted", "queued", "starting", "running"})
"""Stages in which a driver's process should exist."""
NOT_BEGUN: frozenset[Life] = frozenset({"submitted", "queued", "starting"})
"""Stages before a driver computes."""

QUARANTINED_EXIT_CODE = 4
"""Exit code of a finished sweep with quarantined samples."""


def exit_code(state: State, quarantined: int) -> int:
    """Exit code of a sweep: 0 done, 4 done with quarantined samples, 3 not finished yet, 1 failed or stopped."""
    return QUARANTINED_EXIT_CODE if state == "done" and quarantined else STATES[state].exit_code
