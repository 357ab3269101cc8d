"""`metric_at`: the metric tensor at latent codes, with its eigen-decomposition and certificate."""

import copy
import time
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from pullback.distances import Distance, ResidualDistance
from pullback.errors import PullbackError, is_interrupt
from pullback.generators.base import any_condition, class_indices, like
from pullback.generators.checks import check_once
from pullback.metric.certificate import MEASURES, Certificate, below_zero, check_pairs, limits_of, share_of
from pullback.metric.jacobian import derivative_at, feature_map
from pullback.metric.memory import Fit, codes_together, fit, is_out_of_memory
from pullback.metric.methods import DENSE, Setting, by_jacobian, by_rows, choose, product_at, top
from pullback.metric.precision import Precision, arithmetic, in_double, relative_error, require, tangent_dtype
from pullback.metric.probes import RESIDUAL_STEP, SCALAR_STEP, probe_squared, probe_symmetry, random_directions
from pullback.metric.products import Product, squared_map
from pullback.metric.result import PullbackMetric
from pullback.metric.stopwatch import verifying

_TRACE_PROBES = 16
"""Random directions from which the trace is estimated where there is no matrix."""


def metric_at(
    generator: nn.Module,
    distance: Distance,
    z: Any,
    *,
    condition: Any = None,
    components: int | None = None,
    method: str = "auto",
    precision: Precision = "float32",
    deterministic: bool = False,
    tolerance: float = 1e-6,
    max_products: int | None = None,
    relative_step: float = 1e-3,
    batch: int | None = None,
    tangents: int | None = None,
) -> PullbackMetric:
    """The pull-back metric H(z) = ∂²/∂z² D²(G(z0), G(z)) at z = z0.

    Source: Wang & Ponce, ICLR 2021, whose H this is; the Gauss-Newton form is exact for residual distances.

    Args:
        generator: maps codes to images; from `load_generator`, or your own module with `latent_dim`.
        distance: from `load_distance`.
        z: a latent code [n], or several [batch, n]: a tensor or anything numpy makes an array of. Moved to the
            generator's device and dtype; a generator and a distance in float64 give a float64 metric.
        condition: for a class-conditional generator: a class name or index, or one for each code, or `cycle`.
        components: how many eigenpairs to return, largest first; all by default.
        method: `gauss_newton`, `backprop`, `lanczos`, `block_krylov`, `finite_difference` (see `methods`), or `auto`,
            which picks by the distance, n, `components` and memory; `PullbackMetric.method` says what it picked.
        precision: `float32`, `float64`, `tf32` (GPUs) or `bfloat16` (of the tangents); its measured error is in the
            certificate.
        deterministic: use only algorithms that repeat themselves bit by bit.
        tolerance: of an iterative method: residuals ‖Hv − λv‖ / λ₁ at which it ends.
        max_products: of an iterative method: vectors multiplied at most; 2n by default.
        relative_step: of `finite_difference`: the step, relative to the norm of the code.
        batch: codes computed at once; chosen to fit into memory by default.
        tangents: Jacobian columns computed at once; chosen to fit into memory by default.

    Raises:
        PullbackError: the generator does not behave as one (see `generators.checks`); z or `components` does not fit
            it, or z is not finite; the device has no such arithmetic.
        MemoryPlanError: even one code with one tangent (or what was fixed of them) does not fit into memory.
        SpecError: the condition does not fit the generator, or the method the distance.
    """
    check_once(generator)
    if not isinstance(distance, Distance):
        raise PullbackError(
            f"a distance of `load_distance` is needed, such as load_distance('lpips'), not {distance!r}"
        )
    codes = torch.as_tensor(z).to(like(generator))
    single = codes.dim() == 1
    codes = codes[None] if single else codes
    n = int(generator.latent_dim)  # type: ignore[arg-type]
    if codes.dim() != 2 or codes.shape[1] != n or len(codes) == 0:
        raise PullbackError(f"latent codes [{n}] or [batch, {n}] are needed, not {list(torch.as_tensor(z).shape)}")
    if not bool(codes.isfinite().all()):
        raise PullbackError("the latent codes have values that are not finite")
    kept = n if components is None else components
    if not 1 <= kept <= n:
        raise PullbackError(f"components must be between 1 and {n}, the size of a code, not {components}")
    require(precision, codes.device)
    classes = class_indices(generator, condition, range(len(codes)))
    blocks = dict(getattr(generator, "blocks", {}))
    if precision == "float64":
        generator, distance, codes = in_double(generator), in_double(distance), codes.double()
    with arithmetic(precision, deterministic):
        plan = fit(generator, distance, codes=len(codes), batch=batch, tangents=tangents)
        setting = Setting(
            choose(method, distance, n, kept, plan.whole),
            precision,
            deterministic,
            tolerance,
            max_products,
            relative_step,
        )
        parts: list[PullbackMetric] = []
        start = 0
        while start < len(codes):
            many = codes_together(plan.batch, n) if setting.method in DENSE else 1
            own = None if classes is None else classes[start : start + many].to(codes.device)
            try:
                compute = _dense if setting.method in DENSE else _top
                parts.append(compute(generator, distance, codes[start : start + many], own, kept, setting, plan))
                start += many
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                smaller = plan.halved(error)
            else:
                continue
            # after the `except`, whose traceback holds on to the tensors that filled the memory
            plan = smaller
            if codes.device.type == "cuda":
                torch.cuda.empty_cache()
    joined = replace(PullbackMetric.concatenate(parts), blocks=blocks, batch=plan.batch, tangents=plan.tangents)
    return joined[0] if single else joined


