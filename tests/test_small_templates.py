"""The templates of a stored array and of a check of the certificate fit the tables that they are made for."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from pullback.metric.checks import BY_NAME
from pullback.store.schema import ARRAYS, REVISION, Layout, Reason
from pullback.store.schema import BY_NAME as ARRAYS_BY_NAME

TEMPLATES = Path(__file__).parents[1] / "docs" / "templates"


def template(name):
    spec = importlib.util.spec_from_file_location(f"template_{name}", TEMPLATES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_template_of_an_array_is_new_and_filled_in_its_shape():
    made = template("stored_array")
    layout = Layout(samples=10, latent_dim=6, components=4, shard_size=4)
    assert made.ARRAY.name not in ARRAYS_BY_NAME
    assert made.ARRAY.name not in {dim for array in ARRAYS for dim in array.dims}
    assert made.ARRAY.since == REVISION + 1
    values = made.fill(np.full((4, 6), 2, dtype=np.float32))
    assert (values.shape, values.dtype) == (made.ARRAY.shard_shape(layout), np.dtype(made.ARRAY.dtype))
    np.testing.assert_allclose(values, 24**0.5)


def test_the_template_of_a_check_is_new_and_has_a_limit():
    check = template("certificate_check").CHECK
    assert check.name not in BY_NAME
    assert check.code not in set(Reason)
    assert check.reason not in Reason.__members__
    assert len(check.label) <= 40
    assert check.limit("gauss_newton", "float32") == 1e-6
    assert check.limit("lanczos", "float32") is None
    assert (check.optional, check.since) == (True, REVISION + 1)


@pytest.mark.parametrize("fault", [0.0, 1e-3])
def test_the_template_of_a_check_measures_a_planted_fault(fault):
    made = template("certificate_check")
    factors = torch.randn(3, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    raw = factors @ factors.transpose(1, 2)
    spectrum = torch.linalg.eigvalsh(raw).flip(1)
    spectrum[1, 0] += fault * raw[1].trace()
    measured = made.measure(raw, spectrum)
    torch.testing.assert_close(measured, torch.tensor([0, fault, 0], dtype=torch.float64), atol=1e-12, rtol=1e-6)
    assert made.measure(torch.zeros(1, 5, 5, dtype=torch.float64), torch.zeros(1, 5, dtype=torch.float64)).item() == 0
