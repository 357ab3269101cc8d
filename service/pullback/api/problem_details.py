"""Errors as HTTP answers: JSON `{"error": ..., "problems": [...]}` with a status, and never a traceback.

Paths of the server are removed from messages.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.routing import Match

from pullback.errors import PullbackError, SpecError, StoreError, UnavailableError

logger = logging.getLogger(__name__)

_LONGEST_SHOWN = 60
_MOST_PROBLEMS = 50


class ErrorAnswer(BaseModel):
    """Every answer with a status of 400 or above."""

    error: str
    problems: list[str] = Field([], description="The mistakes in a job or the parameters, one sentence each.")


ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorAnswer, "description": "The request is refused; `error` says why, and what to do."},
    "5XX": {"model": ErrorAnswer, "description": "The service cannot answer now; nothing is lost."},
}
"""Failures, for OpenAPI."""


class RequestError(PullbackError):
    """A request that is refused or cannot be answered.

    Attributes:
        status: HTTP status, 4xx or 5xx.
        headers: headers of the answer.
    """

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})


def error_answer(status: int, message: str, problems: Sequence[str] = (), **headers: str) -> JSONResponse:
    """Return the answer to a failed request. The name of a header has `_` in place of `-`."""
    left = len(problems) - _MOST_PROBLEMS
    shown = [*problems[:_MOST_PROBLEMS], *([f"and {left} more"] if left > 0 else [])]
    content = ErrorAnswer(error=message, problems=shown).model_dump(exclude_defaults=True)
    return JSONResponse(content, status, {name.replace("_", "-"): value for name, value in headers.items()})


def answer_errors(app: FastAPI, without_paths: Callable[[str], str]) -> None:
    """Register handlers for errors that are raised on purpose. The guard answers all others.

    Args:
        app: the service.
        without_paths: removes paths of the server from a message.
    """

    @app.exception_handler(PullbackError)
    async def on_pullback_error(request: Request, error: PullbackError) -> JSONResponse:
        if isinstance(error, RequestError):
            answer = error_answer(error.status, without_paths(str(error)))
            answer.headers.update(error.headers)
            return answer
        if isinstance(error, SpecError):
            first = without_paths(str(error).splitlines()[0])
            return error_answer(422, first, [without_paths(problem) for problem in error.problems])
        # 409: the request conflicts with what is stored, a damaged sweep or another sweep at the job's place. The same
        # request succeeds once the sweep is repaired, or the job has another store.
        status = 503 if isinstance(error, UnavailableError) else 409 if isinstance(error, StoreError) else 500
        return error_answer(status, without_paths(str(error)))

    @app.exception_handler(OSError)
    async def on_system_error(request: Request, error: OSError) -> JSONResponse:
        why = error.strerror or type(error).__name__
        logger.warning("%s %s: %s", request.method, request.url.path, error)
        message = f"the service's machine refuses an operation ({why}); nothing is lost. Report this to the operator"
        return error_answer(503, message)

    @app.exception_handler(RequestValidationError)
    async def on_wrong_parameters(request: Request, error: RequestValidationError) -> JSONResponse:
        return error_answer(422, "the request's parameters are wrong", [_sentence(detail) for detail in error.errors()])

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> JSONResponse:
        root = request.scope.get("root_path", "")
        message = f"{HTTPStatus(error.status_code).phrase.lower()}: see {root}/docs for the routes and their methods"
        answer = error_answer(error.status_code, message)
        answer.headers.update(error.headers or {})
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED and (allowed := _allowed(app, request)):
            answer.headers["Allow"] = ", ".join(allowed)
        return answer


def _allowed(app: FastAPI, request: Request) -> list[str]:
    """Return the methods of all routes at a path; the framework names those of the first route only."""
    scopes = {method: {**request.scope, "method": method} for method in ("DELETE", "GET", "PATCH", "POST", "PUT")}
    found = {
        method for method, scope in scopes.items() if any(route.matches(scope)[0] is Match.FULL for route in app.routes)
    }
    return sorted(found | ({"HEAD"} if "GET" in found else set()))


def _sentence(detail: Mapping[str, Any]) -> str:
    name = ".".join(str(part) for part in detail["loc"] if part not in ("query", "path", "body"))
    given = repr(detail.get("input"))
    shown = given if len(given) <= _LONGEST_SHOWN else f"{given[:_LONGEST_SHOWN]}…"
    if detail["type"] == "extra_forbidden":
        return f"{name}: there is no such parameter"
    return f"{name}: {detail['msg'][:1].lower()}{detail['msg'][1:]} (got {shown})"
