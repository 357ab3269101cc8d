"""Jobs of every kind over HTTP: submitted once, followed, cancelled, and their results read."""

import json
from pathlib import Path

import pytest
import yaml
from plugins_of_jobs import write_plugins
from served_sweeps import serving

from plugin_files import on_the_path
from pullback.analysis.runner import run_statistics
from pullback.api.backend import LocalBackend
from pullback.api.client import Client, ServiceError
from pullback.api.job_requests import read_any_job
from pullback.driving.pool_protocol import serial_pool
from pullback.driving.run import run_sweep
from pullback.errors import SpecError
from pullback.spec import job_of
from pullback.store.reader import open_sweep
from pullback.sweep.plan import make_plan
from sweep_jobs import job

ANALYSIS = {"kind": "analysis", "name": "a", "sweep": "toy", "statistics": {"tally": {"times": 2}}}
APPLY = {"kind": "application", "name": "b", "sweep": "toy", "application": {"name": "stroll", "steps": 2}}


@pytest.fixture(scope="module")
def plugins(tmp_path_factory):
    with on_the_path(write_plugins(tmp_path_factory.mktemp("plugins") / "site")) as folder:
        yield folder


@pytest.fixture(scope="module")
def client(tmp_path_factory, plugins):
    """A client of a service that runs jobs beside it and has the sweep `toy` of 4 samples."""
    folder = tmp_path_factory.mktemp("served") / "sweeps"
    run_sweep(make_plan(job(count=4, store=str(folder / "toy"))), serial_pool)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{plugins}:{Path(__file__).parents[1]}")
        with serving(folder, LocalBackend(), poll_seconds=0.05) as (url, _), Client(url) as client:
            client.folder = folder
            yield client


@pytest.mark.parametrize("content", [ANALYSIS, APPLY], ids=["analysis", "application"])
def test_a_job_is_taken_once_runs_to_its_end_and_its_results_are_read(client, content):
    taken = client.submit(content)
    assert (taken["kind"], taken["created"]) == (content["kind"], True)
    again = client.submit(yaml.safe_dump({**content, "name": "another"}))
    assert again == {**taken, "created": False}
    done = client.wait(taken["id"], timeout=60, poll=0.1)
    assert (done["state"], done["planned"], done["good"]) == ("done", 1, 1)
    (result,) = client.results(taken["id"]).values()
    samples = open_sweep(client.folder / "toy").status().good
    assert result["count"] == 2 * samples if content is ANALYSIS else len(result["value"]) == 2
    events = [event["event"] for event in client.events(taken["id"])]
    assert (events[0], events[-1]) == ("run", "done")
    assert client.cancel(taken["id"]) is False
    assert client.submit(content)["created"] is False
    assert taken["id"] in [row["id"] for row in client.jobs()]
    assert [row["id"] for row in client.list()] == ["toy"], "a list of sweeps"
    details = client._json("GET", f"/v1/jobs/{taken['id']}")
    assert (details["sweep"], details["results"][0]["finished"]) == ("toy", True)
    assert str(client.folder) not in json.dumps(details)


def test_a_job_whose_results_the_short_form_computed_is_done(client):
    content = {**ANALYSIS, "statistics": {"tally": {"times": 7}}}
    run_statistics(open_sweep(client.folder / "toy"), dict(job_of(content).statistics))
    taken = client.submit(content)
    assert taken["created"] is False
    assert client.wait(taken["id"], timeout=10)["state"] == "done"
    assert client.results(taken["id"])["tally"]["count"] == 28


def test_a_job_that_failed_says_why_and_is_started_again(client):
    wrong = {**ANALYSIS, "statistics": {"tally": {"broken": True}}}
    id = client.submit(wrong)["id"]
    failed = client.wait(id, timeout=60, poll=0.1)
    assert failed["state"] == "failed"
    assert "nothing to divide" in failed["message"]
    assert str(client.folder) not in failed["message"]
    with pytest.raises(ServiceError) as caught:
        client.results(id)
    assert caught.value.status == 404
    assert client.submit(wrong) == {"id": id, "kind": "analysis", "created": False}
    client.wait(id, timeout=60, poll=0.1)


@pytest.mark.parametrize(
    ("changes", "status", "start"),
    [
        ({"statistics": ["taly"]}, 422, "statistics.taly: "),
        ({"sweep": "../toy"}, 422, "sweep: over HTTP"),
        ({"sweep": "/etc"}, 422, "sweep: over HTTP"),
        ({"sweep": "none"}, 404, ""),
        ({"snapshot": "ABC"}, 404, ""),
        ({"kind": "analyses"}, 422, "kind: 'analyses' is not one of "),
    ],
)
def test_a_wrong_job_is_refused_with_its_problems(client, changes, status, start):
    with pytest.raises(ServiceError) as caught:
        client.submit({**ANALYSIS, **changes})
    assert caught.value.status == status
    assert [problem for problem in caught.value.problems if not problem.startswith(start)] == []


@pytest.mark.parametrize("id", ["toy.analysis-0123456789abcdef", "toy", "none"])
def test_there_are_no_results_of_what_is_no_analysis_or_application(client, id):
    with pytest.raises(ServiceError) as caught:
        client.results(id)
    assert caught.value.status == 404


def test_the_description_has_the_options_of_every_plugin(client):
    paths = client._json("GET", "/openapi.json")["paths"]
    body = json.dumps(paths["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]["schema"])
    for text in ('"const": "stroll"', '"tally"', "How the steps are laid.", '"const": "lpips"', '"input_range"'):
        assert text in body, text


def read(content, **options):
    return read_any_job(json.dumps(content).encode(), "application/json", **options)


@pytest.mark.parametrize(
    ("content", "path"),
    [
        ({**APPLY, "application": {"name": "stroll", "directions": "/etc/passwd"}}, "application.directions"),
        ({**APPLY, "generator": "mine:generator"}, "generator.name"),
        ({**APPLY, "generator": {"name": "dcgan-faces", "weights": "x.pt"}}, "generator.weights"),
        ({**APPLY, "sweep": None, "generator": "dcgan-faces", "store": "/tmp/x"}, "store"),
    ],
)
def test_a_job_names_no_code_and_no_files_of_the_server(plugins, content, path):
    content = {key: value for key, value in content.items() if value is not None}
    with pytest.raises(SpecError) as caught:
        read(content)
    assert [problem.partition(":")[0] for problem in caught.value.problems] == [path]
    if path != "store":
        assert read(content, allow_code=True).name == "b"
