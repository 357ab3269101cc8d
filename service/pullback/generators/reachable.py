"""The code that an object runs when it is called, and the names that this code mentions.

An attribute of a network affects its images only if the forward pass reads it. The code shows which attributes that may
be: starting from `forward` (or a function), follow every method, function and global variable whose name the code
mentions. Code that looks attributes up by computed names (`getattr(self, name)`, `vars(self)`) may read all of them.
"""

import functools
import sys
import types
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pullback.generators.user_files import is_users

_NOT_RUN = {
    "__init__", "__new__", "__init_subclass__", "__post_init__", "__repr__", "__str__", "__del__", "__reduce__",
    "__reduce_ex__", "__getstate__", "__setstate__", "__setattr__", "__delattr__", "__dir__", "__eq__", "__hash__",
    "__class_getitem__", "__subclasshook__", "__copy__", "__deepcopy__",
}  # fmt: skip
"""Special methods that a forward pass does not call."""
_DYNAMIC = {"getattr", "vars", "__dict__", "asdict", "astuple", "attrgetter", "__getattribute__"}
_OPAQUE = {
    "_io", "io", "logging", "threading", "_thread", "random", "_random", "weakref", "socket", "multiprocessing",
    "asyncio", "concurrent", "subprocess", "contextlib", "contextvars", "_contextvars", "queue", "_queue", "datetime",
    "tempfile", "sqlite3", "mmap", "uuid", "time", "ray", "tqdm", "inspect", "ctypes", "_ctypes", "select", "selectors",
    "zipfile",
}  # fmt: skip
"""Modules whose objects count by their type only; their state is ignored."""
_HEAP_TYPE = 1 << 9
"""CPython's Py_TPFLAGS_HEAPTYPE."""
_PRIMITIVE = (type(None), bool, int, float, complex, str, bytes, Tensor)
_MOST_OBJECTS = 100_000
"""Largest number of objects to follow. Only data, not code, exceeds it."""


def is_own_class(kind: type) -> bool:
    """Return whether a class belongs to the user's own code, including notebooks and `exec`."""
    if not _is_python(kind):
        return False
    if kind.__module__ == "builtins":  # made by `exec` without a module name
        return True
    file = _file_of_module(kind.__module__)
    return is_users(file) if file else kind.__module__.partition(".")[0] not in sys.stdlib_module_names


def _is_python(kind: type) -> bool:
    """Return whether a `class` statement made this class; False for classes built into the interpreter."""
    return bool(kind.__flags__ & _HEAP_TYPE)


def _file_of_module(name: str) -> str:
    return str(getattr(sys.modules.get(name), "__file__", None) or "")


def is_own(function: types.FunctionType) -> bool:
    """Return whether a function belongs to the user's own code, including notebooks and `exec`."""
    name = function.__code__.co_filename
    return is_users(name) or not (name.startswith("<frozen") or Path(name).is_absolute())


def is_opaque(value: Any) -> bool:
    """Return whether an object's state is irrelevant to a computation (open files, locks, loggers) or unreadable.

    Random generators count as opaque: `check_generator` refuses images that depend on their state.
    """
    return isinstance(value, torch.Generator | types.ModuleType) or any(
        kind.__module__.partition(".")[0] in _OPAQUE for kind in type(value).__mro__[:-1]
    )


