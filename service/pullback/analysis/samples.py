"""The good samples of a sweep as arrays: all that a statistic reads.

Arrays of one value a sample are in memory. Eigenvectors take n times as much, so they are read a few samples at a time,
or loaded once where they fit.
"""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import psutil

from pullback.analysis.bootstrap import Bootstrap, Floats, Integers
from pullback.analysis.protocol import About
from pullback.analysis.truncation import Rest, rest_of
from pullback.errors import PullbackError

if TYPE_CHECKING:
    import xarray as xr


class StoredSweep(Protocol):
    """What an analysis needs of a sweep; `pullback.store.reader.Sweep` is one."""

    @property
    def path(self) -> str | Path:
        """Where the sweep's store is."""
        ...

    @property
    def name(self) -> str:
        """The sweep's name."""
        ...

    @property
    def snapshot(self) -> str:
        """The version of the store that this reader sees."""
        ...

    def status(self) -> Any:
        """Counts of samples: `planned`, `good`, `quarantined`, `pending`."""
        ...

    def dataset(self) -> "xr.Dataset":
        """Good samples."""
        ...

    @property
    def whole_metrics(self) -> bool:
        """True if the mean metric averages whole metrics, False if it averages their kept eigenpairs."""
        ...

    def mean_metric(self, kept: bool = False) -> Floats:
        """Mean `[n, n]` of the good samples' metrics; with `kept`, of their kept parts where there are no others."""
        ...

    def zero_metrics(self) -> Any:
        """The samples whose metric is exactly zero; `as_dict` gives their counts and numbers."""
        ...


class Stack(Protocol):
    """Eigenvectors `[samples, k, n]` that can be sliced along samples: a numpy, Zarr or lazy xarray array."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Samples, kept eigenvectors, latent dimensions."""
        ...

    def __getitem__(self, samples: Any, /) -> Any:
        """Return something that numpy can turn into an array."""
        ...


