"""Every command that takes a sweep takes the address of one in an object store, on a real S3 server."""

import os
import subprocess
import sys
import time

import pytest
import xarray as xr

import s3_server
from pullback.store.reader import open_sweep

pytestmark = s3_server.needed


@pytest.fixture(scope="module")
def s3():
    with s3_server.serving() as address:
        yield address


@pytest.fixture
def bucket(s3, here, monkeypatch, request):
    """A free prefix of a bucket, for this test."""
    s3_server.use(s3, monkeypatch)
    monkeypatch.setenv("XDG_STATE_HOME", str(here / "state"))
    return f"s3://bucket/{request.node.name}"


def test_a_sweep_lives_in_an_object_store_from_its_job_to_its_report(bucket, here, job, pullback):
    sweep = f"{bucket}/mine"
    ran = pullback("run", job("there.yaml", store=sweep), "--serial")
    assert ran.code == 0, ran.err
    assert ran.next_commands() == [f"pullback report {sweep}"]
    assert "nothing to do" in pullback("run", "there.yaml", "--serial").err
    assert pullback("run", job("here.yaml"), "--serial").code == 0
    there, local = open_sweep(sweep).dataset().load(), open_sweep("sweeps/mine").dataset().load()
    xr.testing.assert_identical(there.drop_attrs().drop_vars("seconds"), local.drop_attrs().drop_vars("seconds"))
    shown = pullback("show", sweep, "--json").json
    assert (shown["path"], shown["samples"]["good"]) == (sweep, 5)
    assert [row["path"] for row in pullback("ls", bucket, "--json").json] == [sweep]
    analyzed = pullback("analyze", sweep, "--draws", "20")
    assert analyzed.code == 0, analyzed.err
    refused = pullback("report", sweep)
    assert (refused.code, "--out report.html" in refused.err) == (1, True)
    assert pullback("report", sweep, "--out", "report.html").code == 0
    assert (here / "report.html").stat().st_size > 10_000
    assert pullback("export", sweep, "out.zarr").code == 0
    assert xr.open_zarr("out.zarr", consolidated=False).sizes["sample"] == 5
    assert "clean" in pullback("audit", sweep).err
    assert pullback("gc", sweep).code == 0
    assert not (here / "s3:").exists(), "no folder by the name of an address"


def test_two_drivers_of_a_sweep_in_an_object_store_both_end_well(bucket, here, job, pullback, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # where the toy generators are
    job("there.yaml", store=f"{bucket}/mine", samples={"count": 30})
    command = [sys.executable, "-m", "pullback", "run", "there.yaml", "--serial"]
    drivers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    result = [driver.communicate(timeout=200)[1] for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0], result
    assert pullback("show", f"{bucket}/mine", "--json").json["samples"]["good"] == 30
    assert pullback("audit", f"{bucket}/mine").code == 0


def test_a_server_that_does_not_answer_is_one_line(bucket, here, pullback, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    for command in ("show", "ls", "analyze", "audit", "gc"):
        result = pullback(command, f"{bucket}/mine")
        assert result.code == 1
        assert result.err.startswith(f"error: {bucket}/mine cannot be reached: nothing answers at AWS_ENDPOINT_URL")


def test_a_sweep_is_seen_and_cancelled_from_another_machine(bucket, here, job, pullback, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setattr("pullback.driving.record.socket.gethostname", lambda: "a laptop")
    job(
        "there.yaml",
        generator="toy_generators:slow",
        store=f"{bucket}/mine",
        samples={"count": 100},
        resources={"shard_size": 2},
    )
    command = [sys.executable, "-m", "pullback", "run", "there.yaml", "--serial"]
    environment = {**os.environ, "XDG_STATE_HOME": str(here / "elsewhere")}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as driver:
        end = time.monotonic() + 60
        while (state := pullback("status", f"{bucket}/mine", "--json")).code or state.json["state"] != "running":
            assert time.monotonic() < end, state.err
            time.sleep(0.2)
        assert state.json["driver"]["pid"] == driver.pid
        assert "attached" in pullback("submit", "there.yaml").err, "no second driver beside it"
        logs = pullback("logs", f"{bucket}/mine")
        assert (logs.code, "where its driver started" in logs.err) == (1, True)
        assert pullback("cancel", f"{bucket}/mine").code == 0
        assert pullback("status", f"{bucket}/mine", "--json").json["state"] == "cancelling"
        assert driver.wait(60) == 130
    assert pullback("status", f"{bucket}/mine", "--json").json["state"] == "cancelled"
    assert 0 < open_sweep(f"{bucket}/mine").status().pending < 100
    again = subprocess.run(command, stderr=subprocess.PIPE, text=True, env=environment, timeout=120, check=False)
    assert again.returncode == 0, "the wish of before is none of this run's"
