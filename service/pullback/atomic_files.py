"""Replacing a file in one step, so that a reader or a crash sees the old or the new content and never half of one."""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

UNSUPPORTED = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EROFS}
"""Errors of file systems that cannot sync a file or a folder, or have nothing to sync."""


@contextmanager
def replacing(path: Path, durable: bool = False) -> Iterator[Path]:
    """Yield a hidden path to write to. The new file replaces `path` when the block ends without an error.

    Several processes may do this for one path at the same time; the last one to finish wins.

    Args:
        path: the file, which may exist.
        durable: whether the content and the name are on the disk on return, so that a power cut cannot empty the file.

    Yields:
        The hidden path, in the folder of `path`; nothing is there yet. It is removed if the block raises.

    Raises:
        OSError: the file cannot be written; `path` is as it was.
    """
    new = path.with_name(f".{path.name.removeprefix('.')}.{secrets.token_hex(4)}")
    try:
        yield new
        if durable:
            fsync(new)
        new.replace(path)
        if durable:
            fsync(path.parent)
    except BaseException:
        with suppress(OSError):
            new.unlink(missing_ok=True)
        raise


def replace_file(path: Path, content: str | bytes, durable: bool = False, private: bool = False) -> None:
    """Give a file new content in one step; text is written as UTF-8.

    Args:
        path: the file, which may exist.
        content: all of the new content.
        durable: see `replacing`.
        private: whether only the user may ever read it.

    Raises:
        OSError: the file cannot be written; it is as it was.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    with replacing(path, durable) as new:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)


def fsync(path: Path) -> None:
    """Sync a file, or the names in a folder, to the disk. A path that no longer exists is ignored.

    Raises:
        OSError: the disk is full or failed.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except (FileNotFoundError, PermissionError):  # Windows cannot open folders; a file that is gone needs no sync
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
    finally:
        os.close(descriptor)
