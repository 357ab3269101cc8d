"""Several processes of this machine share the tiles of a matrix of pairs; a run that was stopped continues.

The eigenvectors lie in one file in a scratch folder, which every process maps into its memory. A process claims a tile
by creating a file, computes it, and writes its values beside it. Finished tiles stay until the matrix is complete, so
that the same request continues after an interruption. The folder's name is a hash of the eigenvalues and of the sweep's
snapshot. The processes are started as commands, not forked: a caller's script needs no guard, and BLAS starts with one
thread in each.

Invariants: a tile's values do not depend on the process, nor on how many there are. No process outlives its parent: it
ends when its standard input closes.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from pullback.analysis.pair_kernel import PairValues, Spectra, singles
from pullback.analysis.pair_matrix import TILE_BYTES, Results, Tile, tile_values, tiles
from pullback.analysis.samples import Stack
from pullback.atomic_files import replacing
from pullback.errors import PullbackError
from pullback.user_folders import cache_folder

POLL_SECONDS = 0.05
"""Seconds between two looks for finished tiles."""

UNUSED_DAYS = 7
"""Days after which the scratch folder of an interrupted matrix is removed."""

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def shared(spectra: Spectra, eigenvectors: Stack, wanted: Sequence[Tile], *, workers: int, identity: str) -> Results:
    """Compute tiles in several processes; yield each as soon as it is finished, those of an earlier run first.

    Args:
        spectra: eigenvalues of the samples.
        eigenvectors: `[samples, k, n]`; copied once to the scratch folder, a block at a time.
        wanted: all tiles of `tiles`.
        workers: number of processes, at least 1.
        identity: the sweep and snapshot that the samples are of.

    Raises:
        PullbackError: a process failed, or the scratch folder cannot be written. Finished tiles are kept.
    """
    parent = cache_folder() / "pairs"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with _scratch(parent, _key(spectra, eigenvectors, identity)) as folder:
            _prepare(folder, spectra, eigenvectors)
            yield from _collect(folder, wanted, workers)
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise PullbackError(
            f"pairs cannot be shared among processes in {parent}: {error}. Finished tiles are kept. Free some space "
            "there, or use `workers: 1`, which needs none."
        ) from error


def _collect(folder: Path, wanted: Sequence[Tile], workers: int) -> Results:
    """Start the processes; yield each tile when it is finished."""
    waiting = dict(enumerate(wanted))
    children = [_Child(folder) for _ in range(min(workers, len(wanted)))]
    try:
        while waiting:
            ended = all(child.process.poll() is not None for child in children)
            finished = [number for number in waiting if (folder / f"{number}.npy").exists()]
            for number in finished:
                yield waiting.pop(number), _read(folder / f"{number}.npy")
            if waiting and ended and not finished:
                raise PullbackError(
                    f"{len(waiting)} of {len(wanted)} tiles were not computed, because the processes ended: "
                    f"{'; '.join(child.end() for child in children)}. The others are kept: the same command continues. "
                    "`workers: 1` computes in this process."
                )
            if not finished:
                time.sleep(POLL_SECONDS)
    finally:
        for child in children:
            child.end()


def work(folder: Path) -> None:
    """Compute the tiles of a scratch folder that nobody has claimed, until there are none."""
    spectra = Spectra(np.load(folder / "eigenvalues.npy"))
    eigenvectors = np.load(folder / "eigenvectors.npy", mmap_mode="r")
    for number, tile in enumerate(tiles(*eigenvectors.shape)):
        if (folder / f"{number}.npy").exists() or not _claim(folder / f"{number}.claim"):
            continue
        values = tile_values(spectra, eigenvectors, tile)
        with replacing(folder / f"{number}.npy") as new, new.open("wb") as file:
            np.save(file, np.vstack([values.log, values.linear, values.vec[None]]))


def _key(spectra: Spectra, eigenvectors: Stack, identity: str) -> str:
    key = hashlib.sha256(json.dumps([identity, list(eigenvectors.shape)]).encode())
    key.update(np.ascontiguousarray(spectra.shares).tobytes())
    key.update(singles(eigenvectors[:1]).tobytes())
    return key.hexdigest()[:24]


@contextmanager
def _scratch(parent: Path, key: str) -> Iterator[Path]:
    """Yield the folder of a key, or one of its own while another process uses that."""
    for each in parent.iterdir():
        with suppress(OSError):
            if time.time() - each.stat().st_mtime > UNUSED_DAYS * 86400:
                shutil.rmtree(each) if each.is_dir() else each.unlink()
    try:
        with FileLock(parent / f"{key}.lock", timeout=0):
            yield parent / key
    except Timeout:
        with tempfile.TemporaryDirectory(dir=parent, ignore_cleanup_errors=True) as own:
            yield Path(own)


def _prepare(folder: Path, spectra: Spectra, eigenvectors: Stack) -> None:
    folder.mkdir(exist_ok=True)
    os.utime(folder)
    for claim in folder.glob("*.claim"):  # of processes that were stopped
        claim.unlink()
    if (folder / "eigenvectors.npy").exists():
        return
    with replacing(folder / "eigenvalues.npy") as new, new.open("wb") as file:
        np.save(file, spectra.shares)
    samples, kept, latent = eigenvectors.shape
    step = max(1, TILE_BYTES // (4 * kept * latent))
    with replacing(folder / "eigenvectors.npy") as new:
        stored = np.lib.format.open_memmap(new, mode="w+", dtype=np.float32, shape=(samples, kept, latent))
        for start in range(0, samples, step):
            stored[start : start + step] = singles(eigenvectors[start : start + step])
        stored.flush()


def _read(path: Path) -> PairValues:
    values = np.load(path)
    return PairValues(values[:2], values[2:4], values[4])


def _claim(path: Path) -> bool:
    try:
        path.open("x").close()
    except FileExistsError:
        return False
    return True


class _Child:
    """A process that computes tiles, and that ends with this one."""

    def __init__(self, folder: Path) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the process ends
        self.process = subprocess.Popen(
            # -P: a file in the working directory must not shadow a library's module of the same name
            [sys.executable, "-P", "-m", __name__, str(folder)],
            env={**os.environ, **ONE_THREAD},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
        )

    def end(self) -> str:
        """Kill the process; return why it ended before. Finished tiles are in their files."""
        if self._errors.closed:
            return ""
        self.process.kill()
        code = self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        self._errors.close()
        return lines[-1] if lines else f"exit code {code}"


def _end_with_the_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    work(Path(sys.argv[1]))