def _dense(
    generator: nn.Module,
    distance: Distance,
    z: Tensor,
    condition: Tensor | None,
    kept: int,
    setting: Setting,
    plan: Fit,
) -> PullbackMetric:
    """Metrics of a batch of codes by a method that makes the whole matrix."""
    precision_error = _precision_error(generator, distance, setting)
    began = time.perf_counter()
    checks: dict[str, Tensor] = {}
    limits = limits_of(setting.method, setting.precision)
    if setting.method == "gauss_newton" and plan.whole:
        assert isinstance(distance, ResidualDistance)
        raw, checks = by_jacobian(generator, distance, z, condition, setting, plan.batch, plan.tangents)
    else:
        raw = by_rows(generator, distance, z, condition, setting, plan.tangents)
        if setting.method == "gauss_newton":  # there was no Jacobian to look at
            limits = {**limits_of("lanczos", setting.precision), "eigen_residual": limits["eigen_residual"]}
        errors = []
        for index in range(len(z)):
            own = None if condition is None else condition[index : index + 1]
            step = RESIDUAL_STEP if isinstance(distance, ResidualDistance) else SCALAR_STEP
            squared = squared_map(generator, distance, z[index], own)
            matrix = raw[index]
            errors.append(probe_squared(squared, z[index], lambda v, m=matrix: v.to(m) @ m, step))  # type: ignore[misc]
        checks["probe_error"] = torch.stack(errors)
    checks = {name: value.to("cpu", torch.float64) for name, value in checks.items()}
    checks["precision_error"] = torch.full((len(z),), precision_error, dtype=torch.float64)
    seconds = torch.full((len(z),), (time.perf_counter() - began) / len(z), dtype=torch.float64)
    metric = PullbackMetric.of_matrix(raw, kept, checks, limits, seconds=seconds, method=setting.method)
    return replace(metric, seconds=torch.full_like(seconds, (time.perf_counter() - began) / len(z)))


