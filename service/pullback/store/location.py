"""Where sweeps are: folders, and prefixes of object stores (`s3://bucket/prefix`, `gs://bucket/prefix`).

The one place that knows how an address is written and which storage serves it. Credentials are never part of an
address: they are those of the usual environment (`AWS_*`, `GOOGLE_*`), of the driver's and of each worker's.
`AWS_ENDPOINT_URL` names another server that speaks S3.
"""

import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import icechunk

from pullback.errors import StoreError
from pullback.store.folders import local_path

_CONNECT_SECONDS = 10.0
_GOOGLE_CREDENTIALS = (
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GOOGLE_SERVICE_ACCOUNT",
    "GOOGLE_SERVICE_ACCOUNT_PATH",
    "GOOGLE_SERVICE_ACCOUNT_KEY",
)


@dataclass(frozen=True)
class Location:
    """A place for a sweep. `str()` gives the address that `locate` reads.

    Attributes:
        path: the folder; in an object store the address as pathlib writes it, which `locate` reads as well.
        scheme: `s3` or `gs`; empty of a folder.
        bucket: the bucket; empty of a folder.
        prefix: what the names of the sweep's objects begin with, without slashes at its ends; empty of a folder.
    """

    path: Path
    scheme: str = ""
    bucket: str = ""
    prefix: str = ""

    def __str__(self) -> str:
        return str(self.path) if self.is_local else f"{self.scheme}://{self.bucket}/{self.prefix}"

    @property
    def is_local(self) -> bool:
        """Whether it is a folder, with the lock file that one can have."""
        return not self.scheme

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.path.name

    @property
    def parent(self) -> "Location":
        """The folder, prefix or bucket that it lies in."""
        return Location(self.path.parent, self.scheme, self.bucket, "/".join(self.prefix.split("/")[:-1]))

    def sibling(self, name: str) -> "Location":
        """The place of this name beside this one."""
        prefix = "/".join([*self.prefix.split("/")[:-1], name]) if self.prefix else ""
        return Location(self.path.with_name(name), self.scheme, self.bucket, prefix)

    def child(self, name: str) -> "Location":
        """The place of this name inside this one."""
        return Location(self.path / name, self.scheme, self.bucket, f"{self.prefix}/{name}" if self.prefix else "")

    def storage(self) -> icechunk.Storage:
        """What Icechunk reads and writes through; pickled with a fork, it carries no credentials.

        Raises:
            StoreError: nothing answers at `AWS_ENDPOINT_URL`, or Google credentials cannot be used.
        """
        if self.is_local:
            # Absolute, because a fork carries the path to workers that may stand in another folder.
            return icechunk.local_filesystem_storage(str(self.path.resolve()))
        if self.scheme == "gs":
            check_google_credentials(self)
            return icechunk.gcs_storage(bucket=self.bucket, prefix=self.prefix, from_env=True)
        endpoint, region = s3_endpoint(self), s3_region()
        return icechunk.s3_storage(
            bucket=self.bucket,
            prefix=self.prefix,
            region=region,
            endpoint_url=endpoint,
            allow_http=endpoint is not None and endpoint.startswith("http:"),
            # Other servers have rarely a host name for each bucket.
            force_path_style=endpoint is not None,
            from_env=True,
        )


def locate(address: Location | Path | str) -> Location:
    """The place that an address names.

    Args:
        address: a folder's path, in which `~` is expanded; `s3://bucket/prefix` or `gs://bucket/prefix`.

    Raises:
        StoreError: it is no path, or the address of something else.
    """
    if isinstance(address, Location):
        return address
    text = str(address)
    # pathlib turns `s3://b` into `s3:/b`; a Windows drive has a single letter.
    found = re.fullmatch(r"([A-Za-z][A-Za-z0-9+.-]+):/+([^/]*)(.*)", text, re.DOTALL)
    if found is None:
        return Location(local_path(address))
    scheme, bucket, rest = found[1].lower(), found[2], found[3]
    text = text if "://" in text else text.replace(":/", "://", 1)
    if scheme not in ("s3", "gs"):
        raise StoreError(
            f"{text} is no place for a sweep; nothing was written. "
            "Give a folder, or an address like s3://bucket/prefix or gs://bucket/prefix."
        )
    parts = [part for part in rest.split("/") if part]
    if not bucket or not parts or not text.isprintable() or {".", ".."} & {*parts}:
        raise StoreError(
            f"{text!r} does not name a bucket and a place in it; nothing was written. "
            f"Give an address like {scheme}://bucket/prefix."
        )
    prefix = "/".join(parts)
    return Location(Path(f"{scheme}:/{bucket}/{prefix}"), scheme, bucket, prefix)


def s3_endpoint(location: Location) -> str | None:
    """The server that the environment names in place of Amazon's; raises StoreError where nothing answers there."""
    endpoint = _named_endpoint()
    if endpoint is not None:
        _await_answer(endpoint, location)
    return endpoint


def s3_region() -> str | None:
    """The region that the environment names. Another server needs none, but its client wants one."""
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return region or ("us-east-1" if _named_endpoint() is not None else None)


def _named_endpoint() -> str | None:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def check_google_credentials(location: Location) -> None:
    """Make sure that credentials are fit for use: Icechunk ends in a panic where they are not, obstore in an error.

    Raises:
        StoreError: they are not.
    """
    from obstore.store import GCSStore

    try:
        GCSStore(location.bucket)
    except Exception as error:  # obstore's errors are of many classes without a common one
        named = ", ".join(name for name in _GOOGLE_CREDENTIALS if os.environ.get(name)) or "the environment"
        raise StoreError(
            f"{location} cannot be reached: the credentials that {named} names cannot be used "
            f"({str(error).splitlines()[0].removeprefix('Generic GCS error: ')}). Nothing was written, and nothing "
            "that was committed is lost. Correct them, or unset it."
        ) from error


def _await_answer(endpoint: str, location: Location) -> None:
    """Make sure that something listens: Icechunk asks a server that is not there for most of a minute."""
    try:
        parts = urlsplit(endpoint)
        port = parts.port or (80 if parts.scheme == "http" else 443)
        with socket.create_connection((parts.hostname or "", port), timeout=_CONNECT_SECONDS):
            pass
    except (OSError, ValueError) as error:
        raise StoreError(
            f"{location} cannot be reached: nothing answers at AWS_ENDPOINT_URL, {endpoint} ({error}). "
            "Nothing was written, and nothing that was committed is lost. Start that server or correct the address."
        ) from error
