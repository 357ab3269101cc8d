"""Sources of weight files: the manifest, the places that are searched, and the check by SHA-256.

Invariants: a file is used only if its SHA-256 equals the manifest's (a user's own file is used unchecked, and its hash
recorded); nothing is imported or executed to find or read a weight file; nothing is downloaded here.
`fetching` downloads files; `checkpoints` and the families read them.
"""

import hashlib
import importlib.util
import os
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path

import torch
import yaml
from pydantic import BaseModel, ConfigDict

from pullback import user_folders
from pullback.errors import WeightsError
from pullback.regular_files import open_regular
from pullback.spec import nearest

FOLDER_VARIABLE = "PULLBACK_WEIGHTS"
"""Environment variable: a folder of weight files that is searched first."""
CACHE_VARIABLE = "PULLBACK_CACHE"
"""Environment variable: the folder where fetched weights are kept."""


class Variant(BaseModel):
    """One file that can serve as a weight, and its possible places."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str
    """The file's name in a weights folder."""
    sha256: str = ""
    """SHA-256 of the file, or the prefix of it that torch hub puts into the file's name. If it is empty, the SHA-256 of
    the first download is recorded and required from then on."""
    hub: bool = False
    """Whether torch hub caches it under this name."""
    package: str | None = None
    """A package that contains it."""
    version: str | None = None
    member: str | None = None
    """Its path inside the package."""
    archive_sha256: str | None = None
    """SHA-256 of the package's archive."""
    url: str | None = None
    """Where the file can be downloaded."""
    beside: dict[str, str] = {}
    """Small files that belong to it, such as a `config.json`: the address of each by its name in a weights folder."""
    biggan: str | None = None
    """The name under which `pytorch-pretrained-biggan` downloads it (`pretrained_biggan`)."""


class Weight(BaseModel):
    """One entry of the manifest. Its variants are equivalent; the first one found is used."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    what: str
    licence: str
    variants: tuple[Variant, ...]
    publisher: str = ""
    """Who publishes it."""
    page: str = ""
    """A web page about it, from which a person can download it if no program can."""
    noncommercial: bool = False
    """Whether the licence excludes commercial use. The user has to accept such a licence before a download."""

    @property
    def downloadable(self) -> Variant | None:
        """The variant that can be downloaded from its publisher."""
        return next((variant for variant in self.variants if variant.url), None)

    @property
    def fetchable(self) -> Variant | None:
        """The variant that `pullback weights fetch` can get from a package."""
        return next((variant for variant in self.variants if variant.package), None)


@cache
def manifest() -> dict[str, Weight]:
    """Return every registered weight by name."""
    text = files("pullback.weights").joinpath("weights.yaml").read_text(encoding="utf-8")
    return {name: Weight.model_validate(entry) for name, entry in yaml.safe_load(text).items()}


@cache
def published() -> dict[str, Weight]:
    """Return the weights of published generators by name; their publishers or model hubs distribute them."""
    text = files("pullback.weights").joinpath("published.yaml").read_text(encoding="utf-8")
    return {name: Weight.model_validate(entry) for name, entry in yaml.safe_load(text).items()}


def weight(name: str) -> Weight:
    """Return the entry of a name in the manifest or among the published generators.

    Raises:
        WeightsError: there is no such entry.
    """
    known = manifest()
    if name in known:
        return known[name]
    if name in published():
        return published()[name]
    raise WeightsError(
        f"no weights are registered as {name!r}{nearest(name, [*known, *published()])} (known: {', '.join(known)})"
    )


def cache_folder() -> Path:
    """Return the folder of fetched weights (`PULLBACK_CACHE`, else the user's cache folder)."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return (Path(chosen) if chosen else user_folders.cache_folder()) / "weights"


def sha256_of(path: Path) -> str:
    """Return the file's SHA-256 in hexadecimal.

    Raises:
        WeightsError: the file cannot be read.
    """
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"the weight file {path} cannot be read: {error.strerror}") from error


