"""The service put together: settings, routes, limits, and the guard around all of it.

Every answer about results is of one snapshot, which it names in the header `Pullback-Snapshot`; the same request with
that snapshot gives the same answer for ever; an analysis is made once of a snapshot and kept.
"""

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
from pullback.api.observe import Observer
from pullback.api.problems import ERRORS, answer_errors
from pullback.api.routes import routes
from pullback.api.service import Service
from pullback.api.sweep_metrics import SweepCollector
from pullback.api.tokens import TokenFile
from pullback.yaml_reader import MAX_BYTES

_DESCRIPTION = """Sweeps of metrics of image generators: submit them, follow them, read what they found.

Results are read at a snapshot. An answer names its own in the header `Pullback-Snapshot`; pass it as `snapshot` to
get the same answer for ever (a report gains its images when it is drawn). The analysis of a snapshot is made when it is
asked for (POST), once, and kept."""


@dataclass(frozen=True)
class Settings:
    """How a service behaves."""

    allow_code: bool = False
    """Let jobs name code and files of this machine."""
    read_seconds: float = 30.0
    """What takes longer is given up."""
    threads: int = 4
    """How many requests are worked on at once; a read is mostly Python, so more would not be faster."""
    waiting: int = 60
    """How many more may wait."""
    analyses: int = 1
    """How many analyses may be in the making at once."""
    followers: int = 32
    """How many streams of events may be open at once."""
    body_bytes: int = MAX_BYTES
    """The longest body: a job's."""
    body_seconds: float = 10.0
    """How long a body may take to come."""
    poll_seconds: float = 0.5
    """How often a stream of events looks for more."""


def create_app(
    folder: Path,
    backend: Backend | None = None,
    tokens: TokenFile | None = None,
    observer: Observer | None = None,
    settings: Settings | None = None,
) -> FastAPI:
    """The service over the sweeps directly inside a folder.

    Args:
        folder: it need not exist yet.
        backend: what runs jobs; by default, processes on this machine.
        tokens: who is let in; None serves this machine only.
        observer: where requests are written down; by default, standard error.
        settings: limits.
    """
    settings = settings or Settings()
    observer = observer or Observer()
    catalog = Catalog(folder)
    backend = backend or LocalBackend()
    observer.watch(SweepCollector(catalog, backend.state))
    analyses = Analyses(settings.analyses)
    threads = Threads(settings.threads, settings.waiting, settings.read_seconds)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        threads.close()
        analyses.close()

    app = FastAPIOffline(  # /docs with its own scripts: a cluster often sees no other host
        title="Pullback",
        version=pullback.__version__,
        description=_DESCRIPTION,
        lifespan=lifespan,
        redoc_url=None,
        redirect_slashes=False,
        middleware=[
            Middleware(
                Guard,
                tokens=tokens,
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
    # the guard decides; this is what OpenAPI says of it
    scheme = HTTPBearer(auto_error=False, description="A token of `pullback tokens add`.")
    app.include_router(
        routes(app.state.service), responses=ERRORS, dependencies=[Security(scheme)] if tokens is not None else []
    )
    return app
