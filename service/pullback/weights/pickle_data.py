"""Read pickles as data: containers, numbers, tensors, arrays, and the named arguments of constructors.

`DataUnpickler` never imports or calls anything that a file names. A global becomes a `Global`, a pair of names. If the
pickle calls it, a table in this module determines the result: numpy's and torch's objects are rebuilt from their
arguments after a check of every size, configs and NVIDIA's networks become `PickledObject`, and any other name raises
an error.
"""

import pickle
import re
import struct
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

_DATA_CLASS = re.compile(r"(Config|Configuration|Dict|Namespace|Options|Opts|Settings|Args|Params|Box)$")
"""Names of classes that hold settings; their objects become `PickledObject`."""
_DATA_MODULES = ("datetime", "uuid", "fractions", "decimal", "torch.nn.modules.")
_DTYPE = re.compile(r"^[<>=|]?(\?|[bhilqBHILQefdFD]|[biufcSU]\d{0,4})$")
_STORAGES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexDouble": torch.complex128,
    "ComplexFloat": torch.complex64,
    "Untyped": torch.uint8,
}


class RefusedPickleError(pickle.UnpicklingError):
    """A pickle names a class or function that is not plain data.

    Attributes:
        name: its dotted name.
    """

    def __init__(self, name: str, why: str = "is not data") -> None:
        super().__init__(f"{name} {why}")
        self.name = name