def _top(
    generator: nn.Module,
    distance: Distance,
    z: Tensor,
    condition: Tensor | None,
    kept: int,
    setting: Setting,
    plan: Fit,
) -> PullbackMetric:
    """The metric of one code [1, n] by a method that finds the largest eigenpairs."""
    precision_error = _precision_error(generator, distance, setting)
    began = time.perf_counter()
    code = z[0]
    product = product_at(generator, distance, code, condition, setting, plan.tangents)
    result = top(product, code, kept, setting, plan.tangents)
    vectors = result.eigenvectors.to(torch.float32).to(torch.float64)
    finite = bool(vectors.isfinite().all() and result.eigenvalues.isfinite().all())
    checks = {name: torch.full((1,), torch.nan, dtype=torch.float64) for name in MEASURES}
    trace, residuals = torch.full((1,), torch.nan, dtype=torch.float64), result.residuals[None]
    if finite:
        # products made anew: what the search went by is not what vouches for it
        fresh = product(vectors.to(code)).to("cpu", torch.float64)
        checks |= check_pairs(result.eigenvalues[None], vectors[None], fresh[None])
        checks["symmetry_error"] = probe_symmetry(product, code)[None]
        checks["negative_eigenvalue"] = below_zero(result.eigenvalues[None])
        residual = isinstance(distance, ResidualDistance)
        squared = squared_map(generator, distance, code, None if condition is None else condition[:1])
        step = RESIDUAL_STEP if residual else SCALAR_STEP
        checks["probe_error"] = probe_squared(squared, code, product, step)[None].to(torch.float64)
        trace = _estimated_trace(product, code, result.eigenvalues, result.eigenvectors)[None]
        checks["trace_share"] = share_of(result.eigenvalues[None], trace)
    checks["precision_error"] = torch.full((1,), precision_error, dtype=torch.float64)
    whole_space = finite and kept == len(code)
    matrix = (result.eigenvectors.T * result.eigenvalues) @ result.eigenvectors if whole_space else None
    return PullbackMetric(
        matrix=None if matrix is None else matrix[None],
        eigenvalues=result.eigenvalues[None],
        eigenvectors=result.eigenvectors[None],
        trace=trace,
        residuals=residuals,
        products=torch.tensor([result.products]),
        certificate=Certificate(
            finite=torch.tensor([finite]),
            converged=torch.tensor([result.converged]),
            **checks,
            limits=limits_of(setting.method, setting.precision),
        ),
        seconds=torch.full((1,), time.perf_counter() - began, dtype=torch.float64),
        method=setting.method,
    )


def _estimated_trace(product: Product, code: Tensor, values: Tensor, vectors: Tensor) -> Tensor:
    """Σλ of what was found, and of the rest n − k times the mean of vᵀHv over random unit v orthogonal to it.

    Source: Hutchinson's estimator on the orthogonal complement, as in Hutch++ (Meyer et al., SOSA 2021).
    """
    rest = len(code) - len(values)
    if rest == 0:
        return values.sum()
    drawn = torch.randn(_TRACE_PROBES, len(code), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    drawn -= drawn @ vectors.T @ vectors
    drawn /= drawn.norm(dim=1, keepdim=True)
    curvatures = (product(drawn.to(code)).to("cpu", torch.float64) * drawn).sum(dim=1)
    return values.sum() + rest * curvatures.mean().clamp_min(0)


_measured: WeakKeyDictionary[nn.Module, WeakKeyDictionary[nn.Module, dict[tuple[str, str], float]]] = (
    WeakKeyDictionary()
)


@verifying
def _precision_error(generator: nn.Module, distance: Distance, setting: Setting) -> float:
    """`precision_error`, measured once and remembered for as long as the networks live.

    At a code of its own, so that it does not depend on which code comes first to which worker.
    """
    known = _measured.setdefault(generator, WeakKeyDictionary()).setdefault(distance, {})
    key = (setting.method, setting.precision)
    if key not in known:
        known[key] = 0.0 if setting.precision == "float64" else _against_double(generator, distance, setting)
    return known[key]


def _against_double(generator: nn.Module, distance: Distance, setting: Setting) -> float:
    drawn = torch.randn(1, int(generator.latent_dim), generator=torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    code = drawn.to(like(generator))
    own = any_condition(generator, 1, code.device)
    try:
        exact_generator, exact_distance = copy.deepcopy(generator).double(), copy.deepcopy(distance).double()
        directions = random_directions(2, code)
        if setting.method == "gauss_newton" and isinstance(distance, ResidualDistance):
            assert isinstance(exact_distance, ResidualDistance)
            features = feature_map(generator, distance, own)
            found = derivative_at(features, code, tangent_dtype(setting.precision))(directions[:, None])
            features = feature_map(exact_generator, exact_distance, own)
            wanted = derivative_at(features, code.double())(directions[:, None].double())
        else:
            exact = Setting("backprop" if not isinstance(distance, ResidualDistance) else "lanczos", "float64")
            found = product_at(generator, distance, code[0], own, setting, 2)(directions)
            wanted = product_at(exact_generator, exact_distance, code[0].double(), own, exact, 2)(directions.double())
    except Exception as error:  # a user's network may insist on float32
        if is_interrupt(error):
            raise KeyboardInterrupt from error
        return float("nan")
    return float(relative_error(found.detach(), wanted.detach()).max())
