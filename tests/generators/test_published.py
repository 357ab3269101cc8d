"""Generators in the style of published code: right to round-off, on the tape, certified."""

import sys
from pathlib import Path

import pytest
import torch

from pullback.distances import load_distance
from pullback.generators import load_generator
from pullback.metric import metric_at
from pullback.metric.forward import rules as tangent_rules
from pullback.metric.forward.linearize import Linearization
from pullback.metric.jacobian import feature_map

sys.path.append(str(Path(__file__).parent / "published"))
from published_names import NAMES


@pytest.fixture(autouse=True)
def _found(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "published"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_published_generator_is_recorded_and_right(name, monkeypatch):
    def refuse(tape, func, *_):
        raise AssertionError(f"{func} has no rule")

    monkeypatch.setattr(tangent_rules, "_by_jvp", refuse)
    generator, distance = load_generator(f"{name}_tiny"), load_distance("mse")
    codes = torch.randn(2, generator.latent_dim, generator=torch.Generator().manual_seed(3))
    made = metric_at(generator, distance, codes)
    assert made.method == "gauss_newton"
    assert bool(made.certificate.passed.all())
    generator, distance, codes = generator.double(), distance.double(), codes.double()
    assert made.matrix is not None
    code = codes[0]

    def squared(z):
        return distance(generator(code[None]).detach(), generator(z[None])).sum()

    wanted = torch.autograd.functional.hessian(squared, code)
    rows = Linearization(feature_map(generator, distance), code[None]).push(torch.eye(len(code)).double()[:, None])[
        :, 0
    ]
    assert float((2 * rows @ rows.T - wanted).norm() / wanted.norm()) < 1e-10
    assert float((made.matrix[0] - wanted).norm() / wanted.norm()) < 1e-3  # float32, with kinks within round-off


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_generator_with_parts_in_torchscript_falls_back_and_is_right():
    generator, distance = load_generator("published_autoencoders:scripted_tiny"), load_distance("mse")
    codes = torch.randn(2, generator.latent_dim, generator=torch.Generator().manual_seed(3))
    made, wanted = (metric_at(generator, distance, codes, method=m) for m in ("gauss_newton", "backprop"))
    assert bool(made.certificate.passed.all())
    assert float((made.matrix - wanted.matrix).norm() / wanted.matrix.norm()) < 1e-4
