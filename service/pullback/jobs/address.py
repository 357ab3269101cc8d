"""The address of an analysis or an application: `<sweep>.<kind>-<identity>`, beside the sweep.

There is no store at the address. The job's record, journal and log lie beside it, like the sidecar files of a store.
"""

import re

from pullback.store.location import Location

_ADDRESS = re.compile(r"(.+)\.(analysis|application)-[0-9a-f]{16}")


def address_of(base: Location, kind: str, job_id: str) -> Location:
    """Return the address of a job whose results are kept beside `base`."""
    return base.sibling(f"{base.name}.{kind}-{job_id}")


def base_of(address: Location) -> Location | None:
    """Return the location beside which a job's results lie; None if this is not the address of such a job."""
    found = _ADDRESS.fullmatch(address.name)
    return None if found is None else address.sibling(found[1])


def is_address(name: str) -> bool:
    """Return whether a name is the last part of the address of an analysis or an application."""
    return _ADDRESS.fullmatch(name) is not None
