"""A user's own code, named in a job as `module:function`: import it, call it, and record its files.

The module may lie in the working directory (`user_imports`). Code determines numbers just as weights do, so `Origin`
records the source files, the data files that were read, and a fingerprint of the object that was built.

Side effects of users' code do not leave this module: an exit (`sys.exit`, argparse) becomes an error that names the
code, and a changed working directory lasts only while the user's code runs.
The callers check what the function returns (`registry`, and the distances).
"""

import hashlib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from torch import nn

from pullback.errors import ArgumentError, PullbackError, WeightsError, exit_message
from pullback.generators.fingerprint import ORIGIN, TENSOR, fingerprint
from pullback.generators.user_files import Window, base_of, forget, hashes, imports_in, sources_of, stale, watching
from pullback.generators.user_imports import look_in, shadowing
from pullback.spec import code_meant, nearest
from pullback.weights.manifest import sha256_of

HASHES = "_pullback_weights"
"""Attribute for the weight hashes of a module whose attribute `weights` is a submodule, parameter or method."""

_USERS_FOLDERS: dict[str, str] = {}
"""The working directory that each module's code has set, by module name."""
_EXECUTED: dict[tuple[str, str], set[str]] = {}
"""The source files that ran while a module was imported and its functions were called, by its folder and name."""
_USED: dict[tuple[str, str], Window] = {}
"""The files that were read while objects from a `module:function` were in use, by the module's folder and that name."""
_OWN_PACKAGE = "pullback"


@dataclass(frozen=True)
class Origin:
    """Record of the files and the fingerprint of an object that a user's code made.

    Attributes:
        sources: SHA-256 of each of the user's source files, by file name.
        opened: SHA-256 of each data file that was read while the object was made.
        built: the entries of its fingerprint.
        root: the object itself.
        files: the paths of the source files.
        base: the folder that file names are relative to.
        used: the files that are read while the object is used; recorded only inside `watching`.
    """

    sources: Mapping[str, str]
    opened: Mapping[str, str]
    built: Mapping[str, str]
    root: Any = field(repr=False, compare=False)
    files: Collection[str] = field(default=(), repr=False, compare=False)
    base: str = ""
    used: Window = field(default_factory=Window, compare=False)

    @property
    def read(self) -> dict[str, str]:
        """The current SHA-256 of each data file that was read while the object was used."""
        return hashes(self.used.opened, self.base)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Origin":
        """Return the same record: a copy of a network in another precision has the same origin."""
        return self

    def built_now(self) -> dict[str, str]:
        """Return the current entries of the fingerprint, without tensors."""
        return fingerprint(self.root, self.files, tensors=False)[0]


def origin_of(part: Any) -> Origin | None:
    """Return the record of a generator or distance made by a user's code; None for one of Pullback's own."""
    found = getattr(part, ORIGIN, None)
    return found if isinstance(found, Origin) else None


def imported(name: str, key: str, window: Window | None = None) -> tuple[Callable[..., Any], dict[str, str]]:
    """Import the function that `module:function` names.

    Args:
        name: `module:function`; the module's name is dotted if it lies in a package.
        key: the argument that holds the name, for messages, such as `name`.
        window: records the files that the module reads.

    Returns:
        The function, and the SHA-256 of its source under the name `<module> (source)`. The hash covers the module's
        file, or all modules in its folder if it is a package. There is no hash if the module has no file.

    Raises:
        SpecError: the module does not exist, or has no such function.
        PullbackError: the module raised another error while it was imported.
    """
    window = Window() if window is None else window
    module_name, _, function_name = name.partition(":")
    # A user's module usually lies in the working directory, which is not on the path of a console script.
    here = str(Path.cwd())
    look_in(here)
    if stale(before := sources_of(module_name, _EXECUTED.get((base_of(module_name), module_name), ()))):
        forget(before.values())
    try:
        module = _import(module_name, window)
    except ImportError as error:
        hint = code_meant(name) or _note(module_name, here)
        raise ArgumentError(key, f"{module_name} cannot be imported: {error} (from {here}){hint}") from error
    if shadowed := shadowing([module_name], here):
        raise ArgumentError(key, shadowed)
    function = getattr(module, function_name, None)
    source = getattr(module, "__file__", None)
    if not callable(function):
        hint = nearest(function_name, [key for key, value in vars(module).items() if callable(value)])
        raise ArgumentError(key, f"the module {module_name} has no function {function_name!r}{hint}")
    return function, {} if source is None else {f"{module_name} (source)": _source_hash(Path(source))}