class Samples:
    """The good samples of a sweep at one snapshot. Sizes: N samples, k kept eigenpairs, n latent dimensions.

    Args:
        about: which sweep and snapshot.
        columns: stored arrays with the samples along their first axis, read when they are first used: `eigenvalue`
            [N, k], `eigenvector` [N, k, n] and `trace` [N], and whatever else the sweep has.
        mean: H̄ `[n, n]`, or the mean of the kept parts where `whole` is False; computed from the eigenpairs by default.
        whole: True if `mean` averages whole metrics, False if it averages their kept eigenpairs.
        numbers: sample numbers `[N]`, ascending; 0 to N − 1 by default.
        provenance: the record of the sweep's origin, such as its `blocks` and its `spec`; empty if it is not recorded.
    """

    def __init__(
        self,
        about: About,
        columns: Mapping[str, Any],
        *,
        mean: Any = None,
        whole: bool = True,
        numbers: npt.ArrayLike | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        self.about, self.whole = about, whole
        self.provenance: Mapping[str, Any] = provenance or {}
        self._columns, self._mean = columns, mean
        self._loaded: Stack | None = None
        self._bootstraps: dict[tuple[int, int], Bootstrap] = {}
        count = len(self.eigenvalues)
        self.numbers: Integers = np.arange(count) if numbers is None else np.asarray(numbers, dtype=np.int64)

    @classmethod
    def of_sweep(cls, sweep: StoredSweep) -> "Samples":
        """Open the good samples of a sweep.

        Raises:
            PullbackError: fewer than 2 good samples, metrics that are all zero, or numbers that are not finite.
        """
        dataset = sweep.dataset()
        count = int(dataset.sizes["sample"])
        if count < 2:
            raise PullbackError(_too_few(sweep, count))
        columns = {str(name): variable for name, variable in dataset.variables.items()}
        samples = cls(
            About.of_sweep(sweep),
            columns,
            mean=lambda: sweep.mean_metric(kept=True),
            whole=sweep.whole_metrics,
            numbers=dataset["sample"].values,
            provenance=getattr(sweep, "provenance", None),
        )
        _check_metrics(sweep, samples.eigenvalues, samples.trace)
        return samples

    @classmethod
    def of_metrics(cls, metrics: npt.ArrayLike, name: str = "metrics") -> "Samples":
        """Decompose symmetric matrices `[N, n, n]`: samples for tests and examples, without a sweep."""
        matrices = np.asarray(metrics, dtype=np.float64)
        values, vectors = np.linalg.eigh(matrices)
        columns = {
            "eigenvalue": values[:, ::-1].copy(),
            "eigenvector": vectors.transpose(0, 2, 1)[:, ::-1].copy(),
            "trace": np.trace(matrices, axis1=1, axis2=2),
        }
        return cls(About(name, "", len(matrices)), columns, mean=matrices.mean(axis=0))

    def __len__(self) -> int:
        return len(self.eigenvalues)

    def __contains__(self, name: str) -> bool:
        """Whether the sweep has an array of this name."""
        return name in self._columns

    def column(self, name: str) -> Any:
        """Return an array of the sweep `[N, ...]`, such as `latent` or `condition`.

        Raises:
            KeyError: the sweep has no array of this name.
        """
        return np.asarray(self._columns[name])

    @cached_property
    def eigenvalues(self) -> Floats:
        """Kept eigenvalues `[N, k]`, descending; squared image distance per squared latent length."""
        return np.asarray(self._columns["eigenvalue"], dtype=np.float64)

    @cached_property
    def trace(self) -> Floats:
        """Trace of each whole metric `[N]`: exact, or an estimate where `estimated` is True."""
        return np.asarray(self._columns["trace"], dtype=np.float64)

    @property
    def latent_dim(self) -> int:
        """n, the size of a latent code."""
        return int(self._columns["eigenvector"].shape[2])

    @property
    def truncated(self) -> bool:
        """True if fewer than n eigenpairs are kept."""
        return int(self.eigenvalues.shape[1]) < self.latent_dim

    @property
    def estimated(self) -> bool:
        """True if traces are estimates, as iterative methods make them."""
        return self.truncated and not self.whole

    @property
    def eigenvectors(self) -> Stack:
        """Kept eigenvectors `[N, k, n]`, unit rows in the order of `eigenvalues`; slice a few samples at a time."""
        stored: Stack = self._columns["eigenvector"]
        return stored if self._loaded is None else self._loaded

    def load_eigenvectors(self, chosen: Integers | None = None) -> Stack:
        """Return eigenvectors `[N, k, n]`, or of the chosen positions only: in memory if half of it is enough."""
        everything = chosen is None or len(chosen) == len(self)
        if everything and self._loaded is not None:
            return self._loaded
        stored = self._columns["eigenvector"]
        part: Any = stored if everything else stored[chosen]
        if part.nbytes > psutil.virtual_memory().available // 2:
            return part  # type: ignore[no-any-return]
        vectors: Stack = np.asarray(part)
        if everything:
            self._loaded = vectors
        return vectors

    @property
    def blocks(self) -> dict[str, tuple[int, int]]:
        """The named blocks of a latent code: name -> (start, stop) of its coordinates; empty if it has none."""
        stored = self.provenance.get("blocks") or {}
        return {str(name): (int(start), int(stop)) for name, (start, stop) in stored.items()}

    def require(self, least: int, what: str) -> None:
        """Raise PullbackError if there are fewer samples than `what`, the subject of the message, needs."""
        if len(self) < least:
            raise PullbackError(
                f"{what} needs at least {least} samples, and {len(self)} of {self.about.name!r} can be used. Nothing "
                "was computed. Use a sweep with more samples."
            )

    def choose(self, most: int, seed: int) -> Integers:
        """Return at most `most` positions, ascending, drawn without replacement."""
        if len(self) <= most:
            return np.arange(len(self))
        chosen: Integers = np.sort(np.random.default_rng(seed).choice(len(self), most, replace=False))
        return chosen

    def bootstrap(self, draws: int, seed: int) -> Bootstrap:
        """Return the bootstrap over all samples; the same object for the same arguments, so it is drawn once."""
        return self._bootstraps.setdefault((draws, seed), Bootstrap(len(self), draws, seed))

    def mean_metric(self) -> Floats:
        """Return H̄ `[n, n]`, or the mean of the kept parts where `whole` is False."""
        mean = self._mean() if callable(self._mean) else self._mean
        if mean is not None:
            return np.asarray(mean, dtype=np.float64)
        total = np.zeros((self.latent_dim, self.latent_dim))
        for sample, values in enumerate(self.eigenvalues):
            rows = np.asarray(self.eigenvectors[sample : sample + 1], dtype=np.float64)[0]
            total += rows.T @ (values[:, None] * rows)
        return total / len(self)

    @cached_property
    def rest(self) -> Rest:
        """What is known about the metrics outside their kept eigenpairs."""
        sums = np.abs(self.eigenvalues).sum(axis=1)
        # A trace below the sum of the kept eigenvalues is round-off.
        totals = np.maximum(self.trace, sums) if self.truncated else sums
        return rest_of(np.abs(self.eigenvalues), totals, self.latent_dim, self.estimated)


def _too_few(sweep: StoredSweep, count: int) -> str:
    status = sweep.status()
    message = (
        f"sweep {sweep.name!r} has {count} good sample{'' if count == 1 else 's'} of {status.planned} "
        f"planned ({status.pending} pending, {status.quarantined} quarantined); a statistic needs at least 2."
    )
    if status.pending:
        return f"{message} `pullback run` with its job computes more; if this is an earlier snapshot, take a later one."
    why = "see why samples were quarantined with `pullback show`, or " if status.quarantined else ""
    return f"{message} Nothing is pending: {why}use `pullback run` for a new sweep with more samples."


def _check_metrics(sweep: StoredSweep, eigenvalues: Floats, trace: Floats) -> None:
    broken = int(np.sum(~(np.isfinite(eigenvalues).all(axis=1) & np.isfinite(trace))))
    if broken:
        raise PullbackError(
            f"sweep {sweep.name!r} marks {broken} of {len(trace)} samples good whose eigenvalues or trace are "
            f"not finite: its store at {sweep.path} is damaged. Run the job again with a new sweep."
        )
    if not eigenvalues.any():
        raise PullbackError(
            f"every eigenvalue of the {len(trace)} good samples of sweep {sweep.name!r} is zero: the images do not "
            f"depend on the code as far as derivatives show. Check that the images of two different codes differ, and "
            f"that neither the generator nor the distance rounds or detaches them."
        )
