"""The source and data files of a user's own code: their paths, their hashes, and whether they have changed.

A file is the user's if it lies outside the standard library, the installed packages and Pullback itself. The import
statements of a module determine its source files. They are parsed, not executed, so the answer is the same in every
process and does not depend on earlier imports. Files that no import statement names (modules imported by a computed
name, code run from a file, data files) are recorded by an audit hook while the user's code runs (`watching`).
"""

import ast
import hashlib
import os
import site
import sys
import sysconfig
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.machinery import PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

from pullback.regular_files import open_regular, read_regular

_MOST_SOURCE = 32 * 2**20
"""Largest source file to parse, in bytes."""
_PACKAGE = str(Path(__file__).parent.parent)
_INSTALLED = tuple(
    {
        os.path.realpath(path) + os.sep
        for path in (
            *(sysconfig.get_paths().get(key, "") for key in ("stdlib", "platstdlib", "purelib", "platlib")),
            *site.getsitepackages(),
            site.getusersitepackages(),
            _PACKAGE,
        )
        if path
    }
)
_SYSTEM = ("/proc/", "/sys/", "/dev/", "/etc/", "/run/", "/lib/", "/usr/lib/", "/usr/share/", "/usr/local/lib/")
_SITE_FOLDERS = {"site-packages", "dist-packages"}


@lru_cache(maxsize=10_000)
def is_users(path: str) -> bool:
    """Return whether a path is the user's own code or data, outside Python, installed packages and Pullback."""
    if not Path(path).is_absolute():  # `<string>`, `<frozen importlib>`
        return False
    real = os.path.realpath(path)
    return not real.startswith(_INSTALLED + _SYSTEM) and not _SITE_FOLDERS & {*Path(real).parts}


@dataclass
class Window:
    """The files that were read and executed while a user's code ran.

    Attributes:
        opened: the signatures (`signature`) of the data files that were opened for reading, by path.
        executed: the source files that were executed.
    """

    opened: dict[str, set[tuple[int, ...]]] = field(default_factory=dict)
    executed: set[str] = field(default_factory=set)


_windows: dict[int, Window] = {}
"""The active window of each thread, by thread id."""
_executed: dict[str, CodeType] = {}
"""The code of each user module as it was last executed, by file."""


@contextmanager
def watching(window: Window) -> Iterator[Window]:
    """Context manager: record the files that this thread reads and executes. An outer window pauses meanwhile."""
    thread = threading.get_ident()
    outer = _windows.get(thread)
    _windows[thread] = window
    try:
        yield window
    finally:
        if outer is None:
            _windows.pop(thread, None)
        else:
            _windows[thread] = outer


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("exec", "open"):
        with suppress(Exception):  # an error in an audit hook would break the user's code
            _record(event, arguments)


