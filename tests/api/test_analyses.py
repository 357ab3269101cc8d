"""Analyses over HTTP: made once of a snapshot, a few at once, kept; what cannot be made says why."""

import os
import sys
import time

import httpx
import pytest
from served_sweeps import LAYOUT, commit, serving

import pullback
from pullback.analysis import Analysis, analyze
from pullback.analysis.kept import save_analysis
from pullback.api.analyses import Analyses
from pullback.api.catalog import Catalog
from pullback.api.client import ServiceError
from pullback.api.problems import RequestError
from pullback.store.reader import open_sweep
from pullback.store.repository import SweepStore, create

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


def until_ended(analyses, opened):
    """The refusal once nothing is being made any more."""
    end = time.monotonic() + 30
    while "is being made" in str(refused := refusal(analyses.kept, opened)):
        assert time.monotonic() < end
        time.sleep(0.02)
    return refused


def test_an_analysis_is_made_over_http_once_of_each_snapshot_and_stays(tmp_path):
    store = create(tmp_path / "mine", LAYOUT, {"name": "mine"})
    first = commit(store, 0)
    with serving(tmp_path) as (url, _), pullback.Client(url) as client:
        with pytest.raises(ServiceError, match=r"POST /v1/sweeps/mine/analysis makes one") as caught:
            client.analysis("mine")
        assert (caught.value.status, caught.value.again) == (404, False)
        made = client.analyze("mine", poll=0.1, timeout=120)
        assert made == analyze(open_sweep(tmp_path / "mine")).to_json()
        second = commit(SweepStore.open(tmp_path / "mine"), 1)
        with pytest.raises(ServiceError, match=f"no analysis of snapshot {second} is kept"):
            client.analysis("mine")
        assert client.analysis("mine", snapshot=first) == made, "the same answer for ever"
        later = client.analyze("mine", poll=0.1, timeout=120)
        assert (made["samples"], later["samples"], later["snapshot"]) == (3, 7, second)
        assert client.analysis("mine", snapshot=first) == made
        assert client.analysis("mine") == later
        again = httpx.post(f"{url}/v1/sweeps/mine/analysis", params={"snapshot": first}, trust_env=False)
        assert (again.status_code, again.json()) == (200, {"id": "mine", "snapshot": first, "state": "done"})


def test_what_is_being_made_is_not_made_twice_and_others_wait(catalog, made_by):
    analyses, mine = made_by(SLEEP), catalog.open("mine")
    assert analyses.make(mine) is False
    assert analyses.make(mine) is False
    assert len(analyses._making) == 1
    asked = refusal(analyses.kept, mine)
    assert (asked.status, asked.headers) == (404, {"Retry-After": "2"})
    commit(SweepStore.open(catalog.folder / "mine"), 1)
    enough = refusal(analyses.make, catalog.open("mine"))
    assert (enough.status, enough.headers) == (503, {"Retry-After": "60"})
    assert "nothing was started" in str(enough)
    process = next(iter(analyses._making.values())).process
    analyses.close()
    assert process.poll() is not None, "it ends with the service"
    assert "is being made" not in str(refusal(analyses.kept, mine))


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import sys; sys.exit('first\\nthe metrics are lost')", "the metrics are lost"),
        ("import os; os.kill(os.getpid(), 9)", "its process was ended by SIGKILL"),
        ("import sys; sys.exit(3)", "its process ended with exit code 3"),
        ("import sys; print('the analysis is not kept', file=sys.stderr)", "the analysis is not kept"),
    ],
)
def test_an_analysis_that_could_not_be_made_says_why_and_can_be_tried_again(catalog, made_by, code, why):
    analyses, mine = made_by(code), catalog.open("mine")
    assert analyses.make(mine) is False
    refused = until_ended(analyses, mine)
    assert (refused.status, refused.headers) == (404, {})
    assert f"the last try failed: {why}" in str(refused)
    assert analyses.make(mine) is False, "it is tried again"
    until_ended(analyses, mine)
    save_analysis(analyze(mine.sweep), mine.sweep)
    assert analyses.make(mine) is True
    assert isinstance(analyses.kept(mine), Analysis)


def test_too_few_samples_are_refused_before_anything_is_started(catalog, made_by):
    analyses = made_by(SLEEP)
    refused = refusal(analyses.make, catalog.open("new"))
    assert (refused.status, str(refused)) == (
        409,
        "new has 0 good samples at this snapshot; an analysis needs 2 at least",
    )
    assert not analyses._making


def test_a_folder_that_cannot_be_written_to_is_refused_before_anything_is_started(catalog, made_by, monkeypatch):
    analyses, mine = made_by(SLEEP), catalog.open("mine")
    monkeypatch.setattr(os, "access", lambda path, mode: path != catalog.folder)
    refused = refusal(analyses.make, mine)
    assert refused.status == 409
    assert "may not write" in str(refused)
    advice = str(refusal(analyses.kept, mine))
    assert "POST" not in advice
    assert "pullback analyze mine" in advice
    assert not analyses._making


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
    refused = refusal(analyses.make, catalog.open("mine"))
    assert refused.status == 503
    assert "about to end" in str(refused)
    assert not analyses._making


def test_a_damaged_analysis_is_made_again(catalog, made_by):
    mine = catalog.open("mine")
    save_analysis(analyze(mine.sweep), mine.sweep)
    analyses = made_by(SLEEP)
    assert analyses.make(mine) is True
    (kept,) = catalog.folder.glob("mine.analysis-*.zarr")
    (kept / "zarr.json").write_text("garbage")
    assert analyses.make(mine) is False
    assert "is being made" in str(refusal(analyses.kept, mine))


def test_a_client_that_waits_long_enough_says_so(catalog):
    with serving(catalog.folder) as (url, app), pullback.Client(url) as client:
        app.state.service.analyses._command = (sys.executable, "-c", SLEEP)
        with pytest.raises(ServiceError, match=r"the analysis of mine is not made yet after 0.1 s"):
            client.analyze("mine", timeout=0.1)
        with pytest.raises(ServiceError, match="is being made; ask again in a moment") as caught:
            client.analysis("mine")
        assert caught.value.again
