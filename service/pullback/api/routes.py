"""The routes: parameters, answers, and what OpenAPI states about both."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, ConfigDict, Field

from pullback.api import answers, openapi
from pullback.api.following import cancel_answer, events_answer, status_answer
from pullback.api.job_requests import YAML_TYPES, read_job
from pullback.api.result_jobs import job_routes
from pullback.api.selection import AtSnapshot, EigenvectorsQuery, SpectraQuery, eigenvectors, spectra
from pullback.api.service import EventsQuery, Service, root_of, tagged
from pullback.api.statistics import statistics_routes
from pullback.spec import job_schema
from pullback.store.history import history

_JSON = "application/json"
_NO_SCRIPTS = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; sandbox allow-downloads"
_EXAMPLE = {
    "name": "faces",
    "generator": {"name": "dcgan-faces"},
    "distance": {"name": "lpips", "trunk": "alex"},
    "samples": {"count": 100, "seed": 0},
}


class ListQuery(BaseModel):
    """Query parameters: which page of the list."""

    model_config = ConfigDict(extra="forbid")

    after: str = Field("", max_length=100, description="`next` of the previous page.")
    limit: int = Field(100, ge=1, le=1000)


class SnapshotsQuery(BaseModel):
    """Query parameters: how many of the last snapshots."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(100, ge=1, le=1000)


def health_route() -> APIRouter:
    """Return the route of the health probe, which needs no token."""
    router = APIRouter()

    @router.get("/healthz", tags=["service"])
    async def health() -> answers.Health:
        """Answers if the service is alive. Needs no token."""
        return answers.Health(status="ok")

    return router


