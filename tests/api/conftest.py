"""Fixtures of the service: a folder of small sweeps, and the service of it."""

import json

import httpx
import pytest
from served_sweeps import LAYOUT, FakeBackend, commit, serving

from pullback.driving.sweep_state import SweepState
from pullback.store.creation import create


@pytest.fixture(autouse=True, scope="session")
def _certificates_read_once():
    """Let all httpx clients share one TLS context, which takes 25 ms to make. The tests' services speak plain HTTP."""
    context = httpx.create_ssl_context()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("httpx._transports.default.create_ssl_context", lambda **options: context)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with two sweeps: `mine`, of which shard 1 is pending and sample 1 quarantined, and the empty `new`."""
    path = tmp_path_factory.mktemp("served") / "sweeps"
    commit(create(path / "mine", LAYOUT, {"name": "mine", "sweep_id": "0123456789abcdef"}), 0, 2)
    create(path / "new", LAYOUT, {"name": "new"})
    (path / "photos").mkdir()
    (path / "notes.txt").write_text("private")
    events = [{"time": "2026-01-01", "event": name} for name in ("began", "shard", "done")]
    (path / "mine.events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return path


@pytest.fixture(scope="module")
def backend():
    states = {"mine": SweepState("done", "mine", planned=10), "new": SweepState("running", "new", planned=10)}
    return FakeBackend(states=states)


@pytest.fixture(scope="module")
def service(folder, backend):
    """The address of a service of `folder` that needs no token."""
    with serving(folder, backend, poll_seconds=0.02) as (url, _):
        yield url


@pytest.fixture
def ask(service):
    """An httpx client of the service."""
    with httpx.Client(base_url=service, timeout=60, trust_env=False) as client:
        yield client
