"""Folders and files that appear whole or not at all.

A folder is built under a hidden name beside its final place and then renamed, so that neither an error nor a kill
leaves half of it where a reader would look. The hidden name contains the host and process that build it. When the same
folder is built again, the remains of killed processes are removed.
"""

import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pullback.atomic_files import replacing
from pullback.errors import StoreError
from pullback.store.durability import sync, sync_tree
from pullback.store.folder_locks import abandoned, held

_building: set[Path] = set()
"""Folders that this process builds now. A restarted container uses the same process ids, so an id proves nothing."""


def local_path(path: Path | str) -> Path:
    """Return the path with `~` expanded; raises StoreError for a URL such as `s3://bucket/sweep`, or for no path."""
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
    """Whether the path is free: nothing or an empty folder is there."""
    if not path.is_dir():
        return not path.exists() and not path.is_symlink()
    return not any(path.iterdir())


@contextmanager
def whole_folder(path: Path, replace: bool = False) -> Iterator[Path]:
    """Yield an empty folder to fill, which is renamed to `path` when the block ends without an error.

    Missing parents are created, and removed again if the block fails. With `replace`, an existing folder is replaced.
    Not every system can do that in one step, so a kill between two renames can leave no folder, but never half of one.

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
        with held(temporary):
            yield temporary
            _refuse_taken(path, replace)
            sync_tree(temporary)
            _move_into_place(temporary, path, replace)
            sync([path])
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


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a hidden path to write to, which is renamed to `path` when the block ends without an error.

    Missing parents are created, and removed again if the block fails.

    Raises:
        StoreError: `path` is taken, or the file cannot be written.
    """
    path = path.absolute()
    parents: list[Path] = []
    try:
        _refuse_taken_file(path)
        parents = make_parents(path)
        with replacing(path, durable=True) as temporary:
            yield temporary
            _refuse_taken_file(path)
    except BaseException as error:
        remove_empty(parents)
        if isinstance(error, OSError):
            raise StoreError(
                f"{path} cannot be written ({error.strerror or error}); nothing was left there. "
                "Check that its folder is writable and its disk is not full, or choose another."
            ) from error
        raise


def make_parents(path: Path) -> list[Path]:
    """Create the missing parents of a path. Returns the created ones, innermost first."""
    missing = [parent for parent in path.absolute().parents if not parent.exists()]
    path.absolute().parent.mkdir(parents=True, exist_ok=True)
    return missing


def remove_empty(folders: list[Path]) -> None:
    """Remove the folders (innermost first) that are still empty; keep the others."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _refuse_taken(path: Path, replace: bool) -> None:
    if not is_vacant(path) and not (replace and path.is_dir()):
        raise StoreError(
            f"{path} exists already and is not empty; it was left as it is. Choose another path, or move it away."
        )


def _refuse_taken_file(path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise StoreError(f"{path} exists already; it was left as it is. Choose another path, or move it away.")


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
    """Remove the hidden remains of killed processes of this host that were building this path."""
    host = _owner().rpartition("-")[0]
    pattern = re.compile(rf"\.{re.escape(path.name)}\.new-{re.escape(host)}-(\d+)-[0-9a-f]{{8}}(-old)?")
    for sibling in path.parent.iterdir():
        found = pattern.fullmatch(sibling.name)
        if found and sibling not in _building and not _is_other_live_process(int(found[1])):
            with abandoned(sibling) as free:
                if free:
                    shutil.rmtree(sibling, ignore_errors=True)


def _is_other_live_process(pid: int) -> bool:
    if pid == os.getpid():
        return False
    if os.name == "nt":  # signal 0 means Ctrl-C there
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
