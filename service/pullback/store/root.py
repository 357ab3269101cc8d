"""The root group of a sweep's store: its format, its layout and its provenance."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import zarr

from pullback.errors import NoSweepError, StoreError
from pullback.store.location import Location
from pullback.store.opening import ATTRIBUTE
from pullback.store.schema import REVISION, Layout

FORMAT = 1
"""Version of what arrays and attributes mean; a reader refuses a newer one. New arrays only raise `schema.REVISION`."""


@dataclass(frozen=True)
class Root:
    """Content of the root group's attributes."""

    layout: Layout
    provenance: dict[str, Any]

    def to_attributes(self) -> dict[str, Any]:
        """The attributes to store; raises StoreError if the provenance is not JSON."""
        try:
            provenance = json.loads(json.dumps(self.provenance, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise StoreError(
                f"the provenance cannot be stored as JSON ({error}); nothing was written. "
                "Give it as plain dicts, lists, strings, finite numbers and booleans."
            ) from error
        return {
            ATTRIBUTE: {
                "format": FORMAT,
                "revision": REVISION,
                "layout": self.layout.to_dict(),
                "provenance": provenance,
            }
        }

    @classmethod
    def of(cls, group: zarr.Group, location: Location) -> "Root":
        """Read the attributes; raises StoreError if they are not a sweep's, or of a newer format."""
        entry = cast(Any, group.attrs.asdict().get(ATTRIBUTE))
        if not isinstance(entry, Mapping):
            raise NoSweepError(
                f"{location} is an Icechunk repository, but not a sweep of Pullback; it was left as it is."
            )
        version = entry.get("format")
        if not isinstance(version, int) or version > FORMAT:
            raise StoreError(
                f"{location} has format {version}, and this version of Pullback reads up to {FORMAT}; "
                "it was left as it is. Update Pullback to read it."
            )
        try:
            return cls(Layout.from_dict(entry["layout"]), dict(entry["provenance"]))
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(
                f"{location} does not say which sweep it is ({error}): its attributes are damaged."
            ) from error
