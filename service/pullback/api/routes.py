"""The routes: what is asked for, in which order it is looked up, and what OpenAPI says of the answer."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, ConfigDict, Field

from pullback.api import answers
from pullback.api.catalog import Opened
from pullback.api.jobs import YAML_TYPES, read_job
from pullback.api.journal import read_page
from pullback.api.paths import in_line
from pullback.api.selection import At, EigenvectorsQuery, SpectraQuery, eigenvectors, spectra
from pullback.api.service import EventsQuery, Service, json_of, tagged
from pullback.store.reader import history

_JSON = "application/json"
_NO_SCRIPTS = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; sandbox"
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


def routes(service: Service) -> APIRouter:
    """Every route of the service."""
    router = APIRouter()

    @router.get("/healthz", tags=["service"])
    async def health() -> answers.Health:
        """Whether the service answers."""
        return answers.Health(status="ok")

    @router.get(
        "/metrics",
        tags=["service"],
        response_class=Response,
        responses={200: {"content": {CONTENT_TYPE_LATEST: answers.TEXT}}},
    )
    async def metrics() -> Response:
        """Requests and times of the service, and how the sweeps are, for Prometheus."""
        content = await service.threads.run(service.observer.metrics)  # it reads stores
        return Response(content, headers={"Content-Type": CONTENT_TYPE_LATEST})

    @router.get("/v1/sweeps", tags=["sweeps"], response_model=answers.Page, responses=answers.reading())
    async def sweeps(request: Request, query: Annotated[ListQuery, Query()]) -> Response:
        """The sweeps, by id, with the state of each; `next` is null on the last page."""

        def read() -> Response:
            ids = [id for id in service.ids() if id > query.after]
            page = ids[: query.limit]
            content = {"sweeps": [service.summary(id) for id in page], "next": None}
            if len(ids) > len(page):
                content["next"] = page[-1]  # type: ignore[assignment]
            return tagged(request, json_of(content), _JSON)

        return await service.threads.run(read, "ask for fewer at once, with limit")

    @router.post(
        "/v1/sweeps",
        tags=["sweeps"],
        openapi_extra=_JOB,
        response_model=answers.Submitted,
        responses=answers.making(201, answers.Submitted, "It is new.", "Location"),
    )
    async def submit(request: Request) -> Response:
        """Submit a job. The same job again is the same sweep: it is gone on with if it stopped, and answered 200."""
        body = await request.body()

        def act() -> Response:
            job = read_job(body, request.headers.get("content-type", ""), service.allow_code)
            path = service.catalog.place(job.name)
            done = service.backend.submit(job.model_copy(update={"store": str(path)}))
            return Response(
                json_of({"id": done.id, "created": done.created}),
                201 if done.created else 200,
                {"Location": f"/v1/sweeps/{done.id}/status"},
                _JSON,
            )

        late = "the job may still be accepted: ask for its status, or submit it again, which starts nothing twice"
        return await service.threads.run(act, late)

    @router.get(
        "/v1/sweeps/{id}",
        tags=["sweeps"],
        response_model=answers.SweepDetails,
        responses=answers.reading("Pullback-Snapshot"),
    )
    async def sweep(request: Request, id: str, query: Annotated[At, Query()]) -> Response:
        """What a sweep is, what made it, and how far it was at the snapshot."""
        return await service.at_snapshot(request, id, query, lambda opened: json_of(service.details(opened)), _JSON)

    @router.get(
        "/v1/sweeps/{id}/snapshots",
        tags=["sweeps"],
        response_model=answers.Snapshots,
        responses=answers.reading(),
    )
    async def snapshots(request: Request, id: str, query: Annotated[SnapshotsQuery, Query()]) -> Response:
        """The snapshots that can be asked for, the last one first."""

        def read() -> Response:
            opened = service.catalog.open(id)
            content = {"id": id, "snapshots": [each.as_dict() for each in history(opened.sweep.path, query.limit)]}
            return tagged(request, json_of(content), _JSON)

        return await service.threads.run(read, "ask for fewer at once, with limit")

    @router.get(
        "/v1/sweeps/{id}/status",
        tags=["sweeps"],
        response_model=answers.Status,
        responses=answers.reading("Pullback-Snapshot"),
    )
    async def status(request: Request, id: str) -> Response:
        """Where a sweep is now, and whether anybody is at work on it."""

        def read() -> Response:
            state = service.state(id)
            snapshot = state.get("snapshot")
            return tagged(request, json_of(state), _JSON, {"Pullback-Snapshot": snapshot} if snapshot else {})

        return await service.threads.run(read)

    @router.get(
        "/v1/sweeps/{id}/events",
        tags=["sweeps"],
        response_class=Response,
        responses=answers.reading("Pullback-Next-Offset", ndjson=answers.TEXT, events=answers.TEXT),
    )
    async def events(request: Request, id: str, query: Annotated[EventsQuery, Query()]) -> Response:
        """What happened: a JSON object a line; the header `Pullback-Next-Offset` says where to go on."""
        await service.threads.run(lambda: service.state(id))
        if query.follow:
            return await service.stream(request, id, query)

        def read() -> Response:
            page = read_page(service.journal(id), query.offset, query.limit)
            lines = [in_line(line, service.catalog.without_paths) for line in page.content.splitlines(keepends=True)]
            return tagged(request, b"".join(lines), "application/x-ndjson", {"Pullback-Next-Offset": str(page.next)})

        return await service.threads.run(read)

    @router.post(
        "/v1/sweeps/{id}/cancel",
        tags=["sweeps"],
        response_model=answers.Cancelled,
        responses=answers.making(202, answers.Cancelled, "Its driver is asked."),
    )
    async def cancel(id: str) -> Response:
        """Ask for a stop after the work at hand. What is done is kept; submit the same job to go on."""

        def act() -> Response:
            service.state(id)
            asked = service.backend.cancel(service.catalog.place(id))
            return Response(json_of({"id": id, "cancelling": asked}), 202 if asked else 200, media_type=_JSON)

        return await service.threads.run(act, "it may still be asked to stop: ask for its status")

    @router.get("/v1/sweeps/{id}/spectra", tags=["results"], response_model=answers.Spectra, responses=answers.NUMBERS)
    async def read_spectra(request: Request, id: str, query: Annotated[SpectraQuery, Query()]) -> Response:
        """Eigenvalues, descending, of the good samples of a range, with the samples' numbers."""
        return await service.table(request, id, query, lambda opened: spectra(opened, query))

    @router.get(
        "/v1/sweeps/{id}/eigenvectors", tags=["results"], response_model=answers.Eigenvectors, responses=answers.NUMBERS
    )
    async def read_eigenvectors(request: Request, id: str, query: Annotated[EigenvectorsQuery, Query()]) -> Response:
        """Eigenvectors, one a row, of one sample, with its eigenvalues and its latent code."""
        return await service.table(request, id, query, lambda opened: eigenvectors(opened, query))

    @router.get(
        "/v1/sweeps/{id}/analysis",
        tags=["results"],
        response_model=answers.Analysis,
        responses=answers.reading("Pullback-Snapshot"),
    )
    async def analysis(request: Request, id: str, query: Annotated[At, Query()]) -> Response:
        """The analysis of the snapshot, where one was made; else 404, which says whether it is being made."""

        def make(opened: Opened) -> bytes:
            return json_of(service.analyses.kept(opened).to_json())

        return await service.opened(request, id, query, make, _JSON)

    @router.post(
        "/v1/sweeps/{id}/analysis",
        tags=["results"],
        response_model=answers.AnalysisAsked,
        responses=answers.making(
            202, answers.AnalysisAsked, "It is being made: GET it.", "Location", "Pullback-Snapshot"
        ),
    )
    async def analyze(id: str, query: Annotated[At, Query()]) -> Response:
        """Have the analysis of the snapshot made, which may take a minute; 200 where it is kept already."""

        def act() -> Response:
            opened = service.catalog.open(id, query.snapshot)
            snapshot, kept = opened.sweep.snapshot, service.analyses.make(opened)
            return Response(
                json_of({"id": id, "snapshot": snapshot, "state": "done" if kept else "running"}),
                200 if kept else 202,
                {"Location": f"/v1/sweeps/{id}/analysis?snapshot={snapshot}", "Pullback-Snapshot": snapshot},
                _JSON,
            )

        return await service.threads.run(act, "it may be made still: ask for it in a moment")

    @router.get(
        "/v1/sweeps/{id}/report",
        tags=["results"],
        response_class=Response,
        responses=answers.reading("Pullback-Snapshot", html=answers.TEXT),
    )
    async def report(request: Request, id: str, query: Annotated[At, Query()]) -> Response:
        """The report of the snapshot, an HTML page, once its analysis is made; with images where it was drawn last."""
        return await service.opened(
            request, id, query, service.report, "text/html; charset=utf-8", Content_Security_Policy=_NO_SCRIPTS
        )

    return router
