"""Submitting over HTTP: what a job may say, how it is sent, that the same job is the same sweep."""

import json
from pathlib import Path

import httpx
import pytest
import yaml
from served_sweeps import FakeBackend, serving

from pullback.api.job_requests import read_job
from pullback.errors import SpecError
from pullback.spec import load_job

JOB = {"name": "small", "generator": "dcgan-faces", "distance": {"name": "lpips"}, "samples": {"count": 5}}
YAML = {"Content-Type": "application/yaml"}


def changed(**changes):
    return {**JOB, **changes}


@pytest.fixture
def served(tmp_path):
    backend = FakeBackend()
    with serving(tmp_path / "sweeps", backend) as (url, _), httpx.Client(base_url=url, trust_env=False) as ask:
        yield ask, backend, tmp_path / "sweeps"


def test_a_job_is_submitted_as_yaml_or_json_once(served):
    ask, backend, folder = served
    first = ask.post("/v1/sweeps", content=yaml.safe_dump(JOB), headers=YAML)
    again = ask.post("/v1/sweeps", json=JOB)
    assert (first.status_code, first.json()) == (201, {"id": "small", "created": True})
    assert (again.status_code, again.json()) == (200, {"id": "small", "created": False})
    assert first.headers["Location"] == "/v1/sweeps/small/status"
    assert ask.get(first.headers["Location"]).json()["state"] == "submitted"
    assert backend.submitted["small"].store_path == folder / "small"


def test_another_job_of_the_same_name_is_a_conflict(served):
    ask, _, folder = served
    ask.post("/v1/sweeps", json=JOB)
    answer = ask.post("/v1/sweeps", json=changed(samples={"count": 6}))
    assert answer.status_code == 409
    assert "another job has the name small" in answer.json()["error"]
    assert str(folder) not in answer.text


def test_everything_that_is_wrong_in_a_job_is_reported_at_once(served):
    ask, backend, _ = served
    wrong = changed(generator="dcgan-face", samples={"count": 0}, metrik={})
    answer = ask.post("/v1/sweeps", json=wrong)
    assert answer.status_code == 422
    assert len(answer.json()["problems"]) == 3
    assert "did you mean 'dcgan-faces'?" in answer.text
    assert backend.submitted == {}


@pytest.mark.parametrize(
    ("path", "changes"),
    [
        ("store", {"store": "sweeps/other"}),
        ("store", {"store": "/etc/pullback"}),
        ("generator.name", {"generator": "os:system"}),
        ("generator.name", {"generator": "/etc/passwd"}),
        ("generator.name", {"generator": "weights.pt"}),
        ("generator.weights", {"generator": {"name": "dcgan-faces", "weights": "/root/other.pt"}}),
        ("distance.name", {"distance": "os:system"}),
        ("distance.module", {"distance": {"name": "features", "module": "os:system", "layer": "x"}}),
        ("distance.mask", {"distance": {"name": "mse", "mask": "/srv/mask.npy"}}),
        ("distance.mask", {"distance": {"name": "mse", "mask": "mask.npy"}}),
        ("name", {"name": "a..b"}),
        ("name", {"name": "../a"}),
        ("name", {"name": "mine.analysis.zarr"}),
        ("name", {"name": "mine.report.HTML"}),
        ("name", {"name": "mine.events.jsonl"}),
    ],
)
def test_a_job_over_http_names_nothing_of_the_server(served, path, changes):
    ask, backend, _ = served
    answer = ask.post("/v1/sweeps", json=changed(**changes))
    assert answer.status_code == 422
    assert any(problem.startswith(f"{path}: ") for problem in answer.json()["problems"]), answer.text
    assert backend.submitted == {}


def test_code_and_files_are_allowed_where_the_service_says_so_but_never_a_store():
    own = changed(
        generator={"name": "own:smooth", "weights": "/w.pt"}, distance={"name": "own:far", "mask": "/srv/mask.npy"}
    )
    job = read_job(json.dumps(own).encode(), "application/json", allow_code=True)
    assert (job.generator.name, job.distance.mask) == ("own:smooth", "/srv/mask.npy")
    with pytest.raises(SpecError, match=r"- store: "):
        read_job(json.dumps({**own, "store": "x"}).encode(), "application/json", allow_code=True)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"3",
        b"\xff\xfe",
        b"{",
        b"{}",
        b'{"name": 1e999}',
        b'{"name": NaN}',
        b'{"name": "a", "name": "b"}',
        b'{"samples": {"count": ' + b"9" * 5000 + b"}}",
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b'{"name": "\\ud800"}',
        b'{"name": "a\\u0000"}',
    ],
)
@pytest.mark.parametrize("kind", ["application/json", "application/yaml"])
def test_a_hostile_body_is_refused_with_what_is_wrong(served, body, kind):
    ask, backend, _ = served
    answer = ask.post("/v1/sweeps", content=body, headers={"Content-Type": kind})
    assert answer.status_code == 422, answer.text
    assert answer.json()["problems"]
    assert "Traceback" not in answer.text
    assert backend.submitted == {}


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [1]\nb: *a\n",
        "!!python/object/apply:os.system ['true']",
        "a: !!set {x}\n",
        "a: 1\na: 2\n",
        "--- 1\n--- 2\n",
    ],
)
def test_yaml_that_is_more_than_data_is_refused(served, text):
    ask, backend, _ = served
    answer = ask.post("/v1/sweeps", content=text, headers=YAML)
    assert answer.status_code == 422
    assert backend.submitted == {}


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "x"])
def test_a_form_or_plain_text_is_no_job(served, kind):
    ask, backend, _ = served
    answer = ask.post("/v1/sweeps", content=yaml.safe_dump(JOB), headers={"Content-Type": kind})
    assert answer.status_code == 415
    assert backend.submitted == {}


def test_json_and_yaml_are_read_as_the_same_job(tmp_path: Path):
    job = changed(metric={"tolerance": 1e-8, "relative_step": 0.001}, distance={"name": "mse", "mask": [0, 0.25, 1, 1]})
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    for body, kind in ((json.dumps(job), "application/json; charset=utf-8"), (yaml.safe_dump(job), "text/yaml")):
        assert read_job(body.encode(), kind) == load_job(tmp_path / "job.yaml")
