"""Reads files that users or other processes control: only regular files, up to a given size.

Such a path may name an endless device (`/dev/zero`), a named pipe whose opening waits for a writer, a socket, a folder
or a huge file. These are refused before anything is read.
"""

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISLNK, "a symbolic link"),
)


class NotRegularError(OSError):
    """The path does not name a regular file."""


class TooLongError(OSError):
    """The file is larger than its reader accepts.

    Attributes:
        size: bytes of the file; a lower bound if it grew while it was read.
    """

    def __init__(self, size: int, most: int, path: str) -> None:
        super().__init__(errno.EFBIG, f"it has {size:,} bytes, and at most {most:,} are read", path)
        self.size = size


def open_regular(path: Path | str, follow_links: bool = True) -> BufferedReader:
    """Open a regular file for reading. Never waits, and never opens a device or a pipe.

    Args:
        path: the file.
        follow_links: allow a symbolic link.

    Raises:
        IsADirectoryError: it is a folder.
        NotRegularError: it is a named pipe, a socket, a device, or a symbolic link that is not allowed.
        OSError: it is missing or cannot be opened.
    """
    name = _name(path)
    # Opening a device may change it, so the kind is checked before, and again on the open file.
    _refuse_other_kinds(Path(name).stat(follow_symlinks=follow_links).st_mode, name)
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    flags |= 0 if follow_links else getattr(os, "O_NOFOLLOW", 0)
    descriptor = os.open(name, flags)
    try:
        _refuse_other_kinds(os.fstat(descriptor).st_mode, name)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: Path | str, most: int, follow_links: bool = True) -> bytes:
    """Read a regular file of at most `most` bytes.

    Raises:
        TooLongError: it is larger. At most `most` + 1 bytes are read, even if the file grows.
        OSError: as `open_regular`.
    """
    with open_regular(path, follow_links) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(most + 1) if size <= most else b""
    if size > most or len(content) > most:
        raise TooLongError(max(size, len(content)), most, str(path))
    return content


def read_end(path: Path | str, most: int) -> bytes:
    """Read the last `most` bytes of a regular file, or all of a shorter one.

    Raises:
        OSError: as `open_regular`.
    """
    with open_regular(path) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - most))
        return file.read(most)


def _name(path: Path | str) -> str:
    name = os.fspath(path)
    if "\0" in name:  # os.stat raises ValueError for it
        raise FileNotFoundError(errno.ENOENT, "a path cannot contain a zero byte", name)
    return name


def _refuse_other_kinds(mode: int, name: str) -> None:
    if stat.S_ISREG(mode):
        return
    kind = next((words for is_kind, words in _KINDS if is_kind(mode)), "not a file")
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, f"it is {kind}", name)
    raise NotRegularError(errno.EINVAL, f"it is {kind}, not a regular file", name)
