"""Deciding whether a failed read proves damage, or only that the storage cannot be read just now.

Only data that were read and are wrong, or that are surely absent, are damaged. Every other failure may be temporary
(too many open files, no memory, no permission, a failing disk or network, a busy server). Treating it as damage would
lose good results. So only the errors that Icechunk, Zarr's codecs and `bulk` raise for wrong bytes count as damage. No
other error does, such as a mistake in Python code.
"""

import os
import re
from datetime import datetime
from pathlib import Path

import icechunk

from pullback.errors import ClockError, StoreError, UnavailableError
from pullback.store.location import Location

_NOT_FOUND = re.compile(r"\bnot found\b|NoSuchKey|\(os error 2\)")
_NO_BUCKET = re.compile(r"NoSuchBucket|bucket", re.IGNORECASE)
_SYSTEM = re.compile(r"\(os error (\d+)\)")
_ABSENT_FILE = re.compile(r"Object at location (.+?) not found: ")
_READ_AND_WRONG = re.compile(
    r"Requested range was invalid|InvalidRange|Wanted range starting at"  # the file is shorter than its reference says
    r"|invalid magic numbers|invalid icechunk metadata file|cannot read this file type|invalid compression algorithm"
    r"|early eof|incomplete frame|frame descriptor|frame parameter|frame requires|dictionary mismatch|corrupt"
    r"|restored data doesn't match|src size is incorrect"
    r"|unexpected end of file|failed to fill whole buffer"
    r"|deserializ|flatbuffer|invalid utf-?8|msgpack|checksum",
    re.IGNORECASE,
)
"""Words in the errors of Icechunk and its libraries for bytes that were read and cannot be decoded."""
_TIMES = re.compile(r"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)(?:\.\d+)?")
_WRONG_VALUE = re.compile(
    r"checksums? do not match|cannot reshape array of size|buffer size must be a multiple|buffer is smaller"
    r"|not compatible with chunk|size of the index",
    re.IGNORECASE,
)
"""Words in the ValueError of Zarr, numcodecs or NumPy for a chunk of wrong bytes."""
_CODEC = re.compile(r"zstd|decompress|checksum", re.IGNORECASE)
"""Words in the RuntimeError of numcodecs for bytes that cannot be decompressed."""
_MEMORY = re.compile(r"memory|allocat|thread", re.IGNORECASE)


class WrongBytesError(ValueError):
    """Stored bytes were read, and are not what was written; or bytes that must be there are absent."""


def is_damage(error: BaseException, location: Location) -> bool:
    """Whether a failed read proves that the data are damaged or gone; False if it may succeed later."""
    if isinstance(error, icechunk.IcechunkError):
        return _icechunk_damage(str(error), location)
    if isinstance(error, FileNotFoundError):
        return location.is_local and error.filename is not None and is_absent(Path(error.filename), location)
    if isinstance(error, WrongBytesError):
        return True
    if isinstance(error, RuntimeError):
        return _CODEC.search(str(error)) is not None and _MEMORY.search(str(error)) is None
    return isinstance(error, ValueError) and _WRONG_VALUE.search(str(error)) is not None


def _icechunk_damage(text: str, location: Location) -> bool:
    if any(number != "2" for number in _SYSTEM.findall(text)):
        return False
    named = _ABSENT_FILE.search(text)
    if named is not None and location.is_local:
        return is_absent(Path(named[1]), location)
    text = _outcome(text)
    for name in (str(location), location.bucket, location.prefix):
        text = text.replace(name, "") if name else text
    if _NOT_FOUND.search(text):
        return not location.is_local and _NO_BUCKET.search(text) is None
    return _READ_AND_WRONG.search(text) is not None


def _outcome(text: str) -> str:
    """Return an Icechunk error's text without its lines of calls and settings, because they could look like causes."""
    lines = text.splitlines()
    return "\n".join(line for line in lines[:1] + [line for line in lines if "-> " in line])


def is_absent(path: Path, location: Location) -> bool:
    """Whether a file is missing from a repository that exists. If all is missing, the disk may be unmounted."""
    root = location.path.resolve()
    try:
        if root not in path.parents or not any(os.scandir(root / "snapshots")):
            return False
        names = {entry.name: entry for entry in os.scandir(path.parent)} if path.parent.exists() else {}
        return path.name not in names or names[path.name].is_dir()
    except OSError:
        return False


def clock_error(error: BaseException, location: Location) -> ClockError | None:
    """Return the error to raise if Icechunk refuses a commit because of its time; None for any other reason.

    Icechunk refuses a commit that is older than the last one, or whose time differs much from that of an object store.
    """
    text = str(error)
    if "snapshot timestamp" not in text:
        return None
    times = [datetime.fromisoformat(found) for found in _TIMES.findall(text)[:2]]
    if len(times) < 2:
        what = f"nothing can be committed to {location}: the clock of this machine is wrong ({cause(error)})"
        return ClockError(what)
    there, here = times
    lag = (there - here).total_seconds()
    if "ordering" not in text:
        what = f"it shows {here:%Y-%m-%d %H:%M:%S} UTC, and the storage's shows {there:%Y-%m-%d %H:%M:%S}"
        return ClockError(f"nothing can be committed to {location}: the clock of this machine is wrong ({what})")
    return ClockError(
        f"nothing can be committed to {location}: the clock of this machine shows {here:%Y-%m-%d %H:%M:%S} UTC, "
        f"{max(lag, 1):.0f} s behind the last commit, of {there:%Y-%m-%d %H:%M:%S}",
        max(lag, 0.0),
    )


def cause(error: BaseException) -> str:
    """The message of an error in one line, without the lines that Icechunk adds for its developers."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    answer = re.search(r'code: "(\w+)", message: "([^"]+)"', str(error))  # of an object store
    if answer:
        return f"{answer[2]} ({answer[1]})"
    first = lines[0].removeprefix("x ")
    deeper = [line.removeprefix("`-> ") for line in lines if line.startswith("`-> ")]
    return f"{first}: {deeper[-1]}" if deeper and deeper[-1] not in first else first


def damaged(name: str, location: Location, why: BaseException | str) -> StoreError:
    """Return the error to raise if an array cannot be read: its data are damaged, or the storage fails."""
    if isinstance(why, BaseException) and not is_damage(why, location):
        return unavailable(location, why)
    return StoreError(
        f"the array '{name}' of {location} cannot be read: its data on disk are damaged or missing "
        f"({cause(why) if isinstance(why, BaseException) else why}). Nothing wrong was returned; other arrays "
        f"and samples may still be read. `pullback audit {location} --repair` makes the damaged shards pending; "
        "run the job again then."
    )


def unavailable(location: Location, error: BaseException) -> UnavailableError:
    """Return the error to raise if a storage cannot be read now. This proves nothing about its content."""
    return UnavailableError(
        f"{location} cannot be read just now ({cause(error)}). This is no sign of damage, so nothing was changed and "
        "nothing is lost. Check the storage (mounted, reachable, readable by you), the limits on open files "
        "(ulimit -n) and on memory, and try again."
    )


def unreachable(location: Location, error: BaseException) -> StoreError:
    """Return the error to raise if an object store does not answer or refuses a request."""
    return StoreError(
        f"{location} cannot be reached ({cause(error)}); nothing was written, and nothing that was committed is lost. "
        "Check that the bucket exists, that the environment has its region (AWS_REGION) and credentials for it (AWS_* "
        "or GOOGLE_*), and, for another server than Amazon's, that AWS_ENDPOINT_URL names it."
    )
