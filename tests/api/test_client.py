"""The client's verbs against a service, and events as pages and as a stream."""

import asyncio
import json
import socket
import threading
import time

import httpx
import numpy as np
import pytest
from served_sweeps import LAYOUT, FakeBackend, commit, record_of, serving

import pullback
from pullback.api import journal as journal_module
from pullback.api import server
from pullback.api.answers import Status
from pullback.api.client import ServiceError
from pullback.api.problem_details import RequestError
from pullback.api.tokens import TokenFile, add_token
from pullback.driving.record import DriverRecord
from pullback.driving.sweep_state import SweepState
from pullback.store.creation import create

JOB = {"name": "small", "generator": "dcgan-faces", "distance": "mse", "samples": {"count": 5}}


@pytest.fixture
def client(service):
    with pullback.Client(service) as made:
        yield made


@pytest.fixture
def live(tmp_path):
    """A folder with the sweep `mine`, a backend that says it runs, and a client of the service of both."""
    commit(create(tmp_path / "mine", LAYOUT, {"name": "mine"}), 0)
    backend = FakeBackend(states={"mine": SweepState("running", "mine")})
    with serving(tmp_path, backend, poll_seconds=0.01) as (url, _), pullback.Client(url) as client:
        yield tmp_path, backend, client


def write(folder, *names):
    with (folder / "mine.events.jsonl").open("a") as journal:
        journal.writelines(json.dumps({"event": name}) + "\n" for name in names)


def test_the_sweeps_and_one_of_them(client):
    assert [sweep["id"] for sweep in client.list()] == ["mine", "new"]
    assert client.show("mine")["samples"]["good"] == 5
    assert client.status("mine")["state"] == "done"


def test_spectra_are_a_structured_array(client):
    rows = client.spectra("mine", samples=slice(2, None), components=slice(0, 2))
    assert rows["sample"].tolist() == [2, 3, 8, 9]
    np.testing.assert_array_equal(rows["eigenvalue"][:2], record_of(0).eigenvalue[2:, :2])
    snapshot = client.show("mine")["snapshot"]
    assert client.spectra("mine", snapshot=snapshot, quarantined=True)["status"].tolist() == [1, 2, 1, 1, 1, 1]


def test_eigenvectors_are_a_structured_array(client):
    rows = client.eigenvectors("mine", 3, components=slice(1, 3))
    assert rows["component"].tolist() == [1, 2]
    np.testing.assert_array_equal(rows["eigenvector"], record_of(0).eigenvector[3, 1:3])


@pytest.mark.parametrize("wrong", [slice(0, 9, 2), slice(-3, None), slice(None, -1)])
def test_a_slice_that_is_not_served_is_refused_before_a_request(client, wrong):
    with pytest.raises(ServiceError, match="step or a negative number"):
        client.spectra("mine", samples=wrong)


def test_a_number_in_place_of_a_slice_is_reported(client):
    with pytest.raises(ServiceError, match=r"slice\(0, 10\), not 3"):
        client.spectra("mine", components=3)


def test_a_job_is_submitted_from_a_file_a_text_or_a_mapping(live, tmp_path):
    _, backend, client = live
    text = json.dumps(JOB, indent=1)
    (tmp_path / "job.yaml").write_text(text)
    answers = [client.submit(job) for job in (JOB, text, tmp_path / "job.yaml", str(tmp_path / "job.yaml"))]
    assert answers[0] == {"id": "small", "kind": "sweep", "created": True}
    assert answers[1:] == [{"id": "small", "kind": "sweep", "created": False}] * 3
    assert list(backend.submitted) == ["small"]


def test_what_is_wrong_in_a_job_is_in_the_error(client):
    with pytest.raises(ServiceError, match="did you mean 'dcgan-faces'") as caught:
        client.submit({**JOB, "generator": "dcgan-face"})
    assert caught.value.status == 422
    assert len(caught.value.problems) == 1
    with pytest.raises(ServiceError, match=r"nowhere\.yaml cannot be read.*nothing was submitted"):
        client.submit("nowhere.yaml")


def test_cancelling_says_whether_anybody_was_at_work(live):
    _, backend, client = live
    assert client.cancel("mine") is True
    backend.states["mine"] = SweepState("done", "mine")
    assert client.cancel("mine") is False


def test_waiting_ends_with_the_sweep_or_the_time(live):
    _, backend, client = live
    with pytest.raises(ServiceError, match=r"mine is running .* 0 s"):
        client.wait("mine", timeout=0, poll=0.01)
    asked = threading.Event()
    state = backend.state
    backend.state = lambda path, look: (asked.set(), state(path))[1]

    def finish():
        assert asked.wait(30)
        backend.states["mine"] = SweepState("done", "mine")

    asked_times = []
    backend.state = lambda path, look: (asked_times.append(path), state(path))[1]
    with pytest.raises(ServiceError, match=r"after 0\.2 s"):
        client.wait("mine", timeout=0.2, poll=10.0)
    assert len(asked_times) == 2, "at the beginning and when the time is over"
    backend.state = lambda path, look: (asked.set(), state(path))[1]
    thread = threading.Thread(target=finish)
    thread.start()
    assert client.wait("mine", poll=0.01)["state"] == "done"
    thread.join()


