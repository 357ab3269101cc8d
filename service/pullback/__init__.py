"""Pullback: the Riemannian metric of image generators.

A generator pulls a perceptual distance back to its latent space; that pull-back metric is what is computed here.
Importing this package imports none of torch, Ray or the store: names are looked up when they are first used.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pullback.api.client import Client
    from pullback.distances import load_distance
    from pullback.errors import PullbackError
    from pullback.generators import load_generator
    from pullback.metric import layer_metrics, metric_at
    from pullback.store.reader import open_sweep

__all__ = [
    "Client",
    "PullbackError",
    "__version__",
    "layer_metrics",
    "load_distance",
    "load_generator",
    "metric_at",
    "open_sweep",
]

_HOMES = {
    "Client": "pullback.api.client",
    "PullbackError": "pullback.errors",
    "layer_metrics": "pullback.metric",
    "load_distance": "pullback.distances",
    "load_generator": "pullback.generators",
    "metric_at": "pullback.metric",
    "open_sweep": "pullback.store.reader",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("pullback")
    if name not in _HOMES:
        raise AttributeError(f"module 'pullback' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
