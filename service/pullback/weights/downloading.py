"""Download one file over HTTP: resume an interrupted download, check its SHA-256, and move it into place atomically."""

import fcntl
import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedRandom
from pathlib import Path

from pullback.errors import WeightsError

Progress = Callable[[int, int | None], None]
"""Called with the bytes received and the total bytes (None if the server does not report them)."""

_TIMEOUT_SECONDS = 30
_PIECE = 2**20
_SCHEMES = ("https://", "http://127.0.0.1", "http://localhost")
_OFFLINE = "HF_HUB_OFFLINE"


def download(url: str, target: Path, sha256: str, progress: Progress = lambda done, total: None) -> str:
    """Download a file, or continue an earlier attempt.

    Args:
        url: the file's `https` address.
        target: the file to write. It has the complete content or does not exist.
        sha256: the file's SHA-256, or a prefix of it; empty if unknown.
        progress: called after each chunk.

    Returns:
        The SHA-256 of the file.

    Raises:
        WeightsError: there is no network, the server refuses, the connection breaks off, the content has a different
            hash, or the file cannot be written.
    """
    if not url.startswith(_SCHEMES):
        raise WeightsError(f"{url} is not an https address; nothing was downloaded")
    if "huggingface.co" in url and os.environ.get(_OFFLINE, "0") not in ("", "0"):
        raise WeightsError(
            f"{url} was not downloaded, because {_OFFLINE} is set. Unset it, or copy the file to {target}"
        )
    partial = target.with_name(f".{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(partial, url) as file:
            _receive(url, file, progress)
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            if not digest.startswith(sha256):
                partial.unlink(missing_ok=True)
                raise WeightsError(
                    f"the file from {url} has the SHA-256 {digest}, not {sha256}; it was removed. The publisher may "
                    "have replaced the file, or a proxy answered in its place"
                )
            partial.replace(target)
    except urllib.error.HTTPError as error:
        raise WeightsError(f"{url} answers {error.code} ({error.reason}); nothing was downloaded") from error
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise WeightsError(
            f"{url} cannot be reached: {reason}. The part received so far is kept, and the same command resumes. "
            f"Without a network, download the file elsewhere and copy it to {target}"
        ) from error
    except OSError as error:
        raise WeightsError(
            f"{target} cannot be written: {error.strerror or error}. Set PULLBACK_CACHE to a folder with enough room "
            "that you may write to"
        ) from error
    return digest


@contextmanager
def _alone(partial: Path, url: str) -> Iterator[BufferedRandom]:
    """Context manager: open the partial file for appending, and lock it against other processes.

    Raises:
        WeightsError: another process is downloading it.
    """
    with os.fdopen(os.open(partial, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise WeightsError(f"another process is downloading {url}; wait for it") from error
        yield file


def _receive(url: str, file: BufferedRandom, progress: Progress) -> None:
    """Download and write the missing rest of a file."""
    done = file.seek(0, os.SEEK_END)
    request = urllib.request.Request(url, headers={"User-Agent": "pullback"})
    if done:
        request.add_header("Range", f"bytes={done}-")
    try:
        answer = urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not done:  # range beyond the end: the file is complete, or has changed
            raise
        file.truncate(0)
        _receive(url, file, progress)
        return
    with answer:
        if answer.status != 206:
            file.truncate(0)
            done = file.seek(0)
        length = answer.headers.get("Content-Length")
        total = done + int(length) if length is not None and length.isdigit() else None
        progress(done, total)
        while piece := answer.read(_PIECE):
            file.write(piece)
            done += len(piece)
            progress(done, total)
        file.flush()
        if total is not None and done < total:
            raise ConnectionError(f"the connection ended after {done:,} of {total:,} bytes")
