"""The routes: what is asked for, in which order it is looked up, and the headers of the answer."""

import hashlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, ConfigDict, Field
from starlette.types import Receive, Scope, Send

import pullback
from pullback.api.analyses import Analyses
from pullback.api.backend import Backend
from pullback.api.catalog import Catalog, Opened
from pullback.api.jobs import YAML_TYPES, read_job
from pullback.api.journal import follow, read_page, read_whole
from pullback.api.limits import Threads
from pullback.api.observe import Observer
from pullback.api.paths import in_line, in_strings
from pullback.api.problems import RequestError
from pullback.api.selection import At, EigenvectorsQuery, Pieces, SpectraQuery, eigenvectors, spectra
from pullback.api.tables import MEDIA, Table
from pullback.errors import StoreError
from pullback.store.reader import history
from pullback.sweep.control import AT_WORK, WITHOUT_STORE, DriverRecord

_JSON = "application/json"
_NO_SCRIPTS = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; sandbox"
_NUMBERS: dict[int | str, dict[str, Any]] = {
    200: {"content": {media: {} for media in MEDIA.values()}, "description": "The numbers, in the format asked for."}
}
_EXAMPLE = {
    "name": "faces",
    "generator": {"name": "dcgan-faces"},
    "distance": {"name": "lpips", "trunk": "alex"},
    "samples": {"count": 100, "seed": 0},
}
_JOB: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {media: {"schema": {"type": "object"}, "example": _EXAMPLE} for media in (_JSON, *YAML_TYPES)},
    }
}


class ListQuery(BaseModel):
    """Which page of the list."""

    model_config = ConfigDict(extra="forbid")

    after: str = Field("", max_length=100, description="The `next` of the page before.")
    limit: int = Field(100, ge=1, le=1000)


