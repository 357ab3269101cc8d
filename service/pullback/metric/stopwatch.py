"""How long certificates take, told apart from the computing of what they certify."""

import threading
import time
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")


class _Spent(threading.local):
    seconds = 0.0
    depth = 0


_spent = _Spent()


def seconds_verifying() -> float:
    """What this thread has spent in checks so far. On a GPU, whose work is queued, also what they waited for."""
    return _spent.seconds


def verifying(check: Callable[_P, _R]) -> Callable[_P, _R]:
    """Count a function's time as that of a check; one that calls another is counted once."""

    @wraps(check)
    def timed(*arguments: _P.args, **named: _P.kwargs) -> _R:
        began = time.perf_counter()
        _spent.depth += 1
        try:
            return check(*arguments, **named)
        finally:
            _spent.depth -= 1
            if _spent.depth == 0:
                _spent.seconds += time.perf_counter() - began

    return timed
