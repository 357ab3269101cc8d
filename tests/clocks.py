"""Stored sweeps whose last commit was made by a clock that was ahead."""

import json
import struct
from datetime import datetime
from pathlib import Path

import icechunk
from numcodecs.zstd import Zstd

_HEADER = 39
"""Bytes of a snapshot's file before its compressed content."""


def postdate(sweep: Path, seconds: float) -> None:
    """Date the last commit of a sweep so many seconds later."""
    repository = icechunk.Repository.open(icechunk.local_filesystem_storage(str(sweep)))
    tip = repository.lookup_branch("main")
    written = datetime.fromisoformat(json.loads(repository.inspect_snapshot(tip))["flushed_at"])
    before = round(written.timestamp() * 1e6)
    file = sweep / "snapshots" / tip
    content = file.read_bytes()
    inner = bytes(Zstd().decode(content[_HEADER:]))
    assert inner.count(struct.pack("<Q", before)) == 1
    inner = inner.replace(struct.pack("<Q", before), struct.pack("<Q", before + round(seconds * 1e6)))
    file.write_bytes(content[:_HEADER] + Zstd().encode(inner))