def _record(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "exec":
        code = arguments[0]
        if isinstance(code, CodeType) and code.co_name == "<module>" and is_users(code.co_filename):
            _executed[code.co_filename] = code
            if (window := _windows.get(threading.get_ident())) is not None:
                window.executed.add(code.co_filename)
    elif _windows and (window := _windows.get(threading.get_ident())) is not None:
        name, mode, flags = arguments
        if isinstance(name, str | bytes | os.PathLike) and _reads(mode, flags):
            path = _absolute_path(os.fsdecode(name))
            if is_data(path):
                window.opened.setdefault(path, set()).add(signature(path))


def _absolute_path(path: str) -> str:
    """Return the absolute path without `..`. Keep symbolic links, so that it equals Python's path of the module."""
    return os.path.normpath(Path(path).absolute())


def _reads(mode: object, flags: object) -> bool:
    if isinstance(mode, str):
        return not set(mode) & set("wax")
    return isinstance(flags, int) and flags & (os.O_WRONLY | os.O_CREAT | os.O_DIRECTORY) == 0


sys.addaudithook(_audit)


def is_data(path: str) -> bool:
    """Return whether the user's code may read this file as data: it is not in a hidden folder (caches, `.git`)."""
    if path.endswith((".pyc", ".so", ".pyd")) or not is_users(path):
        return False
    here = str(Path.cwd())
    below = os.path.relpath(path, here) if path.startswith(here + os.sep) else path
    return not any(part.startswith(".") or part == "__pycache__" for part in Path(below).parts)


def signature(path: str) -> tuple[int, ...]:
    """Return modification time, size and inode, which usually change with a file's content; empty without a file."""
    try:
        found = Path(path).stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino


@lru_cache(maxsize=1000)
def _hash_of(path: str, seen: tuple[int, ...]) -> str:
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return "missing"


def hash_of(path: str) -> str:
    """Return the file's SHA-256, cached until its `signature` changes; `missing` if the file cannot be read."""
    return _hash_of(path, signature(path))


def hashes(paths: Iterable[str], base: str) -> dict[str, str]:
    """Return the SHA-256 of each file by a machine-independent name, without folders and missing files."""
    return {_name(path, base): hash_of(path) for path in sorted(paths) if Path(path).is_file()}


def _name(path: str, base: str) -> str:
    """Return the path relative to `base` if it lies inside, else only the file's name."""
    return Path(path).relative_to(base).as_posix() if path.startswith(base + os.sep) else Path(path).name


def sources_of(module: str, more: Iterable[str] = ()) -> dict[str, str]:
    """Return the user's source files that a module consists of, by a machine-independent name.

    Args:
        module: its dotted name; direct and indirect imports are followed.
        more: paths of further source files.

    Returns:
        Paths by name: `networks.py`, `nets/layers.py`.
    """
    found: dict[str, str] = {}
    base = base_of(module)
    pending, seen = [module], set[str]()
    rest = sorted(set(more))
    while pending or rest:
        if pending:
            name = pending.pop()
            parents = name.split(".")
            names = {".".join(parents[: end + 1]) for end in range(len(parents))} - seen
        else:
            path = rest.pop()
            if path not in found.values():
                found.setdefault(_name(path, base), path)
                pending += _imports(path, "", signature(path))
            continue
        seen |= names
        for each in sorted(names):
            file, is_package = _located(each)
            if file is not None and is_users(file):
                found[each.replace(".", "/") + ("/__init__.py" if is_package else Path(file).suffix)] = file
                package = each if is_package else each.rpartition(".")[0]
                pending += [other for other in _imports(file, package, signature(file)) if other not in seen]
    return found


def base_of(module: str) -> str:
    """Return the folder of a module's top package (or of its only file); the working directory if it has no file."""
    file, is_package = _located(module.partition(".")[0])
    return str(Path.cwd()) if file is None else str(Path(file).parent.parent if is_package else Path(file).parent)


def _located(name: str) -> tuple[str | None, bool]:
    """Find the file of a module, and whether it is a package, without importing anything."""
    loaded = sys.modules.get(name)
    if loaded is not None:
        file = getattr(loaded, "__file__", None)
        return (None if file is None else _absolute_path(file)), hasattr(loaded, "__path__")
    if name.partition(".")[0] in sys.stdlib_module_names:
        return None, False
    return _found(name)


def _found(name: str) -> tuple[str | None, bool]:
    parent = name.rpartition(".")[0]
    where: list[str] | None = None
    if parent:
        if parent in sys.modules:
            where = list(getattr(sys.modules[parent], "__path__", ()))
        else:
            file, is_package = _located(parent)
            where = [str(Path(file).parent)] if file is not None and is_package else []
        if not where:
            return None, False
    try:
        spec = PathFinder.find_spec(name, where)
    except (ImportError, ValueError, AttributeError):
        return None, False
    if spec is None or spec.origin is None or not spec.has_location:
        return None, False
    return _absolute_path(spec.origin), spec.submodule_search_locations is not None


@lru_cache(maxsize=2000)
def _imports(path: str, package: str, seen: tuple[int, ...]) -> tuple[str, ...]:
    """Return the dotted names that a source file's import statements (and `import_module` calls) may refer to."""
    if not path.endswith(".py"):
        return ()
    try:
        tree = ast.parse(read_regular(path, _MOST_SOURCE))
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return ()
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute("." * node.level + (node.module or ""), package)
            if base:
                names.add(base)
                names.update(f"{base}.{alias.name}" for alias in node.names if alias.name != "*")
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                names.add(_absolute(node.args[0].value, package))
    return tuple(sorted(name for name in names if name and not name.startswith(".")))


def _absolute(name: str, package: str) -> str:
    """Resolve a name with leading dots relative to a package; empty if it leads out of the top package."""
    inner = name.lstrip(".")
    level = len(name) - len(inner)
    if level == 0:
        return name
    above = package.split(".") if package else []
    if level - 1 > len(above) or not above:
        return ""
    return ".".join([*above[: len(above) - level + 1], *([inner] if inner else [])])


def imports_in(path: str) -> tuple[str, ...]:
    """Return the absolute names that a source file imports, by parsing only this file."""
    return _imports(path, "", signature(path))


def stale(paths: Mapping[str, str]) -> list[str]:
    """Return the names of the source files (`paths`: path by name) that this process imported in another version."""
    return [name for name, path in paths.items() if _is_stale(path)]


def forget(paths: Iterable[str]) -> None:
    """Remove the modules of these source files, so that the next import reads them again."""
    files = set(paths)
    for name, module in list(sys.modules.items()):
        if name != "__main__" and getattr(module, "__file__", None) in files:
            del sys.modules[name]


def _is_stale(path: str) -> bool:
    modules = [each for each in list(sys.modules.values()) if getattr(each, "__file__", None) == path]
    loader = getattr(getattr(modules[0], "__spec__", None), "loader", None) if modules else None
    if type(loader) is not SourceFileLoader:  # not loaded, or rewritten during the import (as pytest does)
        return False
    try:
        now = compile(read_regular(path, _MOST_SOURCE), path, "exec", dont_inherit=True)
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return True
    ran = _executed.get(path)
    if ran is not None:
        return ran != now
    # imported before Pullback: a change of its functions can be detected, a change of its constants cannot
    current = {code.co_qualname: code for code in _codes(now)}
    return any(
        function.__code__ != current.get(function.__code__.co_qualname)
        for module in modules
        for function in _functions(vars(module), path)
    )


def _codes(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _codes(constant)


def _functions(names: Mapping[str, Any], path: str) -> Iterator[FunctionType]:
    for value in list(names.values()):
        if isinstance(value, FunctionType) and value.__code__.co_filename == path:
            yield value
        elif isinstance(value, type) and getattr(sys.modules.get(value.__module__), "__file__", None) == path:
            yield from (
                inner
                for inner in vars(value).values()
                if isinstance(inner, FunctionType) and inner.__code__.co_filename == path
            )
