"""The mathematics: Jacobian, Gauss-Newton metric, eigen-decomposition, certificate, memory plan."""

from pullback.metric.pullback_metric import PullbackMetric, metric_at

__all__ = ["PullbackMetric", "metric_at"]
