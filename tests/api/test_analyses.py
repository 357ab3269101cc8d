"""Analyses over HTTP: made once of a snapshot, a few at once, kept; what cannot be made says why."""

import os
import sys
import time

import httpx
import pytest
from served_sweeps import LAYOUT, commit, serving

import pullback
from pullback.analysis import Analysis, analyze
from pullback.analysis.cache import save_analysis
from pullback.api.analyses import Analyses
from pullback.api.catalog import Catalog
from pullback.api.client import ServiceError
from pullback.api.problem_details import RequestError
from pullback.store.creation import create
from pullback.store.reader import open_sweep
from pullback.store.repository import SweepStore

SLEEP = "import time; time.sleep(60)"


@pytest.fixture
def catalog(tmp_path):
    """A folder with the sweep `mine`, which has good samples, and the empty one `new`."""
    commit(create(tmp_path / "mine", LAYOUT, {"name": "mine"}), 0)
    create(tmp_path / "new", LAYOUT, {"name": "new"})
    return Catalog(tmp_path)


@pytest.fixture
def made_by():
    """Makes `Analyses` that are closed at the end."""
    made = []

    def make(code, at_once=1):
        made.append(Analyses(at_once, (sys.executable, "-c", code)))
        return made[-1]

    yield make
    for each in made:
        each.close()


def refusal(call, *arguments):
    with pytest.raises(RequestError) as caught:
        call(*arguments)
    return caught.value


def is_running(refused):
    """Whether a 404 says that the analysis is being computed, and may be asked for again."""
    assert refused.status == 404
    return "Retry-After" in refused.headers


def until_ended(analyses, opened):
    """Wait until no process is computing the analysis; return the refusal."""
    end = time.monotonic() + 30
    while is_running(refused := refusal(analyses.cached, opened)):
        assert time.monotonic() < end
        time.sleep(0.02)
    return refused


def test_an_analysis_is_made_over_http_once_of_each_snapshot_and_stays(tmp_path):
    store = create(tmp_path / "mine", LAYOUT, {"name": "mine"})
    first = commit(store, 0)
    with serving(tmp_path) as (url, _), pullback.Client(url) as client:
        with pytest.raises(ServiceError, match=r"POST /v1/sweeps/mine/analysis") as caught:
            client.analysis("mine")
        assert (caught.value.status, caught.value.again) == (404, False)
        made = client.analyze("mine", poll=0.1, timeout=120)
        assert made == analyze(open_sweep(tmp_path / "mine")).to_json()
        second = commit(SweepStore.open(tmp_path / "mine"), 1)
        with pytest.raises(ServiceError, match=second):
            client.analysis("mine")
        assert client.analysis("mine", snapshot=first) == made, "the same answer for ever"
        later = client.analyze("mine", poll=0.1, timeout=120)
        assert (made["samples"], later["samples"], later["snapshot"]) == (3, 7, second)
        assert client.analysis("mine", snapshot=first) == made
        assert client.analysis("mine") == later
        again = httpx.post(f"{url}/v1/sweeps/mine/analysis", params={"snapshot": first}, trust_env=False)
        assert (again.status_code, again.json()) == (
            200,
            {"id": "mine", "snapshot": first, "further": [], "state": "done"},
        )


def test_what_is_being_made_is_not_made_twice_and_others_wait(catalog, made_by):
    analyses, mine = made_by(SLEEP), catalog.open("mine")
    assert analyses.start(mine) is False
    assert analyses.start(mine) is False
    assert len(analyses._running) == 1
    asked = refusal(analyses.cached, mine)
    assert (asked.status, asked.headers) == (404, {"Retry-After": "2"})
    commit(SweepStore.open(catalog.folder / "mine"), 1)
    enough = refusal(analyses.start, catalog.open("mine"))
    assert (enough.status, enough.headers) == (503, {"Retry-After": "60"})
    assert "nothing was started" in str(enough)
    process = next(iter(analyses._running.values())).process
    analyses.close()
    assert process.poll() is not None, "it ends with the service"
    assert not is_running(refusal(analyses.cached, mine))


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import sys; sys.exit('first\\nthe metrics are lost')", "the metrics are lost"),
        ("import os; os.kill(os.getpid(), 9)", "SIGKILL"),
        ("import sys; sys.exit(3)", "exit code 3"),
        ("import sys; print('the analysis is not kept', file=sys.stderr)", "the analysis is not kept"),
    ],
)
def test_an_analysis_that_could_not_be_made_says_why_and_can_be_tried_again(catalog, made_by, code, why):
    analyses, mine = made_by(code), catalog.open("mine")
    assert analyses.start(mine) is False
    refused = until_ended(analyses, mine)
    assert (refused.status, refused.headers) == (404, {})
    assert why in str(refused)
    assert analyses.start(mine) is False, "it is tried again"
    until_ended(analyses, mine)
    save_analysis(analyze(mine.sweep), mine.sweep)
    assert analyses.start(mine) is True
    assert isinstance(analyses.cached(mine), Analysis)


