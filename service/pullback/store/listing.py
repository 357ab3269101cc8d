"""What is directly inside a folder or a prefix of an object store. Icechunk lists nothing, hence obstore there."""

from pathlib import Path
from typing import Any

from pullback.errors import StoreError
from pullback.store.location import Location, s3_endpoint, s3_region
from pullback.store.opening import unreachable


def children(folder: Location) -> list[Location]:
    """The folders (or prefixes) and files inside, by name; none where the folder is not there.

    Raises:
        StoreError: the object store does not answer, or obstore is not installed.
    """
    if folder.is_local:
        return [Location(path) for path in sorted(folder.path.iterdir())] if folder.path.is_dir() else []
    try:
        import obstore
    except ModuleNotFoundError as error:
        raise StoreError(
            f"{folder} cannot be listed without the package obstore: pip install obstore. "
            "A sweep whose address you know can be shown without it: pullback show ADDRESS."
        ) from error
    client = _client(folder)
    try:
        found = obstore.list_with_delimiter(client, prefix=folder.prefix)
    except Exception as error:  # obstore's errors are of many classes without a common one
        raise unreachable(folder, error) from error
    names = sorted(Path(prefix).name for prefix in found["common_prefixes"])
    return [folder.child(name) for name in names]


def _client(folder: Location) -> Any:
    from obstore.store import GCSStore, S3Store

    if folder.scheme == "gs":
        return GCSStore(folder.bucket)
    endpoint, region = s3_endpoint(folder), s3_region()
    options: dict[str, Any] = {"region": region} if region is not None else {}
    if endpoint is not None:
        options |= {"endpoint": endpoint, "virtual_hosted_style_request": False}
        options |= {"client_options": {"allow_http": endpoint.startswith("http:")}}
    return S3Store(folder.bucket, **options)
