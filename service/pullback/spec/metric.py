"""The section `metric` of a sweep's job, and the names and defaults of methods and precisions: they stand only here."""

from typing import Annotated, Literal, get_args

from pydantic import Field

from pullback.spec.options import Options
from pullback.spec.samples import MOST_CODES

Method = Literal["gauss_newton", "backprop", "lanczos", "block_krylov", "finite_difference"]
METHODS: tuple[Method, ...] = get_args(Method)
Precision = Literal["float32", "float64", "tf32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
Replay = Literal["eager", "graph", "auto"]
REPLAYS: tuple[Replay, ...] = get_args(Replay)
ITERATIVE_METHODS: tuple[Method, ...] = ("lanczos", "block_krylov", "finite_difference")
"""The methods that find the largest k eigenpairs. For k < n they do not form the whole matrix, unlike the others."""


class MetricSpec(Options):
    """How the metric is computed and how much of it is kept."""

    method: Literal["auto", Method] = "auto"
    """`gauss_newton`: the exact H = 2 JᵀJ from batched forward-mode Jacobian columns; `backprop`: a second backward
    pass for each coordinate, as Wang & Ponce; `lanczos`, `block_krylov`: the top eigenpairs from exact products with H;
    `finite_difference`: the same from differences of gradients; `auto` picks by distance, n, components and memory."""
    components: Literal["all"] | Annotated[int, Field(ge=1, le=MOST_CODES)] = "all"
    """How many eigenpairs are stored of each metric, largest first. With fewer than the size of the code, the iterative
    methods make no whole metrics, so the mean metric of their sweeps is the mean of the kept parts only."""
    precision: Precision = "float32"
    """The arithmetic of derivatives; every certificate has its measured error."""
    deterministic: bool = False
    """Use only algorithms that repeat themselves bit by bit; slower on a GPU."""
    tolerance: float = Field(default=1e-6, gt=0, lt=1)
    """Iterative methods end when the residuals ‖Hv − λv‖ / λ₁ are below this."""
    max_products: Annotated[int, Field(ge=1, le=2**31)] | None = None
    """Iterative methods multiply H with at most this many vectors; by default twice the size of the code."""
    relative_step: float = Field(default=1e-3, gt=0, lt=1)
    """The step of `finite_difference`, relative to the norm of the code."""


DEFAULTS = MetricSpec()
"""The default values, also those of `metric_at`."""