def routes(service: Service) -> APIRouter:
    """Return every route but the health probe."""
    router = APIRouter()
    router.include_router(job_routes(service))
    media = {"schema": job_schema("sweep"), "example": _EXAMPLE}
    job: dict[str, Any] = {"requestBody": {"required": True, "content": dict.fromkeys((_JSON, *YAML_TYPES), media)}}

    @router.get(
        "/metrics",
        tags=["service"],
        response_class=Response,
        responses={200: {"content": {CONTENT_TYPE_LATEST: openapi.TEXT}}},
    )
    async def metrics() -> Response:
        """Requests, response times and the state of every sweep, for Prometheus."""
        content = await service.threads.run(service.observer.metrics)  # in a thread, because it reads stores
        return Response(content, headers={"Content-Type": CONTENT_TYPE_LATEST})

    @router.get("/v1/sweeps", tags=["sweeps"], response_model=answers.Page, responses=openapi.reading())
    async def sweeps(request: Request, query: Annotated[ListQuery, Query()]) -> Response:
        """List the sweeps by id, with their states. `next` is null on the last page."""

        def read() -> Response:
            ids = [id for id in service.ids() if id > query.after]
            page = ids[: query.limit]
            content = answers.Page(
                sweeps=[service.summary(id) for id in page], next=page[-1] if len(ids) > len(page) else None
            )
            return tagged(request, content.to_json(service.catalog.without_paths), _JSON)

        return await service.threads.run(read, "ask for fewer at once, with limit")

    @router.post(
        "/v1/sweeps",
        tags=["sweeps"],
        openapi_extra=job,
        response_model=answers.Submitted,
        responses=openapi.making(201, answers.Submitted, "The sweep is new.", "Location"),
    )
    async def submit(request: Request) -> Response:
        """Submit a job. The same job again resumes its sweep if it has stopped, and is answered 200."""
        body = await request.body()

        def act() -> Response:
            job = read_job(body, request.headers.get("content-type", ""), service.allow_code)
            path = service.catalog.place(job.name)
            done = service.backend.submit(job.model_copy(update={"store": str(path)}))
            return Response(
                answers.Submitted(id=done.id, created=done.created).to_json(),
                201 if done.created else 200,
                {"Location": f"{root_of(request)}/v1/sweeps/{done.id}/status"},
                _JSON,
            )

        late = "the job may still be accepted: read its status, or submit it again, which starts nothing twice"
        return await service.threads.run(act, late)

    @router.get(
        "/v1/sweeps/{id}",
        tags=["sweeps"],
        response_model=answers.ServedSweep,
        responses=openapi.reading("Pullback-Snapshot"),
    )
    async def sweep(request: Request, id: str, query: Annotated[AtSnapshot, Query()]) -> Response:
        """Describe a sweep: what it was computed from, and its progress at the snapshot."""
        return await service.at_snapshot(request, id, query, service.details, _JSON)

    @router.get(
        "/v1/sweeps/{id}/snapshots",
        tags=["sweeps"],
        response_model=answers.Snapshots,
        responses=openapi.reading(),
    )
    async def snapshots(request: Request, id: str, query: Annotated[SnapshotsQuery, Query()]) -> Response:
        """List the snapshots of a sweep, the newest first."""

        def read() -> Response:
            opened = service.catalog.open(id)
            rows = [answers.Snapshot(**each.as_dict()) for each in history(opened.sweep.path, query.limit)]
            return tagged(request, answers.Snapshots(id=id, snapshots=rows).to_json(), _JSON)

        return await service.threads.run(read, "ask for fewer at once, with limit")

    @router.get(
        "/v1/sweeps/{id}/status",
        tags=["sweeps"],
        response_model=answers.Status,
        responses=openapi.reading("Pullback-Snapshot"),
    )
    async def status(request: Request, id: str) -> Response:
        """Show the current state of a sweep, and whether a driver is running."""
        return await status_answer(service, request, id)

    @router.get(
        "/v1/sweeps/{id}/events",
        tags=["sweeps"],
        response_class=Response,
        responses=openapi.reading("Pullback-Next-Offset", ndjson=openapi.TEXT, events=openapi.TEXT),
    )
    async def events(request: Request, id: str, query: Annotated[EventsQuery, Query()]) -> Response:
        """Read the journal, one JSON object a line. `Pullback-Next-Offset` is the `offset` of the next page."""
        return await events_answer(service, request, id, query)

    @router.post(
        "/v1/sweeps/{id}/cancel",
        tags=["sweeps"],
        response_model=answers.Cancelled,
        responses=openapi.making(202, answers.Cancelled, "Its driver is asked to stop."),
    )
    async def cancel(id: str) -> Response:
        """Ask the driver to stop after the current batch. Results are kept; submit the same job to resume."""
        return await cancel_answer(service, id, "the driver may still be asked to stop: read the status")

    @router.get("/v1/sweeps/{id}/spectra", tags=["results"], response_model=answers.Spectra, responses=openapi.NUMBERS)
    async def read_spectra(request: Request, id: str, query: Annotated[SpectraQuery, Query()]) -> Response:
        """Read the eigenvalues, descending, of the good samples of a range, with the sample numbers."""
        return await service.table(request, id, query, lambda opened: spectra(opened, query))

    @router.get(
        "/v1/sweeps/{id}/eigenvectors", tags=["results"], response_model=answers.Eigenvectors, responses=openapi.NUMBERS
    )
    async def read_eigenvectors(request: Request, id: str, query: Annotated[EigenvectorsQuery, Query()]) -> Response:
        """Read the eigenvectors of one sample, one a row, with its eigenvalues and its latent code."""
        return await service.table(request, id, query, lambda opened: eigenvectors(opened, query))

    @router.get(
        "/v1/sweeps/{id}/report",
        tags=["results"],
        response_class=Response,
        responses=openapi.reading("Pullback-Snapshot", html=openapi.TEXT),
    )
    async def report(request: Request, id: str, query: Annotated[AtSnapshot, Query()]) -> Response:
        """Read the report of the snapshot, an HTML page. It needs the analysis; `pullback report` adds images."""
        return await service.opened(
            request, id, query, service.report, "text/html; charset=utf-8", Content_Security_Policy=_NO_SCRIPTS
        )

    router.include_router(statistics_routes(service))
    return router
