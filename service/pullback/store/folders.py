"""Folders that appear whole or not at all, and which paths are local ones.

A folder is built under a hidden name beside its place and renamed into it, so that neither an error nor a kill
leaves half of one where a reader would look. The hidden name tells the host and process that build it: what a
killed process left is swept when the same folder is next built. Knows nothing of Zarr.
"""

import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pullback.errors import StoreError

_building: set[Path] = set()
"""What this process builds now: a container restarts with the same process ids, so an id alone proves nothing."""


def local_path(path: Path | str) -> Path:
    """The path, with `~` expanded; raises StoreError for a URL such as `s3://bucket/sweep`, or no path."""
    text = str(path)
    # pathlib turns `s3://b` into `s3:/b`; a Windows drive has a single letter.
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", text):
        raise StoreError(
            f"{text} is an address, and this can be in a folder of this machine only; nothing was written. "
            "Give the path of a folder."
        )
    try:
        if "\0" in text:
            raise ValueError("a path has no zero bytes")
        return Path(path).expanduser()
    except (RuntimeError, ValueError) as error:  # `~nobody`
        raise StoreError(f"{text!r} is not a path: {error}. Give the path of a folder.") from error


def is_vacant(path: Path) -> bool:
    """Whether nothing, or an empty folder, is at the path."""
    if not path.is_dir():
        return not path.exists() and not path.is_symlink()
    return not any(path.iterdir())


@contextmanager
def whole_folder(path: Path, replace: bool = False) -> Iterator[Path]:
    """Build a folder in the yielded empty one, which takes the place of `path` when the block ends well.

    Missing parents are made, and removed again if the block fails. With `replace`, a folder already there gives
    way. A folder cannot be replaced in one step everywhere, so a kill between two renames can leave none; it
    never leaves half of one.

    Raises:
        StoreError: `path` is taken (and `replace` is not given), or the folder cannot be written.
    """
    path = path.absolute()
    parents: list[Path] = []
    temporary = path.with_name(f".{path.name}.new-{_owner()}-{secrets.token_hex(4)}")
    _building.add(temporary)
    try:
        _refuse_taken(path, replace)
        parents = make_parents(path)
        _sweep_stale(path)
        temporary.mkdir()
        yield temporary
        _refuse_taken(path, replace)
        _move_into_place(temporary, path, replace)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        remove_empty(parents)
        if isinstance(error, OSError):
            raise StoreError(
                f"{path} cannot be written ({error.strerror or error}); nothing was left there. "
                "Check that the folder is writable and its disk is not full, or choose another."
            ) from error
        raise
    finally:
        _building.discard(temporary)


def make_parents(path: Path) -> list[Path]:
    """Make the missing parents of a path; returns those made, innermost first."""
    missing = [parent for parent in path.absolute().parents if not parent.exists()]
    path.absolute().parent.mkdir(parents=True, exist_ok=True)
    return missing


def remove_empty(folders: list[Path]) -> None:
    """Remove folders, innermost first, that still are empty; leave the others."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _refuse_taken(path: Path, replace: bool) -> None:
    if not is_vacant(path) and not (replace and path.is_dir()):
        raise StoreError(
            f"{path} exists already and is not empty; it was left as it is. Choose another path, or move it away."
        )


def _move_into_place(temporary: Path, path: Path, replace: bool) -> None:
    if not replace or is_vacant(path):
        temporary.rename(path)  # over an empty folder too; refused by the system over any other
        return
    old = temporary.with_name(f"{temporary.name}-old")
    path.rename(old)
    temporary.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def _owner() -> str:
    host = re.sub(r"[^A-Za-z0-9]", "_", socket.gethostname())
    return f"{host}-{os.getpid()}"


def _sweep_stale(path: Path) -> None:
    """Remove what killed processes of this host left while they built this folder."""
    host = _owner().rpartition("-")[0]
    pattern = re.compile(rf"\.{re.escape(path.name)}\.new-{re.escape(host)}-(\d+)-[0-9a-f]{{8}}(-old)?")
    for sibling in path.parent.iterdir():
        found = pattern.fullmatch(sibling.name)
        if found and sibling not in _building and not _is_other_live_process(int(found[1])):
            shutil.rmtree(sibling, ignore_errors=True)


def _is_other_live_process(pid: int) -> bool:
    if pid == os.getpid():
        return False
    if os.name == "nt":  # where signal 0 is not a question but Ctrl-C
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
