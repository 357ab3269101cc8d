"""The libraries of starts that are kept in the user's cache, so that each generator's images are made once."""

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor, nn

from pullback.applications.inverting.starts import Library, pool
from pullback.atomic_files import replacing
from pullback.errors import PullbackError
from pullback.generators import generate, reference_tensor
from pullback.generators.attributes import class_names, latent_size, name_of
from pullback.user_folders import cache_folder

_CHECKED = 4
"""Samples whose images are made again to see that a kept library is of this generator."""
_TOLERANCE = 1e-3
"""Largest difference of their pooled pixels: round-off of another device is below."""


@dataclass(frozen=True)
class StoredCodes:
    """Codes of a sweep among which starts are looked for.

    Attributes:
        codes: [samples, n] float64.
        condition: class of each [samples]; None for a generator without classes.
    """

    codes: Tensor
    condition: Tensor | None


def library_of(generator: nn.Module, samples: int, seed: int, stored: StoredCodes | None = None) -> Library:
    """Return the library of a generator, from the user's cache if it is there and fits, else computed and kept.

    Args:
        generator: any generator.
        samples: own samples of the library.
        seed: seed of their codes.
        stored: codes of a sweep of this generator, which come behind these.
    """
    own = _cached(generator, [samples, seed], lambda: Library.drawn(generator, samples, seed))
    if stored is None:
        return own
    content = [each.numpy().tobytes() for each in (stored.codes, stored.condition) if each is not None]
    digest = hashlib.sha256(b"".join(content)).hexdigest()
    return own.with_stored(
        _cached(generator, [digest], lambda: Library.imaged(generator, stored.codes, stored.condition))
    )


def _cached(generator: nn.Module, key: list[Any], make: Callable[[], Library]) -> Library:
    path = _path(generator, key)
    if path is not None and (found := _kept(path, generator)) is not None:
        return found
    made = make()
    if path is not None:
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as new, new.open("wb") as file:
                np.savez(file, allow_pickle=False, **made.arrays())
    return made


def _path(generator: nn.Module, key: list[Any]) -> Path | None:
    told = [name_of(generator), latent_size(generator), *key, sorted(getattr(generator, "weights", {}).items())]
    settings = {
        name: str(value) for name, value in vars(generator).items() if isinstance(value, str | int | float | bool)
    }
    digest = hashlib.sha256(json.dumps([told, settings], sort_keys=True, default=str).encode()).hexdigest()[:16]
    try:
        return cache_folder() / "starts" / f"{digest}.npz"
    except PullbackError:
        return None


def _kept(path: Path, generator: nn.Module) -> Library | None:
    """The library in a file; None if it cannot be read, or its images are not those of this generator."""
    with suppress(OSError, ValueError, KeyError, EOFError, BadZipFile, RuntimeError):
        with np.load(path, allow_pickle=False) as file:
            library = Library.from_arrays({name: file[name] for name in file.files})
        like = reference_tensor(generator)
        if library.codes.shape[1] != latent_size(generator) or library.classes != len(class_names(generator)):
            return None
        own = None if library.condition is None else library.condition[:_CHECKED].to(like.device)
        with torch.no_grad():
            again = pool(generate(generator, library.codes[:_CHECKED].to(like), own))
        if float((again - library.pooled[:_CHECKED]).abs().max()) < _TOLERANCE:
            return library
    return None
