"""The one middleware: who is let in, how much they may send, and that every request is answered and written down.

Pure ASGI, before routing, so that it holds for every path and method alike: routes, /docs, /metrics, what does not
exist. With a token file each request needs a token; without one only this machine itself is served, under its own
names (a page of another site whose name was bound to 127.0.0.1, or which sends a form here, is refused).
"""

import asyncio
import logging
import time
from datetime import UTC, datetime
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pullback.api.observe import Observer, Request
from pullback.api.problems import error_answer
from pullback.api.tokens import TokenFile
from pullback.errors import PullbackError

logger = logging.getLogger(__name__)

READING_METHODS = {"GET", "HEAD", "OPTIONS"}
"""What a token of scope `read` is good for."""
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
)
_LEFT = 499
"""The status written down where the other side left; none was sent."""


class Guard:
    """Wraps the service.

    Args:
        app: what it wraps.
        tokens: who is let in; None serves this machine only.
        observer: where requests are written down.
        body_bytes: the longest body that is read.
        body_seconds: how long it may take to come.
    """

    def __init__(
        self, app: ASGIApp, tokens: TokenFile | None, observer: Observer, body_bytes: int, body_seconds: float
    ) -> None:
        self._app = app
        self._tokens = tokens
        self._observer = observer
        self._body_bytes = body_bytes
        self._body_seconds = body_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of ASGI."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._request(scope, receive, send)
        else:  # there are no websockets here
            await send({"type": "websocket.close", "code": 1008})

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        came, started = datetime.now(UTC), time.perf_counter()
        status, caller = _LEFT, ""
        # the server leaves the content out of the answer to a HEAD; all else is as for a GET
        routed = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope

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
                await error_answer(refused.status, str(refused), **refused.headers)(scope, receive, sending)
            except asyncio.CancelledError:  # the server waits no longer; nothing comes after this
                if status != _LEFT:
                    raise
                message = "the service is about to end; what was asked for may be done still. Ask again when it runs"
                await error_answer(503, message, retry_after="10")(scope, receive, sending)
            except Exception:
                if status != _LEFT:  # the answer has begun: it can only be broken off
                    raise
                logger.exception("%s %s failed", scope["method"], scope["path"])
                message = "the service failed; nothing is lost. Its log says why: tell whoever runs it the time"
                await error_answer(500, message)(scope, receive, sending)
        finally:
            milliseconds = round((time.perf_counter() - started) * 1000, 1)
            route = getattr(routed.get("route"), "path", "other")
            line = Request(
                came.isoformat(timespec="milliseconds"), caller, scope["method"], scope["path"], status, milliseconds
            )
            self._observer.write(line, route)

    def _caller(self, scope: Scope) -> str:
        """The name of who asks; raises _RefusedError where they are not let in."""
        if self._tokens is None:
            _require_local(scope)
            return "local"
        given = _header(scope, b"authorization")
        scheme, _, presented = (given or b"").partition(b" ")
        try:
            token = self._tokens.find(presented.strip()) if scheme.lower() == b"bearer" else None
        except PullbackError as error:  # the file was made unfit while it was in use: nobody is let in
            logger.error("%s", error)
            raise _RefusedError(503, "the service cannot read its tokens; tell whoever runs it") from None
        if token is None:
            needed = "a token is needed: send the header `Authorization: Bearer TOKEN`"
            unknown = "no such token is known; it may have been removed. Ask whoever runs the service for another"
            raise _RefusedError(
                HTTPStatus.UNAUTHORIZED,
                unknown if scheme.lower() == b"bearer" and presented.strip() else needed,
                www_authenticate='Bearer realm="pullback"',
            )
        if scope["method"] not in READING_METHODS and token.scope != "submit":
            raise _RefusedError(
                HTTPStatus.FORBIDDEN,
                f"the token {token.name} may read only; this needs one of scope submit",
                caller=token.name,
            )
        return token.name

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        """The whole body; None where the other side left."""
        too_long = _RefusedError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"the request's body is longer than {self._body_bytes} bytes; nothing was done with it",
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
                HTTPStatus.REQUEST_TIMEOUT, f"the body did not come within {self._body_seconds:g} s", connection="close"
            ) from None


class _RefusedError(Exception):
    """A request that is not let through."""

    def __init__(self, status: int, message: str, caller: str = "", **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.caller = caller
        self.headers = headers


def is_loopback(host: str) -> bool:
    """Whether a name or address is this machine's own, without asking a name server."""
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
        raise _RefusedError(HTTPStatus.FORBIDDEN, "without a token file only the machine itself is served")
    host = _header(scope, b"host")
    if host is None or not is_loopback(_hostname(host)):
        raise _RefusedError(
            HTTPStatus.FORBIDDEN, "this host name is not served; use 127.0.0.1, or give the service a token file"
        )
    origin = _header(scope, b"origin")
    if origin is not None and origin.rpartition(b"://")[2] != host:
        raise _RefusedError(HTTPStatus.FORBIDDEN, "requests that another site's page makes are not served")


def _hostname(host: bytes) -> str:
    try:
        return urlsplit(f"//{host.decode('ascii')}").hostname or ""
    except ValueError:
        return ""


def _header(scope: Scope, name: bytes) -> bytes | None:
    """A header's value; None where it is missing, or ambiguous because it stands there twice."""
    values: list[bytes] = [value for key, value in scope["headers"] if key == name]
    return values[0] if len(values) == 1 else None


def _replay(body: bytes, receive: Receive) -> Receive:
    """Give a body that was read already, then what else comes."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
