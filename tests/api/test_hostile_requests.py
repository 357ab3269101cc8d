"""Whatever is sent, or lies beside a sweep, the service answers with JSON and no 500, and shows no code and no path."""

import json
import random
import string
import sys
import time

import httpx
import pytest
import yaml
from served_sweeps import LAYOUT, commit, serving

from pullback.api.backend import LocalBackend
from pullback.driving.control import write_record
from pullback.driving.record import DriverRecord
from pullback.store.creation import create

SECONDS = 6.0
JOB = {
    "name": "fuzzed",
    "generator": {"name": "dcgan-faces", "network": None, "condition": None},
    "distance": {"name": "lpips", "trunk": "alex", "size": 64, "mask": [0, 0, 1, 1]},
    "metric": {"method": "lanczos", "components": 3, "tolerance": 0.1, "max_products": 9, "relative_step": 0.1},
    "samples": {"count": 3, "seed": 0, "scale": 1.0},
    "resources": {"workers": 1, "shard_size": 2, "batch": 1, "tangents": 1, "memory_gib": 1.0, "retries": 0},
}
VALUES = [
    0, -1, 1e308, -1e308, 5e-324, float("nan"), float("inf"), 2**63, 2**64, 10**400, "", "x" * 10_000, "\x00", "\ud800",
    "../../etc/passwd", "/dev/zero", "$x_{$", ":smile:", "[bold]", "nan", "1e308", None, True, [], [[[]]], {},
    {"a": {}}, [0, 0, 5e-324, 1e-300], [float("nan")] * 4, "os:system", "lpips", "cuda", "auto", 0.5, 3,
]  # fmt: skip


def changed(stream):
    """A job with some values changed."""
    job = {key: dict(part) if isinstance(part, dict) else part for key, part in JOB.items()}
    for _ in range(stream.randrange(1, 4)):
        key = stream.choice(list(job))
        value = stream.choice(VALUES)
        if isinstance(job[key], dict) and job[key] and stream.random() < 0.8:
            job[key][stream.choice([*job[key], "other"])] = value
        else:
            job[key] = value
    return job


def request(stream):
    """A body and its type."""
    how = stream.randrange(5)
    if how == 0:
        return stream.randbytes(stream.randrange(300)), stream.choice(["application/json", "text/yaml", "x", ""])
    if how == 1:
        return ("[" * stream.randrange(50_000)).encode(), stream.choice(["application/json", "text/yaml"])
    job = changed(stream)
    if how == 2:
        text = yaml.safe_dump({key: value for key, value in job.items() if "\ud800" not in repr(value)})
        return text.encode("utf-8", "surrogatepass"), "application/yaml"
    content = json.dumps(job).encode()
    if how == 3:
        at = stream.randrange(len(content))
        content = content[:at] + stream.randbytes(2) + content[at + stream.randrange(3) :]
    return content, "application/json"


def path(stream):
    """A path and a query."""
    id = stream.choice(["mine", "fuzzed", "none", "..", "%00", "a" * 300, "%ff", "mine%2f..", "\u540d"])
    what = stream.choice(
        ["", "/status", "/events", "/spectra", "/eigenvectors", "/analysis", "/report", "/snapshots", "/cancel", "/x"]
    )
    names = ["samples", "limit", "offset", "snapshot", "format", "sample", "components", "follow", "after", "x"]
    numbers = ["0", "-1", "1e308", str(2**63), "9" * 400, "nan", "", ":", "0:99999999999999999999", "%00", "csv", "npy"]
    query = "&".join(f"{stream.choice(names)}={stream.choice(numbers)}" for _ in range(stream.randrange(3)))
    return f"/v1/sweeps/{id}{what}?{query}" if stream.random() < 0.9 else f"/v1/sweeps?{query}"


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "served"
    commit(create(place / "mine", LAYOUT, {"name": "mine"}), 0, 2)
    return place


def check(answer, folder):
    assert answer.status_code not in (500, 502), answer.text[:300]
    assert "Traceback" not in answer.text
    assert str(folder) not in answer.text
    if answer.status_code >= 400 and answer.request.method != "HEAD":
        assert answer.json()["error"]


def test_random_jobs_and_requests_are_answered(folder):
    stream = random.Random(14)
    with (
        serving(folder, LocalBackend(command=(sys.executable, "-c", "")), poll_seconds=0.01) as (url, _),
        httpx.Client(base_url=url, trust_env=False, timeout=20) as client,
    ):
        until, sent = time.monotonic() + SECONDS, 0
        while time.monotonic() < until or sent < 60:
            body, media = request(stream)
            check(client.post("/v1/sweeps", content=body, headers={"Content-Type": media}), folder)
            method = stream.choice(["GET", "GET", "GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
            asked = path(stream)
            if "/events" not in asked or "follow" not in asked:
                check(client.request(method, asked), folder)
            sent += 2


def test_random_records_fail_no_request(folder):
    stream = random.Random(15)
    fields = [*DriverRecord.__dataclass_fields__, "other"]
    with (
        serving(folder, LocalBackend()) as (url, _),
        httpx.Client(base_url=url, trust_env=False, timeout=20) as client,
    ):
        until, tried = time.monotonic() + SECONDS, 0
        while time.monotonic() < until or tried < 20:
            values = [value for value in VALUES if value != "\ud800"]
            record = {name: stream.choice(values) for name in stream.sample(fields, stream.randrange(len(fields)))}
            record["life"] = stream.choice(["running", "submitted", "failed", "done", "queued", stream.choice(values)])
            name = stream.choice(["mine", "none"])
            (folder / f".{name}.driver.json").write_text(json.dumps(record))
            for asked in ("/v1/sweeps", f"/v1/sweeps/{name}/status", "/metrics"):
                answer = client.get(asked)
                assert answer.status_code in ((200,) if name == "mine" else (200, 404)), (record, answer.text)
                check(answer, folder)
            tried += 1


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"name: fuz", b"colour: blue", b"\xff"])
def test_a_job_file_that_a_crash_left_blocks_no_name(content, folder):
    (folder / ".fuzzed.job.yaml").write_bytes(content)
    job = {"name": "fuzzed", "generator": "dcgan-faces", "distance": "lpips", "samples": {"count": 2}}
    with serving(folder, LocalBackend(command=(sys.executable, "-c", ""))) as (url, _):
        answer = httpx.post(f"{url}/v1/sweeps", json=job, trust_env=False)
    assert answer.status_code == 201


def test_the_last_words_of_a_driver_that_failed_show_no_code_and_no_path(folder):
    secret = "".join(random.Random(1).choices(string.ascii_lowercase, k=12))
    traceback = f'Traceback (most recent call last):\n  File "/srv/{secret}/x.py", line 1, in f\n' * 60
    (folder / ".gone.log").write_text(f"{traceback}OverflowError: cannot convert /srv/{secret}/file to integer\n")
    write_record(folder / "gone", DriverRecord("submitted", pid=2**22 + 1, planned=3, updated=1.0, host="elsewhere"))
    with serving(folder, LocalBackend()) as (url, _):
        found = httpx.get(f"{url}/v1/sweeps/gone/status", trust_env=False).json()
    assert found["state"] == "failed"
    assert "OverflowError" in found["message"]
    assert secret not in found["message"]
    assert "File" not in found["message"]
