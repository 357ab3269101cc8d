"""One question says how metrics will be computed, and what that takes."""

import pytest
import torch

from pullback.distances import load_distance
from pullback.errors import ArgumentError, MemoryPlanError, SpecError
from pullback.metric import estimate, metric_at
from toy_generators import Linear, Smooth

MSE = load_distance("mse", device="cpu")
GIB = 2**30


def test_the_estimate_is_what_the_metric_then_does():
    generator = Smooth(latent_dim=12)
    found = estimate(generator, MSE, codes=6, budget=GIB)
    metric = metric_at(generator, MSE, torch.randn(6, 12), strategy=found.strategy)
    assert (metric.method, metric.route) == (found.strategy.method, found.strategy.route)
    assert (metric.batch, metric.tangents) == (found.strategy.fit.batch, found.strategy.fit.tangents)
    assert 0 < found.bytes <= found.available == GIB
    assert 1 <= found.together <= 6
    assert found.seconds_per_code is None


def test_a_fixed_batch_and_a_method_are_kept():
    found = estimate(Smooth(), MSE, codes=8, batch=2, tangents=3, method="backprop")
    assert (found.strategy.method, found.strategy.fit.batch, found.strategy.fit.tangents) == ("backprop", 2, 3)


def test_processes_share_the_free_memory(monkeypatch):
    monkeypatch.setattr("pullback.metric.cost.usable_bytes", lambda device: 6 * GIB)
    assert estimate(Smooth(), MSE, shared_by=3).available == 2 * GIB


def test_copies_in_float64_are_part_of_the_memory():
    single, double = (estimate(Smooth(), MSE, precision=name) for name in ("float32", "float64"))
    assert double.bytes > single.bytes


def test_the_time_is_measured_with_the_threads_asked_for(monkeypatch):
    before = torch.get_num_threads()
    seen = []

    class Watched(Linear):
        def forward(self, z):
            seen.append(torch.get_num_threads())
            return super().forward(z)

    found = estimate(Watched(), MSE, timed=True, threads=1)
    assert found.seconds_per_code is not None
    assert 0 < found.seconds_per_code < 10
    assert 1 in seen
    assert torch.get_num_threads() == before


def test_what_cannot_be_names_the_argument():
    with pytest.raises(ArgumentError, match="gauss_newton") as caught:
        estimate(Smooth(), MSE, method="gaus_newton")
    assert caught.value.argument == "method"
    assert isinstance(caught.value, SpecError)
    with pytest.raises(ArgumentError) as caught:
        estimate(Smooth(), MSE, precision="tf32")
    assert caught.value.argument == "precision"
    with pytest.raises(MemoryPlanError):
        estimate(Smooth(), MSE, budget=1)
