"""Listing folders and prefixes, and small objects beside sweeps (drivers' records and cancel requests).

Icechunk offers neither, hence obstore. The key of a small object is the `prefix` of its location.
"""

import secrets
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pullback.errors import StoreError
from pullback.store.failures import unreachable
from pullback.store.location import Location, check_google_credentials, s3_endpoint, s3_region

_SECONDS = 10
"""Seconds to wait for an answer of an object store. The driver does nothing else meanwhile."""


def children(folder: Location) -> list[Location]:
    """List the folders (or prefixes) and files inside a folder by name; empty if it does not exist.

    Raises:
        StoreError: the object store does not answer.
    """
    if folder.is_local:
        return [Location(path) for path in sorted(folder.path.iterdir())] if folder.path.is_dir() else []
    import obstore

    client = client_of(folder)
    try:
        found = obstore.list_with_delimiter(client, prefix=folder.prefix)
    except Exception as error:  # obstore's errors are of many classes without a common one
        raise unreachable(folder, error) from error
    names = sorted(Path(prefix).name for prefix in found["common_prefixes"])
    return [folder.child(name) for name in names]


def newest_objects(folder: Location) -> list[tuple[datetime, str]]:
    """Return the time of writing and the name of each object directly in a prefix, the last written first.

    Object stores round the times to seconds.

    Raises:
        StoreError: the object store does not answer.
    """
    import obstore

    client = client_of(folder)
    try:
        found = obstore.list_with_delimiter(client, prefix=folder.prefix)["objects"]
    except Exception as error:
        raise unreachable(folder, error) from error
    dated = [(each["last_modified"], Path(each["path"]).name) for each in found]
    return sorted(dated, reverse=True)


def object_time(place: Location) -> datetime | None:
    """Return when an object was written, by the object store's clock; None if it does not exist.

    Raises:
        StoreError: the object store does not answer.
    """
    import obstore

    client = client_of(place)
    try:
        written: datetime = obstore.head(client, place.prefix)["last_modified"]
    except FileNotFoundError:
        return None
    except Exception as error:
        raise unreachable(place, error) from error
    return written


def put_object(place: Location, content: bytes) -> None:
    """Write or replace a small object; raises StoreError if the object store does not answer."""
    import obstore

    client = client_of(place)
    try:
        obstore.put(client, place.prefix, content)
    except Exception as error:
        raise unreachable(place, error) from error


def get_object(place: Location) -> bytes | None:
    """Read a small object; None if it does not exist. Raises StoreError if the object store does not answer."""
    import obstore

    client = client_of(place)
    try:
        return bytes(obstore.get(client, place.prefix).bytes())
    except FileNotFoundError:
        return None
    except Exception as error:
        raise unreachable(place, error) from error


def remove_object(place: Location) -> None:
    """Remove a small object if it exists; raises StoreError if the object store does not answer."""
    import obstore

    client = client_of(place)
    try:
        obstore.delete(client, place.prefix)
    except FileNotFoundError:
        return
    except Exception as error:
        raise unreachable(place, error) from error


def store_time(place: Location) -> datetime:
    """Return the current time by the clock that dates a sweep's files, the file server's or the object store's.

    Raises:
        StoreError: the storage cannot be written to.
    """
    probe = place.sibling(f".{place.name}.clock")
    if not place.is_local:
        import obstore

        put_object(probe, b"")
        try:
            dated: datetime = obstore.head(client_of(probe), probe.prefix)["last_modified"]
        except Exception as error:
            raise unreachable(probe, error) from error
        finally:
            remove_object(probe)
        return dated
    path = probe.path.with_name(f"{probe.path.name}-{secrets.token_hex(4)}")
    try:
        path.touch()
        written = path.stat().st_mtime
    except OSError as error:
        raise StoreError(
            f"the time at {place} is not known: {path.parent} cannot be written to ({error.strerror or error}). "
            "Nothing was changed. Check that it is mounted, writable and not full."
        ) from error
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)
    return datetime.fromtimestamp(written, UTC)


def remove_tree(place: Location) -> None:
    """Remove every object under a prefix; raises StoreError if the object store does not answer."""
    import obstore

    client = client_of(place)
    try:
        for page in obstore.list(client, prefix=place.prefix):
            obstore.delete(client, [found["path"] for found in page])
    except Exception as error:
        raise unreachable(place, error) from error


def client_of(place: Location) -> Any:
    """An obstore client of a location's bucket, with credentials of the environment.

    Raises:
        StoreError: nothing answers at `AWS_ENDPOINT_URL`, or the environment's settings cannot be used.
    """
    from obstore.store import GCSStore, S3Store

    patience: Any = {"max_retries": 2, "retry_timeout": timedelta(seconds=_SECONDS)}
    if place.scheme == "gs":
        # Allow http only if the credentials file names a server in place of Google's. Icechunk accepts one too.
        google: Any = {"timeout": f"{_SECONDS}s", "allow_http": True}
        check_google_credentials(place)
        return GCSStore(place.bucket, client_options=google, retry_config=patience)
    endpoint, region = s3_endpoint(place), s3_region()
    options: dict[str, Any] = {"region": region} if region is not None else {}
    client_options: Any = {"timeout": f"{_SECONDS}s"}
    if endpoint is not None:
        options |= {"endpoint": endpoint, "virtual_hosted_style_request": False}
        client_options |= {"allow_http": endpoint.startswith("http:")}
    try:
        return S3Store(place.bucket, **options, client_options=client_options, retry_config=patience)
    except Exception as error:
        raise unreachable(place, error) from error
