"""Counts of a sweep's samples, ready for JSON."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class SweepStatus:
    """Number of a sweep's samples in each state. The three states add up to `planned`."""

    planned: int
    good: int
    quarantined: int
    pending: int

    def as_dict(self) -> dict[str, int]:
        """The counts by name."""
        return asdict(self)


@dataclass(frozen=True)
class ZeroMetrics:
    """The samples whose metric is exactly zero: the computed derivative of the distance vanishes there."""

    good: tuple[int, ...]
    """Their numbers, ascending; they count in every mean."""
    quarantined: tuple[int, ...]
    """The same for quarantined samples."""

    @property
    def samples(self) -> tuple[int, ...]:
        """All of them, ascending."""
        return tuple(sorted((*self.good, *self.quarantined)))

    def as_dict(self) -> dict[str, Any]:
        """Counts and numbers, ready for JSON."""
        return {
            "count": len(self.good) + len(self.quarantined),
            "good": len(self.good),
            "quarantined": len(self.quarantined),
            "samples": list(self.samples),
        }
