"""What the routes work with: sweeps opened at snapshots, their states, streams, and how answers are put together."""

import hashlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.types import Receive, Scope, Send

import pullback
from pullback.api.analyses import Analyses
from pullback.api.backend import Backend
from pullback.api.catalog import Catalog, Opened
from pullback.api.journal import follow, read_page, read_whole
from pullback.api.limits import Threads
from pullback.api.observe import Observer
from pullback.api.paths import in_strings
from pullback.api.problems import RequestError
from pullback.api.selection import At, Pieces
from pullback.api.tables import MEDIA, Table
from pullback.errors import StoreError
from pullback.sweep.control import AT_WORK, WITHOUT_STORE, DriverRecord


class EventsQuery(BaseModel):
    """Which events."""

    model_config = ConfigDict(extra="forbid")

    offset: int = Field(0, ge=0, le=2**53, description="The `Pullback-Next-Offset` of the page before.")
    limit: int = Field(1000, ge=1, le=10_000, description="How many lines at most.")
    follow: bool = Field(False, description="Go on as events come, as server-sent events, until the sweep ends.")


@dataclass
class Service:
    """What the routes work with."""

    catalog: Catalog
    backend: Backend
    analyses: Analyses
    observer: Observer
    threads: Threads
    allow_code: bool
    followers: int
    """How many streams of events may still be opened."""
    poll_seconds: float
    closing: bool = False
    """Whether the service is about to end."""

    async def at_snapshot(
        self, request: Request, id: str, query: At, make: Callable[[Opened], bytes], media: str
    ) -> Response:
        """An answer that a snapshot and the request decide, so that a reader who has it is told so unread."""

        def read() -> Response:
            opened = self.catalog.open(id, query.snapshot)
            asked = query.model_dump_json(exclude={"snapshot"})
            decided_by = [pullback.__version__, request.url.path, opened.sweep.snapshot, asked]
            headers = {"ETag": _tag("\n".join(decided_by).encode()), "Pullback-Snapshot": opened.sweep.snapshot}
            if _is_known(request, headers["ETag"]):
                return Response(status_code=304, headers=headers)
            return Response(make(opened), headers=headers, media_type=media)

        return await self.threads.run(read, "ask for fewer samples at once" if isinstance(query, Pieces) else "")

    async def table(self, request: Request, id: str, query: Pieces, make: Callable[[Opened], Table]) -> Response:
        """An answer of numbers."""
        form = query.format
        answer = await self.at_snapshot(request, id, query, lambda opened: make(opened).encode(form), MEDIA[form])
        if form != "json":
            name = "zarr.zip" if form == "zarr" else form
            answer.headers["Content-Disposition"] = f'attachment; filename="{id}.{name}"'
        return answer

    async def opened(
        self, request: Request, id: str, query: At, make: Callable[[Opened], bytes], media: str, **headers: str
    ) -> Response:
        """An answer at a snapshot that is not decided by it alone, such as one that can be computed anew."""

        def read() -> Response:
            opened = self.catalog.open(id, query.snapshot)
            named = {"Pullback-Snapshot": opened.sweep.snapshot, **_dashed(headers)}
            return tagged(request, make(opened), media, named)

        return await self.threads.run(read)

    def state(self, id: str) -> dict[str, Any]:
        """A sweep's state; raises RequestError (404) where nothing is known of one."""
        path = self.catalog.place(id)
        try:
            found = self.backend.state(path, self.catalog.see)
        except StoreError as error:
            if self.catalog.has(id):
                raise
            raise RequestError(404, str(error)) from None
        known = found.driver or DriverRecord("submitted")
        driver = known if found.state in AT_WORK else DriverRecord("submitted")  # of one that ended nothing is at work
        return {
            "id": id,
            "state": found.state,
            **{name: getattr(found, name) for name in ("planned", "good", "quarantined", "pending")},
            "message": self.catalog.without_paths(found.message),
            "snapshot": found.snapshot,
            "updated": known.updated,
            "shards": dict(driver.shards),
            "workers": dict(driver.workers),
            "samples_per_second": driver.samples_per_second,
        }

    def ids(self) -> list[str]:
        """All that may be asked for, in order: the sweeps, and what was submitted and is none yet."""
        submitted = [id for id in self.catalog.submitted() if self._is_listed(id)]
        return sorted({*self.catalog.ids(), *submitted})

    def _is_listed(self, id: str) -> bool:
        try:
            return self.state(id)["state"] in WITHOUT_STORE
        except (RequestError, StoreError):  # a record that cannot be read, or something else in its place
            return False

    def summary(self, id: str) -> dict[str, Any]:
        """What a list says of a sweep; of one that has no results yet, how it is."""
        try:
            state = self.state(id)
            if not self.catalog.has(id):
                return {key: state[key] for key in ("id", "state", "planned", "message")}
            return {**self._shown(self.catalog.summary(id)), "state": state["state"]}
        except StoreError as error:  # one damaged sweep must not hide the others
            return {"id": id, "error": self.catalog.without_paths(str(error))}

    def details(self, opened: Opened) -> dict[str, Any]:
        """All that is known of a sweep."""
        return self._shown(opened.details())

    def _shown(self, content: dict[str, Any]) -> dict[str, Any]:
        return dict(in_strings(content, self.catalog.without_paths))

    def report(self, opened: Opened) -> bytes:
        """The report of a snapshot: the page that was drawn of it, or one without images."""
        kept = read_whole(opened.sweep.path.with_name(f"{opened.id}.report.html"))
        if kept is not None and opened.sweep.snapshot.encode() in kept:  # else it is of another snapshot
            return kept
        from pullback.report.document import render

        why = f"the service runs no generator; `pullback report {opened.id}`, where the sweep lies, draws them"
        return render(opened.sweep, self.analyses.kept(opened), None, why).encode()

    def journal(self, id: str) -> Path | None:
        """Where a sweep's events are."""
        return self.backend.events(self.catalog.place(id))

    async def stream(self, request: Request, id: str, query: EventsQuery) -> Response:
        """The events as they come."""
        again = request.headers.get("last-event-id", "")
        offset = int(again) if again.isascii() and again.isdigit() and len(again) < 16 else query.offset
        await self.threads.run(lambda: read_page(self.journal(id), offset, 1))  # a wrong offset is told at once
        if self.followers <= 0:
            raise RequestError(503, "too many follow already; ask without follow", {"Retry-After": "5"})
        self.followers -= 1  # in the same step: others are asking meanwhile
        lines = follow(
            lambda: self.journal(id),
            lambda: self.state(id),
            offset,
            self.threads,
            self.poll_seconds,
            lambda: self.closing,
            self.catalog.without_paths,
        )
        return _Stream(lines, self._leave)

    def _leave(self) -> None:
        self.followers += 1


class _Stream(StreamingResponse):
    """A stream of events that says when it has ended, however it does, even before it began."""

    def __init__(self, events: AsyncIterator[bytes], ended: Callable[[], None]) -> None:
        super().__init__(events, media_type="text/event-stream")
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ended()


def json_of(content: Any) -> bytes:
    """Strict JSON."""
    return json.dumps(content, allow_nan=False).encode()


def tagged(request: Request, content: bytes, media: str, headers: Mapping[str, str] | None = None) -> Response:
    """An answer with an ETag of its content."""
    headers = {**(headers or {}), "ETag": _tag(content)}
    if _is_known(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=media)


def _tag(decided_by: bytes) -> str:
    return f'"{hashlib.sha256(decided_by).hexdigest()[:32]}"'


def _is_known(request: Request, tag: str) -> bool:
    known = [each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")]
    return tag in known or "*" in known


def _dashed(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}
