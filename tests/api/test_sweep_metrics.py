"""/metrics: how the sweeps of a folder are, in Prometheus's own reading of the text."""

import os
import time
from dataclasses import replace

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from served_sweeps import LAYOUT, commit, serving

from pullback.api.backend import LocalBackend
from pullback.api.catalog import Catalog
from pullback.api.sweep_metrics import SweepCollector
from pullback.api.tokens import TokenFile, add_token
from pullback.driving.control import write_record
from pullback.driving.record import DriverRecord
from pullback.driving.sidecar_files import sidecar_path
from pullback.driving.sweep_state import sweep_state
from pullback.store.creation import create


def at_work(**facts) -> DriverRecord:
    """The record of a driver that lives: this process."""
    process = psutil.Process()
    here = os.uname().nodename
    return DriverRecord("running", host=here, pid=process.pid, began=process.create_time(), **facts)


@pytest.fixture
def folder(tmp_path):
    """Four sweeps: `done`; `half`, with a driver at work; `bad`, with a quarantined sample; `damaged`."""
    path = tmp_path / "sweeps"
    for name, shards in {"done": (1, 2), "half": (1,), "bad": (0, 1, 2), "damaged": (0, 1, 2)}.items():
        layout = replace(LAYOUT, samples=6, shard_size=2) if name == "done" else LAYOUT
        store = create(path / name, layout, {"name": name})
        commit(store, *((1, 2, 0) if name == "done" else shards))
    for file in (path / "damaged" / "snapshots").iterdir():
        file.write_bytes(b"")
    write_record(path / "damaged", DriverRecord("done", planned=10))
    record = at_work(
        shards={"committed": 1, "running": 2, 'a "state"\n\\': 3},
        workers={"ready": 2},
        samples_per_second=1.5,
        commit_seconds=0.25,
        memory_bytes=123456789,
    )
    write_record(path / "half", replace(record, updated=time.time()))
    (path / "photos").mkdir()
    return path


def numbers(families) -> dict[tuple[str, ...], float]:
    """Every sample by its name, its sweep and what other label it has."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items(), reverse=True))): sample.value
        for family in families
        for sample in family.samples
    }


def test_the_numbers_of_every_sweep_are_shown_to_those_who_may_read(folder, tmp_path):
    token = add_token(tmp_path / "tokens.json", "prometheus", "read")
    with serving(folder, LocalBackend(), TokenFile(tmp_path / "tokens.json")) as (url, _):
        assert httpx.get(f"{url}/metrics", trust_env=False).status_code == 401
        headers = {"Authorization": f"Bearer {token}"}
        found = numbers(
            text_string_to_metric_families(
                httpx.get(f"{url}/metrics", headers=headers, trust_env=False, timeout=60).text
            )
        )
    samples = {key[1:]: value for key, value in found.items() if key[0] == "pullback_samples"}
    assert samples == {
        ("done", "good"): 5,
        ("done", "quarantined"): 1,
        ("done", "pending"): 0,
        ("half", "good"): 4,
        ("half", "quarantined"): 0,
        ("half", "pending"): 6,
        ("bad", "good"): 9,
        ("bad", "quarantined"): 1,
        ("bad", "pending"): 0,
    }
    states = {key[1:] for key, value in found.items() if key[0] == "pullback_sweep_state" and value == 1}
    assert states == {("bad", "done"), ("done", "done"), ("half", "running")}
    assert found["pullback_unreadable_sweeps",] == 1
    assert found["pullback_unread_sweeps",] == 0
    # of the one that a driver is at work on
    assert found["pullback_samples_per_second", "half"] == 1.5
    assert found["pullback_commit_seconds", "half"] == 0.25
    assert found["pullback_driver_memory_bytes", "half"] == 123456789
    assert found["pullback_shards", "half", "running"] == 2
    assert found["pullback_workers", "half", "ready"] == 2
    assert ("pullback_samples_per_second", "done") not in found
    # and a label is what it was, whatever stood in it
    assert found["pullback_shards", "half", 'a "state"\n\\'] == 3


def test_a_run_that_ended_has_no_rate_and_its_last_samples_are_counted(folder):
    collector = SweepCollector(Catalog(folder))
    assert numbers(collector.collect())["pullback_samples_per_second", "half"] == 1.5
    write_record(folder / "half", replace(at_work(), life="interrupted", updated=time.time()))
    found = numbers(collector.collect())
    assert ("pullback_samples_per_second", "half") not in found
    assert found["pullback_sweep_state", "half", "stopped"] == 1


def test_a_record_that_somebody_spoiled_is_none(folder):
    sidecar_path(folder / "half", "driver").write_text(
        '{"life": "running", "samples_per_second": "fast", "shards": [1], "host": "elsewhere", "pid": 1}'
    )
    found = numbers(SweepCollector(Catalog(folder)).collect())
    assert found["pullback_unreadable_sweeps",] == 1
    assert found["pullback_sweep_state", "half", "stopped"] == 1
    assert found["pullback_samples", "done", "good"] == 5


def test_a_store_that_nobody_works_on_is_read_once_a_minute(folder):
    now, read = [0.0], []
    collector = SweepCollector(
        Catalog(folder), lambda place, look: read.append(place.name) or sweep_state(place, look), lambda: now[0]
    )
    numbers(collector.collect())
    assert sorted(read) == ["bad", "damaged", "done", "half"]
    now[0], read[:] = 59.0, []
    numbers(collector.collect())
    assert read == ["half"], "which is at work"
    now[0], read[:] = 61.0, []
    numbers(collector.collect())
    assert sorted(read) == ["bad", "damaged", "done", "half"]
    write_record(folder / "done", DriverRecord("done", updated=time.time()))
    read[:] = []
    numbers(collector.collect())
    assert sorted(read) == ["done", "half"], "a driver was there since"


def test_many_sweeps_take_no_longer_than_a_scrape_may_and_all_are_read_in_the_end(tmp_path):
    for number in range(10):
        create(tmp_path / f"sweep{number}", LAYOUT, {"name": f"sweep{number}"})
    write_record(tmp_path / "sweep9", at_work(updated=time.time()))
    now = [0.0]

    def slowly(place, look):
        now[0] += 1.0
        return sweep_state(place, look)

    collector, most = SweepCollector(Catalog(tmp_path), slowly, lambda: now[0]), 0.0
    unread = [10.0]
    while unread[-1]:
        began = now[0]
        found = numbers(collector.collect())
        most = max(most, now[0] - began)
        unread.append(found["pullback_unread_sweeps",])
        assert unread[-1] < unread[-2]
    assert most <= 5
    assert sum(key[0] == "pullback_samples" and value == 10 for key, value in found.items()) == 10
    began = now[0]
    numbers(collector.collect())
    assert now[0] - began == 1, "only what is at work is read again"


def test_a_job_without_results_is_shown_unless_its_sweep_was_removed(folder):
    write_record(folder / "early", at_work(planned=7, updated=time.time()))
    write_record(folder / "gone", DriverRecord("done", planned=7))
    found = numbers(SweepCollector(Catalog(folder)).collect())
    assert found["pullback_samples", "early", "pending"] == 7
    assert found["pullback_sweep_state", "early", "running"] == 1
    assert ("pullback_sweep_state", "gone", "stopped") not in found
