"""Registries of plug-ins: generator families, distances, statistics and applications.

A plug-in is one module with fixed exports. It is found in two places, and nothing lists plug-ins by hand:

- A module of the registry's package that assigns `SUMMARY`. Its name is the plug-in's name. Modules without `SUMMARY`
  are helpers.
- An entry point of the registry's group in an installed distribution. The entry point's name is the plug-in's name,
  and its value names the module.

Names are listed without importing a plug-in. `Registry.module` imports one and checks its exports, so a broken plug-in
raises an error only where it is used, and the others still work.
"""

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module, invalidate_caches
from importlib.machinery import PathFinder
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from pullback.errors import PluginError, UnknownPluginError

OURS = "pullback"
"""The source of plug-ins that come with this package."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_SUMMARY = re.compile(r"^SUMMARY\b", re.MULTILINE)
_FUNCTIONS = ("build", "compute", "figure", "read", "run", "summary")
"""Exports that must be callable."""


@dataclass(frozen=True)
class Plugin:
    """Where a plug-in is, before it is imported."""

    name: str
    module: str
    """The dotted name of its module."""
    source: str
    """`pullback`, or the name and version of the distribution that registers it."""
    problem: str | None = None
    """Why the plug-in cannot be used; None if nothing is known to be wrong."""


@dataclass(frozen=True)
class Registry:
    """All plug-ins of one kind.

    Attributes:
        kind: the word for one of them in messages, such as `statistic`.
        package: our package that holds them, such as `pullback.analysis.statistics`.
        group: the entry-point group of third parties.
        exports: the names that a module must have.
    """

    kind: str
    package: str
    group: str
    exports: tuple[str, ...] = field(default=("SUMMARY", "Options"))

    def names(self) -> list[str]:
        """Return the names of all usable plug-ins, sorted. Imports none of them."""
        return sorted(plugin.name for plugin in self.plugins() if plugin.problem is None)

    def plugins(self) -> list[Plugin]:
        """Return every plug-in that was found, ours first, including those whose name cannot be used."""
        return list(_found(self.package, self.group, *_state(self.package)))

    def module(self, name: str) -> ModuleType:
        """Import a plug-in and return its module, which has all `exports`.

        Raises:
            UnknownPluginError: no plug-in has this name. The error has the nearest name.
            PluginError: the module cannot be imported, or lacks an export.
        """
        plugin = next((each for each in self.plugins() if each.name == name and each.problem is None), None)
        if plugin is None:
            raise UnknownPluginError(self.kind, name, self.names(), self._why_missing(name))
        try:
            module = import_module(plugin.module)
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # includes SystemExit of a module that ends the program when imported
            if plugin.source == OURS and isinstance(error, ModuleNotFoundError):
                raise  # an optional library that is not installed
            text = " ".join(str(error).split())
            raise self._broken(plugin, f"importing it raises {type(error).__name__}: {text}".rstrip(": ")) from error
        problem = self._problem(module)
        if problem is not None:
            raise self._broken(plugin, problem)
        return module

    def options(self, name: str) -> Any:
        """Return the options model of a plug-in, a class; raises like `module`."""
        return self.module(name).Options

    def describe(self) -> list[dict[str, Any]]:
        """Import every plug-in and return one row for each: kind, name, summary, module, source and problem."""
        rows = []
        for plugin in self.plugins():
            summary, problem = None, plugin.problem
            if problem is None:
                try:
                    summary = self.module(plugin.name).SUMMARY
                except (PluginError, ModuleNotFoundError) as error:
                    problem = str(error)
            rows.append(
                {
                    "kind": self.kind,
                    "name": plugin.name,
                    "summary": summary,
                    "module": plugin.module,
                    "source": plugin.source,
                    "problem": problem,
                }
            )
        return rows

    def _problem(self, module: ModuleType) -> str | None:
        """Return what a module lacks, as the end of a sentence; None if it is complete."""
        missing = [name for name in self.exports if not hasattr(module, name)]
        if missing:
            return f"its module {module.__name__} lacks {', '.join(missing)}"
        if not isinstance(module.SUMMARY, str) or not module.SUMMARY or "\n" in module.SUMMARY:
            return f"SUMMARY of {module.__name__} is not one line of text"
        config = getattr(module.Options, "model_config", {})
        if not (isinstance(module.Options, type) and config.get("extra") == "forbid" and config.get("frozen")):
            return f"Options of {module.__name__} is not a subclass of pullback.spec.options.Options"
        for name in self.exports:
            if name in _FUNCTIONS and not callable(getattr(module, name)):
                return f"{name} of {module.__name__} is not a function"
        return None

    def _broken(self, plugin: Plugin, why: str) -> PluginError:
        todo = "Correct it." if plugin.source == OURS else f"Update or uninstall {plugin.source}."
        return PluginError(f"the {self.kind} {plugin.name!r} of {plugin.source} cannot be used: {why}. {todo}")

    def _why_missing(self, name: str) -> str:
        unusable = next((each.problem for each in self.plugins() if each.name == name), None)
        if unusable is not None:
            return unusable
        for folder in _folders(self.package):
            if name.isidentifier() and (Path(folder) / f"{name}.py").is_file():
                return f"{self.package}.{name} assigns no SUMMARY, so it is a helper"
        return ""


GENERATORS = Registry(
    "generator family",
    "pullback.generators.families",
    "pullback.generators",
    ("SUMMARY", "READS", "Options", "read", "build"),
)
DISTANCES = Registry("distance", "pullback.distances", "pullback.distances", ("SUMMARY", "Options", "build"))
STATISTICS = Registry(
    "statistic",
    "pullback.analysis.statistics",
    "pullback.statistics",
    ("SUMMARY", "Options", "compute", "summary", "figure"),
)
APPLICATIONS = Registry(
    "application", "pullback.applications", "pullback.applications", ("SUMMARY", "Options", "run", "summary", "figure")
)
REGISTRIES = (GENERATORS, DISTANCES, STATISTICS, APPLICATIONS)


def _state(package: str) -> tuple[tuple[str, ...], tuple[tuple[str, int], ...]]:
    """Return what the search depends on: the import path, and the package's folders with their modification times."""
    folders = tuple((folder, _modified(folder)) for folder in _folders(package))
    return tuple(map(str, sys.path)), folders


