"""Cache of applications' results: artifacts beside their sweep, keyed by snapshot, generator and options."""

import hashlib
import json
import logging
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from pullback.analysis.protocol import About, Result
from pullback.applications.protocol import options_json
from pullback.errors import DamagedError, PluginError, PullbackError
from pullback.generators.user_files import hash_of, sources_of
from pullback.generators.user_imports import look_in
from pullback.plugins import APPLICATIONS
from pullback.spec import GeneratorSpec, Options, names_code
from pullback.store.artifacts import artifact_names, load_artifact, remove_artifact, save_artifact
from pullback.store.history import remaining_snapshots
from pullback.store.location import Location, split_snapshot
from pullback.store.reader import open_sweep

if TYPE_CHECKING:
    import xarray as xr

logger = logging.getLogger(__name__)

_PREFIX = "application"
_ATTRIBUTE = "pullback_application"
_NAME = re.compile(rf"{_PREFIX}-(\w+)-(.+)-[0-9a-f]{{12}}")
"""The name of an artifact: application, snapshot, and a hash of the other inputs."""
_WITHOUT_SWEEP = "generator"
"""Replaces the snapshot in the name of a result without a sweep."""


def generator_identity(spec: GeneratorSpec) -> dict[str, Any]:
    """Return the identity of a job's generator: its keys without defaults, and a file's hash instead of its path."""
    content = spec.model_dump(mode="json", exclude_defaults=True)
    for key in ("name", "weights"):
        path = content.get(key)
        if path is not None and Path(path).is_file():
            content[key] = {"sha256": hash_of(str(Path(path).absolute()))}
    return content


def file_identity(options: Options) -> dict[str, list[str]]:
    """Return the SHA-256 of each file that an option names, by the option; empty if none does.

    A folder stands for the files that are directly in it, a user's code (`module:function`) for the files of its
    module and of what that imports, and a further sweep for its snapshot.
    """
    found = {}
    sweeps = set(options.sweep_keys())
    for key in options.local_keys():
        if key in sweeps:
            found[key] = _snapshots(getattr(options, key))
            continue
        value = getattr(options, key)
        paths = value if isinstance(value, tuple) else (value,)
        hashes = [hash_of(str(file.absolute())) for path in paths for file in _files(path)]
        if hashes:
            found[key] = hashes
    return found


def _snapshots(address: str) -> list[str]:
    """The snapshot of a sweep; empty if it cannot be opened; the application then gives the reason."""
    place, snapshot = split_snapshot(address)
    try:
        return [open_sweep(place, snapshot).snapshot]
    except PullbackError:
        return []


def _files(path: Any) -> list[Path]:
    """The file at a path, or the files in the folder there; empty if there is neither."""
    try:
        if not isinstance(path, str):
            return []
        if names_code(path):
            look_in(str(Path.cwd()))
            return sorted(map(Path, sources_of(path.partition(":")[0]).values()))
        if Path(path).is_dir():
            return sorted(each for each in Path(path).iterdir() if each.is_file())
        return [Path(path)] if Path(path).is_file() else []
    except (OSError, ValueError):
        return []


@dataclass(frozen=True)
class Key:
    """Cache key of a result: the application, its input and its options.

    Attributes:
        application: the application's name.
        options: the application's options.
        snapshot: the sweep's snapshot; empty if there is no sweep.
        generator: the generator that the job names; None if it is the sweep's generator.
    """

    application: str
    options: Options
    snapshot: str = ""
    generator: GeneratorSpec | None = None

    @property
    def name(self) -> str:
        """The name of the artifact beside the sweep."""
        module = APPLICATIONS.module(self.application)
        generator = "" if self.generator is None else json.dumps(generator_identity(self.generator), sort_keys=True)
        decisive = [options_json(self.options), generator, str(getattr(module, "VERSION", 1))]
        if files := file_identity(self.options):
            decisive.append(json.dumps(files, sort_keys=True))
        digest = hashlib.sha256("\n".join(decisive).encode()).hexdigest()[:12]
        return f"{_PREFIX}-{self.application}-{self.snapshot or _WITHOUT_SWEEP}-{digest}"


@dataclass(frozen=True, eq=False)
class ApplicationResult(Result):
    """The result of an application, with the same methods as a statistic's `Result`."""

    @property
    def application(self) -> str:
        """The application's name."""
        return self.statistic

    @property
    def _module(self) -> Any:
        return APPLICATIONS.module(self.statistic)


def save_result(place: Location | Path | str, key: Key, result: ApplicationResult) -> None:
    """Save a result beside a sweep (or its substitute). It replaces an earlier result with this key.

    Raises:
        StoreError: the result cannot be written; an earlier result is kept.
    """
    about = {
        "application": key.application,
        "options": json.loads(options_json(key.options)),
        "snapshot": key.snapshot,
        "name": result.about.name,
        "samples": result.about.samples,
    }
    save_artifact(place, key.name, result.dataset.assign_attrs({_ATTRIBUTE: json.dumps(about)}))


def load_result(place: Location | Path | str, key: Key) -> ApplicationResult | None:
    """Return the saved result of a key; None if there is none that can be read.

    Raises:
        PluginError: the application does not exist or cannot be loaded.
        StoreError: an object store does not answer.
    """
    return _load(place, key.name)


def load_results(place: Location | Path | str, snapshot: str) -> list[ApplicationResult]:
    """Return every readable saved result of a sweep's snapshot, ordered by application.

    Raises:
        StoreError: an object store does not answer.
    """
    found = []
    for name in sorted(artifact_names(place)):
        matched = _NAME.fullmatch(name)
        if matched is not None and matched[2] == snapshot and matched[1] in APPLICATIONS.names():
            try:
                result = _load(place, name)
            except PluginError as error:
                logger.warning("%s", error)
                continue
            if result is not None:
                found.append(result)
    return found


def forget_results(place: Location | Path | str, before: datetime, dry_run: bool = False) -> int:
    """Remove the results of snapshots that are no longer in a sweep's history, or will soon expire.

    Args:
        place: the sweep's store.
        before: snapshots older than this count as expired, except the last one.
        dry_run: only count the results.

    Returns:
        The number of results that were removed (with `dry_run`: that would be removed).

    Raises:
        StoreError: the sweep cannot be read, or a result cannot be removed.
    """
    there = remaining_snapshots(place, before)
    snapshots = ((name, _NAME.fullmatch(name)) for name in artifact_names(place))
    gone = [name for name, found in snapshots if found is not None and found[2] not in there]
    for name in gone if not dry_run else ():
        remove_artifact(place, name)
    return len(gone)


def _load(place: Location | Path | str, name: str) -> ApplicationResult | None:
    try:
        dataset = load_artifact(place, name)
    except DamagedError as error:  # ignore the damaged result: it can be computed again
        logger.warning("%s", error)
        return None
    return None if dataset is None else _result_of(dataset)


def _result_of(dataset: "xr.Dataset") -> ApplicationResult | None:
    """Return the result in an artifact; None if a different version of the application wrote it."""
    try:
        about = json.loads(dataset.attrs[_ATTRIBUTE])
        options = APPLICATIONS.options(about["application"]).model_validate(about["options"])
        named = About(about["name"], about["snapshot"], int(about["samples"]))
    except (KeyError, TypeError, ValueError, ValidationError):
        return None
    return ApplicationResult(about["application"], options, dataset, named)
