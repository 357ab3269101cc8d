"""Answers about a driver, for the routes of sweeps and of jobs alike: its state, its journal, and a request to stop."""

from fastapi import Request, Response

from pullback.api import answers
from pullback.api.journal import read_page
from pullback.api.paths import in_line
from pullback.api.service import EventsQuery, Service, tagged

_JSON = "application/json"


async def status_answer(service: Service, request: Request, id: str) -> Response:
    """Return the current state of a sweep or a job, with its last snapshot in a header."""

    def read() -> Response:
        state = service.state(id)
        headers = {"Pullback-Snapshot": state.snapshot} if state.snapshot else {}
        return tagged(request, state.to_json(), _JSON, headers)

    return await service.threads.run(read)


async def events_answer(service: Service, request: Request, id: str, query: EventsQuery) -> Response:
    """Return a page of the journal, or a stream of it if the query follows it."""
    await service.threads.run(lambda: service.state(id))
    if query.follow:
        return await service.stream(request, id, query)

    def read() -> Response:
        page = read_page(service.journal(id), query.offset, query.limit)
        lines = [in_line(line, service.catalog.without_paths) for line in page.content.splitlines(keepends=True)]
        return tagged(request, b"".join(lines), "application/x-ndjson", {"Pullback-Next-Offset": str(page.next)})

    return await service.threads.run(read)


async def cancel_answer(service: Service, id: str, late: str) -> Response:
    """Ask the driver to stop, and return whether one was asked.

    Args:
        service: the service.
        id: a sweep or a job.
        late: what to advise if the answer takes too long.
    """

    def act() -> Response:
        service.state(id)
        asked = service.backend.cancel(service.catalog.place(id))
        return Response(answers.Cancelled(id=id, cancelling=asked).to_json(), 202 if asked else 200, media_type=_JSON)

    return await service.threads.run(act, late)