def _import(name: str, window: Window) -> ModuleType:
    with _their_turn(name, f"importing {name}", window):
        module = importlib.import_module(name)
        if stale(paths := sources_of(name, window.executed)):
            # Python reuses stale bytecode if the source was edited within the same second and kept its size.
            forget(paths.values())
            prefix, sys.pycache_prefix = sys.pycache_prefix, str(Path(__file__).parent / "no bytecode")
            try:
                module = importlib.import_module(name)
            finally:
                sys.pycache_prefix = prefix
        return module


def _refuse_stale(paths: Mapping[str, str]) -> None:
    if changed := stale(paths):
        raise PullbackError(
            f"{', '.join(changed)} changed after this process had imported it, so the process would compute with the "
            "old version. Nothing was computed. Start a new process (restart the notebook's kernel) and run again"
        )


def _source_hash(path: Path) -> str:
    if not (path.parent / "__init__.py").is_file():
        return sha256_of(path)
    lines = [f"{file.name} {sha256_of(file)}\n" for file in sorted(path.parent.glob("*.py"))]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@contextmanager
def unmoved() -> Iterator[None]:
    """Context manager: restore the process's working directory after user code (a generator's `forward`) has run."""
    ours = Path.cwd()
    try:
        yield
    finally:
        os.chdir(ours)


@contextmanager
def _their_turn(module: str, doing: str, window: Window) -> Iterator[None]:
    """Context manager in which a user's code runs, in the working directory that it last set.

    Args:
        module: the name of the module.
        doing: the current action, for messages: `importing model`.
        window: records the files that are read.

    Raises:
        PullbackError: the code raised an error or tried to exit. ImportError and KeyboardInterrupt pass unchanged.
    """
    ours, bytecode = str(Path.cwd()), sys.dont_write_bytecode
    theirs = _USERS_FOLDERS.get(module, ours)
    executed = _EXECUTED.setdefault((base_of(module), module), set())
    sys.dont_write_bytecode = True  # write nothing into the user's folder
    try:
        if theirs != ours and Path(theirs).is_dir():
            os.chdir(theirs)
        with watching(window):
            yield
    except (ImportError, KeyboardInterrupt, PullbackError):
        raise
    except SystemExit as error:
        raise PullbackError(f"{doing} failed: {exit_message(error)}") from error
    except BaseException as error:  # user code may raise anything
        note = _note(module, ours)
        raise PullbackError(f"{doing} failed: {type(error).__name__}: {error}{note}") from error
    finally:
        sys.dont_write_bytecode = bytecode
        executed.update(window.executed)
        try:
            left = str(Path.cwd())
        except OSError:  # the user's code removed the folder
            left = ours
        if left != ours:
            _USERS_FOLDERS[module] = left
            os.chdir(ours)


def _note(module: str, folder: str) -> str:
    """Return a note for an error of a user's code: user files that shadow other modules, or are shadowed by them."""
    paths = sources_of(module)
    note = shadowing({module, *(name for path in paths.values() for name in imports_in(path))}, folder)
    return f"\n{note}" if note else ""


def declared_weights(made: Any) -> dict[str, str]:
    """Return the SHA-256 of weight files by name, from a user's attribute `weights`; empty if it is not a mapping.

    If a user's module has a parameter, submodule or method of that name, its hashes are in the attribute `HASHES`.
    """
    declared = getattr(made, HASHES, getattr(made, "weights", None))
    return {str(name): str(digest) for name, digest in declared.items()} if isinstance(declared, Mapping) else {}


