"""Pullback: the pull-back metric of image generators.

The metric at a latent code z is the Hessian of the squared image distance D²(G(z), G(z')) in z' at z' = z. docs/api.md
describes every public name.

Importing this package imports neither torch nor Ray nor the store. A public name is imported when it is first used.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pullback.analysis import Analysis, analyze
    from pullback.api.client import Client, ServiceError
    from pullback.applications.inverting.notebook import Inversion, invert
    from pullback.applications.searching.found import Found, search
    from pullback.applications.walking.gallery import AxisGallery, axes
    from pullback.distances import Distance, FeatureDistance, Mask, ResidualDistance, ScalarDistance, load_distance
    from pullback.errors import (
        ArgumentError,
        DeviceError,
        MemoryPlanError,
        PluginError,
        PullbackError,
        SpecError,
        StoreError,
        SweepError,
        WeightsError,
    )
    from pullback.generators import Generator, load_generator
    from pullback.metric import PullbackMetric, layer_metrics, metric_at
    from pullback.metric.certificate import Certificate
    from pullback.store.reader import Sweep, open_sweep

__all__ = [
    "Analysis",
    "ArgumentError",
    "AxisGallery",
    "Certificate",
    "Client",
    "DeviceError",
    "Distance",
    "FeatureDistance",
    "Found",
    "Generator",
    "Inversion",
    "Mask",
    "MemoryPlanError",
    "PluginError",
    "PullbackError",
    "PullbackMetric",
    "ResidualDistance",
    "ScalarDistance",
    "ServiceError",
    "SpecError",
    "StoreError",
    "Sweep",
    "SweepError",
    "WeightsError",
    "__version__",
    "analyze",
    "axes",
    "invert",
    "layer_metrics",
    "load_distance",
    "load_generator",
    "metric_at",
    "open_sweep",
    "search",
]

_MODULES = {
    "pullback.analysis": ("Analysis", "analyze"),
    "pullback.applications.inverting.notebook": ("Inversion", "invert"),
    "pullback.api.client": ("Client", "ServiceError"),
    "pullback.applications.searching.found": ("Found", "search"),
    "pullback.applications.walking.gallery": ("AxisGallery", "axes"),
    "pullback.distances": (
        "Distance",
        "FeatureDistance",
        "Mask",
        "ResidualDistance",
        "ScalarDistance",
        "load_distance",
    ),
    "pullback.errors": (
        "ArgumentError",
        "DeviceError",
        "MemoryPlanError",
        "PluginError",
        "PullbackError",
        "SpecError",
        "StoreError",
        "SweepError",
        "WeightsError",
    ),
    "pullback.generators": ("Generator", "load_generator"),
    "pullback.metric": ("PullbackMetric", "layer_metrics", "metric_at"),
    "pullback.metric.certificate": ("Certificate",),
    "pullback.store.reader": ("Sweep", "open_sweep"),
}
"""Public names by the module that defines them."""
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        try:
            return version("pullback")
        except PackageNotFoundError:  # imported from a source tree that is not installed
            return "0+source"
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'pullback' has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
