"""The events of a sweep as answers: pages of whole lines, and a stream that follows them."""

import asyncio
import json
import os
import stat
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pullback.api.limits import Threads
from pullback.api.paths import in_line
from pullback.api.problems import RequestError

FINAL_STATES = {"done", "failed", "cancelled", "stopped"}
"""In these nobody is at work on a sweep, so that nothing more happens by itself."""

_PAGE_BYTES = 2**20
_HEARTBEAT_POLLS = 30
_STATE_POLLS = 4


@dataclass(frozen=True)
class Page:
    """Whole lines of a journal.

    Attributes:
        content: the lines.
        offset: where they begin, in bytes.
        next: where the next page begins.
    """

    content: bytes
    offset: int
    next: int


def read_page(path: Path | None, offset: int, most: int) -> Page:
    """At most so many lines from an offset on; none where there are no more, or no journal yet.

    A line that is not written to its end yet is left for the next page.

    Raises:
        RequestError: (422) no line begins at the offset.
    """
    content = _lines(path, offset, most)
    return Page(content, offset, offset + len(content))


def read_whole(path: Path) -> bytes | None:
    """A file, or None where there is none; a link or anything else than a file counts as none."""
    descriptor = _open(path)
    if descriptor is None:
        return None
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


async def follow(
    journal: Callable[[], Path | None],
    state: Callable[[], dict[str, Any]],
    offset: int,
    threads: Threads,
    poll_seconds: float,
    closing: Callable[[], bool],
    change: Callable[[str], str],
) -> AsyncIterator[bytes]:
    """Server-sent events: one for each line as it comes, its id the offset behind it; at the end `event: end`.

    Args:
        journal: where the journal is, if there is one yet.
        state: the sweep's state; the stream ends when it is final and every line was sent.
        offset: where to begin.
        threads: what reads.
        poll_seconds: how often it is looked for more.
        closing: whether the service is about to end; the stream then ends too, without `event: end`.
        change: what is done to every text of an event.
    """
    idle = 0
    while not closing():
        start = offset
        try:
            # before the lines, so that the last ones are not missed; not every time, for it reads the store
            now = await threads.run(state) if idle % _STATE_POLLS == 0 else None
            page = await threads.run(lambda start=start: read_page(journal(), start, 1000))  # type: ignore[misc]
        except RequestError as error:
            if error.status < 500:
                raise
            yield b": the service has much to do\n\n"  # an answer that has begun cannot become an error
            await asyncio.sleep(poll_seconds)
            continue
        for line in page.content.splitlines(keepends=True):
            offset += len(line)
            yield b"id: %d\ndata: %s\n\n" % (offset, in_line(line, change).strip())
        if page.content:
            idle = 1
            continue
        if now is not None and now["state"] in FINAL_STATES:
            yield b"event: end\ndata: %s\n\n" % json.dumps(now).encode()
            return
        idle += 1
        if idle % _HEARTBEAT_POLLS == 0:
            yield b": still there\n\n"
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
                raise RequestError(422, f"no event begins at offset {offset}; take one that an earlier answer gave")
        lines: list[bytes] = []
        length = 0
        while len(lines) < most and length < _PAGE_BYTES:
            line = file.readline()
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
