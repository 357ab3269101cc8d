"""The state behind the routes, and how answers are made: documents, tables, entity tags and streams of events."""

import hashlib
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.types import Receive, Scope, Send

import pullback
from pullback.analysis import Analysis, Result, choose
from pullback.analysis.cache import cached_comparisons, cached_statistics, load_result
from pullback.api.analyses import Analyses
from pullback.api.answers import ListedSubmission, ListedSweep, ServedSweep, Status, UnreadableSweep
from pullback.api.backend import Backend
from pullback.api.catalog import Catalog, Opened
from pullback.api.documents import finite
from pullback.api.journal import follow, read_page, read_whole
from pullback.api.limits import Threads
from pullback.api.observe import Observer
from pullback.api.problem_details import RequestError
from pullback.api.selection import AtSnapshot, Pieces
from pullback.api.tables import MEDIA, Table
from pullback.driving.states import WITHOUT_STORE
from pullback.errors import PullbackError, StoreError

logger = logging.getLogger(__name__)


class EventsQuery(BaseModel):
    """Query parameters: which events."""

    model_config = ConfigDict(extra="forbid")

    offset: int = Field(0, ge=0, le=2**53, description="`Pullback-Next-Offset` of the previous page.")
    limit: int = Field(1000, ge=1, le=10_000, description="Largest number of lines.")
    follow: bool = Field(False, description="Send new events as server-sent events until the sweep ends.")


