"""`probe_error`: the derivative against a difference by a visible step, which reveals a rounded image.

Kinks of ReLUs within the step also cause an error of the difference. Further steps distinguish kinks from rounding.
"""

import torch
from torch import Tensor

from pullback.metric.jacobian import Features, FeaturesOf
from pullback.metric.probes import Looks
from pullback.metric.steps import beyond_rounding, step_of

_ROUGH = 0.1
"""If `probe_error` exceeds this, longer and shorter steps are tried, at the codes that exceed it."""


def visible_step(z: Tensor, looks: Looks, factor: float = 1.0) -> Tensor:
    """The step [batch] of `probe_error` along `Looks.even`, at which images change visibly."""
    return factor * step_of(z, looks.even, even_size(looks), looks.value, relative=5e-4, latent=1e-2)


def even_size(looks: Looks) -> Tensor:
    """‖J D‖ along `Looks.even`, or the largest column norm if that is larger, because columns may cancel [batch]."""
    size: Tensor = looks.pushed_even.to(torch.float64).norm(dim=1).cpu()
    return size.maximum(looks.sizes.amax(dim=1))


def probe_error_of(features_of: FeaturesOf, z: Tensor, looks: Looks, step: Tensor, seen: Tensor) -> Tensor:
    """`probe_error` [batch], from the features [batch, m] after a visible step. Large errors are checked by more steps.

    Deviations within round-off count as 0.
    """
    error = _error_of(seen, z, looks, step)
    rough = torch.nonzero(error > _ROUGH).flatten()
    if len(rough) > 0:
        error[rough] = _error_by_more_steps(features_of(rough), z[rough], looks[rough], error[rough])
    rough = torch.nonzero(error > _ROUGH).flatten()
    if len(rough) > 0:
        error[rough] = _error_of_other_side(features_of(rough), z[rough], looks[rough], error[rough])
    rough = torch.nonzero(error > _ROUGH).flatten()
    if len(rough) > 0:
        kinks = [_error_of_kinks(features_of(rough), z[rough], looks[rough], sign) for sign in (1.0, -1.0)]
        error[rough] = error[rough].minimum(torch.minimum(*kinks))
    return error


def _error_of(moved: Tensor, z: Tensor, looks: Looks, length: Tensor, units: float = 8) -> Tensor:
    """The error [batch] by the features [batch, m] after steps of given lengths [batch]."""
    pushed, value, size = looks.pushed_even.to(torch.float64), looks.value.to(torch.float64), even_size(looks)
    difference = (moved.to(torch.float64) - value) / length.to(moved.device)[:, None]
    deviation = beyond_rounding(pushed - difference, z, looks.value, length.abs(), units)
    return torch.where(deviation == 0, torch.zeros_like(size), deviation / size)


def _error_with(features: Features, z: Tensor, looks: Looks, factor: float, units: float = 8) -> Tensor:
    """The error [batch] by the visible step times a factor."""
    length = visible_step(z, looks, factor)
    with torch.no_grad():
        return _error_of(features(z + (length[:, None] * looks.even).to(z)), z, looks, length, units)


def _error_by_more_steps(features: Features, z: Tensor, looks: Looks, error: Tensor) -> Tensor:
    """The error [batch] by a longer and a shorter step, given the error by the visible step.

    If a derivative jumps within the step, the error shrinks with the step. If the image jumps, the error grows.
    """
    longer, shorter = _error_with(features, z, looks, 10.0), _error_with(features, z, looks, 0.1)
    settled = (shorter < 0.7 * error) & ((longer > error / 2) | (shorter > 0.03 * error))
    return torch.where(settled, shorter, error)


def _error_of_other_side(features: Features, z: Tensor, looks: Looks, error: Tensor) -> Tensor:
    """The error [batch] by steps to the other side, where a kink at the code explains the error of the visible step.

    A kink within round-off of the code affects every step to one side, and the error does not depend on the step. It
    affects no step to the other side. So the other side decides if the error of a ten times longer step is more than
    half as large, and both the visible step and a tenth of it have a small error there. A jump of the image fails the
    first condition: its error falls to a tenth. A wrong derivative fails the second, because its deviation does
    not depend on the side. The steps are long enough that the round-off
    of an ill-conditioned network (12 machine epsilons for StyleGAN1's mapping) does not matter.
    """
    longer = _error_with(features, z, looks, 10.0)
    other = _error_with(features, z, looks, -1.0).maximum(_error_with(features, z, looks, -0.1))
    return torch.where((longer > error / 2) & (other <= _ROUGH), other, error)


def _error_of_kinks(features: Features, z: Tensor, looks: Looks, sign: float) -> Tensor:
    """The error by the shortest of several steps in one direction [batch]; infinite if the error shrinks with the step.

    A kink within the step causes an error that grows with the step up to a constant, and is zero for steps that end
    before the kink. Most kinks lie on one side of the code. A jump of the image causes an error that shrinks as the
    step grows.
    """
    errors = torch.stack([_error_with(features, z, looks, sign * factor, 2) for factor in _KINK_FACTORS])
    grows = (errors.diff(dim=0) >= -0.1 * errors[:-1] - 0.01).all(dim=0)
    return torch.where(grows, errors[0], torch.full_like(errors[0], torch.inf))


_KINK_FACTORS = (0.01, 0.03, 0.1, 1.0, 10.0)
"""Steps that distinguish a kink from a jump, relative to the visible step."""
