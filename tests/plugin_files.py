"""Plug-ins in temporary folders: a distribution with entry points, or a module in one of our packages."""

import sys
from contextlib import contextmanager
from importlib import import_module


def write_distribution(folder, group, modules, name="visitor", version="1.2"):
    """Write modules (name -> source) and a dist-info that registers each under its name in an entry-point group."""
    folder.mkdir(exist_ok=True)
    for module, source in modules.items():
        (folder / f"{name}_{module}.py").write_text(source)
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    points = "".join(f"{module} = {name}_{module}\n" for module in modules)
    (info / "entry_points.txt").write_text(f"[{group}]\n{points}")
    return folder


@contextmanager
def on_the_path(folder):
    """Put a folder on the import path, and forget afterwards whatever was imported from it."""
    sys.path.insert(0, str(folder))
    try:
        yield folder
    finally:
        sys.path.remove(str(folder))
        forget(folder)


@contextmanager
def in_the_package(package, folder):
    """Let a package of ours hold the modules of another folder too."""
    home = import_module(package)
    home.__path__.append(str(folder))
    try:
        yield
    finally:
        home.__path__.remove(str(folder))
        forget(folder)


def forget(folder):
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file is not None and file.startswith(str(folder)):
            del sys.modules[name]
            parent, _, last = name.rpartition(".")
            if parent in sys.modules and hasattr(sys.modules[parent], last):
                delattr(sys.modules[parent], last)
