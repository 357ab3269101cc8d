"""The certificate: the checks of each metric, and whether the metric passes them. `certify` computes it.

A check that does not apply to a method (because it has no Jacobian or no whole matrix) is NaN and has no limit.
Elsewhere: the table of checks (`checks`), the checks themselves (`matrix_checks`, `probes`, `differences`,
`curvature`, `finite_steps`), and the quarantine of metrics that fail (`sweep`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pullback.errors import is_interrupt
from pullback.metric.check_timing import verifying
from pullback.metric.checks import BY_NAME, MEASURES, NAMES, TRACE_PROBES, limits_of
from pullback.metric.curvature import AT_ONCE, check_curvature
from pullback.metric.differences import PushAt, check_jacobian
from pullback.metric.exact import Maps
from pullback.metric.finite_steps import unexplained_change
from pullback.metric.matrix_checks import below_zero, check_matrix, check_pairs, share_of
from pullback.metric.probes import Looks, draw_signs, probe_symmetry, still
from pullback.metric.products import Product

_SIZE_PROBES = 4
"""Number of random vectors. Their products with H estimate the norm of each row of H."""


@dataclass(frozen=True)
class Certificate:
    """The checks of a batch of metrics.

    Each check is an attribute with the check's name, such as `certificate.probe_error`: a tensor [batch] on the CPU.
    `finite` and `converged` are bool, the others float64. `checks.CHECKS` defines all checks.

    Attributes:
        values: the checks by name, each [batch].
        limits: the largest value that passes, by check.
    """

    values: Mapping[str, Tensor]
    limits: Mapping[str, float] = field(default_factory=lambda: limits_of("gauss_newton"))

    def __getattr__(self, name: str) -> Tensor:
        if name not in NAMES:  # `copy` and `pickle` look up other attributes before `values` exists
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return self.values[name]

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *NAMES})

    @property
    def passed(self) -> Tensor:
        """Whether each metric passes every check [batch] bool; a scalar for a single metric."""
        return torch.tensor([not failure for failure in self.failures()]).reshape(self.finite.shape)

    def failures(self) -> list[str]:
        """The first check that each metric fails, `""` if it passes all. A single metric gives a list of one."""
        return [self._first_failure(index) for index in range(self.finite.numel())]

    def _first_failure(self, index: int) -> str:
        for name, check in BY_NAME.items():
            value = self.values[name].reshape(-1)[index]
            if check.flag:
                failed = not bool(value)
            elif name in self.limits:
                unknown = check.optional and bool(value.isnan())
                failed = not unknown and not float(value) <= self.limits[name]  # a NaN fails
            else:
                failed = False
            if failed:
                return name
        return ""

    def __getitem__(self, index: int) -> "Certificate":
        """The certificate of one metric of the batch, with scalar tensors."""
        return Certificate({name: value[index] for name, value in self.values.items()}, self.limits)

    @staticmethod
    def concatenate(parts: Sequence["Certificate"]) -> "Certificate":
        """Join the certificates of several batches of the same method."""
        joined = {name: torch.cat([part.values[name] for part in parts]) for name in NAMES}
        return Certificate(joined, parts[0].limits)


@dataclass(frozen=True)
class Evidence:
    """Results of a method at a batch of codes, and the functions that the checks need to compute more.

    Attributes:
        values: the kept eigenvalues [batch, k] float64, descending.
        vectors: their eigenvectors as stored [batch, k, n]: float32 numbers in float64.
        z: the codes [batch, n]; None to check no derivatives.
        raw: H as computed [batch, n, n] float64 on the CPU, before symmetrisation; None for a method without a matrix.
        matrix: H as returned [batch, n, n], symmetric.
        spectrum: all eigenvalues [batch, n], if there is a matrix.
        looks: records of the Jacobian, after `probes.compare_columns`; None for a method without a Jacobian.
        push_at: the function that made the Jacobian.
        product: maps vectors [p, n] to H times them, at the single code of a method without a matrix.
        at_once: number of codes that a check may pass through the networks at once, if there is no Jacobian.
        converged: whether the method converged [batch] bool; None means that all did.
    """

    values: Tensor
    vectors: Tensor
    z: Tensor | None = None
    raw: Tensor | None = None
    matrix: Tensor | None = None
    spectrum: Tensor | None = None
    looks: Looks | None = None
    push_at: PushAt | None = None
    product: Product | None = None
    at_once: int = AT_ONCE
    converged: Tensor | None = None


def certify(
    found: Evidence,
    limits: Mapping[str, float],
    maps: Maps | None = None,
    known: Mapping[str, Tensor] | None = None,
) -> tuple[Certificate, Tensor]:
    """Certify the results of any method; return the certificate and the trace of the whole H [batch].

    Args:
        found: the results.
        limits: from `checks.limits_of` for the method and precision. A check beyond its limit is repeated more closely.
        maps: the maps whose derivatives are checked; None to check no derivatives.
        known: results of earlier checks. For example, a block of a metric reuses the checks of the whole metric. The
            matrix and its eigenpairs are always checked.
    """
    batch = len(found.values)
    nothing = torch.full((batch,), torch.nan, dtype=torch.float64)
    values: dict[str, Tensor] = dict.fromkeys(MEASURES, nothing)
    values["converged"] = torch.ones(batch, dtype=torch.bool) if found.converged is None else found.converged
    values |= known or {}
    if found.raw is not None:
        checked, trace = _of_matrices(found, limits, maps)
    else:
        checked, trace = _of_pairs(found, limits, maps)
    values |= checked
    return Certificate({name: values[name] for name in NAMES}, limits), trace


def _of_matrices(found: Evidence, limits: Mapping[str, float], maps: Maps | None) -> tuple[dict[str, Tensor], Tensor]:
    """The checks of whole metrics [batch, n, n], and the traces of the metrics [batch]."""
    raw, matrix, spectrum = found.raw, found.matrix, found.spectrum
    assert raw is not None
    assert matrix is not None
    assert spectrum is not None
    checks: dict[str, Tensor] = {}
    if maps is not None and found.z is not None:
        z, sizes = found.z, raw.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()
        if found.looks is not None:
            checks |= check_jacobian(maps.features_of, z, found.looks, limits, maps.exact_features_of, found.push_at)
        else:
            singles = [
                check_curvature(
                    lambda v, h=h: v.to(h) @ h,  # type: ignore[misc]
                    code,
                    size,
                    maps.squared_at(index),
                    maps.exact_squared_at(index),
                    limits,
                    dense=True,
                    at_once=found.at_once,
                )
                for index, (h, code, size) in enumerate(zip(raw, z, sizes, strict=True))
            ]
            checks |= {name: torch.stack([single[name] for single in singles]) for name in singles[0]}
        checks["zero_error"] = _zero_errors(maps, z, still(sizes))
        checks = {name: value.to("cpu", torch.float64) for name, value in checks.items()}
    checks |= check_matrix(raw, spectrum, found.values.shape[1])
    checks |= check_pairs(found.values, found.vectors, found.vectors @ matrix)
    return checks, matrix.diagonal(dim1=1, dim2=2).sum(dim=1)


def _of_pairs(found: Evidence, limits: Mapping[str, float], maps: Maps | None) -> tuple[dict[str, Tensor], Tensor]:
    """The checks of one metric's eigenpairs by products with the metric, and its estimated trace [1]."""
    product, codes = found.product, found.z
    assert maps is not None
    assert product is not None
    assert codes is not None
    finite = bool(found.vectors.isfinite().all() and found.values.isfinite().all())
    checks = {"finite": torch.tensor([finite])}
    if not finite:
        return checks, torch.full((1,), torch.nan, dtype=torch.float64)
    code = codes[0]
    # Computed again: the products that the search used must not certify its result.
    fresh = product(found.vectors[0].to(code)).to("cpu", torch.float64)
    checks |= check_pairs(found.values, found.vectors, fresh[None])
    checks["symmetry_error"] = probe_symmetry(product, code)[None]
    checks["negative_eigenvalue"] = below_zero(found.values)
    sizes = _sizes(product, code)
    curved = check_curvature(
        product,
        code,
        sizes,
        maps.squared_at(0),
        maps.exact_squared_at(0),
        limits,
        dense=False,
        at_once=found.at_once,
    )
    checks |= {name: value[None] for name, value in curved.items()}
    checks["zero_error"] = _zero_errors(maps, codes, still(sizes)[None])
    trace = _estimated_trace(product, code, found.values[0], found.vectors[0])[None]
    checks["trace_share"] = share_of(found.values, trace)
    return checks, trace


