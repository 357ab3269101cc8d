"""What OpenAPI states about answers besides their models: formats other than JSON, headers, status codes."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from pullback.api.tables import MEDIA

Responses = dict[int | str, dict[str, Any]]
"""The value of FastAPI's `responses`."""

_HEADERS = {
    "ETag": "Send it as `If-None-Match`: the answer is 304 if nothing has changed.",
    "Pullback-Snapshot": "The snapshot of the answer; pass it as `snapshot` to get the same answer again.",
    "Pullback-Next-Offset": "The `offset` of the next page of events.",
    "Location": "Where to read the state or the result.",
}


def _with(*headers: str) -> dict[str, Any]:
    return {"headers": {name: {"schema": {"type": "string"}, "description": _HEADERS[name]} for name in headers}}


def reading(*headers: str, **content: dict[str, Any]) -> Responses:
    """Describe the answer to a GET with an ETag; `content` describes formats other than JSON."""
    kinds = {"content": {_MEDIA[form]: described for form, described in content.items()}} if content else {}
    known = {"description": "Nothing has changed since the answer with this ETag."}
    return {200: {**_with("ETag", *headers), **kinds}, 304: known}


def making(status: int, model: type[BaseModel], description: str, *headers: str) -> Responses:
    """Describe the answers to a POST: 200 if there is nothing to do, else `status`."""
    return {200: _with(*headers), status: {"model": model, "description": description, **_with(*headers)}}


_BINARY = {"schema": {"type": "string", "format": "binary"}}
_MEDIA: Mapping[str, str] = {
    **{str(form): media for form, media in MEDIA.items()},
    "ndjson": "application/x-ndjson",
    "events": "text/event-stream",
    "html": "text/html; charset=utf-8",
}
NUMBERS = reading("Pullback-Snapshot", npy=_BINARY, arrow=_BINARY, zarr=_BINARY)
TEXT = {"schema": {"type": "string"}}