def places(variant: Variant) -> Iterator[Path]:
    """Yield the possible paths of a variant, in the order of the search."""
    own = os.environ.get(FOLDER_VARIABLE)
    if own:
        yield Path(own) / variant.file
    yield cache_folder() / variant.file
    if variant.hub:
        yield Path(torch.hub.get_dir()) / "checkpoints" / variant.file
    if variant.member:
        top, _, rest = variant.member.partition("/")
        spec = importlib.util.find_spec(top)  # finds an installed package's folder without importing it
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            yield Path(folder) / rest


def recorded_hash(path: Path) -> Path:
    """Return the path of the file beside a download that records its SHA-256."""
    return path.with_name(f"{path.name}.sha256")


def _is_there(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # the user may not enter the folder
        return False


def _candidates(name: str) -> list[tuple[Variant, Path]]:
    """Return every possible place of the named weight, in the order of the search."""
    return [(variant, path) for variant in weight(name).variants for path in places(variant)]


def find(name: str) -> Path | None:
    """Return the first file that exists for the named weight, without checking its hash; None if there is none."""
    return next((path for _, path in _candidates(name) if _is_there(path)), None)


def locate(name: str) -> tuple[Path, str]:
    """Return the first file that serves as the named weight, and its SHA-256.

    Raises:
        WeightsError: no file is found (lists every place that was searched and the ways to supply one), or the file
            is damaged.
    """
    candidates = _candidates(name)
    for variant, path in candidates:
        if _is_there(path):
            return path, _checked(path, variant, name)
    raise WeightsError(
        f"the weights {name!r} ({weight(name).what}) are not on this machine. Looked at:\n"
        + "\n".join(f"    {path}" for _, path in candidates)
        + f"\nWhat to do: {ways_to_supply(name)}"
    )


def ways_to_supply(name: str) -> str:
    """Return the ways in which a user can get the named weights, as the rest of a sentence."""
    entry = weight(name)
    by_folder = f"into a folder and set {FOLDER_VARIABLE} to that folder"
    if entry.downloadable is not None and not entry.fetchable:
        variant = entry.downloadable
        licence = f" Its licence: {entry.licence}." if entry.noncommercial else ""
        return (
            f"where there is a network, run `pullback weights fetch {name}`; elsewhere, download {variant.url} "
            f"(published by {entry.publisher}), put it as {variant.file} {by_folder}, or name its path in the job."
            f"{licence}"
        )
    if entry.page and not entry.fetchable:
        return (
            f"no program can download it: get it from {entry.page} (published by {entry.publisher}; licence: "
            f"{entry.licence}), put it as {entry.variants[0].file} {by_folder}, or name its path in the job."
        )
    if entry.fetchable:
        listed = "\n".join(
            f"    {v.file}, SHA-256 {v.sha256}{'…' if len(v.sha256) < 64 else ''}" for v in entry.variants
        )
        return f"run `pullback weights fetch {name}`, or put one of these files\n{listed}\n{by_folder}."
    only = entry.variants[0]
    hub = Path(torch.hub.get_dir()) / "checkpoints"
    by_hub = f", or into torch hub's cache, {hub}, where torchvision leaves it" if only.hub else ""
    return (
        f"supply the file {only.file} yourself, because no package holds it: put it {by_folder}{by_hub}. "
        f"Its SHA-256 begins with {only.sha256}."
    )


def _checked(path: Path, variant: Variant, name: str) -> str:
    digest = sha256_of(path)
    expected = variant.sha256 or _recorded(path)
    if not digest.startswith(expected):
        raise WeightsError(
            f"the weight file {path} is damaged or another file: its SHA-256 is {digest}, that of {name!r} begins with "
            f"{expected}. Remove it and {ways_to_supply(name)}"
        )
    return digest


def _recorded(path: Path) -> str:
    """Return the recorded SHA-256 of a file's first download, if its publisher gives none; empty without a record."""
    try:
        with open_regular(recorded_hash(path)) as file:
            return file.read(64).decode("ascii", "replace").strip()
    except OSError:
        return ""
