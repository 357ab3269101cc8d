"""The small files beside a sweep: where they lie, and which of them other machines can see.

A sweep in a folder has them beside it. Of one in an object store they lie in this machine's state folder; the driver's
record and the wish to cancel are objects beside the sweep as well.
"""

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Literal

from platformdirs import user_state_path

from pullback.errors import StoreError
from pullback.store.location import Location, locate
from pullback.store.objects import get_object, put_object, remove_object

_NAMES = {
    "driver": ".{}.driver.json",
    "cancel": ".{}.cancel",
    "events": "{}.events.jsonl",
    "job": ".{}.job.yaml",
    "log": ".{}.log",
}


def beside(store: Location | Path | str, what: Literal["driver", "cancel", "events", "job", "log"]) -> Path:
    """Where a file about a sweep's driver lies: beside the sweep's folder, or in this machine's state folder."""
    place = locate(store)
    if place.is_local:
        folder, name = place.path.absolute().parent, place.name
    else:  # no two addresses share their files
        folder = user_state_path("pullback") / "sweeps"
        name = f"{place.name}-{hashlib.sha256(str(place).encode()).hexdigest()[:8]}"
        folder.mkdir(parents=True, exist_ok=True)
    return folder / _NAMES[what].format(name)


def share(store: Location | Path | str, what: Literal["driver", "cancel"], content: bytes | None) -> None:
    """Put an object beside a sweep in an object store, or remove it. One that does not answer ends no sweep."""
    place = locate(store)
    if not place.is_local:
        with suppress(StoreError):
            object_of = place.sibling(_NAMES[what].format(place.name))
            remove_object(object_of) if content is None else put_object(object_of, content)


def shared(store: Location | Path | str, what: Literal["driver", "cancel"]) -> bytes | None:
    """An object beside a sweep in an object store; None where there is none, or nothing answers."""
    place = locate(store)
    if not place.is_local:
        with suppress(StoreError):
            return get_object(place.sibling(_NAMES[what].format(place.name)))
    return None


def driven(folder: Path) -> list[str]:
    """The names in a folder under which a driver was ever announced or at work; some may have no store yet."""
    before, after = _NAMES["driver"].split("{}")
    with suppress(OSError):
        names = [path.name for path in folder.iterdir()]
        return sorted(
            name.removeprefix(before).removesuffix(after)
            for name in names
            if name.startswith(before) and name.endswith(after)
        )
    return []
