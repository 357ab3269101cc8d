"""Driver records and cancel requests: how a sweep's driver and other processes communicate.

Small files beside the sweep's folder (`sidecar_files`):

- `.<name>.driver.json`: the driver and its progress, renewed every second or two.
- `.<name>.cancel`: exists while a request to stop is pending.
- `<name>.events.jsonl`: the journal, one JSON object a line.

Results are in the store alone. These files show whether a driver is running, and if not, why. If the process of a
record has ended, the record is not trusted, so the state of a sweep (`sweep_state`) is right at every moment. For a
sweep in an object store, other machines see the record a few seconds late, and can request a cancel too.
"""

import json
import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from pullback.atomic_files import replace_file
from pullback.driving.record import DriverRecord, record_of
from pullback.driving.sidecar_files import get_sidecar_object, put_sidecar_object, sidecar_path
from pullback.driving.states import NOT_BEGUN
from pullback.regular_files import read_regular
from pullback.store.location import Location

_MOST_RECORD = 2**20


def read_record(store: Location | Path | str) -> DriverRecord | None:
    """Read the record of the sweep's last driver; None if there is no readable one."""
    contents = [get_sidecar_object(store, "driver")]
    with suppress(OSError):
        contents.append(read_regular(sidecar_path(store, "driver"), _MOST_RECORD))
    records = [record for content in contents if content is not None and (record := record_of(content)) is not None]
    return max(records, key=lambda record: record.updated, default=None)


def write_record(store: Location | Path | str, record: DriverRecord, shared: bool = True) -> None:
    """Replace the driver's record; a reader sees the old or the new one. A record that cannot be written is dropped.

    Args:
        store: the sweep's store.
        record: the new record.
        shared: whether other machines see it, if the sweep is in an object store.
    """
    content = json.dumps(asdict(record)).encode()
    if shared:
        put_sidecar_object(store, "driver", content)
    path = sidecar_path(store, "driver")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content)
    except OSError:  # the record holds no results
        with suppress(OSError):
            _overwrite(path, content)


def _overwrite(path: Path, content: bytes) -> None:
    """Overwrite a file in place. Even a full disk has room for new content of the same size."""
    with path.open("r+b", buffering=0) as file:
        file.write(content.ljust(os.fstat(file.fileno()).st_size))


def record_submission(store: Location | Path | str, record: DriverRecord) -> None:
    """Record a submission, and discard cancel requests made before it."""
    discard_cancel_request(store)
    write_record(store, record)


def forget_record(store: Location | Path | str) -> None:
    """Remove the record of a driver that was never started."""
    sidecar_path(store, "driver").unlink(missing_ok=True)
    put_sidecar_object(store, "driver", None)


def request_cancel(store: Location | Path | str) -> bool:
    """Ask the sweep's driver to stop after the current batches. Committed results stay, and the job can be run again.

    Returns:
        Whether there is a driver to ask.
    """
    record = read_record(store)
    if record is None or not record.alive:
        return False
    sidecar_path(store, "cancel").touch()
    put_sidecar_object(store, "cancel", b"")
    return True


def cancel_requested(store: Location | Path | str) -> bool:
    """Whether a request to stop the sweep's driver is pending."""
    return sidecar_path(store, "cancel").exists() or get_sidecar_object(store, "cancel") is not None


def discard_cancel_request(store: Location | Path | str) -> None:
    """Remove a pending request to stop, if there is one."""
    with suppress(OSError):
        sidecar_path(store, "cancel").unlink()
    put_sidecar_object(store, "cancel", None)


def discard_older_cancel_request(store: Location | Path | str) -> None:
    """Remove a request to stop, unless it was made for the submission that now begins in this process."""
    record = read_record(store)
    if record is None or record.life not in NOT_BEGUN or record.pid not in (0, os.getpid()):
        discard_cancel_request(store)


def events_path(store: Location | Path | str) -> Path:
    """Path of the sweep's journal, which need not exist yet."""
    return sidecar_path(store, "events")
