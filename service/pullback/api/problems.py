"""Errors as answers: every one is JSON, `{"error": ..., "problems": [...]}`, with a status and never a stack trace.

Paths of the server are taken out of messages, for a remote user can do nothing with them.
"""

from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from pullback.errors import PullbackError, SpecError, StoreError

_LONGEST_SHOWN = 60
_MOST_PROBLEMS = 50


class ErrorAnswer(BaseModel):
    """What every answer of 400 and above holds."""

    error: str
    problems: list[str] = Field([], description="What is wrong in a job or the parameters, one sentence each.")


ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorAnswer, "description": "It is refused: `error` says why, and what to do."},
    "5XX": {"model": ErrorAnswer, "description": "The service cannot answer now; nothing is lost."},
}
"""How a failure is answered, for OpenAPI."""


class RequestError(PullbackError):
    """A request that is refused or cannot be answered.

    Attributes:
        status: of the answer, 4xx or 5xx.
        headers: to send along.
    """

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})


def error_answer(status: int, message: str, problems: Sequence[str] = (), **headers: str) -> JSONResponse:
    """The answer to a request that fails; a header's name has `_` in place of `-`."""
    content: dict[str, Any] = {"error": message}
    if problems:
        left = len(problems) - _MOST_PROBLEMS
        content["problems"] = [*problems[:_MOST_PROBLEMS], *([f"and {left} more"] if left > 0 else [])]
    return JSONResponse(content, status, {name.replace("_", "-"): value for name, value in headers.items()})


def answer_errors(app: FastAPI, without_paths: Callable[[str], str]) -> None:
    """Have an app answer each error that is raised on purpose; what else happens is the guard's to answer.

    Args:
        app: the service.
        without_paths: takes the server's paths out of a message.
    """

    @app.exception_handler(PullbackError)
    async def on_purpose(request: Request, error: PullbackError) -> JSONResponse:
        if isinstance(error, RequestError):
            answer = error_answer(error.status, without_paths(str(error)))
            answer.headers.update(error.headers)
            return answer
        if isinstance(error, SpecError):
            first = without_paths(str(error).splitlines()[0])
            return error_answer(422, first, [without_paths(problem) for problem in error.problems])
        # A submitted job that meets another sweep at its place can be changed; a store that cannot be read cannot.
        conflict = isinstance(error, StoreError) and request.method == "POST"
        return error_answer(409 if conflict else 500, without_paths(str(error)))

    @app.exception_handler(RequestValidationError)
    async def wrong_parameters(request: Request, error: RequestValidationError) -> JSONResponse:
        return error_answer(422, "the request's parameters are wrong", [_sentence(detail) for detail in error.errors()])

    @app.exception_handler(HTTPException)
    async def of_the_framework(request: Request, error: HTTPException) -> JSONResponse:
        message = f"{HTTPStatus(error.status_code).phrase.lower()}: see /docs for the routes and their methods"
        answer = error_answer(error.status_code, message)
        answer.headers.update(error.headers or {})
        return answer


def _sentence(detail: Mapping[str, Any]) -> str:
    name = ".".join(str(part) for part in detail["loc"] if part not in ("query", "path", "body"))
    given = repr(detail.get("input"))
    shown = given if len(given) <= _LONGEST_SHOWN else f"{given[:_LONGEST_SHOWN]}…"
    if detail["type"] == "extra_forbidden":
        return f"{name}: there is no such parameter"
    return f"{name}: {detail['msg'][:1].lower()}{detail['msg'][1:]} (got {shown})"
