"""Applications of the metric: each is one module of this package or of a plug-in. `protocol` lists its exports."""

from pullback.applications.results import ApplicationResult, load_results

__all__ = ["ApplicationResult", "load_results"]
