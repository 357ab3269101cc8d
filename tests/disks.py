"""Small file systems of their own, where this machine can mount one."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

MIB = 2**20


@contextmanager
def mounted(folder: Path, mib: int = 96) -> Iterator[tuple[Path, Path]]:
    """A file with an ext4 file system, and where it is mounted; it writes to the file when it is asked to sync."""
    backing, place = folder / "disk", folder / "mounted"
    place.mkdir()
    with backing.open("wb") as file:
        file.truncate(mib * MIB)
    try:
        subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", backing], check=True, capture_output=True)
        subprocess.run(["mount", "-o", "loop,commit=300", backing, place], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    try:
        yield backing, place
    finally:
        if subprocess.run(["umount", place], capture_output=True).returncode:  # a test that failed stands in it
            subprocess.run(["umount", "--lazy", place], check=True)


def fill(place: Path) -> Path:
    """Fill the disk of a folder to its last byte; returns the file that does, to be removed."""
    filler = place / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (MIB, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return filler
