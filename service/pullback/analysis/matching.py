"""The samples of several sweeps that have the same latent codes, and the differences of the sweeps' jobs.

Metrics of two sweeps are compared sample by sample only where both were computed at the same code: the sample has the
same number, is good in both sweeps, and its stored code and condition are equal.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pullback.analysis.bootstrap import Integers
from pullback.analysis.samples import Samples

_ROUND_OFF = 1e-6
"""Relative difference of two stored codes below which they are equal: codes are stored as float32."""

_COLUMNS = ("latent", "condition")
"""The arrays that decide at which code, and for which class, a metric was computed."""

_NOT_DECISIVE = ("name", "store", "resources", "retries", "samples.count")
"""Keys of a job that change no metric."""


@dataclass(frozen=True, eq=False)
class Matched:
    """Samples that several sweeps have in common.

    Attributes:
        positions: for each sweep, the positions of the common samples among its good ones, `[m]`.
        numbers: their sample numbers, `[m]`, ascending; empty if there are fewer than 2.
        only_in_some: how many good samples of any sweep are not good in all of them.
        other_codes: how many samples are good in all sweeps but have different codes.
        reason: why the sweeps cannot be compared sample by sample; empty if they can.
    """

    positions: tuple[Integers, ...]
    numbers: Integers
    only_in_some: int = 0
    other_codes: int = 0
    reason: str = ""

    def __len__(self) -> int:
        return len(self.numbers)


def match(sweeps: Sequence[Samples]) -> Matched:
    """Return the samples with the same codes in all sweeps; none if there are fewer than 2."""
    sizes = [samples.latent_dim for samples in sweeps]
    if len(set(sizes)) > 1:
        return _none(sweeps, f"their codes have {' and '.join(map(str, sizes))} entries")
    numbers = sweeps[0].numbers
    for samples in sweeps[1:]:
        numbers = np.intersect1d(numbers, samples.numbers, assume_unique=True)
    every = len(np.unique(np.concatenate([samples.numbers for samples in sweeps])))
    positions = [np.searchsorted(samples.numbers, numbers) for samples in sweeps]
    same = np.ones(len(numbers), dtype=bool)
    for name in _COLUMNS:
        first = _column(sweeps[0], name, positions[0])
        for samples, where in zip(sweeps[1:], positions[1:], strict=True):
            same &= _equal(first, _column(samples, name, where), len(numbers))
    kept, differing = int(same.sum()), int((~same).sum())
    missing = every - len(numbers)
    if kept < 2:
        why = f"{differing} of the {len(numbers)} samples that are good in all of them have different codes"
        return _none(sweeps, why if differing else f"{kept} samples are good in all of them", missing, differing)
    return Matched(tuple(each[same] for each in positions), numbers[same], missing, differing)


def differing_keys(one: Samples, other: Samples) -> list[tuple[str, Any, Any]]:
    """Return the keys in which the jobs of two sweeps differ, with both values; None for a key that one lacks."""
    first, second = (dict(_flat(samples.provenance.get("spec", {}))) for samples in (one, other))
    keys = [key for key in (*first, *(key for key in second if key not in first)) if not _ignored(key)]
    return [(key, first.get(key), second.get(key)) for key in keys if first.get(key) != second.get(key)]


def _none(sweeps: Sequence[Samples], reason: str, missing: int = 0, differing: int = 0) -> Matched:
    empty = np.zeros(0, dtype=np.int64)
    return Matched(tuple(empty for _ in sweeps), empty, missing, differing, reason)


def _column(samples: Samples, name: str, positions: Integers) -> npt.NDArray[Any] | None:
    return np.asarray(samples.column(name))[positions] if name in samples else None


def _equal(one: npt.NDArray[Any] | None, other: npt.NDArray[Any] | None, count: int) -> npt.NDArray[np.bool_]:
    """Whether the rows of two columns `[count, ...]` are equal; a column that no sweep has is equal."""
    if count == 0 or (one is None and other is None):
        return np.ones(count, dtype=bool)
    if one is None or other is None or one.shape != other.shape:
        return np.zeros(count, dtype=bool)
    a, b = (np.asarray(array, dtype=np.float64).reshape(count, -1) for array in (one, other))
    size = np.maximum(np.abs(np.nan_to_num(a)).max(axis=1, initial=0.0), np.finfo(np.float64).tiny)
    both_missing = np.isnan(a) & np.isnan(b)
    close = np.where(both_missing, 0.0, np.abs(a - b)) <= _ROUND_OFF * size[:, None]
    equal: npt.NDArray[np.bool_] = close.all(axis=1)
    return equal


def _flat(content: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Return nested mappings as pairs of a dotted key and a value."""
    if not isinstance(content, Mapping):
        return [(prefix, content)]
    return [pair for key, value in content.items() for pair in _flat(value, f"{prefix}.{key}" if prefix else str(key))]


def _ignored(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in _NOT_DECISIVE)
