"""The published BigGAN-deep models of Hugging Face, through the package `pytorch-pretrained-biggan`.

The package knows the models' addresses, downloads them and has its own cache. This cache names files by hashes, and an
interrupted download can leave an incomplete file there. So each of a model's two files is copied atomically into
Pullback's cache, such as `biggan-deep-256/config.json` and `biggan-deep-256/pytorch_model.bin`. Later loads use these
copies and need no network.
"""

import hashlib
import json
import shutil
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from pullback.atomic_files import replacing
from pullback.errors import WeightsError
from pullback.weights.manifest import cache_folder

NAMES = ("biggan-deep-128", "biggan-deep-256", "biggan-deep-512")
"""The models that the package publishes, by the size of their images."""
FILES = ("config.json", "pytorch_model.bin")
"""The files in a model's folder, the small one first."""
_PACKAGE = "pytorch_pretrained_biggan"


def folder_of(name: str) -> Path:
    """Return the folder of a published model in Pullback's cache."""
    return cache_folder() / name


def published(name: str) -> Path:
    """Return the folder with the config and the weights of a published model; download missing files.

    Args:
        name: one of `NAMES`.

    Raises:
        WeightsError: the package is not installed, or the files are not on this machine and cannot be downloaded.
    """
    folder = folder_of(name)
    missing = [file for file in FILES if not (folder / file).is_file()]
    if not missing:
        return folder
    addresses = _addresses(name)
    for file in missing:
        source = _cached(addresses[file]) or _downloaded(name, addresses[file])
        if file == FILES[0]:
            _check_config(source, name)
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / file) as target:
            shutil.copyfile(source, target)
    return folder


def _package(part: str) -> ModuleType:
    try:
        return import_module(f"{_PACKAGE}.{part}")
    except ImportError as error:
        raise WeightsError(
            "the published BigGANs are found by the package pytorch-pretrained-biggan, which cannot be imported "
            f"({error}). Run `pip install 'pullback[biggan]'`, or name a folder with {' and '.join(FILES)}"
        ) from error


def _addresses(name: str) -> dict[str, str]:
    model = _package("model")
    return {FILES[0]: model.PRETRAINED_CONFIG_ARCHIVE_MAP[name], FILES[1]: model.PRETRAINED_MODEL_ARCHIVE_MAP[name]}


def _cached(address: str) -> Path | None:
    """Return the file of an address in the package's own cache, without using the network; None if there is none.

    The package writes a file's metadata after the file, so a file with metadata is complete.
    """
    cache = Path(_package("file_utils").PYTORCH_PRETRAINED_BIGGAN_CACHE)
    named = sorted(cache.glob(hashlib.sha256(address.encode()).hexdigest() + "*.json"))
    for described in reversed(named):
        held = described.with_suffix("")
        if _metadata(described).get("url") == address and held.is_file():
            return held
    return None


def _metadata(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _downloaded(name: str, address: str) -> Path:
    try:
        return Path(_package("file_utils").cached_path(address))
    except WeightsError:
        raise
    except Exception as error:  # requests, boto3 and the file system raise different errors
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise WeightsError(
            f"the files of {name} are not on this machine and could not be downloaded from {address}: {reason}. "
            f"Download {address} and its neighbour on another machine, put them as {' and '.join(FILES)} into a "
            f"folder, and name that folder (or put them into {folder_of(name)})"
        ) from error


def _check_config(path: Path, name: str) -> None:
    if "z_dim" not in _metadata(path):
        raise WeightsError(
            f"the config of {name} that was downloaded ({path}) is not one: remove that file, and try again"
        )


__all__ = ["FILES", "NAMES", "folder_of", "published"]
