"""Running the service: where it may listen, and its process.

Invariant: beyond this machine nobody is served without a token; such a service does not start.
"""

import logging
import socket
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI

from pullback.api.guard import is_loopback
from pullback.api.tokens import TokenFile
from pullback.errors import PullbackError

_CONNECTIONS = 256
_GOODBYE_SECONDS = 3


class _Server(uvicorn.Server):
    """A server that tells the streams of events when it ends: they would go on for as long as a sweep does."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End on a signal; a second one changes nothing. Answers under way have some seconds; others get a 503."""
        if not self.should_exit:
            super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End."""
        self._app.state.service.closing = True
        await super().shutdown(sockets)


def tokens_for(host: str, path: Path | None) -> TokenFile | None:
    """The tokens of a service at a host; None where it serves this machine only.

    Raises:
        PullbackError: the host is another than this machine's own, and there is no token to be let in with; or the
            file is unfit.
    """
    tokens = None if path is None else TokenFile(path)
    if tokens is not None and not tokens.tokens():
        raise PullbackError(
            f"the token file {path} has no token in it, so nobody could be let in; the service was not started. "
            f"Make one with: pullback tokens add NAME --scope read --file {path}"
        )
    if tokens is None and not is_loopback(host):
        raise PullbackError(
            f"at {host} others than this machine could reach the service, which then needs tokens; it was not started. "
            "Make one with `pullback tokens add NAME --scope read --file FILE` and start with --tokens FILE, or leave "
            "out --host to serve this machine only."
        )
    return tokens


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes any that is free.

    Raises:
        PullbackError: the address is taken, or not this machine's.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        return socket.create_server(address[:2], family=family)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise PullbackError(
            f"the service cannot listen at {host}, port {port}: {why}; nothing was started. Take another --port"
        ) from error


def url_of(listening: socket.socket) -> str:
    """The address of a service that listens there."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def server_of(app: FastAPI) -> uvicorn.Server:
    """A server of the service; `run(sockets=[...])` serves until `should_exit` or a signal."""
    config = uvicorn.Config(
        app,
        lifespan="on",
        ws="none",
        log_config=None,
        log_level=logging.WARNING,
        access_log=False,  # the audit log has every request
        proxy_headers=False,  # anybody could say with them that they are this machine
        server_header=False,
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=_GOODBYE_SECONDS,
    )
    return _Server(config, app)


def run(app: FastAPI, listening: socket.socket, ready: Callable[[str], None]) -> None:
    """Serve until a signal ends it.

    Args:
        app: the service.
        listening: where; closed at the end.
        ready: called with the service's address before the first request.
    """
    with listening:
        ready(url_of(listening))
        server_of(app).run(sockets=[listening])
