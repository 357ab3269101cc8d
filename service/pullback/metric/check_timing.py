"""Time spent on the checks of certificates, separate from the time spent on the metrics."""

import threading
import time
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

_P = ParamSpec("_P")
_R = TypeVar("_R")


class _Spent(threading.local):
    seconds = 0.0
    depth = 0


_spent = _Spent()


def seconds_verifying() -> float:
    """Seconds that this thread has spent in checks so far. On a GPU this includes waiting for queued work."""
    return _spent.seconds


def verifying(check: Callable[_P, _R]) -> Callable[_P, _R]:
    """Decorate a check so that its time is counted. The time of a nested check counts once."""

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


def synchronize(device: torch.device) -> None:
    """Wait for queued work on a GPU. On a CPU nothing is queued, so this returns at once."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
