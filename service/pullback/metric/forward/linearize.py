"""The derivative of a network at fixed latent codes, recorded once and applied to many tangents.

`Linearization` runs a map once with values that record every torch operation (through `__torch_function__`). It keeps
the linear map of each operation: a tape of steps. Pushing a chunk of tangents replays the tape, so the primal pass runs
once rather than once per chunk. The factors of elementwise operations (norms, activations, masks, the weights of a
distance) are multiplied together beforehand, at the size of the codes rather than of the tangents.

Elsewhere: recording (`recording`), values and steps (`tape`), the rules of single operations (`rules`), and the check
that a derivative is right (`certificate`, which compares it with reverse mode and with differences).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pullback.metric.contents import ContentCache
from pullback.metric.forward.recording import record
from pullback.metric.forward.tape import Step


class Linearization:
    """The derivative of a map at latent codes.

    Args:
        features: the map from latent codes [batch, n] to features [batch, m], independent for each sample.
        z: latent codes [batch, n].
        dtype: dtype of the tangents, by default the dtype of z. Primal values keep their dtype.

    Attributes:
        value: the features at z [batch, m].
        fallbacks: names of the operations that have no rule here and use torch's own, slower derivative.

    Raises:
        Untraceable: the map leaves the tape. For example, it writes where an unknown tensor may read, takes numbers out
            of a tensor, or uses a custom derivative (`torch.autograd.Function`).
    """

    def __init__(self, features: Callable[[Tensor], Tensor], z: Tensor, dtype: torch.dtype | None = None) -> None:
        tape, result = record(features, z)
        with torch.no_grad():
            self.value: Tensor = result.primal
            self.dtype = dtype or z.dtype
            self.fallbacks = tuple(dict.fromkeys(tape.fallbacks))
            self._output = tape.whole(result)
            self._steps = [_cast(step, self.dtype) for step in _needed(tape.steps, self._output)]

    def push(self, tangents: Tensor) -> Tensor:
        """J times tangents [chunk, batch, n], as [chunk, batch, m] in the dtype of the primal values."""
        held: dict[int, Tensor] = {0: tangents.to(self.dtype)}
        with torch.no_grad():
            for step in self._steps:
                given = [held[slot] for slot in step.inputs]
                for slot in step.last:
                    del held[slot]
                result = step.apply(*given, *step.constants)
                del given
                results = result if len(step.outputs) > 1 else (result,)
                held.update(zip(step.outputs, (tangent.to(self.dtype) for tangent in results), strict=True))
        return held[self._output].to(self.value.dtype)


def _needed(steps: Sequence[Step], output: int) -> list[Step]:
    """The steps that the output needs. Each step lists in `last` the inputs that no later step reads."""
    needed, kept = {output}, []
    for step in reversed(steps):
        if needed.isdisjoint(step.outputs):
            continue
        kept.append(replace(step, last=tuple({slot for slot in step.inputs if slot not in needed})))
        needed.update(step.inputs)
    return kept[::-1]


_casts = ContentCache()


def _cast(step: Step, dtype: torch.dtype) -> Step:
    """The step with its constants cast to a dtype. Casts of weights are cached, because weights outlive the tape."""
    if all(c is None or c.dtype == dtype for c in step.constants):
        return step
    return replace(step, constants=tuple(None if c is None else _cast_once(c, dtype) for c in step.constants))


def _cast_once(constant: Tensor, dtype: torch.dtype) -> Tensor:
    if not constant.is_floating_point() or constant.dtype == dtype:
        return constant
    if not isinstance(constant, torch.nn.Parameter):  # made for this tape and freed with it
        return constant.to(dtype)
    return _casts.get(constant, dtype, lambda: constant.to(dtype))
