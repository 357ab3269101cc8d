"""The middleware: checks who may send a request and how large it is, answers errors, and records every request.

It is pure ASGI and runs before routing, so it covers every path and method: routes, /docs, /metrics and unknown paths.
With a token file, each request needs a token, or for reading the cookie of a session; only the health probe and the
login are open. Without a token file, only this machine is served, under its own names: requests from pages of other
sites are refused, also if their name resolves to 127.0.0.1.
"""

import asyncio
import logging
import math
import time
from datetime import UTC, datetime
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pullback.api.login import to_login, wants_page
from pullback.api.observe import Observer, Request
from pullback.api.problem_details import error_answer
from pullback.api.sessions import Sessions
from pullback.errors import PullbackError

logger = logging.getLogger(__name__)

READING_METHODS = {"GET", "HEAD", "OPTIONS"}
"""Methods that a token of scope `read` allows."""
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
)
_OPEN = {("GET", "/healthz"), ("HEAD", "/healthz"), ("GET", "/login"), ("HEAD", "/login"), ("POST", "/login")}
"""Requests that need no token: the health probe and the login."""
_LOGOUT = ("POST", "/logout")
"""Ends the session of the request, if it has one."""
_WARN_SECONDS = 60.0
_LEFT = 499
"""Status recorded if the client disconnected before an answer."""


