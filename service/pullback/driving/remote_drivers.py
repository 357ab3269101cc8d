"""Whether a sweep in an object store has a running driver, judged by the clock of the object store alone."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pullback.driving.record import record_of
from pullback.driving.sidecar_files import sidecar_object
from pullback.driving.states import ALIVE
from pullback.errors import StoreError
from pullback.store.location import Location, locate
from pullback.store.objects import get_object, object_time, store_time

_SILENT = timedelta(hours=1)
"""A driver renews its record every few seconds. One that has been silent for longer than this has ended."""


def driver_since(store: Location | Path | str) -> datetime | None:
    """Return when the driver of a sweep in an object store began, by the object store's clock.

    The clocks of the driver's machine and of this one do not matter: the record's two times differ by the age of the
    driver, and the object store dates the record.

    Returns:
        None if no driver is running, or if the sweep is in a folder, whose lock shows whether one is running.

    Raises:
        StoreError: the object store does not answer.
    """
    place = locate(store)
    if place.is_local:
        return None
    where = sidecar_object(place, "driver")
    content, written = get_object(where), object_time(where)
    record = None if content is None else record_of(content)
    if record is None or written is None or record.life not in ALIVE:
        return None
    with suppress(StoreError):  # without permission to write, the time is unknown; the driver counts as running
        if store_time(place) - written > _SILENT:
            return None
    if not 0 < record.began <= record.updated:  # its process is not known yet, or its clock was set back
        return datetime.fromtimestamp(0, UTC)
    return written - timedelta(seconds=record.updated - record.began)
