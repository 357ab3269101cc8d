"""What a sweep's store holds: its arrays, their shapes and meaning, and the record of one shard.

Invariants: shapes are final when the sweep is planned; sample `i` belongs to shard `i // shard_size`, in every
array; `status` alone says whether a sample counts (an absent or NaN value proves nothing). Knows numpy only:
`repository` turns this into Zarr arrays, the sweep's worker fills `ShardRecord`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

PENDING, GOOD, QUARANTINED = 0, 1, 2
"""The values of `status`: not computed yet, computed and certified, computed but not to be trusted."""


class Reason(IntEnum):
    """Why a sample is quarantined; NONE for every other."""

    NONE = 0
    NOT_FINITE = 1
    ASYMMETRIC = 2
    NEGATIVE_EIGENVALUE = 3
    EIGEN_RESIDUAL = 4
    NOT_ORTHOGONAL = 5
    JACOBIAN_PROBE = 6
    NOT_CONVERGED = 7
    GRAM_PRODUCT = 8
    JACOBIAN_COLUMN = 9
    PRECISION = 10
    RAISED = 11
    """The generator or the distance raised an error at this sample."""
    KILLED = 12
    """The process that computed this sample died, each time."""


@dataclass(frozen=True)
class Layout:
    """The sizes that fix every shape of a sweep.

    Raises:
        ValueError: a size is not a positive integer, or `components` exceeds `latent_dim`.
    """

    samples: int
    """How many latent codes the sweep visits."""
    latent_dim: int
    """n, the length of a latent code."""
    components: int
    """k ≤ n, how many eigenpairs are kept of each metric."""
    shard_size: int
    """How many samples are computed, written and retried together."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a positive integer, not {value!r}")
        if self.components > self.latent_dim:
            raise ValueError(f"{self.components} components of a {self.latent_dim}-dimensional latent space")

    @property
    def shards(self) -> int:
        """How many shards there are; the last may be smaller than the others."""
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
        """The inverse of `to_dict`; raises ValueError for a missing, unknown or impossible size."""
        expected = {entry.name for entry in fields(cls)}
        if set(sizes) != expected:
            raise ValueError(f"a layout has {sorted(expected)}, not {sorted(sizes)}")
        return cls(**sizes)


@dataclass(frozen=True)
class ArraySchema:
    """One array of the store."""

    name: str
    dims: tuple[str, ...]
    """Names out of `sample`, `shard`, `component`, `latent_dim`, `latent_column`; the first is `sample` or `shard`.

    None but `sample` is an array's name too: xarray would make that array a coordinate, and `sel` fail."""
    dtype: str
    long_name: str
    units: str
    fill: float | int = float("nan")
    """What an unwritten sample reads as. Nothing may rely on it."""
    compressed: bool = True
    inner_chunks: bool = False
    """Whether one sample can be read without its shard. Worth its index (20 bytes and 0.1 ms a sample) only
    where a sample is large; small arrays hold a shard as one chunk, which writes 4 and reads 8 times as fast."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    certificate: bool = False
    """Whether it is a quantity of the certificate, one number a sample; NaN where the method does not have it."""

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

    def rows_of(self, layout: Layout, shard: int) -> slice:
        """Where the shard's values stand along the first dimension."""
        if self.dims[0] == "shard":
            return slice(shard, shard + 1)
        samples = layout.samples_of(shard)
        return slice(samples.start, samples.stop)


_SQUARED = "squared distance per squared latent unit"


def _flags(names: Mapping[str, int]) -> dict[str, Any]:
    """The CF convention's attributes for an array of codes."""
    return {"flag_values": [int(value) for value in names.values()], "flag_meanings": " ".join(names)}


def _certificate(name: str, long_name: str) -> ArraySchema:
    return ArraySchema(name, ("sample",), "float64", long_name, "1", certificate=True)


