"""The routes of statistics: the analysis of a snapshot, and each statistic alone.

Paths, query parameters and their descriptions follow from the registry of statistics.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, cast

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field, create_model
from pydantic.fields import FieldInfo

from pullback.analysis import Analysis, choose
from pullback.analysis.request import (
    SharedOption,
    loadable_statistics,
    reads_several,
    refuse_unfit,
    shared_options,
    usual_statistics,
)
from pullback.api import answers, openapi
from pullback.api.catalog import Opened
from pullback.api.selection import AtSnapshot
from pullback.api.service import Service, json_of, root_of
from pullback.plugins import STATISTICS
from pullback.spec.option_text import plain_type, read_text
from pullback.spec.options import Options
from pullback.store.location import split_snapshot

_JSON = "application/json"
_LATE = "it may still be computed: ask for it in a moment"

Asked = Callable[[AtSnapshot], Mapping[str, Options]]
"""Turns a query into statistics with their options."""

_WITH: dict[str, Any] = {
    "with": (
        list[str],
        Field(
            [],
            description="Further sweeps of this service, for statistics that compare several: `ID`, or `ID@SNAPSHOT`.",
        ),
    )
}


def statistics_routes(service: Service) -> APIRouter:
    """Return the routes of statistics that can be loaded when the service starts."""
    router = APIRouter()
    names = loadable_statistics()

    @router.get("/v1/statistics", tags=["results"], response_model=answers.Statistics)
    async def statistics() -> Response:
        """List the statistics with the JSON schema of their options."""
        rows = [
            {
                "name": name,
                "summary": STATISTICS.module(name).SUMMARY,
                "options": STATISTICS.options(name).model_json_schema(),
            }
            for name in names
        ]
        return Response(json_of({"statistics": rows}), media_type=_JSON)

    several = shared_options(names)
    named: dict[str, Any] = {"statistic": (list[str], Field([], description=_described(names)))}
    query = _query("AnalysisQuery", several, {**named, **_WITH})
    _analysis_routes(router, service, query, _reader(several))
    for name in names:
        own = shared_options([name])
        more = _WITH if reads_several(name) else {}
        _statistic_routes(router, service, name, _query(f"{name}_query", own, more), _reader(own, (name,)))
    return router


def _analysis_routes(router: APIRouter, service: Service, query_model: Any, asked: Asked) -> None:
    """Add the routes of several statistics at once."""
    path = "/v1/sweeps/{id}/analysis"

    @router.get(path, tags=["results"], response_model=answers.Analysis, responses=openapi.reading("Pullback-Snapshot"))
    async def analysis(request: Request, id: str, query: Annotated[query_model, Query()]) -> Response:
        """Read the analysis of the snapshot. 404 if there is none; the message says whether it is being computed."""

        def read(opened: Opened) -> bytes:
            return json_of(_cached(service, opened, query, asked).to_json())

        return await service.opened(request, id, cast(AtSnapshot, query), read, _JSON)

    @router.post(path, tags=["results"], response_model=answers.AnalysisRequested, responses=_MAKING)
    async def analyze(request: Request, id: str, query: Annotated[query_model, Query()]) -> Response:
        """Compute the analysis of the snapshot, which may take a minute. 200 if it exists already."""
        return await service.threads.run(lambda: _make(service, request, id, cast(AtSnapshot, query), asked), _LATE)


def _statistic_routes(router: APIRouter, service: Service, name: str, query_model: Any, asked: Asked) -> None:
    """Add the routes of one statistic."""
    path, line = f"/v1/sweeps/{{id}}/statistics/{name}", STATISTICS.module(name).SUMMARY

    async def read(request: Request, id: str, query: Annotated[query_model, Query()]) -> Response:
        def result(opened: Opened) -> bytes:
            return json_of(_shown(_cached(service, opened, query, asked)[name]))

        return await service.opened(request, id, cast(AtSnapshot, query), result, _JSON)

    async def make(request: Request, id: str, query: Annotated[query_model, Query()]) -> Response:
        return await service.threads.run(lambda: _make(service, request, id, cast(AtSnapshot, query), asked), _LATE)

    router.add_api_route(
        path,
        read,
        methods=["GET"],
        name=f"read_{name}",
        tags=["statistics"],
        description=f"{line}: the cached result at the snapshot; 404 if there is none.",
        response_model=answers.StatisticResult,
        responses=openapi.reading("Pullback-Snapshot"),
    )
    router.add_api_route(
        path,
        make,
        methods=["POST"],
        name=f"compute_{name}",
        tags=["statistics"],
        description=f"{line}: compute it, which may take a minute; 200 if it is cached already.",
        response_model=answers.AnalysisRequested,
        responses=_MAKING,
    )


_MAKING = openapi.making(
    202, answers.AnalysisRequested, "It is being computed: GET it later.", "Location", "Pullback-Snapshot"
)


def _cached(service: Service, opened: Opened, query: AtSnapshot, asked: Asked) -> Analysis:
    return service.analyses.cached(opened, asked(query), _others(service, query))


def _others(service: Service, query: AtSnapshot) -> list[Opened]:
    """Open the further sweeps of a query; raises RequestError (404) if one does not exist."""
    return [service.catalog.open(*split_snapshot(text)) for text in getattr(query, "with", ())]


def _make(service: Service, request: Request, id: str, query: AtSnapshot, asked: Asked) -> Response:
    opened, others = service.catalog.open(id, query.snapshot), _others(service, query)
    snapshot, exists = opened.sweep.snapshot, service.analyses.start(opened, asked(query), others)
    further = [f"{other.id}@{other.sweep.snapshot}" for other in others]
    pinned = [f"snapshot={snapshot}", *(f"with={each}" for each in further)]
    given = [part for part in request.url.query.split("&") if part and not part.startswith(("snapshot=", "with="))]
    path = request.url.path.removeprefix(root_of(request))
    where = f"{root_of(request)}{path}?{'&'.join([*pinned, *given])}"
    return Response(
        answers.AnalysisRequested(
            id=id, snapshot=snapshot, further=further, state="done" if exists else "running"
        ).to_json(),
        200 if exists else 202,
        {"Location": where, "Pullback-Snapshot": snapshot},
        _JSON,
    )


def _shown(result: Any) -> dict[str, Any]:
    return {
        "statistic": result.statistic,
        "name": result.about.name,
        "snapshot": result.about.snapshot,
        "samples": result.about.samples,
        "further": [{"name": each.name, "snapshot": each.snapshot, "samples": each.samples} for each in result.further],
        "options": result.options.model_dump(mode="json"),
        "result": result.json,
        "tables": [
            {"title": table.title or result.title, "columns": table.headings, "rows": table.text()}
            for table in result.tables()
        ],
        "sentences": [*result.sentences(), *result.notes()],
        "cautions": result.cautions(),
    }


def _query(name: str, options: Sequence[SharedOption], more: Mapping[str, Any]) -> Any:
    """Return the model of a query: a snapshot, and the options as text can give them."""
    fields = {option.name: ((plain_type(option.info) or str) | None, _field(option)) for option in options}
    return create_model(name, __base__=AtSnapshot, **{**more, **fields})


def _field(option: SharedOption) -> FieldInfo:
    return cast(FieldInfo, Field(None, description=option.help))


def _reader(options: Sequence[SharedOption], names: tuple[str, ...] | None = None) -> Asked:
    """Return what turns a query into statistics with their options; `names` if the query does not name them."""

    def asked(query: AtSnapshot) -> Mapping[str, Options]:
        given = {each.name: getattr(query, each.name) for each in options}
        values = {
            each.name: read_text(each.name, each.info, given[each.name], "the query")
            for each in options
            if given[each.name] is not None
        }
        others = len(getattr(query, "with", ()))
        wanted = (getattr(query, "statistic", ()) or usual_statistics(others)) if names is None else names
        chosen = choose(wanted, values, "the query")
        refuse_unfit(chosen, others, "the query")
        return chosen

    return asked


def _described(names: Sequence[str]) -> str:
    return f"Which statistics, of {', '.join(names)}; by default the usual ones."
