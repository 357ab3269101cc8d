"""Convert pickle data to plain containers, and pickled networks to state dicts with the settings of their parts."""

import argparse
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pullback.weights.pickle_data import Global, PickledObject, _Array, _Dtype

_OF_TORCH = {"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "training"}
_TF_NETWORK = "tflib.network.Network"
_DEEPEST = 64
_NETWORKS_OF_TF = ("G", "D", "Gs")
"""The networks of a TensorFlow pickle, in the order of its tuple."""


@dataclass(frozen=True)
class Constructed:
    """A part of a pickled network, as data.

    Attributes:
        name: the name of its class.
        arguments: the keyword arguments of its constructor.
        attributes: its plain attributes.
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)


Modules = dict[str, dict[str, Constructed]]
"""Network's key -> path of a part -> the part, for each pickled network."""


def plain(value: Any) -> tuple[Any, Modules]:
    """Convert a value to plain containers of tensors, arrays, numbers and text.

    Returns:
        The content, with each pickled network as a state dict, and the parts of those networks.
    """
    modules: Modules = {}
    if isinstance(value, tuple) and len(value) == 3 and all(_is_tf_network(each) for each in value):
        value = dict(zip(_NETWORKS_OF_TF, value, strict=True))
    return _plain(value, (), modules, {}), modules


def _is_tf_network(value: Any) -> bool:
    return isinstance(value, PickledObject) and value.path.endswith(_TF_NETWORK)


def _plain(value: Any, path: tuple[str, ...], modules: Modules, done: dict[int, Any]) -> Any:
    if isinstance(value, Tensor | np.ndarray | np.generic | str | bytes | int | float | complex) or value is None:
        return value
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, _Dtype):
        return str(value.dtype)
    if isinstance(value, Global):
        return value.path
    if isinstance(value, torch.dtype):
        return str(value)
    if len(path) > _DEEPEST:
        return None
    done[id(value)] = None  # for a value that contains itself
    result: Any = value
    if isinstance(value, argparse.Namespace | types.SimpleNamespace):
        result = _plain(vars(value), path, modules, done)
    elif _is_tf_network(value):
        result = _tf_state(value)
        modules[".".join(path)] = {"": Constructed("Network", _plain(value.state.get("static_kwargs", {}), (), {}, {}))}
    elif isinstance(value, PickledObject) and {"_parameters", "_modules"} & {*value.state}:
        result = dict(_tensors(value, "", 0))
        modules[".".join(path)] = {where: _constructed(part) for where, part in _parts(value, "", 0)}
    elif isinstance(value, PickledObject):
        held = {**value.kwargs, **value.state, **value.items} or dict(enumerate(value.args))
        result = _plain(held, path, modules, done)
    elif isinstance(value, Mapping):
        result = {
            key.path if isinstance(key, Global) else key: _plain(each, (*path, str(key)), modules, done)
            for key, each in value.items()
        }
    elif isinstance(value, list | tuple | set | frozenset):
        items = [_plain(each, (*path, str(index)), modules, done) for index, each in enumerate(value)]
        result = tuple(items) if isinstance(value, tuple) else items
    done[id(value)] = result
    return result


def _constructed(part: PickledObject) -> Constructed:
    attributes = {
        name: value
        for name, value in part.state.items()
        if name not in _OF_TORCH and not name.startswith("_") and not isinstance(value, PickledObject)
    }
    return Constructed(part.name, numbers(_plain(part.kwargs, (), {}, {})), numbers(_plain(attributes, (), {}, {})))


def numbers(value: Any) -> Any:
    """Convert numpy's scalars in a value to Python numbers."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {key: numbers(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(numbers(each) for each in value)
    return value


def _parts(module: PickledObject, prefix: str, depth: int) -> Iterator[tuple[str, PickledObject]]:
    """Yield a module and all modules inside it, with their paths."""
    yield prefix.removesuffix("."), module
    for name, part in _mapping(module.state.get("_modules")).items():
        if isinstance(part, PickledObject) and depth < _DEEPEST:
            yield from _parts(part, f"{prefix}{name}.", depth + 1)


def _tensors(module: PickledObject, prefix: str, depth: int) -> Iterator[tuple[str, Tensor]]:
    """Yield the state dict of a pickled module."""
    left_out = module.state.get("_non_persistent_buffers_set") or ()
    for kind in ("_parameters", "_buffers"):
        for name, tensor in _mapping(module.state.get(kind)).items():
            if isinstance(tensor, Tensor) and not (kind == "_buffers" and name in left_out):
                yield f"{prefix}{name}", tensor
    for name, part in _mapping(module.state.get("_modules")).items():
        if isinstance(part, PickledObject) and depth < _DEEPEST:
            yield from _tensors(part, f"{prefix}{name}.", depth + 1)


def _mapping(value: Any) -> Mapping[str, Any]:
    if isinstance(value, PickledObject):
        return value.items
    return value if isinstance(value, Mapping) else {}


def _tf_state(network: PickledObject, prefix: str = "", depth: int = 0) -> dict[str, Tensor]:
    """Return the variables of a TensorFlow network and its components, by name (`synthesis/4x4/Const/const`)."""
    found: dict[str, Tensor] = {}
    variables = network.state.get("variables") or ()
    for pair in variables if isinstance(variables, Sequence) else ():
        if isinstance(pair, list | tuple) and len(pair) == 2:
            array = pair[1].value if isinstance(pair[1], _Array) else pair[1]
            if isinstance(array, np.ndarray | np.generic | float | int):
                found[f"{prefix}{pair[0]}"] = torch.from_numpy(np.array(array))
    for name, part in _mapping(network.state.get("components")).items():
        if _is_tf_network(part) and depth < 4:
            found.update(_tf_state(part, f"{prefix}{name}/", depth + 1))
    return found
