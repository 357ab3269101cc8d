"""Import of a user's own modules from the working directory, without replacing modules of other code.

If the user has a file `statistics.py` or `ray.py`, then Python's own modules, torch or Ray must not get it when they
import that name. So the working directory comes last on `sys.path`, and only imports in the user's own files look there
first. Even these never replace a module of Python or of a package that Pullback needs. If the working directory has a
file of such a name, errors mention it (`shadowing`).
"""

import importlib.metadata
import os
import re
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import FrameType, ModuleType

from pullback.generators.user_files import is_users

_folders: list[str] = []
"""The working directories that are searched for modules of jobs."""
_IMPORT_CODE = ("<frozen importlib", f"{os.sep}importlib{os.sep}__init__.py")


def look_in(folder: str) -> None:
    """Add a folder to those that are searched for modules of a job."""
    if folder not in sys.path:
        sys.path.append(folder)
    if folder not in _folders:
        _folders.append(folder)


@cache
def _needed() -> frozenset[str]:
    """Return the names of modules that belong to Python or to Pullback's dependencies."""
    try:
        required = importlib.metadata.requires("pullback") or []
    except importlib.metadata.PackageNotFoundError:
        required = []
    names = {re.split(r"[^A-Za-z0-9_.-]", each.strip())[0].lower().replace("-", "_") for each in required}
    return frozenset({*sys.stdlib_module_names, *names, "pullback", "yaml", "PIL"})


class _FirstForTheirOwn:
    """Import finder: for an import in a file of one of the folders, search that folder first. Ignores other imports."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if path is not None or not _folders or name in _needed():
            return None
        importer = _importer()
        for folder in reversed(_folders):
            if importer == _OWN_FILE or importer.startswith(folder + os.sep):
                spec = PathFinder.find_spec(name, [folder])
                if spec is not None and spec.origin is not None:
                    return spec
        return None


_OWN_FILE = str(Path(__file__).with_name("user_code.py"))


def _importer() -> str:
    """Return the file whose import statement is being executed."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and any(part in frame.f_code.co_filename for part in _IMPORT_CODE):
        frame = frame.f_back
    return "" if frame is None else frame.f_code.co_filename


sys.meta_path.insert(0, _FirstForTheirOwn)


def shadowing(names: Iterable[str], folder: str) -> str:
    """Name the files in a folder that are ignored because another module has their name; empty if there are none.

    Args:
        names: the dotted names of modules.
        folder: an absolute path.
    """
    notes = [note for top in sorted({name.partition(".")[0] for name in names}) if (note := _note(top, folder))]
    return "; ".join(notes)


def replacing() -> str:
    """Name the user's files that were imported in place of modules of Python's own; empty if there are none."""
    files = {
        name: getattr(sys.modules[name], "__file__", None) for name in sys.stdlib_module_names & sys.modules.keys()
    }
    return "; ".join(
        f"{file} was imported in place of Python's own module {name}: rename that file"
        for name, file in sorted(files.items())
        if name != "__main__" and file and is_users(str(Path(file).absolute()))
    )


def _note(top: str, folder: str) -> str:
    own = next((path for path in (Path(folder, f"{top}.py"), Path(folder, top, "__init__.py")) if path.is_file()), None)
    used = sys.modules.get(top)
    if own is None or used is None:
        return ""
    file = getattr(used, "__file__", None)
    if file is not None and (is_users(str(Path(file).absolute())) or os.path.realpath(file) == os.path.realpath(own)):
        return ""
    whose = "a module of Python's own" if top in sys.stdlib_module_names else "an installed package"
    return f"{top} is {whose} ({file or 'built in'}), so {own} cannot be imported by that name: rename that file"
