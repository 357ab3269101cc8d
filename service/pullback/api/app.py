"""Assembles the service: settings, routes, limits, and the guard around them.

Every answer about results belongs to one snapshot, named in the header `Pullback-Snapshot`. The same request with that
snapshot always gives the same answer. An analysis is computed once a snapshot and cached.
"""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI, Security
from fastapi.security import HTTPBearer
from fastapi_offline import FastAPIOffline
from starlette.middleware import Middleware

import pullback
from pullback.api.analyses import Analyses
from pullback.api.backend import Backend, LocalBackend
from pullback.api.catalog import Catalog
from pullback.api.guard import Guard
from pullback.api.limits import Threads
from pullback.api.login import login_routes
from pullback.api.observe import Observer
from pullback.api.problem_details import ERRORS, answer_errors
from pullback.api.routes import health_route, routes
from pullback.api.service import Service
from pullback.api.sessions import Sessions
from pullback.api.sweep_metrics import SweepCollector
from pullback.api.tokens import TokenFile
from pullback.errors import PullbackError
from pullback.spec.yaml_reader import MAX_BYTES

_DESCRIPTION = """Sweeps of metrics of image generators: submit jobs, follow them, and read their results.

Results are read at a snapshot. The header `Pullback-Snapshot` names it; pass it as `snapshot` to get the same answer
again (a report may have gained images meanwhile). The analysis of a snapshot is computed once,
on request (POST), and cached."""


@dataclass(frozen=True)
class Settings:
    """Settings of a service."""

    allow_code: bool = False
    """Whether jobs may name code and files of this machine."""
    read_seconds: float = 30.0
    """Longest time of a request."""
    threads: int = 4
    """Requests that are computed at once. Reading is mostly Python, so more would not be faster."""
    waiting: int = 60
    """Further requests that may wait."""
    analyses: int = 1
    """Analyses that are computed at once."""
    followers: int = 32
    """Streams of events that may be open at once."""
    body_bytes: int = MAX_BYTES
    """Largest body of a request: that of a job."""
    body_seconds: float = 10.0
    """Longest time to receive a body."""
    poll_seconds: float = 0.5
    """Interval at which a stream of events looks for new ones."""
    root_path: str = ""
    """The path under which a proxy serves this service, such as `/pullback`; see `root_path_of`."""


def create_app(
    folder: Path,
    backend: Backend | None = None,
    tokens: TokenFile | None = None,
    observer: Observer | None = None,
    settings: Settings | None = None,
) -> FastAPI:
    """Create the service over the sweeps directly inside a folder.

    Args:
        folder: need not exist.
        backend: runs jobs; by default, in processes on this machine.
        tokens: valid tokens; None serves this machine only.
        observer: records requests; by default, on standard error.
        settings: limits.
    """
    settings = settings or Settings()
    observer = observer or Observer()
    catalog = Catalog(folder)
    backend = backend or LocalBackend()
    observer.watch(SweepCollector(catalog, backend.state))
    analyses = Analyses(settings.analyses)
    sessions = None if tokens is None else Sessions(tokens)
    threads = Threads(settings.threads, settings.waiting, settings.read_seconds)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        threads.close()
        analyses.close()

    app = FastAPIOffline(  # serves the scripts of /docs itself, because clusters often have no internet
        title="Pullback",
        version=pullback.__version__,
        description=_DESCRIPTION,
        lifespan=lifespan,
        redoc_url=None,
        redirect_slashes=False,
        middleware=[
            Middleware(
                Guard,
                sessions=sessions,
                root_path=settings.root_path,
                observer=observer,
                body_bytes=settings.body_bytes,
                body_seconds=settings.body_seconds,
            )
        ],
    )
    answer_errors(app, catalog.without_paths)
    app.state.service = Service(
        catalog=catalog,
        backend=backend,
        analyses=analyses,
        observer=observer,
        threads=threads,
        allow_code=settings.allow_code,
        followers=settings.followers,
        poll_seconds=settings.poll_seconds,
    )
    app.include_router(health_route(), responses=ERRORS)
    # the guard checks tokens; this describes them in OpenAPI
    scheme = HTTPBearer(auto_error=False, description="A token of `pullback tokens add`.")
    app.include_router(
        routes(app.state.service), responses=ERRORS, dependencies=[Security(scheme)] if tokens is not None else []
    )
    if sessions is not None:
        app.include_router(login_routes(sessions))
    return app


def root_path_of(text: str) -> str:
    """Normalise a root path: empty, or with a leading slash and without a trailing one.

    Raises:
        PullbackError: it is not a path.
    """
    path = f"/{text.strip('/')}" if text.strip("/") else ""
    if not re.fullmatch(r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*", path):
        raise PullbackError(
            f"{text!r} cannot be a root path; the service was not started. "
            "Use letters, digits, '_', '~', '.' and '-' between slashes, such as /pullback"
        )
    return path