def call_factory(
    name: str, key: str, weights: str | None = None, args: Mapping[str, Any] = MappingProxyType({})
) -> tuple[nn.Module, dict[str, str], Origin]:
    """Call a user's factory and return its torch module.

    Args:
        name: `module:factory`.
        key: the argument that holds the name, for messages.
        weights: the absolute path of a weight file, which is passed to the factory; None passes no path.
        args: keyword arguments of the factory.

    Returns:
        The unchanged module, the hash of the factory's source as in `imported`, and the record of its origin.

    Raises:
        SpecError: the factory does not exist, or does not accept the path or the arguments.
        PullbackError: the factory failed, or did not return a torch module.
    """
    window = Window()
    factory, source = imported(name, key, window)
    if weights is not None:
        if not _takes(factory, "path", **args):
            raise ArgumentError(
                "weights", f"{name} loads its own weights; omit `weights`, or give the factory a parameter for the path"
            )
        if not Path(weights).is_file():
            raise WeightsError(f"there is no weight file {weights}")
    elif missing := _missing(factory, args):
        raise ArgumentError("args", f"{name}{_signature(factory)} needs {', '.join(missing)}; give it here")
    elif args and not _takes(factory, **args):
        raise ArgumentError("args", f"{name}{_signature(factory)} does not take {', '.join(args)}")
    module = name.partition(":")[0]
    try:
        with _their_turn(module, f"the factory {name}", window):
            made = factory(**args) if weights is None else factory(weights, **args)
    except ImportError as error:
        note = _note(module, str(Path.cwd()))
        raise PullbackError(f"the factory {name} failed: {type(error).__name__}: {error}{note}") from error
    if not isinstance(made, nn.Module):
        raise PullbackError(f"the factory {name} gave {type(made).__name__}; it must give a torch.nn.Module")
    return made, source, origin_for(made, name, window)


def _signature(factory: Callable[..., Any]) -> str:
    try:
        return str(inspect.signature(factory))
    except (TypeError, ValueError):
        return ""


def _missing(factory: Callable[..., Any], args: Mapping[str, Any]) -> list[str]:
    """The arguments without a default that a factory needs besides the given ones."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return []
    free = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = (p.name for p in parameters if p.default is p.empty and p.kind not in free)
    return [name for name in needed if name not in args]


def _takes(factory: Callable[..., Any], *positional: str, **named: Any) -> bool:
    try:
        inspect.signature(factory).bind(*positional, **named)
    except TypeError:
        return False
    except ValueError:  # a function written in C may have no signature
        return True
    return True


def origin_for(root: Any, name: str, window: Window) -> Origin:
    """Return the record of an object that a user's code has just made, before it is used.

    Args:
        root: the object: a torch module or a function.
        name: the `module:function` that made it.
        window: the files that were read and executed meanwhile.

    Raises:
        PullbackError: this process has imported an older version of one of its source files.
    """
    module = name.partition(":")[0]
    base = base_of(module)
    known = _EXECUTED.get((base, module), set())
    own = frozenset(sources_of(module, known).values())
    built, files = fingerprint(root, own)
    paths = sources_of(module, known | files)
    if module.partition(".")[0] == _OWN_PACKAGE:  # the version identifies Pullback's own code
        paths, built = {}, {name: digest for name, digest in built.items() if name.startswith(TENSOR)}
    _refuse_stale(paths)
    sources = {each: sha256_of(Path(path)) for each, path in sorted(paths.items())}
    # Later objects of the same code may take a file's content from a cache.
    used = _USED.setdefault((base, name), Window())
    opened = hashes({*window.opened} - {*paths.values()}, base)  # an import also reads its own source
    return Origin(sources, opened, built, root, own, base, used)
