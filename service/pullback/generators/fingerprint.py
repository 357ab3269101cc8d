"""Fingerprint of an object that a user's code built: hashes that are equal in every process and on every device.

Source files alone do not determine a network's numbers: a factory loads tensors, reads a truncation from a file,
chooses an activation. The fingerprint covers the parameters, the buffers, the architecture, and every plain attribute,
global variable and closure variable that the code reached from `forward` may read (`reachable`). Each has its own
entry, so an error can name what differs.

The fingerprint leaves out where and when something was built: devices, folders (only the last part of an absolute path
counts), points in time, and the state of objects such as open files, locks and random generators.
"""

import dataclasses
import enum
import functools
import hashlib
import os
import re
import types
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pullback.generators.reachable import (
    Reachable,
    attributes_of,
    closure_of,
    defaults_of,
    functions_in,
    globals_of,
    hooks_of,
    is_opaque,
    is_own,
    is_own_class,
)
from pullback.generators.user_files import is_users

ORIGIN = "_pullback_origin"
"""Attribute that holds the record of an object (`user_code.Origin`)."""
TENSOR = "tensor "
"""Prefix of the entry of a parameter or buffer."""
GLOBAL = "global "
OF_CODE = ("default ", "variable ", GLOBAL, "code ")
"""Prefixes of the entries of functions. Which of them exist depends on the functions that are reached."""
_SHOWN = 60
"""Longest value, in characters, that an entry shows instead of a hash."""
_DEEPEST = 60
_TIMES = (1.5e9, 2.5e9)
"""Seconds since 1970 (the years 2017 to 2049). Fractional numbers between these bounds count as points in time."""
_DEVICE = re.compile(r"(cpu|cuda|mps|xpu)(:\d+)?")
_OF_TORCH = {*vars(nn.Module()), "weights", "name", ORIGIN}
"""Attributes without an entry: those that torch keeps in every module (tensors and hooks have their own entries), and
labels."""


def fingerprint(root: Any, files: Collection[str] = (), tensors: bool = True) -> tuple[dict[str, str], set[str]]:
    """Return the fingerprint of an object, and the user's source files that hold its code.

    Args:
        root: a torch module or a function.
        files: the user's source files that the object is known to consist of.
        tensors: whether to hash parameters and buffers too.

    Returns:
        The entries, sorted by name (`tensor net.0.weight`, `attribute truncation`, `global model.SCALE`): each is a
        hash, or the value itself if it is short. Then the paths of the source files.
    """
    reached = Reachable(root, files)
    return dict(sorted(_Entries(root, reached, tensors).found.items())), reached.files


