"""Every operation that a generator may use has the right metric, or a refusal of one sentence."""

import pytest
import torch
from operations import JUMPS, KINKS, OPERATIONS, reference
from operations_base import Single, codes, metric_of_single

from pullback import load_distance, metric_at

MSE = load_distance("mse", device="cpu")


def test_there_are_as_many_operations_as_torch_gives_reason_to_try():
    assert len(OPERATIONS) > 700


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_a_generator_of_a_single_operation_has_its_metric(name):
    wanted = reference(name, batch=3)
    metric = metric_of_single(Single(OPERATIONS[name]), MSE, codes(3))
    assert wanted.flatten(1).norm(dim=1).min() > 0
    error = (metric.matrix - wanted).flatten(1).norm(dim=1) / wanted.flatten(1).norm(dim=1)
    assert float(error.max()) < 1e-3
    if name not in JUMPS | KINKS:
        assert bool(torch.as_tensor(metric.certificate.passed).all()), metric.certificate.failures()


@pytest.mark.parametrize("name", [*OPERATIONS][::20])
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_what_is_decided_for_an_operation_gives_the_same_metric(name):
    """Above, the usual strategy is taken for granted."""
    generator = Single(OPERATIONS[name])
    decided, usual = metric_at(generator, MSE, codes(3)), metric_of_single(generator, MSE, codes(3))
    torch.testing.assert_close(decided.matrix, usual.matrix, rtol=1e-4, atol=1e-7)
