"""A check of the certificate, as an example: the eigenvalues of a whole metric add up to its trace.

TEMPLATE: move `CHECK` into `CHECKS` of service/pullback/metric/checks.py, and call `measure` in `certify` of
service/pullback/metric/certificate.py. The stored array, the record's field, the reason for quarantine and the labels
follow from the table.
"""

import torch
from torch import Tensor

from pullback.metric.check_timing import verifying
from pullback.metric.checks import Check
from pullback.store.schema import REVISION

CHECK = Check(
    "trace_error",  # TEMPLATE: the certificate's attribute, and the name of the stored array
    "eigenvalues against the trace",  # TEMPLATE: for people, at most 40 characters
    "relative deviation of the sum of the eigenvalues from the trace",  # TEMPLATE: the stored array's long name
    "|Σ λᵢ − tr H| / |tr H| over all n eigenvalues; 0 where H is zero.",  # TEMPLATE: the definition, with its formula
    reason="TRACE",  # TEMPLATE: name of the quarantine reason
    code=15,  # TEMPLATE: a number that no reason of store.schema.Reason has or had
    # TEMPLATE: by method and precision; None where the method does not have the quantity. Correct metrics stay 10
    # times below the limit: measure them.
    limit=lambda method, precision: 1e-6 if method in ("gauss_newton", "backprop") else None,
    optional=True,  # TEMPLATE: sweeps of earlier revisions do not have it
    since=REVISION + 1,
)


@verifying  # TEMPLATE: counts the time as checking
def measure(raw: Tensor, spectrum: Tensor) -> Tensor:
    """Return the quantity [batch] float64; relative, and 0 in exact arithmetic.

    Args:
        raw: H as computed [batch, n, n] float64.
        spectrum: all eigenvalues [batch, n].
    """
    trace = raw.diagonal(dim1=1, dim2=2).sum(dim=1)
    deviation = (spectrum.sum(dim=1) - trace).abs()
    return deviation / trace.abs().clamp_min(torch.finfo(torch.float64).tiny)