def test_events_come_in_pages_of_whole_lines(live):
    folder, _, client = live
    assert list(client.events("mine")) == []
    write(folder, "one", "two", "three")
    with (folder / "mine.events.jsonl").open("a") as journal:
        journal.write('{"event": "half')
    assert [event["event"] for event in client.events("mine")] == ["one", "two", "three"]
    url, offset, pages = f"{client.url}/v1/sweeps/mine/events", 0, []
    for _ in range(3):
        answer = httpx.get(url, params={"offset": offset, "limit": 2}, trust_env=False)
        assert answer.headers["Content-Type"] == "application/x-ndjson"
        pages.append([json.loads(line)["event"] for line in answer.text.splitlines()])
        offset = int(answer.headers["Pullback-Next-Offset"])
    assert pages == [["one", "two"], ["three"], []]


@pytest.mark.parametrize("offset", [1, 16, 10_000, -1, "x", 2**60])
def test_an_offset_at_which_no_event_begins_is_refused(live, offset):
    folder, _, client = live
    write(folder, "one", "two")
    for follow in ("false", "true"):
        params = {"offset": offset, "follow": follow}
        assert httpx.get(f"{client.url}/v1/sweeps/mine/events", params=params, trust_env=False).status_code == 422


def test_a_stream_follows_events_as_they_come_until_the_sweep_ends(live):
    folder, backend, client = live
    stream = client.events("mine", follow=True)
    write(folder, "one")
    assert next(stream) == {"event": "one"}
    write(folder, "two", "three")
    assert [next(stream), next(stream)] == [{"event": "two"}, {"event": "three"}]
    write(folder, "last")
    backend.states["mine"] = SweepState("done", "mine")
    assert list(stream) == [{"event": "last"}]


def test_a_line_that_a_full_disk_has_torn_hides_no_other_event(live):
    folder, backend, client = live
    write(folder, "one")
    with (folder / "mine.events.jsonl").open("a") as journal:
        journal.write('{"event": "to\n')
    write(folder, "two")
    backend.states["mine"] = SweepState("done", "mine")
    for follow in (False, True):
        assert list(client.events("mine", follow=follow)) == [{"event": "one"}, {"event": "two"}]


def test_a_stream_outlasts_moments_in_which_the_service_has_too_much_to_do(tmp_path):
    write(tmp_path, "one")

    class Busy:
        refused = 3

        async def run(self, work):
            if self.refused:
                self.refused -= 1
                raise RequestError(503, "too much")
            return work()

    async def pieces():
        found = [SweepState(state, "mine") for state in ("running", "done", "done")]
        states = iter([Status.of("mine", state, "") for state in found])
        journal = tmp_path / "mine.events.jsonl"
        return [
            each
            async for each in journal_module.follow(
                lambda: journal, lambda: next(states), 0, Busy(), 0.0, lambda: False, str
            )
        ]

    stream = b"".join(asyncio.run(pieces()))
    assert stream.count(b": the service is busy") == 3
    assert b'data: {"event": "one"}' in stream
    assert b"event: end" in stream


def test_a_stream_ends_with_the_service_and_says_so(tmp_path):
    create(tmp_path / "mine", LAYOUT, {"name": "mine"})
    write(tmp_path, "one")
    backend = FakeBackend(states={"mine": SweepState("running", "mine")})
    with serving(tmp_path, backend, poll_seconds=0.01) as (url, _):
        client = pullback.Client(url)
        stream = client.events("mine", follow=True)
        assert next(stream) == {"event": "one"}
    with client, pytest.raises(ServiceError, match=r"service at .* ended"):
        next(stream)


