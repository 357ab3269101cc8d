"""Locations of sweeps: folders, and prefixes of object stores (`s3://bucket/prefix`, `gs://bucket/prefix`).

Only this module parses addresses and chooses their storage. Credentials are never part of an address: driver and
workers take them from their environments (`AWS_*`, `GOOGLE_*`). `AWS_ENDPOINT_URL` names another server that speaks S3.
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


_AT_SNAPSHOT = re.compile(r"(.+)@([0-9A-Z]{20})")
"""A sweep with a snapshot, whose id has 20 characters."""


def split_snapshot(text: str) -> tuple[str, str | None]:
    """Split `SWEEP@SNAPSHOT` into both; the snapshot is None where the text names none."""
    found = _AT_SNAPSHOT.fullmatch(text)
    return (text, None) if found is None else (found[1], found[2])


@dataclass(frozen=True)
class Location:
    """A place for a sweep. `str()` gives the address that `locate` reads.

    Attributes:
        path: the folder; in an object store the address as pathlib writes it, which `locate` reads as well.
        scheme: `s3` or `gs`; empty for a folder.
        bucket: the bucket; empty for a folder.
        prefix: prefix of the sweep's objects, without slashes at its ends; empty for a folder.
    """

    path: Path
    scheme: str = ""
    bucket: str = ""
    prefix: str = ""

    def __str__(self) -> str:
        return str(self.path) if self.is_local else f"{self.scheme}://{self.bucket}/{self.prefix}"

    @property
    def is_local(self) -> bool:
        """Whether it is a folder."""
        return not self.scheme

    @property
    def name(self) -> str:
        """The last part of the canonical address."""
        return self.canonical.path.name

    @property
    def canonical(self) -> "Location":
        """The location without symbolic links or `..`, equal for every path that leads to a sweep.

        Lock, sidecar files and analyses are beside the canonical location. A path without links is returned as it was
        written, so that messages show what the user typed.

        Raises:
            StoreError: its links lead in a circle.
        """
        if not self.is_local:
            return self
        try:
            path = self.path.resolve()
        except (OSError, RuntimeError) as error:
            raise StoreError(f"{self.path} cannot hold a sweep: its symbolic links lead in a circle.") from error
        return self if self.path.name and path == self.path.absolute() else Location(path)

    @property
    def parent(self) -> "Location":
        """The folder, prefix or bucket that contains it."""
        return Location(self.canonical.path.parent, self.scheme, self.bucket, "/".join(self.prefix.split("/")[:-1]))

    def sibling(self, name: str) -> "Location":
        """The location of a name beside this one: beside the target of a symbolic link, not beside the link."""
        if self.is_local:
            return Location(self.canonical.path.with_name(name))
        prefix = "/".join([*self.prefix.split("/")[:-1], name]) if self.prefix else ""
        return Location(self.path.with_name(name), self.scheme, self.bucket, prefix)

    def child(self, name: str) -> "Location":
        """The location of a name inside this one."""
        return Location(self.path / name, self.scheme, self.bucket, f"{self.prefix}/{name}" if self.prefix else "")

    def storage(self) -> icechunk.Storage:
        """The Icechunk storage. Pickled with a fork, it carries no credentials.

        Raises:
            StoreError: nothing answers at `AWS_ENDPOINT_URL`, or Google credentials cannot be used.
        """
        if self.is_local:
            # Absolute, because workers may have another working directory.
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
            # Other servers rarely have a host name for each bucket.
            force_path_style=endpoint is not None,
            from_env=True,
        )


def locate(address: Location | Path | str) -> Location:
    """Parse an address.

    Args:
        address: a folder's path, in which `~` is expanded; `s3://bucket/prefix` or `gs://bucket/prefix`.

    Raises:
        StoreError: it is not a path, or an address of another kind.
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
            f"{text} cannot hold a sweep; nothing was written. "
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
    """The server that the environment names instead of Amazon's; raises StoreError if nothing answers there."""
    endpoint = _named_endpoint()
    if endpoint is not None:
        _await_answer(endpoint, location)
    return endpoint


def s3_region() -> str | None:
    """The region that the environment names. The client requires one even if the server does not."""
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return region or ("us-east-1" if _named_endpoint() is not None else None)


def _named_endpoint() -> str | None:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def check_google_credentials(location: Location) -> None:
    """Check that the credentials can be used. With unusable ones Icechunk panics, and obstore raises.

    Raises:
        StoreError: they cannot be used.
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
    """Check that a server listens: Icechunk would retry for most of a minute."""
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
