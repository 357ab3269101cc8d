"""The content of a sweep's store: its arrays, their shapes and meaning, and the record of one shard.

Invariants: shapes are final when the sweep is planned; sample `i` belongs to shard `i // shard_size`, in every
array; `status` alone decides whether a sample counts (an absent or NaN value proves nothing). This module does not
import Zarr: `arrays` creates the Zarr arrays, and the sweep's worker fills `ShardRecord`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import IntEnum
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from pullback.metric import checks

_Record = TypeVar("_Record")

PENDING, GOOD, QUARANTINED = 0, 1, 2
"""The values of `status`: not computed yet, computed and certified, computed but not to be trusted."""


class Reason(IntEnum):
    """Reasons to quarantine a sample, besides the checks of its certificate (`metric.checks`)."""

    NONE = 0
    """It is not quarantined."""
    RAISED = 11
    """The generator or the distance raised an error at this sample."""
    KILLED = 12
    """The process that computed this sample died, each time."""
    vars().update(checks.REASONS)


@dataclass(frozen=True)
class Layout:
    """The sizes that fix every shape of a sweep.

    Raises:
        ValueError: a size is not a positive integer, or `components` exceeds `latent_dim`.
    """

    samples: int
    """Number of latent codes of the sweep."""
    latent_dim: int
    """n, the length of a latent code."""
    components: int
    """k ≤ n, the number of eigenpairs kept of each metric."""
    shard_size: int
    """Number of samples that are computed, written and retried together."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a positive integer, not {value!r}")
        if self.components > self.latent_dim:
            raise ValueError(f"{self.components} components of a {self.latent_dim}-dimensional latent space")

    @property
    def shards(self) -> int:
        """Number of shards; the last may be smaller than the others."""
        return -(-self.samples // self.shard_size)

    def samples_of(self, shard: int) -> range:
        """The sample indices of a shard; raises IndexError for a shard that is not planned."""
        if not 0 <= shard < self.shards:
            raise IndexError(f"shard {shard} of a sweep of {self.shards} shards")
        start = shard * self.shard_size
        return range(start, min(start + self.shard_size, self.samples))

    def to_dict(self) -> dict[str, int]:
        """The four sizes by name, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, sizes: Mapping[str, Any]) -> "Layout":
        """The inverse of `to_dict`; raises ValueError for a missing or impossible size. Others, of later versions, are
        left out."""
        expected = [entry.name for entry in fields(cls)]
        if not {*expected} <= {*sizes}:
            raise ValueError(f"a layout has {sorted(expected)}, not {sorted(sizes)}")
        return cls(**{name: sizes[name] for name in expected})


@dataclass(frozen=True)
class ArraySchema:
    """One array of the store."""

    name: str
    dims: tuple[str, ...]
    """Names out of `sample`, `shard`, `component`, `latent_dim`, `latent_column`; the first is `sample` or `shard`.

    Only `sample` is also the name of an array: xarray would make such an array a coordinate, and `sel` would fail."""
    dtype: str
    long_name: str
    units: str
    fill: float | int = float("nan")
    """The value that is read for an unwritten sample. Nothing may rely on it."""
    compressed: bool = True
    inner_chunks: bool = False
    """Whether one sample can be read without its shard. This needs an index (20 bytes and 0.1 ms a sample), so it pays
    only if a sample is large. Small arrays store a shard as one chunk, which writes 4 and reads 8 times as fast."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    certificate: bool = False
    """Whether it is a quantity of the certificate, one number a sample; NaN if the method does not have it."""
    since: int = 1
    """Revision of the format that introduced the array. Sweeps of earlier revisions may lack it: it then reads as
    `fill`, and results are written without it."""
    written_once: bool = False
    """Whether it is written when the sweep is created, many shards in one chunk, and never by a worker."""

    def shape(self, layout: Layout) -> tuple[int, ...]:
        """The array's final shape."""
        sizes = {
            "sample": layout.samples,
            "shard": layout.shards,
            "component": layout.components,
            "latent_dim": layout.latent_dim,
            "latent_column": layout.latent_dim,
        }
        return tuple(sizes[dim] for dim in self.dims)

    def shard_shape(self, layout: Layout) -> tuple[int, ...]:
        """The shape of what one shard writes, at full size: the unit in which the array is stored."""
        first = layout.shard_size if self.dims[0] == "sample" else 1
        return (first, *self.shape(layout)[1:])

    def chunk_shape(self, layout: Layout) -> tuple[int, ...]:
        """The shape of one chunk (with inner chunks: of one Zarr shard) of a new sweep: a shard's, or many shards'.

        Earlier versions stored every array by shard, so a reader takes the shape from the stored array.
        """
        first, *rest = self.shard_shape(layout)
        shards = min(layout.shards, max(1, _ROWS_WRITTEN_ONCE // first)) if self.written_once else 1
        return (first * shards, *rest)

    def rows_of(self, layout: Layout, shard: int) -> slice:
        """Return the range of a shard's values along the first dimension."""
        if self.dims[0] == "shard":
            return slice(shard, shard + 1)
        samples = layout.samples_of(shard)
        return slice(samples.start, samples.stop)


_ROWS_WRITTEN_ONCE = 2**16
"""Rows of a chunk that no worker writes. With a chunk for each shard, 100,000 shards took 60 s and 365 MB to create."""

_SQUARED = "squared distance per squared latent unit"


def _flags(names: Mapping[str, int]) -> dict[str, Any]:
    """The CF convention's attributes for an array of codes."""
    return {"flag_values": [int(value) for value in names.values()], "flag_meanings": " ".join(names)}


def _certificate(name: str) -> ArraySchema:
    check = checks.BY_NAME[name]
    return ArraySchema(name, ("sample",), "float64", check.meaning, "1", certificate=True, since=check.since)


SAMPLE = ArraySchema(
    "sample", ("sample",), "int64", "index of the sample in the sweep", "1", fill=-1, written_once=True
)
"""Written when the sweep is created, so that a filtered dataset still knows which sample is which."""

SHARD_ARRAYS: tuple[ArraySchema, ...] = (
    ArraySchema(
        "latent",
        ("sample", "latent_dim"),
        "float32",
        "latent code at which the metric was computed",
        "latent unit",
    ),
    ArraySchema(
        "condition",
        ("sample",),
        "int32",
        "class index given to a conditional generator, -1 where there is none",
        "1",
        fill=-1,
    ),
    ArraySchema("eigenvalue", ("sample", "component"), "float64", "eigenvalues of the metric, descending", _SQUARED),
    ArraySchema(
        "eigenvector",
        ("sample", "component", "latent_dim"),
        "float32",
        "eigenvectors of the metric, one a row, of unit length",
        "1",
        compressed=False,  # compression saves 7 % for twice the time
        inner_chunks=True,
    ),
    ArraySchema(
        "metric_sum",
        # xarray refuses two dimensions of one name, so the second axis has another.
        ("shard", "latent_dim", "latent_column"),
        "float64",
        "sum of the metric over the good samples of the shard; of an iterative method that keeps k < n eigenpairs, sum "
        "of the part that these make",
        _SQUARED,
    ),
    ArraySchema(
        "trace", ("sample",), "float64", "trace of the whole metric; estimated by an iterative method", _SQUARED
    ),
    ArraySchema(
        "status",
        ("sample",),
        "uint8",
        "whether the sample counts",
        "1",
        fill=PENDING,
        attributes=_flags({"pending": PENDING, "good": GOOD, "quarantined": QUARANTINED}),
    ),
    ArraySchema(
        "reason",
        ("sample",),
        "uint8",
        "why the sample is quarantined",
        "1",
        fill=int(Reason.NONE),
        attributes=_flags({reason.name.lower(): reason for reason in sorted(Reason)}),
    ),
    *map(_certificate, checks.MEASURES),
    ArraySchema(
        "products", ("sample",), "int64", "vectors multiplied with the metric by an iterative method", "1", fill=-1
    ),
    # Not "seconds": xarray would decode that as a time difference.
    ArraySchema("seconds", ("sample",), "float64", "time spent on the sample", "s"),
)
"""The arrays that a shard's record fills."""

ARRAYS: tuple[ArraySchema, ...] = (SAMPLE, *SHARD_ARRAYS)
"""Every array of a sweep's store."""

REVISION = max(array.since for array in ARRAYS)
"""Revision of the format that this version writes. A new array gets the next number; nothing is ever removed."""

BY_NAME: Mapping[str, ArraySchema] = {array.name: array for array in ARRAYS}


CERTIFICATE: tuple[str, ...] = tuple(array.name for array in ARRAYS if array.certificate)
"""The certificate's quantities."""


def stored_bytes(layout: Layout) -> int:
    """Return the size in bytes of all arrays of a sweep together, uncompressed."""
    return sum(int(np.prod(array.shape(layout), dtype=object)) * np.dtype(array.dtype).itemsize for array in ARRAYS)


def _with_certificate(record: type[_Record]) -> type[_Record]:
    """Add a field to a class for each array of the certificate."""
    own = dict.fromkeys(checks.MEASURES, npt.NDArray[np.float64])
    record.__annotations__ = {**record.__annotations__, **own}
    return record


@dataclass(frozen=True)
@_with_certificate
class ShardRecord:
    """The results of a worker for one shard of m samples (m is the plan's, smaller for the last shard).

    m samples, n latent dimensions, k components; the fields are described by `ARRAYS`. Besides those below there is
    one [m] float64 for each number of the certificate (`CERTIFICATE`), NaN if the method does not have it.
    """

    shard: int
    latent: npt.NDArray[np.float32]
    """[m, n]"""
    condition: npt.NDArray[np.int32]
    """[m]"""
    eigenvalue: npt.NDArray[np.float64]
    """[m, k], descending"""
    eigenvector: npt.NDArray[np.float32]
    """[m, k, n]"""
    metric_sum: npt.NDArray[np.float64]
    """[n, n], over the good samples only: zero if none is good. The sum of whole metrics if the method makes whole
    matrices or keeps all n eigenpairs; otherwise the sum of Σ λ_m v_m v_mᵀ over the k kept pairs."""
    trace: npt.NDArray[np.float64]
    """[m]"""
    status: npt.NDArray[np.uint8]
    """[m], GOOD or QUARANTINED"""
    reason: npt.NDArray[np.uint8]
    """[m], a `Reason`; NONE if and only if the sample is good"""
    products: npt.NDArray[np.int64]
    """[m], 0 for a method that needs none"""
    seconds: npt.NDArray[np.float64]
    """[m]"""

    def validate(self, layout: Layout) -> None:
        """Check the record against the plan, before any of it is written.

        Raises:
            ValueError: a wrong shape or dtype; a sample left pending (its shard would be computed forever);
                a reason that contradicts its status; a `metric_sum` that is not finite (it would spoil the
                mean over all shards). Lists every problem.
        """
        if not 0 <= self.shard < layout.shards:
            raise ValueError(f"shard {self.shard} is not one of the plan's {layout.shards}")
        problems = []
        for array in SHARD_ARRAYS:
            value, shape = getattr(self, array.name), self._shape_of(array, layout)
            if not _fits(value, shape, array.dtype):
                problems.append(f"{array.name} is {_describe(value)}, not {array.dtype}{list(shape)}")
        if not problems:  # contents can be checked only if the shapes are right
            if not np.isin(self.status, (GOOD, QUARANTINED)).all():
                problems.append("status must be good or quarantined for every sample")
            if not ((self.status == GOOD) == (self.reason == Reason.NONE)).all():
                problems.append("reason must be NONE exactly where status is good")
            if not np.isfinite(self.metric_sum).all():
                problems.append("metric_sum must be finite: sum over good samples only, zero where none is")
        if problems:
            raise ValueError(f"the record of shard {self.shard} is wrong: {'; '.join(problems)}")

    def _shape_of(self, array: ArraySchema, layout: Layout) -> tuple[int, ...]:
        whole = array.shape(layout)
        return whole[1:] if array.dims[0] == "shard" else (len(layout.samples_of(self.shard)), *whole[1:])


def _fits(value: Any, shape: tuple[int, ...], dtype: str) -> bool:
    return isinstance(value, np.ndarray) and value.shape == shape and value.dtype == np.dtype(dtype)


def _describe(value: Any) -> str:
    return f"{value.dtype}{list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__