class Guard:
    """Wraps the service.

    Args:
        app: the service.
        sessions: valid tokens and cookies; None serves this machine only.
        observer: records requests.
        root_path: the path under which a proxy serves the service; links begin with it.
        body_bytes: largest body.
        body_seconds: longest time to receive a body.
    """

    def __init__(
        self,
        app: ASGIApp,
        sessions: Sessions | None,
        observer: Observer,
        root_path: str,
        body_bytes: int,
        body_seconds: float,
    ) -> None:
        self._app = app
        self._sessions = sessions
        self._observer = observer
        self._root_path = root_path
        self._body_bytes = body_bytes
        self._body_seconds = body_seconds
        self._warned = -math.inf

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle an ASGI connection."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._request(scope, receive, send)
        else:  # websockets are not supported
            await send({"type": "websocket.close", "code": 1008})

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        came, started = datetime.now(UTC), time.perf_counter()
        status, caller = _LEFT, ""
        logged_in: dict[str, str] = {}
        scope = {**scope, "pullback.caller": logged_in, "root_path": self._root_path}
        # a HEAD is routed as a GET; the server omits the content
        routed = {**scope, "method": "GET"} if scope["method"] == "HEAD" else {**scope}
        # a proxy may have removed the root path, which mounted folders need
        routed["path"] = self._root_path + route_of(scope)

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = {name.lower() for name, _ in message["headers"]}
                fixed = [*_HEADERS, (b"cache-control", b"private, no-cache")]
                message["headers"] = [*message["headers"], *(pair for pair in fixed if pair[0] not in given)]
            await send(message)

        try:
            try:
                caller = self._caller(scope)
                body = await self._body(scope, receive)
                if body is not None:
                    await self._app(routed, _replay(body, receive), sending)
            except _RefusedError as refused:
                caller = refused.caller
                answer = refused.page or error_answer(refused.status, str(refused), **refused.headers)
                await answer(scope, receive, sending)
            except asyncio.CancelledError:  # the server is shutting down
                if status != _LEFT:
                    raise
                message = "the service is shutting down; the request may still be carried out. Ask again when it runs"
                await error_answer(503, message, retry_after="10")(scope, receive, sending)
            except Exception:
                if status != _LEFT:  # the answer has begun, so it can only be aborted
                    raise
                logger.exception("%s %s failed", scope["method"], scope["path"])
                message = "the service failed; nothing is lost. Its log has the reason: report the time to the operator"
                await error_answer(500, message)(scope, receive, sending)
        finally:
            milliseconds = round((time.perf_counter() - started) * 1000, 1)
            route = getattr(routed.get("route"), "path", "other")
            caller = caller or logged_in.get("name", "")
            line = Request(
                came.isoformat(timespec="milliseconds"), caller, scope["method"], scope["path"], status, milliseconds
            )
            self._observer.write(line, route)

    def _caller(self, scope: Scope) -> str:
        """Return the name of the caller's token; raises _RefusedError for an invalid one."""
        if self._sessions is None:
            _require_local(scope)
            return "local"
        method, route = scope["method"], route_of(scope)
        if (method, route) in _OPEN or (method, route) == _LOGOUT:
            return ""
        given = _header(scope, b"authorization")
        scheme, _, presented = (given or b"").partition(b" ")
        bears = scheme.lower() == b"bearer" and bool(presented.strip())
        try:
            token = self._sessions.tokens.find(presented.strip()) if bears else None
            if given is None and method in READING_METHODS:
                token = self._sessions.find([value for name, value in scope["headers"] if name == b"cookie"])
        except PullbackError as error:  # the file became invalid while the service runs: refuse every request
            if time.monotonic() - self._warned > _WARN_SECONDS:  # at most once a minute
                self._warned = time.monotonic()
                logger.error("%s", error)
            raise _RefusedError(503, "the service cannot read its tokens; report this to the operator") from None
        if token is None:
            needed = "this needs a token: send the header `Authorization: Bearer TOKEN`"
            unknown = "the token is unknown; it may have been removed. Ask the operator of the service for another"
            raise _RefusedError(
                HTTPStatus.UNAUTHORIZED,
                unknown if bears else needed,
                page=to_login(scope, route) if given is None and wants_page(scope) else None,
                www_authenticate='Bearer realm="pullback"',
            )
        if method not in READING_METHODS and token.scope != "submit":
            raise _RefusedError(
                HTTPStatus.FORBIDDEN,
                f"the token {token.name} has the scope read; this request needs the scope submit",
                caller=token.name,
            )
        return token.name

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        """Return the whole body; None if the client disconnected."""
        too_long = _RefusedError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"the body of the request exceeds {self._body_bytes} bytes; it was ignored",
            connection="close",
        )
        declared = _header(scope, b"content-length") or b"0"
        if not declared.isdigit() or len(declared) > 12 or int(declared) > self._body_bytes:
            raise too_long
        body = bytearray()
        try:
            async with asyncio.timeout(self._body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    body += message.get("body", b"")
                    if len(body) > self._body_bytes:
                        raise too_long
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            raise _RefusedError(
                HTTPStatus.REQUEST_TIMEOUT,
                f"the body took longer than {self._body_seconds:g} s",
                connection="close",
            ) from None


class _RefusedError(Exception):
    """A request that is refused."""

    def __init__(
        self, status: int, message: str, caller: str = "", page: Response | None = None, **headers: str
    ) -> None:
        super().__init__(message)
        self.page = page
        """Answer for a browser, in place of JSON."""
        self.status = status
        self.caller = caller
        self.headers = headers


def route_of(scope: Scope) -> str:
    """Return a request's path without the root path, which a proxy may have removed already."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    rest = path.removeprefix(root)
    return rest if root and path.startswith(root) and (not rest or rest.startswith("/")) else path


def is_loopback(host: str) -> bool:
    """Return whether a name or address is loopback, without a name lookup."""
    if host.lower() == "localhost":
        return True
    try:
        address: Any = ip_address(host.strip("[]"))
    except ValueError:
        return False
    return bool((getattr(address, "ipv4_mapped", None) or address).is_loopback)


def _require_local(scope: Scope) -> None:
    client = scope.get("client")
    if client is None or not is_loopback(client[0]):
        raise _RefusedError(HTTPStatus.FORBIDDEN, "without a token file, only the service's own machine is served")
    host = _header(scope, b"host")
    if host is None or not is_loopback(_hostname(host)):
        raise _RefusedError(
            HTTPStatus.FORBIDDEN, "this host name is not served; use 127.0.0.1, or start the service with a token file"
        )
    origin = _header(scope, b"origin")
    if origin is not None and origin.rpartition(b"://")[2] != host:
        raise _RefusedError(HTTPStatus.FORBIDDEN, "requests from pages of other sites are refused")


def _hostname(host: bytes) -> str:
    try:
        return urlsplit(f"//{host.decode('ascii')}").hostname or ""
    except ValueError:
        return ""


def _header(scope: Scope, name: bytes) -> bytes | None:
    """Return a header's value; None if it is missing or occurs twice."""
    values: list[bytes] = [value for key, value in scope["headers"] if key == name]
    return values[0] if len(values) == 1 else None


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a receive function that first gives a body that was read already."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