def test_a_request_that_the_end_of_the_service_overtakes_is_answered(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(server, "_SHUTDOWN_SECONDS", 1)
    begun, answers = threading.Event(), []
    with serving(tmp_path, audit=tmp_path / "audit.jsonl") as (url, app):

        def slow():
            begun.set()
            time.sleep(3)
            return []

        app.state.service.catalog.ids = slow
        asking = threading.Thread(
            target=lambda: answers.append(httpx.get(f"{url}/v1/sweeps", trust_env=False, timeout=30))
        )
        asking.start()
        assert begun.wait(30)
    asking.join(30)
    assert answers[0].status_code == 503
    assert answers[0].status_code == 503
    assert json.loads((tmp_path / "audit.jsonl").read_text().splitlines()[-1])["status"] == 503
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(("state", "at_work"), [("running", True), ("cancelled", False), ("stopped", False)])
def test_of_a_run_that_ended_nothing_is_at_work(tmp_path, state, at_work):
    create(tmp_path / "mine", LAYOUT, {"name": "mine"})
    driver = DriverRecord("running", updated=7.0, shards={"running": 2}, workers={"ready": 1}, samples_per_second=3.0)
    backend = FakeBackend(states={"mine": SweepState(state, "mine", driver=driver)})
    with serving(tmp_path, backend) as (url, _), pullback.Client(url) as client:
        status = client.status("mine")
    assert (status["state"], status["updated"]) == (state, 7.0)
    assert bool(status["shards"]) is bool(status["workers"]) is bool(status["samples_per_second"]) is at_work


def test_a_stream_goes_on_where_it_was_broken_off(live):
    folder, backend, client = live
    write(folder, "one", "two")
    backend.states["mine"] = SweepState("done", "mine")
    url = f"{client.url}/v1/sweeps/mine/events?follow=true"
    lines = httpx.get(url, trust_env=False).text.splitlines()
    ids = [line.removeprefix("id: ") for line in lines if line.startswith("id: ")]
    rest = httpx.get(url, headers={"Last-Event-ID": ids[0]}, trust_env=False).text
    assert '"two"' in rest
    assert '"one"' not in rest
    assert 'event: end\ndata: {"id": "mine", "state": "done", ' in rest


def test_only_so_many_follow_at_once(tmp_path):
    create(tmp_path / "mine", LAYOUT, {"name": "mine"})
    backend = FakeBackend(states={"mine": SweepState("running", "mine")})
    write(tmp_path, "one")
    with serving(tmp_path, backend, followers=1, poll_seconds=0.01) as (url, _), pullback.Client(url) as client:
        stream = client.events("mine", follow=True)
        assert next(stream) == {"event": "one"}
        with pytest.raises(ServiceError, match=r"(?i)follow") as refused:
            next(client.events("mine", follow=True))
        assert refused.value.status == 503
        backend.states["mine"] = SweepState("done", "mine")
        assert list(stream) == []


def test_of_many_who_would_follow_at_the_same_moment_only_so_many_do(tmp_path):
    create(tmp_path / "mine", LAYOUT, {"name": "mine"})
    backend = FakeBackend(states={"mine": SweepState("running", "mine")})
    write(tmp_path, "one")

    async def ask(many, url):
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as client:

            async def status():
                async with client.stream("GET", "/v1/sweeps/mine/events", params={"follow": True}) as answer:
                    answered.append(answer.status_code)
                    if len(answered) == many:
                        backend.states["mine"] = SweepState("done", "mine")  # lets the others end
                    async for _ in answer.aiter_bytes():
                        pass

            answered = []
            await asyncio.gather(*(status() for _ in range(many)))
            return sorted(answered)

    with serving(tmp_path, backend, followers=3, poll_seconds=0.01) as (url, app):
        assert asyncio.run(ask(12, url)) == [200] * 3 + [503] * 9
        assert app.state.service.followers == 3, "all have left"


def test_what_is_not_there_is_reported(client):
    for call in (client.show, client.status, client.analysis, client.report, client.spectra, client.cancel):
        with pytest.raises(ServiceError) as caught:
            call("../nowhere")
        assert caught.value.status == 404
    with pytest.raises(ServiceError, match=r"nothing is known|no sweep"):
        next(client.events("nowhere", follow=True))


def test_a_service_that_cannot_be_reached_is_reported():
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pullback.Client(f"http://127.0.0.1:{port}") as client:
        for call in (client.list, lambda: next(client.events("mine", follow=True))):
            with pytest.raises(ServiceError, match="cannot be reached") as caught:
                call()
            assert caught.value.status is None
    for url in ("127.0.0.1:1", "ftp://example.org", "http://[", "http://127.0.0.1:99999999"):
        with pytest.raises(ServiceError):
            pullback.Client(url).list()


def test_a_token_is_sent_and_its_lack_is_reported(folder, tmp_path):
    token = add_token(tmp_path / "tokens.json", "anna", "read")
    with serving(folder, tokens=TokenFile(tmp_path / "tokens.json")) as (url, _):
        assert len(pullback.Client(url, token).list()) == 2
        with pytest.raises(ServiceError, match="Authorization") as refused:
            pullback.Client(url).list()
        assert refused.value.status == 401
        with pytest.raises(ServiceError, match="token") as refused:
            pullback.Client(url, token[:-1]).list()
        assert refused.value.status == 401
        with pytest.raises(ServiceError, match="scope submit") as refused:
            pullback.Client(url, token).submit(JOB)
        assert refused.value.status == 403
        assert len(pullback.Client(url, f"{token}\n").list()) == 2
    for unfit in ("é" * 20, f"{token}\r\nX-Other: {token}", ""):
        with pytest.raises(ServiceError, match="impossible characters") as caught:
            pullback.Client(url, unfit)
        assert token not in str(caught.value)