def test_too_few_samples_are_refused_before_anything_is_started(catalog, made_by):
    analyses = made_by(SLEEP)
    refused = refusal(analyses.start, catalog.open("new"))
    assert refused.status == 409
    assert not analyses._running


def test_a_folder_that_cannot_be_written_to_is_refused_before_anything_is_started(catalog, made_by, monkeypatch):
    analyses, mine = made_by(SLEEP), catalog.open("mine")
    monkeypatch.setattr(os, "access", lambda path, mode: path != catalog.folder)
    refused = refusal(analyses.start, mine)
    assert refused.status == 409
    advice = str(refusal(analyses.cached, mine))
    assert "POST" not in advice
    assert "pullback analyze mine" in advice
    assert not analyses._running


def test_a_client_waits_for_its_turn(tmp_path):
    first = commit(create(tmp_path / "mine", LAYOUT, {"name": "mine"}), 0)
    commit(SweepStore.open(tmp_path / "mine"), 1)
    with serving(tmp_path) as (url, app), pullback.Client(url) as client:
        usual = app.state.service.analyses._command
        app.state.service.analyses._command = (sys.executable, "-c", "import time; time.sleep(1.5)")
        assert httpx.post(f"{url}/v1/sweeps/mine/analysis", trust_env=False).status_code == 202
        app.state.service.analyses._command = usual
        assert client.analyze("mine", snapshot=first, poll=0.1, timeout=120)["snapshot"] == first


def test_a_service_that_ends_starts_nothing_more(catalog, made_by):
    analyses = made_by(SLEEP)
    analyses.close()
    refused = refusal(analyses.start, catalog.open("mine"))
    assert refused.status == 503
    assert not analyses._running


def test_a_damaged_analysis_is_made_again(catalog, made_by):
    mine = catalog.open("mine")
    save_analysis(analyze(mine.sweep), mine.sweep)
    analyses = made_by(SLEEP)
    assert analyses.start(mine) is True
    (kept,) = catalog.folder.glob("mine.analysis-*-homogeneity.zarr")
    (kept / "zarr.json").write_text("garbage")
    assert analyses.start(mine) is False
    assert is_running(refusal(analyses.cached, mine))


def test_a_client_that_waits_long_enough_says_so(catalog):
    with serving(catalog.folder) as (url, app), pullback.Client(url) as client:
        app.state.service.analyses._command = (sys.executable, "-c", SLEEP)
        with pytest.raises(ServiceError, match=r"mine.*0\.1 s"):
            client.analyze("mine", timeout=0.1)
        with pytest.raises(ServiceError) as caught:
            client.analysis("mine")
        assert caught.value.again


def test_a_service_finds_the_analysis_that_a_killed_one_began(catalog, made_by):
    mine = catalog.open("mine")
    killed = Analyses(1, (sys.executable, "-c", SLEEP))
    killed.start(mine)
    process = next(iter(killed._running.values())).process
    later = made_by(SLEEP)
    try:
        assert later.start(mine) is False
        assert later._running == {}, "nothing was started"
        assert is_running(refusal(later.cached, mine))
        commit(SweepStore.open(catalog.folder / "mine"), 1)
        assert refusal(later.start, catalog.open("mine")).status == 503
    finally:
        process.kill()
        process.wait(30)
    assert not is_running(refusal(later.cached, mine))
    assert later.start(mine) is False
    assert len(later._running) == 1
