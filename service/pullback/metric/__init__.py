"""The mathematics: Jacobian, Gauss-Newton metric, products, Krylov methods, certificate, memory plan.

Names are imported on first use, so the store and the report can read `checks` without importing torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pullback.metric.compute import metric_at
    from pullback.metric.cost import Estimate, estimate
    from pullback.metric.layers import layer_metrics
    from pullback.metric.result import PullbackMetric

__all__ = ["Estimate", "PullbackMetric", "estimate", "layer_metrics", "metric_at"]

_HOMES = {
    "Estimate": "cost",
    "PullbackMetric": "result",
    "estimate": "cost",
    "layer_metrics": "layers",
    "metric_at": "compute",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
