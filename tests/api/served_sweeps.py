"""A service on loopback over small stored sweeps, with a backend that only writes down what it was asked."""

import contextlib
import io
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import stored_sweeps
from pullback.api.app import Settings, create_app
from pullback.api.backend import Submission
from pullback.api.observe import Observer
from pullback.api.server import listen, server_of, url_of
from pullback.driving.sweep_state import SweepState, read_snapshot
from pullback.errors import StoreError
from pullback.store.repository import SweepStore
from pullback.store.schema import QUARANTINED, Layout, Reason, ShardRecord
from pullback.store.shard_writing import write_shard

LAYOUT = Layout(samples=10, latent_dim=6, components=4, shard_size=4)
"""Three shards, the last of 2 samples."""


def record_of(shard: int, layout: Layout = LAYOUT, quarantined: tuple[int, ...] = (1,)) -> ShardRecord:
    """Random numbers in every array; a quarantined sample has NaN for its first eigenvalue."""
    record = stored_sweeps.record_of(layout, shard, quarantined=quarantined, reason=Reason.NOT_FINITE)
    record.eigenvalue[record.status == QUARANTINED, 0] = np.nan
    return record


def commit(store: SweepStore, *shards: int) -> str:
    """Commit random results for shards."""
    for shard in shards:
        assert store.merge(shard, write_shard(store.fork(), record_of(shard, store.layout)))
    return store.commit("shards")


@dataclass
class FakeBackend:
    """Writes down what it is asked, and answers what a test sets."""

    submitted: dict[str, Any] = field(default_factory=dict)
    cancelled: list[Path] = field(default_factory=list)
    states: dict[str, SweepState] = field(default_factory=dict)

    def submit(self, job):
        created = job.name not in self.submitted
        if not created and self.submitted[job.name] != job:
            raise StoreError(f"another job has the name {job.name}")
        self.submitted[job.name] = job
        self.states.setdefault(job.name, SweepState("submitted", job.name, planned=job.samples.count))
        return Submission(job.name, created)

    def state(self, path, look=read_snapshot):
        if path.name not in self.states:
            raise StoreError(f"nothing is known of {path}")
        return self.states[path.name]

    def cancel(self, path):
        self.cancelled.append(path)
        return self.states[path.name].state == "running"

    def events(self, path):
        journal = path.with_name(f"{path.name}.events.jsonl")
        return journal if journal.exists() else None


@contextlib.contextmanager
def serving(folder, backend=None, tokens=None, audit=None, **settings):
    """A service of a folder in a thread; yields its address, and the app as `address.app`."""
    observer = Observer(audit)
    if audit is None:
        observer._file = io.StringIO()
    app = create_app(folder, backend or FakeBackend(), tokens, observer, Settings(**settings))
    listening = listen("127.0.0.1", 0)
    server = server_of(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield url_of(listening), app
    finally:
        server.should_exit = True
        thread.join(30)
        listening.close()
        observer.close()
        assert not thread.is_alive()
