"""The description of the routes: complete, true to the answers, and readable without another host."""

import json
import re

import pytest
from served_sweeps import LAYOUT, commit

from pullback.analysis import choose, run_statistics
from pullback.analysis.request import DEFAULT_STATISTICS, loadable_statistics
from pullback.api import answers, documents
from pullback.api.job_requests import read_job
from pullback.jobs.plan import plan_results
from pullback.jobs.run import run_results
from pullback.spec import job_of
from pullback.store.artifacts import artifact_names, remove_artifact
from pullback.store.creation import create
from pullback.store.reader import open_sweep


def test_health_and_the_description_of_the_routes_need_no_sweep(ask):
    assert ask.get("/healthz").json() == {"status": "ok"}
    paths = ask.get("/openapi.json").json()["paths"]
    assert {"/v1/sweeps", "/v1/sweeps/{id}/spectra", "/v1/sweeps/{id}/cancel"} <= set(paths)


def test_the_description_says_how_failures_are_answered(ask):
    described = ask.get("/openapi.json").json()
    failed = described["components"]["schemas"]["ErrorAnswer"]["properties"]
    for methods in described["paths"].values():
        for operation in methods.values():
            assert {code for code in operation["responses"] if code >= "4"} == {"4XX", "5XX"}
    answer = ask.get("/v1/sweeps/mine/spectra", params={"limit": "x"})
    assert (answer.status_code, set(answer.json())) == (422, set(failed))


ROUTES = {
    "/healthz": "/healthz",
    "/metrics": "/metrics",
    "/v1/sweeps": "/v1/sweeps",
    "/v1/jobs": "/v1/jobs",
    "/v1/jobs/{id}": "/v1/jobs/{job}",
    "/v1/jobs/{id}/status": "/v1/jobs/mine/status",
    "/v1/jobs/{id}/events": "/v1/jobs/mine/events",
    "/v1/jobs/{id}/results": "/v1/jobs/{job}/results",
    "/v1/sweeps/{id}": "/v1/sweeps/mine",
    "/v1/sweeps/{id}/snapshots": "/v1/sweeps/mine/snapshots",
    "/v1/sweeps/{id}/status": "/v1/sweeps/mine/status",
    "/v1/sweeps/{id}/events": "/v1/sweeps/mine/events",
    "/v1/sweeps/{id}/spectra": "/v1/sweeps/mine/spectra?quarantined=true",
    "/v1/sweeps/{id}/eigenvectors": "/v1/sweeps/mine/eigenvectors?sample=1&quarantined=true",
    "/v1/sweeps/{id}/analysis": "/v1/sweeps/mine/analysis",
    "/v1/sweeps/{id}/report": "/v1/sweeps/mine/report",
    "/v1/statistics": "/v1/statistics",
    **{f"/v1/sweeps/{{id}}/statistics/{name}": f"/v1/sweeps/mine/statistics/{name}" for name in DEFAULT_STATISTICS},
    "/v1/sweeps/{id}/statistics/comparison": "/v1/sweeps/mine/statistics/comparison?with=mine&draws=2",
}
"""A request for each route that reads, whose answer exists."""


@pytest.fixture
def analysed(folder):
    """The sweep `mine` with a report and a job's analysis, for a test; the id of the job."""
    sweep, report = open_sweep(folder / "mine"), folder / "mine.report.html"
    plan = plan_results(job_of({"kind": "analysis", "name": "a", "sweep": str(folder / "mine")}))
    run_results(plan)
    run_statistics(sweep, choose(["comparison"], {"draws": 2}), others=[sweep])
    report.write_text(f"<p>{sweep.snapshot}</p>")
    yield plan.place.name
    report.unlink()
    for name in artifact_names(folder / "mine"):
        remove_artifact(folder / "mine", name)


def test_answers_are_what_the_description_says(ask, analysed):
    described = ask.get("/openapi.json").json()
    reading = {path: methods["get"] for path, methods in described["paths"].items() if "get" in methods}
    assert reading.keys() == {
        *ROUTES,
        *(f"/v1/sweeps/{{id}}/statistics/{name}" for name in loadable_statistics()),
    }
    for path, asked in ROUTES.items():
        answer, result = ask.get(asked.format(job=analysed)), reading[path]["responses"]["200"]
        media = answer.headers["Content-Type"]
        assert answer.status_code == 200, (path, answer.text)
        assert media in result["content"], path
        assert result.get("headers", {}).keys() >= {
            name for name in ("ETag", "Pullback-Snapshot", "Pullback-Next-Offset") if name in answer.headers
        }, path
        assert ("ETag" in answer.headers) is ("304" in reading[path]["responses"]), path
        if media == "application/json":
            schema = result["content"][media]["schema"]["$ref"].rpartition("/")[2]
            getattr(answers, schema).model_validate_json(answer.content)
    for path, model in (("cancel", answers.Cancelled), ("analysis", answers.AnalysisRequested)):
        answer, result = ask.post(f"/v1/sweeps/mine/{path}"), described["paths"][f"/v1/sweeps/{{id}}/{path}"]["post"]
        assert (
            f"/{model.__name__}"
            in result["responses"][str(answer.status_code)]["content"]["application/json"]["schema"]["$ref"]
        )
        model.model_validate_json(answer.content)
    for form in ("npy", "arrow", "zarr"):
        media = ask.get("/v1/sweeps/mine/spectra", params={"format": form}).headers["Content-Type"]
        assert media in reading["/v1/sweeps/{id}/spectra"]["responses"]["200"]["content"]


def test_the_job_that_the_description_shows_is_one(ask):
    described = ask.get("/openapi.json").json()["paths"]["/v1/sweeps"]["post"]["requestBody"]["content"]
    job = read_job(json.dumps(described["application/json"]["example"]).encode(), "application/json")
    assert job.name == "faces"


def test_the_page_of_the_routes_needs_no_other_host(ask):
    page = ask.get("/docs")
    assert page.status_code == 200
    assert "://" not in page.text
    sources = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert any(source.endswith(".js") for source in sources)
    for source in sources:
        assert ask.get(source).status_code == 200


def test_a_sweep_has_the_same_json_on_the_command_line_and_over_http(ask, folder):
    sweep = open_sweep(folder / "mine")
    local = documents.LocalSweep.of(sweep, path=str(sweep.location), state="done").as_dict()
    served = ask.get("/v1/sweeps/mine").json()
    assert {key: served[key] for key in local.keys() & served.keys()} == {
        key: local[key] for key in local.keys() & served.keys()
    }
    assert local.keys() - served.keys() == {"path", "state"}
    assert served.keys() - local.keys() == {"id", "provenance"}
    (listed,) = [row for row in ask.get("/v1/sweeps").json()["sweeps"] if row["id"] == "mine"]
    assert {key: served[key] for key in listed.keys() - {"state"}} == {
        key: listed[key] for key in listed.keys() - {"state"}
    }


def test_a_sweep_of_unknown_origin_and_with_odd_texts_has_strict_json(tmp_path):
    odd = {"name": "\ud800x", "spec": [1], "generator": 3, "versions": {"torch": float("nan")}, "notes": ["\udfff", 1]}
    store = create(tmp_path / "odd", LAYOUT, {"name": "odd"})
    commit(store, 0)
    sweep = open_sweep(tmp_path / "odd")
    sweep.name, sweep.provenance = odd["name"], odd
    shown = json.loads(documents.LocalSweep.of(sweep, path="x", state="done").to_json())
    assert (shown["name"], shown["spec"], shown["generator"]) == ("?x", {}, None)
    assert (shown["versions"], shown["notes"]) == ({"torch": None}, ["?"])