def mentioned(code: types.CodeType) -> set[str]:
    """Return the names that a code object may read: globals, attributes, and strings, as `getattr` may use them."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= mentioned(constant)
        elif isinstance(constant, str) and constant.isidentifier():
            names.add(constant)
        elif isinstance(constant, tuple):
            names |= {each for each in constant if isinstance(each, str) and each.isidentifier()}
    return names


def functions_in(value: Any) -> Iterator[types.FunctionType]:
    """Yield the Python functions behind an entry of a class: a method, a property, a wrapper."""
    if isinstance(value, types.FunctionType):
        yield value
    elif isinstance(value, staticmethod | classmethod | types.MethodType):
        yield from functions_in(value.__func__)
    elif isinstance(value, property):
        yield from functions_in(value.fget)
    elif isinstance(value, functools.cached_property):
        yield from functions_in(value.func)
    elif not isinstance(value, type) and callable(inner := getattr(value, "__wrapped__", None)):
        yield from functions_in(inner)


class Reachable:
    """The code and objects that can be reached from a root object.

    Args:
        root: a torch module or a function.
        files: the user's source files that the root is known to consist of. Methods that code in other files (a test,
            a profiler) has assigned to a class are ignored.

    Attributes:
        names: all names that the reached code mentions.
        functions: the reached functions of any origin.
        classes: the classes of the reached objects.
        files: the user's source files that hold reached code.
    """

    def __init__(self, root: Any, files: Collection[str] = ()) -> None:
        self._own_files = files
        self.names: set[str] = {"forward"}  # `forward` may be an attribute of the object itself
        self.functions: dict[int, types.FunctionType] = {}
        self.classes: dict[type, bool] = {}
        """The reached classes; True if their code looks attributes up by computed names."""
        self.files: set[str] = set()
        self._objects: dict[int, Any] = {}
        self._visit(root)
        known = -1
        while known != (known := self._size()):
            for kind in list(self.classes):
                self._methods(kind)
            for function in list(self.functions.values()):
                self._globals(function)
            for instance in list(self._objects.values()):
                for name, value in _attributes(instance):
                    if self.counts(instance, name):
                        self._visit(value)

    def _size(self) -> int:
        parts = (self.names, self.functions, self._objects, self.classes)
        return sum(len(part) for part in parts) + sum(self.classes.values())

    def counts(self, instance: Any, name: str) -> bool:
        """Return whether the reached code may read an attribute of an object."""
        return name in self.names or self.classes.get(type(instance), False)

    def _visit(self, value: Any) -> None:
        if isinstance(value, _PRIMITIVE) or id(value) in self._objects or len(self._objects) > _MOST_OBJECTS:
            return
        if isinstance(value, types.FunctionType):
            self._function(value)
        elif isinstance(value, types.MethodType):
            self._visit(value.__func__)
            self._visit(value.__self__)
        elif isinstance(value, type):
            self._class(value)
        elif isinstance(value, functools.partial):
            self._objects[id(value)] = value
            for each in (value.func, *value.args, *value.keywords.values()):
                self._visit(each)
        elif isinstance(value, Mapping | list | tuple | set | frozenset):
            self._objects[id(value)] = value
            for each in [*value.values()] if isinstance(value, Mapping) else [*value]:
                self._visit(each)
        elif is_opaque(value):  # a Python module's members are visited if a function mentions them
            return
        else:
            self._objects[id(value)] = value
            for function in functions_in(value):
                self._function(function)
            self._class(type(value))
            if isinstance(value, nn.Module):
                for module in value.modules():
                    self._objects.setdefault(id(module), module)
                    self._class(type(module))
                    for hook in hooks_of(module):
                        self._visit(hook)

    def _class(self, kind: type) -> None:
        if kind not in self.classes and _is_python(kind):
            self.classes[kind] = False
            for each in kind.__mro__:
                if is_users(file := _file_of_module(each.__module__)):
                    self.files.add(file)

    def _methods(self, kind: type) -> None:
        for each in kind.__mro__:
            if each in (object, nn.Module):
                continue
            for name, value in list(vars(each).items()):
                special = name.startswith("__") and name.endswith("__") and name not in _NOT_RUN
                if name == "forward" or special or name in self.names:
                    for function in self.members(each, value):
                        self._function(function)
                        self.classes[kind] |= bool(_DYNAMIC & {*function.__code__.co_names})

    def members(self, kind: type, value: Any) -> list[types.FunctionType]:
        """Return the functions behind an entry of a class, except those that unrelated code assigned."""
        return [
            each
            for each in functions_in(value)
            if each.__module__ in (kind.__module__, None)
            or not is_own(each)
            or each.__code__.co_filename in self._own_files
        ]

    def _function(self, function: types.FunctionType) -> None:
        if id(function) in self.functions:
            return
        self.functions[id(function)] = function
        self.names |= mentioned(function.__code__)
        if is_users(function.__code__.co_filename):
            self.files.add(function.__code__.co_filename)
        for value in (*closure_of(function).values(), *defaults_of(function).values()):
            self._visit(value)
        self._visit(getattr(function, "__wrapped__", None))

    def _globals(self, function: types.FunctionType) -> None:
        for _, value in globals_of(function):
            self._visit(value)


def _attributes(instance: Any) -> list[tuple[str, Any]]:
    try:
        held = vars(instance)
    except TypeError:
        held = {}
    given = (vars(kind).get("__slots__", ()) for kind in type(instance).__mro__)
    slots = [name for each in given for name in ((each,) if isinstance(each, str) else tuple(each))]
    return [*held.items(), *((name, getattr(instance, name)) for name in slots if hasattr(instance, name))]


def attributes_of(instance: Any) -> list[tuple[str, Any]]:
    """Return the names and values of an object's own attributes, from `__dict__` and slots."""
    return sorted(((str(name), value) for name, value in _attributes(instance)), key=lambda pair: pair[0])


def hooks_of(module: nn.Module) -> list[Any]:
    """Return the hooks that run when a torch module is called."""
    names = ("_forward_pre_hooks", "_forward_hooks")
    return [hook for name in names for hook in getattr(module, name, {}).values()]


def closure_of(function: types.FunctionType) -> dict[str, Any]:
    """Return the variables that a function takes from the function around it."""
    held = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            held[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    return held


def defaults_of(function: types.FunctionType) -> dict[str, Any]:
    """Return the default values of a function's parameters, by position or name."""
    return {**{str(number): value for number, value in enumerate(function.__defaults__ or ())}} | dict(
        function.__kwdefaults__ or {}
    )


def globals_of(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield the global variables that a user's function mentions: `NAME`, or `module.NAME` for the user's modules."""
    if not is_own(function):
        return
    names = mentioned(function.__code__)
    for name in sorted(names & {*function.__globals__}):
        value = function.__globals__[name]
        if isinstance(value, types.ModuleType):
            if is_users(str(getattr(value, "__file__", None) or "")):
                yield from ((f"{name}.{inner}", vars(value)[inner]) for inner in sorted(names & {*vars(value)}))
        else:
            yield name, value
