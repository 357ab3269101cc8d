"""Records of finished parts of an application in its checkpoint: dataclasses of arrays, by name."""

import time
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from pullback.applications.protocol import Checkpoint

Part = TypeVar("Part")

_SECONDS = 2.0
"""Least time between two saves: each writes all records."""


class Records:
    """Finished parts of this run and of an earlier, interrupted one.

    Args:
        checkpoint: of the application.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._arrays: dict[str, npt.NDArray[Any]] = checkpoint.load() or {}
        self._saved = time.monotonic()

    def get(self, name: str, kind: type[Part]) -> Part | None:
        """Return the part of a name, a dataclass of arrays; None if it is not finished."""
        keys = [f"{name}.{field.name}" for field in fields(kind)]  # type: ignore[arg-type]
        return kind(*(self._arrays[key] for key in keys)) if all(key in self._arrays for key in keys) else None

    def put(self, name: str, part: Any) -> None:
        """Keep a finished part; it is on the disk within two seconds of work."""
        self._arrays |= {f"{name}.{field.name}": np.asarray(getattr(part, field.name)) for field in fields(part)}
        if time.monotonic() - self._saved >= _SECONDS:
            self._checkpoint.save(**self._arrays)
            self._saved = time.monotonic()
