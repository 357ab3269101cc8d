"""The checks of a certificate: one table that defines names, stored arrays, quarantine reasons, labels and limits.

To add a check, add one entry to `CHECKS` and have `certify` measure it. Every quantity is relative and is 0 in exact
arithmetic, so one limit serves every generator. The errors of correct metrics are at most a tenth of the limits. For
`probe_error` they are at most a third, because ReLUs switch within its step.
This module does not import torch, because the store and the report read the table.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

WITHOUT_JACOBIAN = "gauss_newton without a Jacobian"
"""Key of the limits of `gauss_newton` if the Jacobian does not fit into memory and H is made from products."""
TRACE_PROBES = 16
"""Number of random directions that estimate the trace if there is no matrix."""
_DENSE = ("gauss_newton", "backprop")
_ITERATIVE = ("lanczos", "block_krylov", WITHOUT_JACOBIAN)

Limit = Callable[[str, str, int], float | None]
"""Maps (method or `WITHOUT_JACOBIAN`, precision, code size n) to the largest value that passes, or None: no limit."""
_FEW = 16
"""Largest code size at which differences of gradients are accurate enough to show an error of one coordinate."""


@dataclass(frozen=True)
class Check:
    """One check of a certificate.

    Attributes:
        name: attribute of the certificate and name of the stored array.
        label: name for tables and figures; at most 40 characters.
        meaning: `long_name` of the stored array.
        definition: the measured quantity, with its formula.
        reason: name of the quarantine reason; empty for a quantity that is only reported.
        code: number of that reason in stores. It never changes and is never reused.
        limit: the largest value that passes, by method, precision and code size.
        optional: whether an unknown value (NaN) passes, because networks may not run in float64 or a sweep is older.
        flag: whether the check is a bool rather than a number. Flags have no stored array.
        since: revision of the stored format that added the array (`store.schema.REVISION`).
    """

    name: str
    label: str
    meaning: str
    definition: str
    reason: str = ""
    code: int = 0
    limit: Limit = field(default=lambda method, precision, latent_dim: None, repr=False)
    optional: bool = False
    flag: bool = False
    since: int = 1


def _by_method(
    otherwise: float | None = None,
    *,
    gauss_newton: float | None = None,
    iterative: float | None = None,
    finite_difference: float | None = None,
    without_jacobian: float | None = None,
) -> Limit:
    """Limits by method, equal for all precisions; `otherwise` applies to a method without its own limit."""
    table = {**dict.fromkeys(_ITERATIVE, iterative), "gauss_newton": gauss_newton}
    table |= {"finite_difference": finite_difference}
    if without_jacobian is not None:
        table[WITHOUT_JACOBIAN] = without_jacobian

    def limit(method: str, precision: str, latent_dim: int) -> float | None:
        own = table.get(method)
        return otherwise if own is None else own

    return limit


def _by_precision(limits: Mapping[str, float], finite_difference: float, few: float | None = None) -> Limit:
    """Limits by precision. The method `finite_difference` has larger limits, because its own error is larger.

    Args:
        limits: by precision.
        finite_difference: limit of `finite_difference`.
        few: limit of `finite_difference` for codes of at most 16 numbers.
    """

    def limit(method: str, precision: str, latent_dim: int) -> float | None:
        if method != "finite_difference":
            return limits[precision]
        return finite_difference if few is None or latent_dim > _FEW else few

    return limit


_ROUNDINGS = {"float32": 1e-4, "float64": 1e-9, "tf32": 0.02, "bfloat16": 0.1}
"""Upper bound of the relative error that rounding of the tangents causes, by precision."""


def _column_limit(method: str, precision: str, latent_dim: int) -> float | None:
    """The limit of `column_error`. Columns are compared with reverse mode, which does not round tangents."""
    return max(2e-4, 2 * _ROUNDINGS[precision]) if method == "gauss_newton" else None


CHECKS: tuple[Check, ...] = (
    Check(
        "finite",
        "finite",
        "whether every number that was computed is finite",
        "Whether every number that was computed is finite.",
        reason="NOT_FINITE",
        code=1,
        flag=True,
    ),
    Check(
        "converged",
        "converged",
        "whether the method came to its end",
        "Whether the method came to its end; an iterative one may have run out of products.",
        reason="NOT_CONVERGED",
        code=7,
        flag=True,
    ),
    Check(
        "symmetry_error",
        "asymmetry of H",
        "largest asymmetry of the metric, relative to its largest entry",
        "max |H − Hᵀ| / max |H| before H is made exactly symmetric; for a method without a matrix "
        "|uᵀHv − vᵀHu| / (‖Hu‖ + ‖Hv‖) for random unit vectors u, v.",
        reason="ASYMMETRIC",
        code=2,
        limit=_by_method(1e-4, gauss_newton=1e-6, iterative=1e-3, finite_difference=0.05),
    ),
    Check(
        "negative_eigenvalue",
        "most negative eigenvalue",
        "how far the least eigenvalue lies below zero, relative to the largest",
        "How far the least known eigenvalue lies below zero, relative to the greatest.",
        reason="NEGATIVE_EIGENVALUE",
        code=3,
        limit=_by_method(1e-5, gauss_newton=1e-6, iterative=1e-4, finite_difference=0.05),
    ),
    Check(
        "eigen_residual",
        "eigenpair residual",
        "largest residual of an eigenpair, relative to the largest eigenvalue",
        "max over the kept eigenpairs of ‖Hv − λv‖ / λ₁, for the vectors as stored (float32).",
        reason="EIGEN_RESIDUAL",
        code=4,
        limit=_by_method(1e-6, iterative=1e-4, finite_difference=0.05, without_jacobian=1e-6),
    ),
    Check(
        "orthogonality_error",
        "non-orthogonality",
        "largest deviation of the eigenvectors from orthonormality",
        "max |V Vᵀ − I| over the kept eigenvectors as stored.",
        reason="NOT_ORTHOGONAL",
        code=5,
        limit=_by_method(1e-6),
    ),
    Check(
        "trace_share",
        "trace not kept",
        "share of the trace that the kept eigenvalues carry",
        "Σ kept λ / trace of H; 1 where H is zero. Estimated from random directions where there is no matrix.",
    ),
    Check(
        "probe_error",
        "derivative against visible differences",
        "relative deviation of the derivative from differences along a random direction",
        "The derivative along a random direction D against a difference of forward passes in the arithmetic of the "
        "metric, by a step that changes the image a little (round-off and ReLUs leave some per cent in float32): "
        "‖JD − (r(z+εD) − r(z)) / ε‖ / ‖JD‖, or the same for DᵀHD where there is no Jacobian. A rounded image shows "
        "here.",
        reason="JACOBIAN_PROBE",
        code=6,
        limit=_by_method(0.15),
    ),
    Check(
        "zero_error",
        "change of what has a zero derivative",
        "share of a finite change that a derivative of zero does not explain",
        "For the coordinates whose column is zero (all, where H is zero): the share of a finite change of the image, "
        "or of the features, that the derivative along the way does not explain (`finite_steps`).",
        reason="ZERO",
        code=14,
        limit=_by_method(0.5),
        optional=True,
        since=2,
    ),
    Check(
        "product_error",
        "H against its Jacobian",
        "relative deviation of the metric from the product of its Jacobian",
        "max |HD − 2Jᵀ(JD)| / 2‖JD‖ in units of the columns' norms: that H is the product of its Jacobian.",
        reason="GRAM_PRODUCT",
        code=8,
        limit=lambda method, precision, latent_dim: 1e-5 if method == "gauss_newton" else None,
    ),
    Check(
        "column_error",
        "Jacobian columns against reverse mode",
        "largest relative deviation of a Jacobian column from reverse mode",
        "max over the columns i of the Jacobian of |Jᵢᵀu − (Jᵀu)ᵢ| / ‖Jᵢ‖ for a random u, where Jᵀu comes from reverse "
        "mode: one wrong column of thousands is seen. Less what all columns have in common, up to 2e-3, because a ReLU "
        "may switch between both passes.",
        reason="JACOBIAN_COLUMN",
        code=9,
        limit=_column_limit,
    ),
    Check(
        "precision_error",
        "derivative against short differences",
        "bound on the relative error of the derivative, from central differences",
        "The derivative along D against central differences by a short step: ‖JD − (r(z+εD) − r(z−εD)) / 2ε‖ / ‖JD‖, "
        "or the same for DᵀHD where there is no Jacobian. D moves every coordinate, in inverse proportion to its "
        "column (`probes`). It is compared in the arithmetic of the networks first, and the error is then a bound that "
        "includes the error of the difference itself (1 per cent or less in float32). Beyond a limit, or where "
        "round-off hides it, the differences are taken in float64. NaN where the networks do not run in float64 and "
        "their own arithmetic does not suffice. The limits are larger than the roundings: a ReLU whose input is within "
        "round-off of 0 switches, and of millions a share of the machine epsilon does, which moves the derivative by "
        "about its square root: by 0.008 for float32 in BigGAN-deep, in forward mode and in double backpropagation.",
        reason="PRECISION",
        code=10,
        limit=_by_precision({"float32": 0.02, "float64": 1e-3, "tf32": 0.1, "bfloat16": 0.15}, finite_difference=0.05),
        optional=True,
    ),
    Check(
        "coordinate_error",
        "error of a single coordinate",
        "error that a single latent coordinate of the derivative may have",
        "The deviation of `precision_error`, relative to what a single coordinate contributes instead of ‖JD‖: the "
        "error that one coordinate may have alone, and 1 or more if the derivative misses it. By groups of 16 "
        "coordinates where the error of all together is beyond the limit.",
        reason="COORDINATE",
        code=13,
        limit=_by_precision(
            {"float32": 0.1, "float64": 0.02, "tf32": 0.4, "bfloat16": 0.5}, finite_difference=0.5, few=0.15
        ),
        optional=True,
        since=2,
    ),
)
"""Every check. A metric's first failure is the first failed check in this order."""
BY_NAME: Mapping[str, Check] = {check.name: check for check in CHECKS}
NAMES: tuple[str, ...] = tuple(BY_NAME)
MEASURES: tuple[str, ...] = tuple(check.name for check in CHECKS if not check.flag)
"""The names of the checks that are numbers, each with a stored array."""
REASONS: Mapping[str, int] = {check.reason: check.code for check in CHECKS if check.reason}
"""The quarantine reasons of the checks, with their stored codes."""


def reason_code(failure: str) -> int:
    """The stored reason code of a failed check; 0 for `""` (no failure)."""
    return BY_NAME[failure].code if failure else 0


def label_of(name: str) -> str:
    """The label of a check. Any other name is returned with spaces for underscores."""
    return BY_NAME[name].label if name in BY_NAME else name.replace("_", " ")


def limits_of(
    method: str, precision: str = "float32", *, latent_dim: int = 512, whole: bool = True
) -> dict[str, float]:
    """The largest value of each quantity that passes, in the order of the checks.

    Args:
        method: one of `spec.metric.METHODS`.
        precision: one of `spec.metric.PRECISIONS`.
        latent_dim: n, the size of the code.
        whole: False for `gauss_newton` if the Jacobian did not fit into memory and H was made from products.
    """
    key = WITHOUT_JACOBIAN if method == "gauss_newton" and not whole else method
    found = {check.name: check.limit(key, precision, latent_dim) for check in CHECKS}
    return {name: limit for name, limit in found.items() if limit is not None}
