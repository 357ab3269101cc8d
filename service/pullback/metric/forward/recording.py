"""Recording a map on a tape: each torch operation on a traced value appends the steps of its derivative.

A recorded value sees every torch operation through `__torch_function__`. The operation runs on plain tensors. Its rule
(`rules`, `assignments`) gives the result the terms of its tangent.
Invariants: torch itself differentiates an operation without a rule. Either a derivative is right, or `Untraceable` is
raised. It is raised if a traced value meets code whose operations are not recorded, or if a tensor is written after
the tape has read it.
"""

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

from pullback.metric.forward.assignments import give_back, writes, written
from pullback.metric.forward.names import MEMORY
from pullback.metric.forward.rules import differentiate
from pullback.metric.forward.tape import Tape, Term, Traced, Untraceable, plain, storage_of


class Recorded(Traced):
    """A traced value whose operations are recorded on its tape."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Record a torch operation on traced values."""
        return trace(func, args, kwargs or {})


def record(features: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Tape, Traced]:
    """Run a map once at latent codes [batch, n]. Return the tape and the features as a traced value.

    Raises:
        Untraceable: the map leaves the tape.
    """
    tape = Tape(Recorded)
    with torch.no_grad():
        try:
            result = features(tape.wrap(z.detach(), [Term(tape.slot(z.shape))]))
            if isinstance(result, Traced):  # wrapped again, because `give_back` may turn it into a plain tensor
                result = result.tape.wrap(result.primal, result.terms)
        finally:
            tape.ended = True
            give_back(tape)
        if not isinstance(result, Traced) or result.tape is not tape:
            raise Untraceable("the features do not depend on the latent code by operations that can be followed")
        tape.check_unwritten()
    return tape, result


_ABOUT = (int, bool, str, type(None), torch.Size, torch.dtype, torch.device, torch.layout)
"""Types of results that have no tangent, such as a shape or the outcome of a comparison."""


