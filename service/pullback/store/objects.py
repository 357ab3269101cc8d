"""Objects beside sweeps: what is in a folder or a prefix, and the small ones that drivers leave for others to read.

Icechunk does neither, hence obstore. The key of a small object is the `prefix` of its location.
"""

from datetime import timedelta
from pathlib import Path
from typing import Any

from pullback.store.location import Location, check_google_credentials, s3_endpoint, s3_region
from pullback.store.opening import unreachable

_SECONDS = 10
"""An object store that does not answer for so long is given up: a driver waits meanwhile."""


def children(folder: Location) -> list[Location]:
    """The folders (or prefixes) and files inside, by name; none where the folder is not there.

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


def put_object(place: Location, content: bytes) -> None:
    """Write a small object, in place of the one before; raises StoreError where the object store does not answer."""
    import obstore

    client = client_of(place)
    try:
        obstore.put(client, place.prefix, content)
    except Exception as error:
        raise unreachable(place, error) from error


def get_object(place: Location) -> bytes | None:
    """A small object's content, None where there is none; raises StoreError where the object store does not answer."""
    import obstore

    client = client_of(place)
    try:
        return bytes(obstore.get(client, place.prefix).bytes())
    except FileNotFoundError:
        return None
    except Exception as error:
        raise unreachable(place, error) from error


def remove_object(place: Location) -> None:
    """Remove a small object, if it is there; raises StoreError where the object store does not answer."""
    import obstore

    client = client_of(place)
    try:
        obstore.delete(client, place.prefix)
    except FileNotFoundError:
        return
    except Exception as error:
        raise unreachable(place, error) from error


def remove_tree(place: Location) -> None:
    """Remove every object whose name begins with a place's and a slash; StoreError as above."""
    import obstore

    client = client_of(place)
    try:
        for page in obstore.list(client, prefix=place.prefix):
            obstore.delete(client, [found["path"] for found in page])
    except Exception as error:
        raise unreachable(place, error) from error


def client_of(place: Location) -> Any:
    """An obstore client of a place's bucket, with the usual environment's credentials.

    Raises:
        StoreError: nothing answers at `AWS_ENDPOINT_URL`, or what the environment says cannot be used.
    """
    from obstore.store import GCSStore, S3Store

    patience: Any = {"max_retries": 2, "retry_timeout": timedelta(seconds=_SECONDS)}
    if place.scheme == "gs":
        # http only where the file of credentials names a server in place of Google's; Icechunk takes one, too
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