@dataclass(frozen=True)
class Global:
    """The name of a class or function in a pickle; it is not imported."""

    module: str
    name: str

    @property
    def path(self) -> str:
        """The dotted name."""
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class PickledObject:
    """An object of a class that is not imported: its constructor's arguments and its state.

    Attributes:
        path: the dotted name of its class.
        args: positional arguments.
        kwargs: keyword arguments.
        state: its attributes.
        items: the items, if the class is a subclass of dict or list.
    """

    path: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)
    items: dict[Any, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of the class without its module."""
        return self.path.rpartition(".")[2]

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value

    def append(self, value: Any) -> None:
        """Append an item to an object of a list subclass."""
        self.items[len(self.items)] = value


@dataclass(eq=False)
class _Dtype:
    """A numpy dtype; its byte order may follow in the pickle."""

    dtype: np.dtype[Any]


class _Array:
    """A numpy array; its shape and numbers follow in the pickle."""

    value: np.ndarray[Any, Any] | None = None


class DataUnpickler(pickle._Unpickler):
    """Reads one pickle as data.

    Args:
        file: a binary file in memory.
        load_storage: makes the 1-D tensor of a persistent storage; without it a persistent id raises an error.
        load_nested: reads a storage's nested stream in NVIDIA's pickles; without it a nested stream raises an error.
    """

    # the C unpickler allocates a table as long as the largest index in the file: five bytes can cost 64 GB
    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)
    stack: list[Any]
    append: Callable[[Any], None]
    read: Callable[[int], bytes]

    def __init__(
        self,
        file: Any,
        load_storage: Callable[[Any], Any] | None = None,
        load_nested: Callable[[bytes], Tensor] | None = None,
    ) -> None:
        super().__init__(file, encoding="latin1")
        self._load_storage = load_storage
        self._load_nested = load_nested

    def find_class(self, module: str, name: str) -> Any:
        """Return torch's dtypes and storage types as they are, and any other name as a `Global`."""
        if module in ("torch", "torch.cuda", "torch.storage") and name.endswith("Storage"):
            dtype = _STORAGES.get(name.removesuffix("Storage"))
            if dtype is not None:
                return dtype
        if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
            return dtype
        return Global(module, name)

    def persistent_load(self, pid: Any) -> Any:
        """Return the object of a persistent id."""
        if self._load_storage is None:
            raise RefusedPickleError("a persistent id")
        return self._load_storage(pid)

    def get_extension(self, code: int) -> Any:
        """Raise: extension codes refer to a registry of the process that wrote the file."""
        raise RefusedPickleError(f"extension {code}")

    def load_reduce(self) -> None:
        """Handle a function applied to arguments."""
        arguments = self.stack.pop()
        function = self.stack[-1]
        self.stack[-1] = self._construct(function, arguments, {})

    dispatch[pickle.REDUCE[0]] = load_reduce

    def load_bytearray8(self) -> None:
        """Read bytes of a declared length; allocate only the bytes that the file really has."""
        (length,) = struct.unpack("<Q", self.read(8))
        content = self.read(length) if length <= sys.maxsize else b""
        if len(content) != length:
            raise RefusedPickleError("bytearray", f"declares {length:,} bytes and has {len(content):,}")
        self.append(bytearray(content))

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8

    def load_newobj(self) -> None:
        """Handle a class with arguments of `__new__`."""
        arguments = self.stack.pop()
        made = self.stack.pop()
        self.append(self._construct(made, arguments, {}))

    dispatch[pickle.NEWOBJ[0]] = load_newobj

    def load_newobj_ex(self) -> None:
        """Handle a class with positional and keyword arguments of `__new__`."""
        named = self.stack.pop()
        arguments = self.stack.pop()
        made = self.stack.pop()
        self.append(self._construct(made, arguments, named))

    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex

    def _instantiate(self, klass: Any, args: Any) -> None:
        self.append(self._construct(klass, tuple(args), {}))

    def load_build(self) -> None:
        """Set the state of the object below it on the stack."""
        state = self.stack.pop()
        _set_state(self.stack[-1], state)
        self.stack[-1] = _finished(self.stack[-1])

    dispatch[pickle.BUILD[0]] = load_build

    def _construct(self, made: Any, args: Any, kwargs: Any) -> Any:
        if not isinstance(made, Global) or not isinstance(args, tuple) or not isinstance(kwargs, dict):
            raise RefusedPickleError(made.path if isinstance(made, Global) else type(made).__name__)
        if made.path in _RECONSTRUCTORS:
            if not args or not isinstance(args[0], Global):
                raise RefusedPickleError(made.path)
            return self._construct(args[0], () if made.name == "_reconstructor" else tuple(args[1:]), {})
        if made.path == "torch.storage._load_from_bytes" and self._load_nested is not None and not kwargs:
            (content,) = args
            if not isinstance(content, bytes):
                raise RefusedPickleError(made.path)
            return self._load_nested(content)
        if made.path in _BUILDERS and not kwargs:
            return _BUILDERS[made.path](*args)
        if made.path.endswith("persistence._reconstruct_persistent_obj"):
            return _persistent(*args)
        if is_data_class(made):
            return PickledObject(made.path, args, {str(key): value for key, value in kwargs.items()})
        raise RefusedPickleError(made.path)


def is_data_class(made: Global) -> bool:
    """Return whether objects of a class are settings or parts of a network, so that their attributes are kept."""
    inert = made.path == "dnnlib.tflib.network.Network" or made.module.startswith(_DATA_MODULES)
    return inert or _DATA_CLASS.search(made.name) is not None


def _set_state(target: Any, state: Any) -> None:
    """Set the state of an object that this module made; others accept none."""
    if isinstance(target, PickledObject):
        if isinstance(state, tuple) and len(state) == 2:  # a dictionary and the values of slots
            state = {**(state[0] or {}), **(state[1] or {})}
        if not isinstance(state, Mapping):
            state = {"state": state}
        target.state.update({str(key): value for key, value in state.items()})
    elif isinstance(target, _Dtype) and isinstance(state, tuple) and len(state) >= 2:
        if state[1] in ("<", ">", "=", "|"):
            target.dtype = target.dtype.newbyteorder(state[1])
    elif isinstance(target, _Array) and isinstance(state, tuple) and len(state) == 5:
        _, shape, dtype, fortran, raw = state
        target.value = _array(raw, dtype, shape, "F" if fortran else "C")
    elif isinstance(target, dict | list | Tensor):
        return  # attributes of an OrderedDict or a parameter (`_metadata`) do not affect the content
    else:
        raise RefusedPickleError(type(target).__name__)


def _finished(target: Any) -> Any:
    return target.value if isinstance(target, _Array) and target.value is not None else target


def _persistent(meta: Any) -> PickledObject:
    """Return a network of NVIDIA's `torch_utils.persistence` without the source text that it contains."""
    meta = _mapping(meta)
    if not isinstance(meta.get("state"), Mapping):
        raise RefusedPickleError("torch_utils.persistence._reconstruct_persistent_obj", "lacks the state of its object")
    state = {str(key): value for key, value in meta["state"].items()}
    kwargs = state.pop("_init_kwargs", None)
    args = state.pop("_init_args", ())
    made = PickledObject(f"persistence.{meta.get('class_name')}", tuple(args), state=state)
    made.kwargs = dict(_mapping(kwargs))
    return made


def _mapping(value: Any) -> Mapping[str, Any]:
    if isinstance(value, PickledObject):
        return value.items or value.state
    return value if isinstance(value, Mapping) else {}


def _dtype(code: Any, *_: Any) -> _Dtype:
    if isinstance(code, Global):
        code = code.name
    if not isinstance(code, str) or not (_DTYPE.match(code) or code in _NAMED_DTYPES):
        raise RefusedPickleError("numpy.dtype", f"of {code!r} is not numbers")
    return _Dtype(np.dtype(code))


_NAMED_DTYPES = {"bool", "float16", "float32", "float64", "int8", "int16", "int32", "int64"}
_NAMED_DTYPES |= {"uint8", "uint16", "uint32", "uint64", "complex64", "complex128"}


def _array(raw: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray[Any, Any]:
    """Make an array from exactly the bytes in the file."""
    if isinstance(raw, str):
        raw = raw.encode("latin1")
    if not isinstance(dtype, _Dtype) or not isinstance(raw, bytes | bytearray) or not isinstance(shape, tuple):
        raise RefusedPickleError("numpy.ndarray", "of objects is not numbers")
    count = 1
    for size in shape:
        count *= int(size)
    if count * dtype.dtype.itemsize != len(raw) or any(int(size) < 0 for size in shape):
        raise RefusedPickleError("numpy.ndarray", f"of shape {shape} does not have its {len(raw):,} bytes")
    return np.frombuffer(bytes(raw), dtype.dtype).reshape(shape, order="F" if order == "F" else "C")


def _scalar(dtype: Any, raw: Any = b"") -> Any:
    return _array(raw, dtype, (), "C")[()]


def _encoded(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1", "iso-8859-1"):
        raise RefusedPickleError("_codecs.encode")
    return text.encode("latin1")


def _collected(kind: Callable[[Any], Any]) -> Callable[..., Any]:
    def collect(items: Any = (), *_: Any) -> Any:
        if not isinstance(items, list | tuple | dict | set | bytes | str):
            raise RefusedPickleError(kind.__name__)  # a number would declare a size
        return kind(items)

    return collect


def rebuilt(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    """Make a tensor that views a storage [numel]; torch raises if the view exceeds the storage."""
    if not isinstance(storage, Tensor):
        raise RefusedPickleError("torch._utils._rebuild_tensor_v2", "lacks its storage")
    sizes, strides, start = tuple(map(int, size)), tuple(map(int, stride)), int(offset)
    last = start + sum((extent - 1) * step for extent, step in zip(sizes, strides, strict=True))
    bad = start < 0 or any(extent < 0 for extent in sizes) or any(step < 0 for step in strides)
    if bad or (0 not in sizes and last >= storage.numel()):
        raise RefusedPickleError("torch._utils._rebuild_tensor_v2", "leaves its storage")
    return storage.as_strided(sizes, strides, start)


def _parameter(data: Any = None, *_: Any) -> Any:
    return data


_RECONSTRUCTORS = {
    "copyreg._reconstructor",
    "copy_reg._reconstructor",
    "copyreg.__newobj__",
    "copy_reg.__newobj__",
}
_BUILDERS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _collected(dict),
    "collections.Counter": _collected(dict),
    "collections.defaultdict": lambda *_: {},
    "collections.deque": _collected(list),
    "_codecs.encode": _encoded,
    "torch._utils._rebuild_tensor": rebuilt,
    "torch._utils._rebuild_tensor_v2": rebuilt,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.nn.parameter.Parameter": _parameter,
    "torch.Size": _collected(tuple),
    "torch.device": lambda *args: ":".join(map(str, args)),
    "numpy.dtype": _dtype,
    "pathlib.PosixPath": lambda *parts: "/".join(map(str, parts)),
    "pathlib.PurePosixPath": lambda *parts: "/".join(map(str, parts)),
    "pathlib.WindowsPath": lambda *parts: "/".join(map(str, parts)),
}
for _module in ("builtins", "__builtin__"):
    for _kind in (set, frozenset, list, dict, tuple, bytearray):
        _BUILDERS[f"{_module}.{_kind.__name__}"] = _collected(_kind)
    _BUILDERS[f"{_module}.complex"] = lambda real=0.0, imag=0.0: complex(float(real), float(imag))
    _BUILDERS[f"{_module}.slice"] = lambda *bounds: tuple(bounds)
for _module in ("numpy.core", "numpy._core"):  # the names before and since numpy 2.0
    _BUILDERS[f"{_module}.multiarray._reconstruct"] = lambda *_: _Array()
    _BUILDERS[f"{_module}.multiarray.scalar"] = _scalar
    _BUILDERS[f"{_module}.numeric._frombuffer"] = _array