SAMPLE = ArraySchema("sample", ("sample",), "int64", "index of the sample in the sweep", "1", fill=-1)
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
        # xarray refuses two dimensions of one name, hence the second axis's own.
        ("shard", "latent_dim", "latent_column"),
        "float64",
        "sum of the metric over the good samples of the shard; of an iterative method, of what its eigenpairs make",
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
        attributes=_flags({reason.name.lower(): reason for reason in Reason}),
    ),
    _certificate("symmetry_error", "largest asymmetry of the metric, relative to its largest entry"),
    _certificate("negative_eigenvalue", "how far the least eigenvalue lies below zero, relative to the largest"),
    _certificate("eigen_residual", "largest residual of an eigenpair, relative to the largest eigenvalue"),
    _certificate("orthogonality_error", "largest deviation of the eigenvectors from orthonormality"),
    _certificate("trace_share", "share of the trace that the kept eigenvalues carry"),
    _certificate("probe_error", "relative deviation of the derivative from differences along a random direction"),
    _certificate("product_error", "relative deviation of the metric from the product of its Jacobian"),
    _certificate("column_error", "largest relative deviation of a Jacobian column from reverse mode"),
    _certificate("precision_error", "relative error of the derivative against float64, measured at one code"),
    ArraySchema(
        "products", ("sample",), "int64", "vectors multiplied with the metric by an iterative method", "1", fill=-1
    ),
    # Not "seconds": xarray would decode that as a time difference.
    ArraySchema("seconds", ("sample",), "float64", "time spent on the sample", "s"),
)
"""What a shard's record fills."""

ARRAYS: tuple[ArraySchema, ...] = (SAMPLE, *SHARD_ARRAYS)
"""Every array of a sweep's store."""

BY_NAME: Mapping[str, ArraySchema] = {array.name: array for array in ARRAYS}


CERTIFICATE: tuple[str, ...] = tuple(array.name for array in ARRAYS if array.certificate)
"""The certificate's quantities."""


def stored_bytes(layout: Layout) -> int:
    """The size in bytes of every array of the sweep, uncompressed."""
    return sum(int(np.prod(array.shape(layout), dtype=object)) * np.dtype(array.dtype).itemsize for array in ARRAYS)


@dataclass(frozen=True)
class ShardRecord:
    """What a worker computed for one shard of m samples (m is the plan's, smaller for the last shard).

    m samples, n latent dimensions, k components; the fields are described by `ARRAYS`.
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
    """[n, n], over the good samples only: zero where none is good"""
    trace: npt.NDArray[np.float64]
    """[m]"""
    status: npt.NDArray[np.uint8]
    """[m], GOOD or QUARANTINED"""
    reason: npt.NDArray[np.uint8]
    """[m], a `Reason`, NONE exactly where the sample is good"""
    symmetry_error: npt.NDArray[np.float64]
    """[m]"""
    negative_eigenvalue: npt.NDArray[np.float64]
    """[m]"""
    eigen_residual: npt.NDArray[np.float64]
    """[m]"""
    orthogonality_error: npt.NDArray[np.float64]
    """[m]"""
    trace_share: npt.NDArray[np.float64]
    """[m]"""
    probe_error: npt.NDArray[np.float64]
    """[m]"""
    product_error: npt.NDArray[np.float64]
    """[m], NaN of a method without a Jacobian"""
    column_error: npt.NDArray[np.float64]
    """[m], NaN of a method without a Jacobian"""
    precision_error: npt.NDArray[np.float64]
    """[m], NaN where the networks do not run in float64"""
    products: npt.NDArray[np.int64]
    """[m], 0 of a method that needs none"""
    seconds: npt.NDArray[np.float64]
    """[m]"""

    def validate(self, layout: Layout) -> None:
        """Check the record against the plan, before anything of it is written.

        Raises:
            ValueError: a wrong shape or dtype; a sample left pending (its shard would be computed for ever);
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
        if not problems:  # the contents mean something only in the right form
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
