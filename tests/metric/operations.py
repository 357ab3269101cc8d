"""All single operations by name, and the derivatives that they should have."""

import torch
from operations_base import Single, codes
from operations_layers import ATTENTION, LINEAR, NOISE, NORMS, POOLS, RECURRENT
from operations_matrices import FOURIER, LINALG, PRODUCTS
from operations_pointwise import IN_PLACE, POINTWISE
from operations_reductions import REDUCTIONS
from operations_shapes import SHAPES

TABLES = {
    "pointwise": POINTWISE,
    "in place": IN_PLACE,
    "shapes": SHAPES,
    "reductions": REDUCTIONS,
    "linear": LINEAR,
    "norms": NORMS,
    "pools": POOLS,
    "attention": ATTENTION,
    "recurrent": RECURRENT,
    "noise": NOISE,
    "products": PRODUCTS,
    "linalg": LINALG,
    "Fourier": FOURIER,
}
OPERATIONS = {name: operation for table in TABLES.values() for name, operation in table.items()}
assert len(OPERATIONS) == sum(map(len, TABLES.values()))

JUMPS = {
    *("floor", "trunc", "ceil", "remainder of two", "argmax as an index", "mode"),
    *("round and itself", "div floor", "div trunc", "F.hardshrink"),
    *("eigvals", "eig"),  # LAPACK gives no order: two of them may change places along a step
}
"""Images that jump somewhere near: a finite step may cross the jump, which the certificate then reports."""
KINKS = {"topk", "quantile", "max of each", "F.softplus beta"}
"""Derivatives that jump somewhere near, with the same consequence."""


def by_reverse_mode(generator, z):
    """Jacobians [batch, 48, n] of a generator's images in float64: a backward pass over 48 copies of each code."""

    def rows(code):
        copies = code.expand(48, -1).clone().requires_grad_()
        return torch.autograd.grad(generator(copies).flatten(1).diagonal().sum(), copies)[0]

    return torch.stack([rows(code) for code in z])


def reference(name, batch):
    """Metrics [batch, n, n] of the generator of one operation, by reverse mode in float64."""
    return metric_of(by_reverse_mode(Single(OPERATIONS[name]).double(), codes(batch, torch.float64)))


def metric_of(jacobians):
    """Metrics [batch, n, n] under MSE."""
    return 2 * jacobians.mT @ jacobians / jacobians.shape[1]
