"""The mathematics: Jacobian, Gauss-Newton metric, products, Krylov methods, certificate, memory plan."""

from pullback.metric.layers import layer_metrics
from pullback.metric.pullback_metric import metric_at
from pullback.metric.result import PullbackMetric

__all__ = ["PullbackMetric", "layer_metrics", "metric_at"]
