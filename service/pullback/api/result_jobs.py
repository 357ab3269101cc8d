"""The routes of jobs of every kind: submit a sweep, an analysis or an application, follow it, and read its results."""

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from pullback.api import answers, openapi
from pullback.api.following import cancel_answer, events_answer, status_answer
from pullback.api.job_requests import YAML_TYPES, read_any_job
from pullback.api.problem_details import RequestError
from pullback.api.service import EventsQuery, Service, root_of, tagged
from pullback.driving.sidecar_files import known_drivers
from pullback.errors import PullbackError
from pullback.jobs.address import is_address
from pullback.jobs.plan import ResultPlan, plan_results
from pullback.jobs.state import planned_at
from pullback.spec import AnalysisJob, ApplicationJob, JobSpec, job_schema
from pullback.store.location import split_snapshot

_JSON = "application/json"
_EXAMPLE = {
    "kind": "analysis",
    "name": "faces",
    "sweep": "faces",
    "statistics": {"anisotropy": {"draws": 1000}},
}


def job_routes(service: Service) -> APIRouter:
    """Return the routes under `/v1/jobs`. The schema of a submitted job has the options of every plug-in."""
    router = APIRouter(tags=["jobs"])
    media = {"schema": job_schema(), "example": _EXAMPLE}
    body: dict[str, Any] = {
        "requestBody": {"required": True, "content": dict.fromkeys((_JSON, *YAML_TYPES), media)},
    }

    @router.post(
        "/v1/jobs",
        openapi_extra=body,
        response_model=answers.JobSubmitted,
        responses=openapi.making(201, answers.JobSubmitted, "It is new.", "Location"),
    )
    async def submit(request: Request) -> Response:
        """Submit a job of any kind. The same job again attaches, or continues if it stopped, and is answered 200."""
        content = await request.body()

        def act() -> Response:
            job = read_any_job(content, request.headers.get("content-type", ""), service.allow_code)
            if isinstance(job, JobSpec):
                path = service.catalog.place(job.name)
                done = service.backend.submit(job.model_copy(update={"store": str(path)}))
            else:
                done = service.backend.submit_results(_planned(service, job))
            return Response(
                answers.JobSubmitted(id=done.id, kind=job.kind, created=done.created).to_json(),
                201 if done.created else 200,
                {"Location": f"{root_of(request)}/v1/jobs/{done.id}/status"},
                _JSON,
            )

        late = "the job may still be accepted: ask for its status, or submit it again, which starts nothing twice"
        return await service.threads.run(act, late)

    @router.get("/v1/jobs", response_model=answers.JobList, responses=openapi.reading())
    async def jobs(request: Request) -> Response:
        """List the analyses and applications, with the state of each; `/v1/sweeps` lists the sweeps."""

        def read() -> Response:
            ids = sorted(filter(is_address, known_drivers(service.catalog.folder)))
            content = answers.JobList(jobs=[_summary(service, id) for id in ids])
            return tagged(request, content.to_json(service.catalog.without_paths), _JSON)

        return await service.threads.run(read)

    @router.get("/v1/jobs/{id}", response_model=answers.JobDetails, responses=openapi.reading())
    async def details(request: Request, id: str) -> Response:
        """Show what an analysis or an application computes, and which of its results are finished."""

        def read() -> Response:
            return tagged(request, _details(service, id).to_json(service.catalog.without_paths), _JSON)

        return await service.threads.run(read)

    @router.get("/v1/jobs/{id}/status", response_model=answers.Status, responses=openapi.reading("Pullback-Snapshot"))
    async def status(request: Request, id: str) -> Response:
        """Show the state of a job. Counts are of samples for a sweep, and of results for other jobs."""
        return await status_answer(service, request, id)

    @router.get(
        "/v1/jobs/{id}/events",
        response_class=Response,
        responses=openapi.reading("Pullback-Next-Offset", ndjson=openapi.TEXT, events=openapi.TEXT),
    )
    async def events(request: Request, id: str, query: Annotated[EventsQuery, Query()]) -> Response:
        """Read a job's journal, one JSON object a line. `Pullback-Next-Offset` is the next page's `offset`."""
        return await events_answer(service, request, id, query)

    @router.post(
        "/v1/jobs/{id}/cancel",
        response_model=answers.Cancelled,
        responses=openapi.making(202, answers.Cancelled, "Its driver is asked."),
    )
    async def cancel(id: str) -> Response:
        """Ask the driver to stop after the current step. Results are kept; submit the same job to resume."""
        return await cancel_answer(service, id, "it may still be asked to stop: ask for its status")

    @router.get(
        "/v1/jobs/{id}/results", response_model=answers.JobResults, responses=openapi.reading("Pullback-Snapshot")
    )
    async def results(request: Request, id: str) -> Response:
        """Read the finished results of an analysis or an application; 404 before the first."""

        def read() -> Response:
            plan = _known(service, id)
            loaded = {part.name: part.load() for part in plan.parts}
            found = {name: result.json for name, result in loaded.items() if result is not None}
            if not found:
                raise RequestError(404, f"{id} has no results yet; GET /v1/jobs/{id}/status shows its state")
            headers = {"Pullback-Snapshot": plan.snapshot} if plan.snapshot else {}
            content = answers.JobResults(id=id, snapshot=plan.snapshot, results=found)
            return tagged(request, content.to_json(service.catalog.without_paths), _JSON, headers)

        return await service.threads.run(read)

    return router


def _planned(service: Service, job: AnalysisJob | ApplicationJob) -> ResultPlan:
    """Plan a submitted job, whose `sweep` is an id of this service.

    Raises:
        RequestError: (404) there is no such sweep or snapshot.
        SpecError: the job lacks what its application needs.
    """
    if job.sweep is None:
        return plan_results(job.model_copy(update={"store": str(service.catalog.place(job.name))}))
    placed: dict[str, Any] = {"sweep": str(service.catalog.open(job.sweep, job.snapshot).sweep.path)}
    if isinstance(job, AnalysisJob):
        placed["others"] = tuple(_place(service, other) for other in job.others)
    return plan_results(job.model_copy(update=placed))


def _place(service: Service, named: str) -> str:
    """Return the path of a further sweep, with the snapshot that is named; raises RequestError (404) without it."""
    id, snapshot = split_snapshot(named)
    path = Path(service.catalog.open(id, snapshot).sweep.path)
    return str(path) if snapshot is None else f"{path}@{snapshot}"


def _known(service: Service, id: str) -> ResultPlan:
    plan = planned_at(service.catalog.place(id)) if is_address(id) else None
    if plan is None:
        raise RequestError(404, f"there is no analysis or application {id}; GET /v1/jobs lists all")
    return plan


def _details(service: Service, id: str) -> answers.JobDetails:
    plan = _known(service, id)
    content = plan.as_dict()
    return answers.JobDetails(
        id=id,
        kind=plan.job.kind,
        name=plan.job.name,
        sweep=None if plan.sweep is None else plan.base.name,
        snapshot=plan.snapshot,
        further=[other.location.name for other in plan.others],
        results=[answers.JobResult(**result) for result in content["results"]],
    )


def _summary(service: Service, id: str) -> answers.ListedJob | answers.UnreadableJob:
    """Return a row of the list. A job that cannot be read does not hide the others."""
    try:
        state = service.state(id)
    except (PullbackError, OSError) as error:
        return answers.UnreadableJob(id=id, error=str(error))
    return answers.ListedJob(id=id, state=state.state, planned=state.planned, good=state.good, message=state.message)
