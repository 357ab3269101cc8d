"""Operations behind values that lie in memory in another order than they read, that overlap, or that were written."""

import pytest
import torch
from operations import OPERATIONS, TABLES, by_reverse_mode
from operations_base import Single, codes

from pullback.metric.jacobian import derivative_at, jacobian

CHOSEN = [
    name
    for table in ("shapes", "linear", "norms", "attention", "recurrent", "noise", "products")
    for name in TABLES[table]
] + ["F.prelu", "F.glu", "F.softmax", "cdist", "max_pool2d", "grid_sample, both traced", "torch.relu_", "copy_", "sort"]


def written(x):
    y = x * 1
    y.add_(0.05)
    y[:, 0] = y[:, 1] * 0.5
    torch.tanh_(y)
    return y


LAYOUTS = {
    "expanded": lambda x: x[:, :1].expand(-1, 4, -1, -1),
    "code expanded to tokens": lambda x: x[:, :1, :1].expand(-1, 4, 4, -1),
    "transposed tokens": lambda x: x.flatten(2).transpose(1, 2).reshape(len(x), 4, 4, 4).transpose(1, 3),
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "written": written,
}
IMPOSSIBLE = {"pixel norm then view", "group_norm then view"}
"""`view` of what is not contiguous, which torch itself refuses."""
AMBIGUOUS = {"linalg.matrix_norm 2", "sort", "scatter_reduce amax", "batch_norm 3d"}
"""Values that are equal have no single order; and torch's reverse mode is wrong for the last in channels-last order."""


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", CHOSEN)
@pytest.mark.filterwarnings("ignore")
def test_an_operation_has_its_derivative_behind_any_layout(name, layout):
    generator = Single(OPERATIONS[name], LAYOUTS[layout]).double()
    z = codes(2, torch.float64)
    try:
        generator(z[:1])
    except RuntimeError:
        assert name in IMPOSSIBLE
        return
    # in chunks of which the last is smaller
    found = jacobian(derivative_at(lambda codes: generator(codes).flatten(1), z), z, tangents=3)
    wanted = by_reverse_mode(generator, z).mT
    if wanted.isfinite().all() and not (name in AMBIGUOUS and layout != "written"):
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-9)