class SnapshotsQuery(BaseModel):
    """How many of the last snapshots."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(100, ge=1, le=1000)


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
            return _tagged(request, make(opened), media, named)

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


def routes(service: Service) -> APIRouter:
    """Every route of the service."""
    router = APIRouter()

    @router.get("/healthz", tags=["service"])
    async def health() -> dict[str, str]:
        """Whether the service answers."""
        return {"status": "ok"}

    @router.get("/metrics", tags=["service"], response_class=Response)
    async def metrics() -> Response:
        """Requests and times of the service, and how the sweeps are, for Prometheus."""
        content = await service.threads.run(service.observer.metrics)  # it reads stores
        return Response(content, headers={"Content-Type": CONTENT_TYPE_LATEST})

    @router.get("/v1/sweeps", tags=["sweeps"])
    async def sweeps(request: Request, query: Annotated[ListQuery, Query()]) -> Response:
        """The sweeps, by id, with the state of each; `next` is null on the last page."""

        def read() -> Response:
            ids = [id for id in service.ids() if id > query.after]
            page = ids[: query.limit]
            content = {"sweeps": [service.summary(id) for id in page], "next": None}
            if len(ids) > len(page):
                content["next"] = page[-1]  # type: ignore[assignment]
            return _tagged(request, _json(content), _JSON)

        return await service.threads.run(read, "ask for fewer at once, with limit")

    @router.post("/v1/sweeps", tags=["sweeps"], openapi_extra=_JOB, responses={201: {"description": "It is new."}})
    async def submit(request: Request) -> Response:
        """Submit a job. The same job again is the same sweep: it is gone on with if it stopped, and answered 200."""
        body = await request.body()

        def act() -> Response:
            job = read_job(body, request.headers.get("content-type", ""), service.allow_code)
            path = service.catalog.place(job.name)
            done = service.backend.submit(job.model_copy(update={"store": str(path)}))
            return Response(
                _json({"id": done.id, "created": done.created}),
                201 if done.created else 200,
                {"Location": f"/v1/sweeps/{done.id}/status"},
                _JSON,
            )

        late = "the job may still be accepted: ask for its status, or submit it again, which starts nothing twice"
        return await service.threads.run(act, late)

    @router.get("/v1/sweeps/{id}", tags=["sweeps"])
    async def sweep(request: Request, id: str, query: Annotated[At, Query()]) -> Response:
        """What a sweep is, what made it, and how far it was at the snapshot."""
        return await service.at_snapshot(request, id, query, lambda opened: _json(service.details(opened)), _JSON)

    @router.get("/v1/sweeps/{id}/snapshots", tags=["sweeps"])
    async def snapshots(request: Request, id: str, query: Annotated[SnapshotsQuery, Query()]) -> Response:
        """The snapshots that can be asked for, the last one first."""

        def read() -> Response:
            opened = service.catalog.open(id)
            content = {"id": id, "snapshots": [each.as_dict() for each in history(opened.sweep.path, query.limit)]}
            return _tagged(request, _json(content), _JSON)

        return await service.threads.run(read, "ask for fewer at once, with limit")

    @router.get("/v1/sweeps/{id}/status", tags=["sweeps"])
    async def status(request: Request, id: str) -> Response:
        """Where a sweep is now, and whether anybody is at work on it."""

        def read() -> Response:
            state = service.state(id)
            snapshot = state.get("snapshot")
            return _tagged(request, _json(state), _JSON, {"Pullback-Snapshot": snapshot} if snapshot else {})

        return await service.threads.run(read)

    @router.get("/v1/sweeps/{id}/events", tags=["sweeps"])
    async def events(request: Request, id: str, query: Annotated[EventsQuery, Query()]) -> Response:
        """What happened: a JSON object a line; the header `Pullback-Next-Offset` says where to go on."""
        await service.threads.run(lambda: service.state(id))
        if query.follow:
            return await service.stream(request, id, query)

        def read() -> Response:
            page = read_page(service.journal(id), query.offset, query.limit)
            lines = [in_line(line, service.catalog.without_paths) for line in page.content.splitlines(keepends=True)]
            return _tagged(request, b"".join(lines), "application/x-ndjson", {"Pullback-Next-Offset": str(page.next)})

        return await service.threads.run(read)

    @router.post("/v1/sweeps/{id}/cancel", tags=["sweeps"], responses={202: {"description": "Its driver is asked."}})
    async def cancel(id: str) -> Response:
        """Ask for a stop after the work at hand. What is done is kept; submit the same job to go on."""

        def act() -> Response:
            service.state(id)
            asked = service.backend.cancel(service.catalog.place(id))
            return Response(_json({"id": id, "cancelling": asked}), 202 if asked else 200, media_type=_JSON)

        return await service.threads.run(act, "it may still be asked to stop: ask for its status")

    @router.get("/v1/sweeps/{id}/spectra", tags=["results"], response_class=Response, responses=_NUMBERS)
    async def read_spectra(request: Request, id: str, query: Annotated[SpectraQuery, Query()]) -> Response:
        """Eigenvalues, descending, of the good samples of a range, with the samples' numbers."""
        return await service.table(request, id, query, lambda opened: spectra(opened, query))

    @router.get("/v1/sweeps/{id}/eigenvectors", tags=["results"], response_class=Response, responses=_NUMBERS)
    async def read_eigenvectors(request: Request, id: str, query: Annotated[EigenvectorsQuery, Query()]) -> Response:
        """Eigenvectors, one a row, of one sample, with its eigenvalues and its latent code."""
        return await service.table(request, id, query, lambda opened: eigenvectors(opened, query))

    @router.get("/v1/sweeps/{id}/analysis", tags=["results"])
    async def analysis(request: Request, id: str, query: Annotated[At, Query()]) -> Response:
        """The analysis of the snapshot, where one was made; else 404, which says whether it is being made."""

        def make(opened: Opened) -> bytes:
            return _json(service.analyses.kept(opened).to_json())

        return await service.opened(request, id, query, make, _JSON)

    @router.post(
        "/v1/sweeps/{id}/analysis", tags=["results"], responses={202: {"description": "It is being made: GET it."}}
    )
    async def analyze(id: str, query: Annotated[At, Query()]) -> Response:
        """Have the analysis of the snapshot made, which may take a minute; 200 where it is kept already."""

        def act() -> Response:
            opened = service.catalog.open(id, query.snapshot)
            snapshot, kept = opened.sweep.snapshot, service.analyses.make(opened)
            return Response(
                _json({"id": id, "snapshot": snapshot, "state": "done" if kept else "running"}),
                200 if kept else 202,
                {"Location": f"/v1/sweeps/{id}/analysis?snapshot={snapshot}", "Pullback-Snapshot": snapshot},
                _JSON,
            )

        return await service.threads.run(act, "it may be made still: ask for it in a moment")

    @router.get("/v1/sweeps/{id}/report", tags=["results"], response_class=Response)
    async def report(request: Request, id: str, query: Annotated[At, Query()]) -> Response:
        """The report of the snapshot, an HTML page, once its analysis is made; with images where it was drawn last."""
        return await service.opened(
            request, id, query, service.report, "text/html; charset=utf-8", Content_Security_Policy=_NO_SCRIPTS
        )

    return router


def _json(content: Any) -> bytes:
    return json.dumps(content, allow_nan=False).encode()


def _tagged(request: Request, content: bytes, media: str, headers: Mapping[str, str] | None = None) -> Response:
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
