"""A sweep's journal over HTTP: pages of whole lines, and a stream that follows it."""

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from pullback.api.answers import Status
from pullback.api.limits import Threads
from pullback.api.paths import in_line
from pullback.api.problem_details import RequestError
from pullback.driving.states import FINAL

_PAGE_BYTES = 2**20
_LONGEST_LINE = 2**24
"""Bytes. A page ends before a longer line; no driver writes one."""
_MOST_WHOLE = 2**28
_HEARTBEAT_POLLS = 30
_STATE_POLLS = 4


@dataclass(frozen=True)
class Page:
    """Whole lines of a journal.

    Attributes:
        content: the lines.
        offset: position of the first line, in bytes.
        next: position of the next page, in bytes.
    """

    content: bytes
    offset: int
    next: int


def read_page(path: Path | None, offset: int, most: int) -> Page:
    """Read at most `most` lines from an offset; none if there are no more, or no journal yet.

    An incomplete last line is left for the next page.

    Raises:
        RequestError: (422) no line begins at the offset.
    """
    content = _lines(path, offset, most)
    return Page(content, offset, offset + len(content))


def read_whole(path: Path) -> bytes | None:
    """Read a regular file. Return None for a missing file, a symbolic link or a file that is too long."""
    descriptor = _open(path)
    if descriptor is None:
        return None
    with os.fdopen(descriptor, "rb") as file:
        content = file.read(_MOST_WHOLE + 1)
    return content if len(content) <= _MOST_WHOLE else None


async def follow(
    journal: Callable[[], Path | None],
    state: Callable[[], Status],
    offset: int,
    threads: Threads,
    poll_seconds: float,
    closing: Callable[[], bool],
    change: Callable[[str], str],
) -> AsyncIterator[bytes]:
    """Yield server-sent events, one for each line of the journal, and `event: end` after the last.

    The id of an event is the offset behind its line.

    Args:
        journal: returns the journal's path, or None if there is none yet.
        state: returns the sweep's state. The stream ends when no driver is running and every line was sent.
        offset: position of the first line.
        threads: reads the files.
        poll_seconds: seconds between two reads of the journal.
        closing: returns whether the service is shutting down; the stream then ends without `event: end`.
        change: applied to every text of an event.
    """
    idle = 0
    while not closing():
        start = offset
        try:
            # Before the lines, so that no last line is missed; not every time, because this reads the store.
            now = await threads.run(state) if idle % _STATE_POLLS == 0 else None
            page = await threads.run(lambda start=start: read_page(journal(), start, 1000))  # type: ignore[misc]
        except RequestError as error:
            if error.status < 500:
                raise
            yield b": the service is busy\n\n"  # a response that has begun cannot become an error
            await asyncio.sleep(poll_seconds)
            continue
        for line in page.content.splitlines(keepends=True):
            offset += len(line)
            yield b"id: %d\ndata: %s\n\n" % (offset, in_line(line, change).strip())
        if page.content:
            idle = 1
            continue
        if now is not None and now.state in FINAL:
            yield b"event: end\ndata: %s\n\n" % now.to_json()
            return
        idle += 1
        if idle % _HEARTBEAT_POLLS == 0:
            yield b": heartbeat\n\n"
        await asyncio.sleep(poll_seconds)


def _lines(path: Path | None, offset: int, most: int) -> bytes:
    descriptor = None if path is None else _open(path)
    if descriptor is None:
        return b""
    with os.fdopen(descriptor, "rb") as file:
        size = os.fstat(descriptor).st_size
        if offset:
            file.seek(min(offset, size) - 1 if size else 0)
            if offset > size or file.read(1) != b"\n":
                raise RequestError(422, f"no event begins at offset {offset}; use one from an earlier answer")
        lines: list[bytes] = []
        length = 0
        while len(lines) < most and length < _PAGE_BYTES:
            line = file.readline(_LONGEST_LINE)
            if not line.endswith(b"\n"):
                break
            lines.append(line)
            length += len(line)
    return b"".join(lines)


def _open(path: Path) -> int | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return None
    return descriptor