@dataclass
class Service:
    """State that the routes share."""

    catalog: Catalog
    backend: Backend
    analyses: Analyses
    observer: Observer
    threads: Threads
    allow_code: bool
    followers: int
    """How many more streams of events may be opened."""
    poll_seconds: float
    closing: bool = False
    """Whether the service is shutting down."""

    async def at_snapshot(
        self, request: Request, id: str, query: AtSnapshot, make: Callable[[Opened], bytes], media: str
    ) -> Response:
        """Response fully determined by the snapshot and the query, so it carries an ETag and supports 304."""

        def read() -> Response:
            opened = self.catalog.open(id, query.snapshot)
            parameters = query.model_dump_json(exclude={"snapshot"})
            determined_by = [pullback.__version__, request.url.path, opened.sweep.snapshot, parameters]
            headers = {"ETag": _tag("\n".join(determined_by).encode()), "Pullback-Snapshot": opened.sweep.snapshot}
            if _client_has(request, headers["ETag"]):
                return Response(status_code=304, headers=headers)
            return Response(make(opened), headers=headers, media_type=media)

        return await self.threads.run(read, "ask for fewer samples at once" if isinstance(query, Pieces) else "")

    async def table(self, request: Request, id: str, query: Pieces, make: Callable[[Opened], Table]) -> Response:
        """Response with a table of numbers, in the format of the query."""
        form = query.format
        answer = await self.at_snapshot(request, id, query, lambda opened: make(opened).encode(form), MEDIA[form])
        if form != "json":
            name = "zarr.zip" if form == "zarr" else form
            answer.headers["Content-Disposition"] = f'attachment; filename="{id}.{name}"'
        return answer

    async def opened(
        self, request: Request, id: str, query: AtSnapshot, make: Callable[[Opened], bytes], media: str, **headers: str
    ) -> Response:
        """Response about a snapshot that may change later, such as an analysis that can be computed again.

        The name of a header has `_` in place of `-`.
        """

        def read() -> Response:
            opened = self.catalog.open(id, query.snapshot)
            named = {"Pullback-Snapshot": opened.sweep.snapshot, **_dashed(headers)}
            return tagged(request, make(opened), media, named)

        return await self.threads.run(read)

    def state(self, id: str) -> Status:
        """Return the state of a sweep; raises RequestError (404) if nothing is known of it."""
        path = self.catalog.place(id)
        try:
            found = self.backend.state(path, self.catalog.read_snapshot)
        except StoreError as error:
            if self.catalog.has(id):
                raise
            raise RequestError(404, str(error)) from None
        return Status.of(id, found, self.catalog.without_paths(found.message))

    def ids(self) -> list[str]:
        """Return the ids of all sweeps, and of submitted jobs without results, sorted."""
        submitted = [id for id in self.catalog.submitted() if self._is_listed(id)]
        return sorted({*self.catalog.ids(), *submitted})

    def _is_listed(self, id: str) -> bool:
        try:
            return self.state(id).state in WITHOUT_STORE
        except (RequestError, StoreError, OSError):  # the record is unreadable, or is another kind of file
            return False

    def summary(self, id: str) -> ListedSweep | ListedSubmission | UnreadableSweep:
        """Return the row of a sweep in the list. A sweep that cannot be read gets a row with its error."""
        try:
            state = self.state(id)
            if not self.catalog.has(id):
                return ListedSubmission(id=id, state=state.state, planned=state.planned, message=state.message)
            return ListedSweep(id=id, state=state.state, **dict(self.catalog.summary(id)))
        except (PullbackError, OSError) as error:  # one damaged sweep must not hide the others
            return UnreadableSweep(id=id, error=self.catalog.without_paths(str(error)))
        except Exception:
            logger.exception("the sweep %s cannot be shown", id)
            return UnreadableSweep(
                id=id, error=f"{id} cannot be shown: its description is damaged. See the service's log"
            )

    def details(self, opened: Opened) -> bytes:
        """Return the details of a sweep as JSON."""
        return ServedSweep.of(opened.sweep, id=opened.id).to_json(self.catalog.without_paths)

    def report(self, opened: Opened) -> bytes:
        """Return the report of a snapshot: the page that was drawn for it, or a page without images."""
        stored = read_whole(opened.sweep.path.with_name(f"{opened.id}.report.html"))
        from pullback.report.document import MARKER, render

        is_current = stored is not None and opened.sweep.snapshot.encode() in stored
        # A page without the marker gives the numbers of a kept part as those of whole metrics.
        if stored is not None and is_current and (MARKER.encode() in stored or opened.sweep.whole_metrics):
            return stored

        why = f"the service runs no generator; `pullback report {opened.id}`, where the sweep is stored, draws them"
        asked = choose((), {})
        comparisons = {f"{each.title} {number}": each for number, each in enumerate(cached_comparisons(opened.sweep))}
        analysis = Analysis({**self._other_results(opened), **self.analyses.cached(opened, asked), **comparisons})
        return render(opened.sweep, analysis, None, why).encode()

    def _other_results(self, opened: Opened) -> dict[str, Result]:
        """Return the cached results of a snapshot besides those of the default statistics."""
        found = {}
        for name, options in cached_statistics(opened.sweep).items():
            result = load_result(opened.sweep, name, options)
            if result is not None:
                found[name] = result
        return found

    def journal(self, id: str) -> Path | None:
        """Return the file of a sweep's events; None if the sweep has no such file."""
        return self.backend.events(self.catalog.place(id))

    async def stream(self, request: Request, id: str, query: EventsQuery) -> Response:
        """Response that sends events as they are written."""
        last = request.headers.get("last-event-id", "")
        offset = int(last) if last.isascii() and last.isdigit() and len(last) < 16 else query.offset
        await self.threads.run(lambda: read_page(self.journal(id), offset, 1))  # a wrong offset is refused at once
        if self.followers <= 0:
            raise RequestError(503, "too many streams of events are open; ask without follow", {"Retry-After": "5"})
        self.followers -= 1  # before the next await, because other requests may come in between
        lines = follow(
            lambda: self.journal(id),
            lambda: self.state(id),
            offset,
            self.threads,
            self.poll_seconds,
            lambda: self.closing,
            self.catalog.without_paths,
        )
        return _Stream(lines, self._end_stream)

    def _end_stream(self) -> None:
        self.followers += 1


class _Stream(StreamingResponse):
    """A stream of events that calls `ended` when it ends for any reason, even before it has begun."""

    def __init__(self, events: AsyncIterator[bytes], ended: Callable[[], None]) -> None:
        super().__init__(events, media_type="text/event-stream")
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ended()


def root_of(request: Request) -> str:
    """Return the path under which a proxy serves the service; empty without one."""
    return str(request.scope.get("root_path", ""))


def json_of(content: Any) -> bytes:
    """Return a value as strict JSON; a number that is not finite becomes null."""
    return json.dumps(finite(content), allow_nan=False).encode()


def tagged(request: Request, content: bytes, media: str, headers: Mapping[str, str] | None = None) -> Response:
    """Response with an ETag made from its content."""
    headers = {**(headers or {}), "ETag": _tag(content)}
    if _client_has(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=media)


def _tag(determined_by: bytes) -> str:
    return f'"{hashlib.sha256(determined_by).hexdigest()[:32]}"'


def _client_has(request: Request, tag: str) -> bool:
    known = [each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")]
    return tag in known or "*" in known


def _dashed(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}