def _folders(package: str) -> list[str]:
    """Return the folders of a package without importing it; empty if there is no such package."""
    loaded = sys.modules.get(package)
    if loaded is not None:
        return list(loaded.__path__)
    parent, _, _ = package.rpartition(".")
    spec = PathFinder.find_spec(package, _folders(parent) if parent else None)
    return list(spec.submodule_search_locations or ()) if spec is not None else []


def _modified(folder: str) -> int:
    try:
        return Path(folder).stat().st_mtime_ns
    except OSError:
        return 0


@lru_cache(maxsize=32)
def _found(package: str, group: str, path: tuple[str, ...], folders: tuple[tuple[str, int], ...]) -> tuple[Plugin, ...]:
    """Return the plug-ins of a package and a group. `path` and `folders` make the cache search again if they change."""
    invalidate_caches()  # so that a module written a moment ago is found
    found: dict[str, Plugin] = {}
    unusable = []
    for plugin in (*_of_package(package, [folder for folder, _ in folders]), *_of_group(group)):
        if not _NAME.fullmatch(plugin.name):
            problem = f"{plugin.name!r} is not a name: it takes a letter, then letters, digits and _"
        elif plugin.name in found:
            problem = f"the name {plugin.name!r} is taken by {found[plugin.name].source}"
        else:
            found[plugin.name] = plugin
            continue
        unusable.append(Plugin(plugin.name, plugin.module, plugin.source, problem))
    return (*found.values(), *unusable)


def _of_package(package: str, folders: list[str]) -> Iterator[Plugin]:
    for folder in folders:
        for file in sorted(Path(folder).glob("*.py")):
            if not file.name.startswith("_") and _declares_a_plugin(file):
                yield Plugin(file.stem, f"{package}.{file.stem}", OURS)


def _declares_a_plugin(file: Path) -> bool:
    try:
        return _SUMMARY.search(file.read_text(encoding="utf-8")) is not None
    except (OSError, UnicodeDecodeError):
        return False


def _of_group(group: str) -> Iterator[Plugin]:
    def source(point: Any) -> str:
        return "an unknown distribution" if point.dist is None else f"{point.dist.name} {point.dist.version}"

    order: Callable[[Any], tuple[str, str]] = lambda point: (point.name, source(point))  # noqa: E731
    seen = set()
    for point in sorted(entry_points(group=group), key=order):
        plugin = Plugin(point.name, point.value.partition(":")[0].strip(), source(point))
        if plugin not in seen:  # the import path may hold a distribution twice
            seen.add(plugin)
            yield plugin
