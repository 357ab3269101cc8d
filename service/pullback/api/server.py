"""Runs the service: its socket, its server process, and its shutdown.

Invariant: a service that other machines can reach does not start without tokens.
"""

import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI

from pullback.api.connections import Connection
from pullback.api.guard import is_loopback
from pullback.api.tokens import TokenFile
from pullback.errors import PullbackError
from pullback.signals import handled_by

_SHUTDOWN_SECONDS = 3


class _Server(uvicorn.Server):
    """A server that ends the streams of events at shutdown; they would last as long as a sweep."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Shut down on the first signal. Running answers get some seconds; other requests get a 503."""
        if not self.should_exit:
            super().handle_exit(sig, frame)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Shut down on every signal of `signals.ENDING`, not only on Ctrl-C and SIGTERM."""
        with handled_by(lambda number, frame: self.handle_exit(signal.SIGTERM, frame)), super().capture_signals():
            yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Shut down, and end the streams of events."""
        self._app.state.service.closing = True
        await super().shutdown(sockets)


def tokens_for(host: str, path: Path | None) -> TokenFile | None:
    """Return the tokens of a service; None if it serves this machine only.

    Raises:
        PullbackError: other machines can reach the host, and there is no token; or the file is invalid.
    """
    tokens = None if path is None else TokenFile(path)
    if tokens is not None and not tokens.tokens():
        raise PullbackError(
            f"the token file {path} has no token, so every request would be refused; the service was not started. "
            f"Create one with: pullback tokens add NAME --scope read --file {path}"
        )
    if tokens is None and not is_loopback(host):
        raise PullbackError(
            f"other machines can reach {host}, so the service needs tokens; it was not started. "
            "Create one with `pullback tokens add NAME --scope read --file FILE` and start with --tokens FILE, or omit "
            "--host to serve this machine only."
        )
    return tokens


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 takes a free one.

    Raises:
        PullbackError: the address is in use, or not an address of this machine.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        return socket.create_server(address[:2], family=family)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise PullbackError(
            f"the service cannot listen at {host}, port {port}: {why}; nothing was started. Choose another --port"
        ) from error


def url_of(listening: socket.socket) -> str:
    """Return the URL of a service at a socket."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def server_of(app: FastAPI) -> uvicorn.Server:
    """Return a server; its `run(sockets=[...])` serves until `should_exit` is set or a signal arrives."""
    config = uvicorn.Config(
        app,
        lifespan="on",
        ws="none",
        log_config=None,
        log_level=logging.ERROR,  # it would log a warning for each invalid request
        access_log=False,  # the audit log has every request
        proxy_headers=False,  # anyone could forge them and pass for this machine
        server_header=False,
        http=Connection,  # with limits for idle connections
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
    )
    return _Server(config, app)


def run(app: FastAPI, listening: socket.socket, ready: Callable[[str], None]) -> None:
    """Serve until a signal ends it.

    Args:
        app: the service.
        listening: its socket; closed at the end.
        ready: called with the service's URL before the first request.
    """
    with listening:
        ready(url_of(listening))
        server_of(app).run(sockets=[listening])