class _Entries:
    def __init__(self, root: Any, reached: Reachable, tensors: bool) -> None:
        self._reached, self._tensors = reached, tensors
        self._known: dict[int, tuple[Any, bytes]] = {}
        """Digests by object id. The stored reference keeps the object alive, so its id is not reused."""
        self._open: set[int] = set()
        self.found: dict[str, str] = {}
        if isinstance(root, nn.Module):
            self._module(root)
        self._code()

    def _module(self, root: nn.Module) -> None:
        modules = list(root.named_modules(remove_duplicate=False))
        shape = [(name, _type_name(type(module))) for name, module in modules]
        self.found["architecture"] = _short(_hash(b"architecture", *(repr(each).encode() for each in shape)))
        for name, module in modules:
            prefix = f"{name}." if name else ""
            if self._tensors:
                for kind in (module._parameters, module._buffers):
                    for own, tensor in kind.items():
                        self.found[f"{TENSOR}{prefix}{own}"] = "none" if tensor is None else _short(self.digest(tensor))
            counted = {
                own: value
                for own, value in attributes_of(module)
                if own not in _OF_TORCH and self._reached.counts(module, own)
            }
            if is_own_class(type(module)):
                self.found |= {f"attribute {prefix}{own}": self._shown(value) for own, value in counted.items()}
            elif counted:  # a library's layer has many attributes: they share one entry
                self.found[f"settings of {name or 'the module'}"] = _short(self.digest(counted))
            for number, hook in enumerate(hooks_of(module)):
                self.found[f"hook {prefix}{number}"] = self._shown(hook)
            if isinstance(module, torch.jit.ScriptModule):
                self.found[f"code of {name or 'the module'}"] = _short(self._script(module))

    def _code(self) -> None:
        """Add the entries that belong to no module: class data, globals, closures, and code without a file."""
        several: dict[str, list[str]] = {}
        for kind in dict.fromkeys(base for reached in self._reached.classes for base in reached.__mro__):
            if is_own_class(kind):
                for name, value in vars(kind).items():
                    self._member(kind, name, value, several)
        for function in self._reached.functions.values():
            self._function(function, several)
        for name, values in several.items():
            kinds = sorted(set(values))
            self.found[name] = kinds[0] if len(kinds) == 1 else _short(_hash(*(each.encode() for each in kinds)))

    def _member(self, kind: type, name: str, value: Any, several: dict[str, list[str]]) -> None:
        if name.startswith("__") or not self._reached.counts(kind, name) or isinstance(value, type):
            return
        functions = self._reached.members(kind, value)
        if not functions and any(functions_in(value)):
            return
        if not functions:
            if not isinstance(value, types.MemberDescriptorType | types.GetSetDescriptorType):
                several.setdefault(f"attribute {kind.__qualname__}.{name}", []).append(self._shown(value))
        elif any(each.__qualname__ != f"{kind.__qualname__}.{name}" for each in functions):  # assigned later
            several.setdefault(f"code {kind.__qualname__}.{name}", []).append(_short(self.digest(functions[0])))

    def _function(self, function: types.FunctionType, several: dict[str, list[str]]) -> None:
        where = f"{function.__module__}.{function.__qualname__}"
        for name, value in globals_of(function):
            if not isinstance(value, type | types.ModuleType):
                owner = "" if "." in name else f"{function.__globals__.get('__name__', '')}."
                several.setdefault(f"global {owner}{name}", []).append(self._shown(value))
        if is_own(function):
            for name, value in closure_of(function).items():
                if name == "__class__":  # the cell that `super()` uses
                    continue
                several.setdefault(f"variable {name} of {where}", []).append(self._shown(value))
            for name, value in defaults_of(function).items():
                several.setdefault(f"default {name} of {where}", []).append(self._shown(value))
            if not is_users(function.__code__.co_filename):
                several.setdefault(f"code {where}", []).append(_short(_hash(*_code_parts(function.__code__))))

    def _shown(self, value: Any) -> str:
        if isinstance(value, bool | int | str | None) or (isinstance(value, float) and not _is_time(value)):
            text = repr(_place_free(value))
            if len(text) <= _SHOWN:
                return text
        return _short(self.digest(value))

    def digest(self, value: Any, depth: int = 0) -> bytes:
        """Return the SHA-256 of a value's canonical form. Inside an object that holds itself, a marker replaces it."""
        if isinstance(value, bool | int | float | complex | str | bytes | None | enum.Enum | np.generic):
            return _primitive(value)
        if id(value) in self._known:
            return self._known[id(value)][1]
        if id(value) in self._open or depth > _DEEPEST:
            return _hash(b"within", _type_name(type(value)).encode())
        self._open.add(id(value))
        try:
            found = self._compound(value, depth + 1)
        finally:
            self._open.discard(id(value))
        self._known[id(value)] = value, found
        return found

    def _compound(self, value: Any, depth: int) -> bytes:
        kind = _type_name(type(value)).encode()
        if isinstance(value, Tensor):
            return _tensor(value)
        if isinstance(value, np.ndarray):
            return self._array(value, depth)
        if isinstance(value, nn.Module):
            return self._nested(value, depth)
        if isinstance(value, torch.jit.ScriptFunction):
            return _hash(b"script", *self._graph(value))
        if isinstance(value, torch.dtype | torch.layout | torch.memory_format | range | slice | type(...)):
            return _hash(b"value", str(value).encode())
        if isinstance(value, torch.Size):
            return _hash(b"sequence", *(_primitive(each) for each in value))
        if isinstance(value, PurePath):
            return _primitive(value.name)
        if isinstance(value, type):
            return _hash(b"class", _type_name(value).encode())
        if isinstance(value, functools.partial):
            held = (value.func, list(value.args), dict(value.keywords))
            return _hash(b"partial", *(self.digest(each, depth) for each in held))
        if isinstance(value, types.FunctionType | types.MethodType):
            return self._callable(value, depth)
        if isinstance(value, types.BuiltinFunctionType) or is_opaque(value):
            return _hash(b"named", kind, str(getattr(value, "__qualname__", "")).encode())
        if isinstance(value, Mapping):
            return self._mapping(kind, value, depth)
        if isinstance(value, Set):
            return _hash(b"set", *sorted(self.digest(each, depth) for each in value))
        if isinstance(value, Sequence):
            return _hash(b"sequence", *(self.digest(each, depth) for each in value))
        return self._object(kind, value, depth)

    def _mapping(self, kind: bytes, value: Mapping[Any, Any], depth: int) -> bytes:
        try:
            pairs = [_hash(self.digest(key, depth), self.digest(each, depth)) for key, each in value.items()]
        except Exception:  # a library's mapping may raise, for example for missing values
            return self._object(kind, value, depth)
        return _hash(b"mapping", *sorted(pairs))

    def _array(self, value: np.ndarray, depth: int) -> bytes:
        if value.dtype.hasobject:
            return _hash(b"objects", repr(value.shape).encode(), self.digest(value.tolist(), depth))
        plain = np.ascontiguousarray(value)
        plain = plain.astype(plain.dtype.newbyteorder("<"), copy=False)
        return _hash(b"array", str(plain.dtype).encode(), repr(plain.shape).encode(), plain.tobytes())

    def _nested(self, module: nn.Module, depth: int) -> bytes:
        """Hash a module that an attribute, a global or a closure holds, with everything inside it."""
        parts = [_type_name(type(module)).encode()]
        for own, tensor in (*module._parameters.items(), *module._buffers.items()):
            parts += [own.encode(), self.digest(tensor, depth)]
        for own, inner in module._modules.items():
            parts += [own.encode(), self.digest(inner, depth)]
        for own, value in attributes_of(module):
            if own not in _OF_TORCH and self._reached.counts(module, own):
                parts += [own.encode(), self.digest(value, depth)]
        parts += [self.digest(hook, depth) for hook in hooks_of(module)]
        if isinstance(module, torch.jit.ScriptModule):
            parts.append(self._script(module))
        return _hash(b"module", *parts)

    def _script(self, module: Any) -> bytes:
        """Hash a scripted module's code with the constants and attributes that it reads, without its submodules."""
        inner: Any = module._c
        parts: list[bytes] = []
        for name in sorted(inner._method_names()):
            method = inner._get_method(name)
            parts += [name.encode(), *self._graph(method)]
            for word in sorted({*re.findall(r"[A-Za-z_]\w*", method.code)}):
                if inner.hasattr(word) and not isinstance(value := getattr(module, word), nn.Module | Tensor):
                    parts += [word.encode(), self.digest(value)]
        return _hash(b"script", *parts)

    def _graph(self, scripted: Any) -> list[bytes]:
        """Return the code and the constant tensors of a scripted function, without torch's per-process type numbers."""
        constants = [node for node in scripted.graph.findAllNodes("prim::Constant") if node.hasAttribute("value")]
        tensors = [node.t("value") for node in constants if node.kindOf("value") == "t"]
        return [re.sub(r"___torch_mangle_\d+\.", "", scripted.code).encode(), *(self.digest(each) for each in tensors)]

    def _callable(self, value: types.FunctionType | types.MethodType, depth: int) -> bytes:
        if isinstance(value, types.MethodType):
            return _hash(b"method", self.digest(value.__func__, depth), self.digest(value.__self__, depth))
        held = (closure_of(value), defaults_of(value))
        return _hash(
            b"function",
            value.__module__.encode() if value.__module__ else b"",
            *_place_in_source(value),
            *(self.digest(each, depth) for each in held),
        )

    def _object(self, kind: bytes, value: Any, depth: int) -> bytes:
        own = is_own_class(type(value))
        parts = [b"object", kind]
        if not attributes_of(value):  # a class written in C, such as `Decimal`
            parts += [self.digest(each, depth) for each in _reduced(value)]
        whole = dataclasses.is_dataclass(value) or isinstance(value, types.SimpleNamespace)
        for name, each in attributes_of(value):
            if whole or self._reached.counts(value, name) or (not own and not name.startswith("_")):
                parts += [name.encode(), self.digest(each, depth)]
        return _hash(*parts)


