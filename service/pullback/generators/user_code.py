"""A user's own code, which a job names as `module:function`.

It is imported as `python -m` would import it, the working directory included, and the hash of its source is handed
on with it: code decides numbers as weights do, so an edited function is another generator or distance. Of a module in
a package, that is the hash of the whole package folder: modules there make use of each other.
Leaves to others what the function must give (`zoo`, and the distances).
"""

import hashlib
import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from pullback.errors import PullbackError, SpecError
from pullback.generators.weights import sha256_of
from pullback.spec import nearest


def imported(name: str, key: str) -> tuple[Callable[..., Any], dict[str, str]]:
    """The function that `module:function` names.

    Args:
        name: `module:function`, the module's name dotted where it lies in a package.
        key: the key of the job that holds the name, for messages (`generator.name`).

    Returns:
        The function, and the SHA-256 of its source by the name `<module> (source)`: of the module's file, or of all
        modules in its folder where that is a package; no hash where the module has no file.

    Raises:
        SpecError: there is no such module, or no such function in it.
        PullbackError: the module raised something else while it was imported.
    """
    module_name, _, function_name = name.partition(":")
    # A console script does not have the working directory on its path, where a user's own module usually lies.
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise SpecError([f"{key}: {module_name} cannot be imported: {error} (from {Path.cwd()})"]) from error
    except Exception as error:  # whatever a user's module raises
        raise PullbackError(f"importing {module_name} failed: {type(error).__name__}: {error}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        hint = nearest(function_name, [key for key, value in vars(module).items() if callable(value)])
        raise SpecError([f"{key}: the module {module_name} has no function {function_name!r}{hint}"])
    source = getattr(module, "__file__", None)
    return function, {} if source is None else {f"{module_name} (source)": _source_hash(Path(source))}


def _source_hash(path: Path) -> str:
    if not (path.parent / "__init__.py").is_file():
        return sha256_of(path)
    lines = [f"{file.name} {sha256_of(file)}\n" for file in sorted(path.parent.glob("*.py"))]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def weights_told(made: Any) -> dict[str, str]:
    """The SHA-256 of weight files, by name, that a user's object tells in its `weights`; none where that is no mapping.

    A module of the user's own may well call a parameter or a method so.
    """
    told = getattr(made, "weights", None)
    return {str(name): str(digest) for name, digest in told.items()} if isinstance(told, Mapping) else {}


def made_by(name: str, key: str) -> tuple[nn.Module, dict[str, str]]:
    """The torch module that a user's factory gives when it is called without arguments.

    Args:
        name: `module:factory`.
        key: the key of the job that holds the name.

    Returns:
        The module as the factory made it, and the hash of the factory's source as in `imported`.

    Raises:
        SpecError: there is no such factory.
        PullbackError: the factory failed, or gave something else.
    """
    factory, source = imported(name, key)
    try:
        made = factory()
    except Exception as error:  # whatever a user's factory raises
        raise PullbackError(f"the factory {name} failed: {type(error).__name__}: {error}") from error
    if not isinstance(made, nn.Module):
        raise PullbackError(f"the factory {name} gave {type(made).__name__}; it must give a torch.nn.Module")
    return made, source