@verifying
def _sizes(product: Product, code: Tensor) -> Tensor:
    """Norms of the rows of H [n], up to a common factor and about ten per cent; exactly 0 for a zero row."""
    signs = torch.cat([draw_signs(code[None], 5 + index) for index in range(_SIZE_PROBES)])
    rows: Tensor = product(signs.to(code)).to("cpu", torch.float64).square().mean(dim=0).sqrt()
    return rows


@verifying
def _zero_errors(maps: Maps, z: Tensor, zeros: Tensor) -> Tensor:
    """`zero_error` of codes [batch, n]. `zeros` marks the coordinates whose column is zero [batch, n] bool."""
    return torch.stack([_zero_error(maps, index, code, zeros[index]) for index, code in enumerate(z)])


def _zero_error(maps: Maps, index: int, code: Tensor, zeros: Tensor) -> Tensor:
    if not bool(zeros.any()):
        return torch.zeros((), dtype=torch.float64)
    attempts = maps.seen_at(index)
    for place, (features, dtype) in enumerate(attempts):
        try:
            return unexplained_change(features, code.to(dtype), zeros)
        except Exception as error:  # a network may not run in float64
            if is_interrupt(error):
                raise KeyboardInterrupt from error
            if place == len(attempts) - 1:
                raise
    raise AssertionError("there is at least one attempt, and the last returns or raises")


def _estimated_trace(product: Callable[[Tensor], Tensor], code: Tensor, values: Tensor, vectors: Tensor) -> Tensor:
    """Estimated trace of H: Σλ of the found eigenvalues, plus (n − k) times a mean over random directions.

    The mean is over vᵀHv for random unit vectors v orthogonal to the k found eigenvectors.
    Source: Hutchinson's estimator on the orthogonal complement, as in Hutch++ (Meyer et al., SOSA 2021).
    """
    rest = len(code) - len(values)
    if rest == 0:
        return values.sum()
    drawn = torch.randn(TRACE_PROBES, len(code), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    drawn -= drawn @ vectors.T @ vectors
    drawn /= drawn.norm(dim=1, keepdim=True)
    curvatures = (product(drawn.to(code)).to("cpu", torch.float64) * drawn).sum(dim=1)
    return values.sum() + rest * curvatures.mean().clamp_min(0)