def _hash(*parts: bytes) -> bytes:
    """Hash several byte strings, each preceded by its length, so that no two lists give the same input."""
    found = hashlib.sha256()
    for part in parts:
        found.update(len(part).to_bytes(8, "little"))
        found.update(part)
    return found.digest()


def _short(digest: bytes) -> str:
    return digest.hex()[:16]


def _type_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _is_time(value: float) -> bool:
    return _TIMES[0] < value < _TIMES[1] and value != int(value)


def _place_free(value: Any) -> Any:
    """Reduce an absolute path to its last part and a device's name to `device`; return anything else unchanged."""
    if not isinstance(value, str):
        return value
    return "device" if _DEVICE.fullmatch(value) else Path(value).name if value.startswith(os.sep) else value


def _primitive(value: Any) -> bytes:
    if isinstance(value, enum.Enum):
        return _hash(b"enum", _type_name(type(value)).encode(), value.name.encode())
    if isinstance(value, np.generic):
        value = value.item() if value.dtype.kind in "biufc" else str(value)
    if isinstance(value, float):
        text = "a time" if _is_time(value) else value.hex()
        return _hash(b"float", text.encode())
    if isinstance(value, bytes):
        return _hash(b"bytes", value)
    return _hash(type(value).__name__.encode(), repr(_place_free(value)).encode())


