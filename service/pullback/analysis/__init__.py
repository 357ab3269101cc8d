"""Statistics over a sweep's samples, each with its uncertainty.

A statistic is one module of `pullback.analysis.statistics` (`protocol` says what it exports). `run_statistics` computes
statistics over a stored sweep and caches the results beside it.
"""

from pullback.analysis.protocol import Result, Table
from pullback.analysis.request import DEFAULT_STATISTICS, choose
from pullback.analysis.result import Analysis
from pullback.analysis.runner import analyze, run_statistics
from pullback.analysis.samples import Samples

__all__ = ["DEFAULT_STATISTICS", "Analysis", "Result", "Samples", "Table", "analyze", "choose", "run_statistics"]