_FACTS = frozenset(
    [Tensor.size, Tensor.dim, Tensor.numel, Tensor.is_floating_point, Tensor.is_contiguous, Tensor.__len__]
    + [getattr(Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim", "is_cuda", "layout")]
)
"""Operations that read only properties that do not depend on the code, such as a shape."""


def trace(func: Any, args: Any, kwargs: Any) -> Any:
    """Return the result of an operation on traced values. It is traced if it depends on them smoothly."""
    if func in _FACTS and isinstance(args[0], Traced):  # a fast path for half of a network's operations
        with torch._C.DisableTorchFunctionSubclass():
            return func(args[0].primal, *args[1:], **kwargs)
    if torch.compiler.is_compiling() or _in_custom_function():
        raise Untraceable("a torch.autograd.Function, or what is compiled, has a derivative of its own")
    name = _name(func)
    if name in MEMORY:
        raise Untraceable(f"`{name}` reads the memory of a value that depends on the latent code")
    sources: list[Tensor] = []
    plain_args, plain_kwargs = _plainly(args, sources), _plainly(kwargs, sources)
    inputs = [source for source in sources if isinstance(source, Traced)]
    if any(value.tape.ended for value in inputs):
        args, kwargs = tree_map(lambda leaf: plain(leaf) if _ended(leaf) else leaf, (args, kwargs))
        return func(*args, **kwargs)
    if writes(func, kwargs):
        return written(func, args, kwargs)
    with torch._C.DisableTorchFunctionSubclass(), torch.no_grad():
        versions = [plain(source)._version for source in sources]
        repeatable = _repeatable(func, name, kwargs.get("generator")) if name in _RANDOM else None
        result = func(*plain_args, **plain_kwargs)
        if isinstance(result, _ABOUT):
            return result
        leaves = [result] if isinstance(result, Tensor) else tree_flatten(result)[0]
        if any(leaf.is_complex() if isinstance(leaf, Tensor) else not isinstance(leaf, _ABOUT) for leaf in leaves):
            raise Untraceable(f"`{name}` makes something else of a value that depends on the latent code than a tensor")
        tape = inputs[0].tape
        if any(value.tape is not tape for value in inputs):
            raise Untraceable("a derivative is taken within another")
        for source, version in zip(sources, versions, strict=True):
            if plain(source)._version != version:
                raise Untraceable(f"`{name}` writes into what it is given")
            if not isinstance(source, Traced):
                tape.read(source, version)
        func = func if repeatable is None else repeatable
        smooth = any(isinstance(leaf, Tensor) and leaf.is_floating_point() for leaf in leaves)  # else a mask or index
        made = differentiate(tape, func, name, args, kwargs, inputs, result) if smooth else result
        for value in _tensors(made):
            address = storage_of(value)
            sharing = [source for source in sources if storage_of(source) == address]
            if sharing:
                tape.view(address, value, *sharing)
                if not isinstance(value, Traced):  # a write through this view would change a primal value unnoticed
                    tape.read(value, value._version)
        return made


_RANDOM = frozenset(
    [
        *("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_dropout"),
        *("feature_alpha_dropout", "native_dropout", "rrelu", "bernoulli", "normal", "poisson", "gumbel_softmax"),
        *("fractional_max_pool2d", "fractional_max_pool3d", "fractional_max_pool2d_with_indices"),
        *("fractional_max_pool3d_with_indices", "scaled_dot_product_attention", "multi_head_attention_forward"),
        *("lstm", "gru", "rnn_tanh", "rnn_relu"),
    ]
)
"""Operations that may draw random numbers."""


def _repeatable(func: Any, name: str, generator: torch.Generator | None) -> Any:
    """The operation, made to draw in every call the random numbers that it would draw now.

    Its derivative calls it again, and would otherwise draw other numbers.
    """
    generators = [torch.default_generator if generator is None else generator]
    if generator is None and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        generators += torch.cuda.default_generators
    before = [source.get_state() for source in generators]

    def repeated(*args: Any, **kwargs: Any) -> Any:
        now = [source.get_state() for source in generators]
        try:
            for source, state in zip(generators, before, strict=True):
                source.set_state(state)
            return func(*args, **kwargs)
        finally:
            for source, state in zip(generators, now, strict=True):
                source.set_state(state)

    repeated.__name__ = name
    return repeated


def _ended(value: Any) -> bool:
    return isinstance(value, Traced) and value.tape.ended


def _plainly(tree: Any, found: list[Tensor]) -> Any:
    """Replace traced tensors in arguments by plain ones. Append all tensors, traced or not, to `found`.

    This is pytree's `tree_map` for common containers. `tree_map` takes longer than most operations on a single code.
    """
    if isinstance(tree, Tensor):
        found.append(tree)
        return plain(tree)
    if type(tree) in (tuple, list):
        return type(tree)([_plainly(item, found) for item in tree])
    if type(tree) is dict:
        return {key: _plainly(item, found) for key, item in tree.items()}
    return tree


def _name(func: Any) -> str:
    """The name of an operation: `add` for torch.add, Tensor.add and Tensor.__add__; `T` for the property `T`."""
    name = str(getattr(func, "__name__", ""))
    if name == "__get__":
        name = str(getattr(getattr(func, "__self__", None), "__name__", ""))
    return name.strip("_") if name.startswith("__") else name


_APPLY = torch.autograd.Function.apply.__func__.__code__  # type: ignore[attr-defined]


def _in_custom_function() -> bool:
    """Whether a `torch.autograd.Function` is running. Its derivative may differ from its operations' derivative."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code is not record.__code__:
        if frame.f_code is _APPLY:
            return True
        frame = frame.f_back
    return False


def _tensors(tree: Any) -> list[Tensor]:
    """The tensors of a result, traced or not."""
    leaves = [tree] if isinstance(tree, Tensor) else tree_flatten(tree)[0]
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]