def _tensor(tensor: Tensor) -> bytes:
    """Hash a tensor's dtype, shape and values, whatever its device."""
    kind = [str(tensor.dtype).encode(), repr(tuple(tensor.shape)).encode()]
    try:
        plain = tensor.detach()
        if plain.is_quantized:
            kind.append(str(plain.qscheme()).encode())
            plain = plain.dequantize()
        if plain.layout != torch.strided:
            plain = plain.to_dense()
        plain = plain.resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
        content = plain.view(torch.uint8).numpy().data if plain.numel() else b""
    except (RuntimeError, TypeError, NotImplementedError, AttributeError):  # a meta tensor, or a subclass
        content = b"unreadable"
    found = hashlib.sha256(_hash(b"tensor", *kind))
    found.update(content)
    return found.digest()


def _place_in_source(function: types.FunctionType) -> list[bytes]:
    """Return the function's position in its source file; for code without a file, the code itself."""
    code = function.__code__
    if not is_own(function):
        return [code.co_qualname.encode()]
    if not is_users(code.co_filename):
        return _code_parts(code)
    places = [place for place in code.co_positions() if None not in place and place[3]]  # the first has no width
    starts, ends = [(place[0], place[2]) for place in places], [(place[1], place[3]) for place in places]
    where = (code.co_qualname, code.co_firstlineno, min(starts, default=None), max(ends, default=None))
    return [repr(where).encode()]


def _code_parts(code: types.CodeType) -> list[bytes]:
    parts = [code.co_qualname.encode(), code.co_code, repr(code.co_names).encode()]
    for constant in code.co_consts:
        inner: Iterable[bytes] = _code_parts(constant) if isinstance(constant, types.CodeType) else ()
        parts += [*inner] if isinstance(constant, types.CodeType) else [_constant(constant)]
    return parts


def _constant(value: Any) -> bytes:
    """Hash a constant of a code object. A frozen set is sorted: its order differs between processes."""
    if isinstance(value, frozenset):
        return _hash(b"set", *sorted(_constant(each) for each in value))
    if isinstance(value, tuple):
        return _hash(b"tuple", *(_constant(each) for each in value))
    return _hash(type(value).__name__.encode(), repr(value).encode())


def _reduced(value: Any) -> tuple[Any, ...]:
    """Return the state that pickle would store for an object, without its class; empty if it cannot be pickled."""
    try:
        found = value.__reduce_ex__(4)
    except Exception:  # a class may raise anything
        return ()
    return tuple(each for each in found[1:3] if not isinstance(each, str)) if isinstance(found, tuple) else ()
