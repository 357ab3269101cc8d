"""Statistics over a sweep's points: anisotropy, homogeneity, the mean metric, each with its uncertainty.

Functions of arrays live in the modules; `analyze` applies them to a stored sweep, and `kept` keeps the result.
"""

from pullback.analysis.job import Analysis, analyze

__all__ = ["Analysis", "analyze"]
