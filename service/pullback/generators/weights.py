"""Where weight files come from: the manifest, the places that are looked in, and the check by SHA-256.

Invariants: no file is used whose SHA-256 is not the manifest's (a user's own file is used as it is, and its
hash recorded); nothing is imported or executed to find or read a weight file; nothing is downloaded here.
Leaves to others: fetching (`fetching`), and what the tensors in a file mean (`checkpoints`, and the families).
"""

import hashlib
import importlib.util
import os
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path

import platformdirs
import torch
import yaml
from pydantic import BaseModel, ConfigDict

from pullback.errors import WeightsError
from pullback.spec import nearest

FOLDER_VARIABLE = "PULLBACK_WEIGHTS"
"""Environment variable: a folder of weight files that is looked in first."""
CACHE_VARIABLE = "PULLBACK_CACHE"
"""Environment variable: the folder where fetched weights are kept."""


class Variant(BaseModel):
    """One file that serves as a weight, and where it may be found."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str
    """The file's name in a weights folder."""
    sha256: str
    """SHA-256 of the file, or the prefix of it that torch hub puts into the file's name."""
    hub: bool = False
    """Whether torch hub keeps it under this name."""
    package: str | None = None
    """A package that contains it."""
    version: str | None = None
    member: str | None = None
    """Its path inside the package."""
    archive_sha256: str | None = None
    """SHA-256 of the package's archive."""


class Weight(BaseModel):
    """One entry of the manifest: any one of its variants will do, the first found is taken."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    what: str
    licence: str
    variants: tuple[Variant, ...]

    @property
    def fetchable(self) -> Variant | None:
        """The variant that `pullback weights fetch` can get from a package."""
        return next((variant for variant in self.variants if variant.package), None)


@cache
def manifest() -> dict[str, Weight]:
    """Every registered weight by its name."""
    text = files("pullback.generators").joinpath("weights.yaml").read_text(encoding="utf-8")
    return {name: Weight.model_validate(entry) for name, entry in yaml.safe_load(text).items()}


def weight(name: str) -> Weight:
    """The manifest's entry.

    Raises:
        WeightsError: there is none of that name.
    """
    try:
        return manifest()[name]
    except KeyError:
        known = ", ".join(manifest())
        raise WeightsError(
            f"no weights are registered as {name!r}{nearest(name, manifest())} (known: {known})"
        ) from None


def cache_folder() -> Path:
    """The folder where fetched weights are kept (`PULLBACK_CACHE`, else the user's cache folder)."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return (Path(chosen) if chosen else platformdirs.user_cache_path("pullback")) / "weights"


def sha256_of(path: Path) -> str:
    """The file's SHA-256 in hexadecimal.

    Raises:
        WeightsError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"the weight file {path} cannot be read: {error.strerror}") from error


def places(variant: Variant) -> Iterator[Path]:
    """The paths at which a variant may lie, in the order in which they are looked at."""
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


def _is_there(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # in a folder that this user may not enter
        return False


def _candidates(name: str) -> list[tuple[Variant, Path]]:
    """Every place at which the named weight may lie, in the order in which they are looked at."""
    return [(variant, path) for variant in weight(name).variants for path in places(variant)]


def find(name: str) -> Path | None:
    """The first file that is there for the named weight, unchecked; None where there is none."""
    return next((path for _, path in _candidates(name) if _is_there(path)), None)


def locate(name: str) -> tuple[Path, str]:
    """The first file that serves as the named weight, and its SHA-256.

    Raises:
        WeightsError: none is found, with every place that was looked at and the ways to supply it; or the one
            found is damaged.
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
    """What a user can do to get the named weights, as the rest of a sentence; only what works for these weights."""
    entry = weight(name)
    by_folder = f"into a folder and set {FOLDER_VARIABLE} to that folder"
    if entry.fetchable:
        listed = "\n".join(
            f"    {v.file}, SHA-256 {v.sha256}{'…' if len(v.sha256) < 64 else ''}" for v in entry.variants
        )
        return f"run `pullback weights fetch {name}`, or put one of these files\n{listed}\n{by_folder}."
    only = entry.variants[0]
    hub = Path(torch.hub.get_dir()) / "checkpoints"
    by_hub = f", or into torch hub's cache, {hub}, where torchvision leaves it" if only.hub else ""
    return (
        f"supply the file yourself ({only.file}), for no package holds it: put it {by_folder}{by_hub}. "
        f"Its SHA-256 begins with {only.sha256}."
    )


def _checked(path: Path, variant: Variant, name: str) -> str:
    digest = sha256_of(path)
    if not digest.startswith(variant.sha256):
        raise WeightsError(
            f"the weight file {path} is damaged or another file: its SHA-256 is {digest}, that of {name!r} begins with "
            f"{variant.sha256}. Remove it and {ways_to_supply(name)}"
        )
    return digest
