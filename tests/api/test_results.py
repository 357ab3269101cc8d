"""Reading results over HTTP: formats, ranges, snapshots, limits."""

import io
import json
import socket
import zipfile
from dataclasses import replace

import httpx
import numpy as np
import psutil
import pyarrow as pa
import pytest
import xarray as xr
from served_sweeps import LAYOUT, commit, record_of, serving

from pullback.api import tables
from pullback.api.backend import LocalBackend
from pullback.driving.control import write_record
from pullback.driving.record import DriverRecord
from pullback.store.creation import create
from pullback.store.reader import open_sweep

GOOD = [0, 2, 3, 8, 9]
EIGENVALUES = np.concatenate([record_of(0).eigenvalue[[0, 2, 3]], record_of(2).eigenvalue])


def spectra(ask, **params):
    answer = ask.get("/v1/sweeps/mine/spectra", params=params)
    assert answer.status_code == 200, answer.text
    return answer


def test_the_sweeps_are_listed_and_nothing_else(ask):
    content = ask.get("/v1/sweeps").json()
    assert [sweep["id"] for sweep in content["sweeps"]] == ["mine", "new"]
    assert content["sweeps"][0]["samples"] == {"planned": 10, "good": 5, "quarantined": 1, "pending": 4}
    assert [sweep["state"] for sweep in content["sweeps"]] == ["done", "running"]
    assert content["next"] is None


def test_the_list_comes_in_pages(ask):
    first = ask.get("/v1/sweeps", params={"limit": 1}).json()
    second = ask.get("/v1/sweeps", params={"limit": 1, "after": first["next"]}).json()
    assert [page["sweeps"][0]["id"] for page in (first, second)] == ["mine", "new"]
    assert (first["next"], second["next"]) == ("mine", None)


def test_a_sweep_says_what_it_is(ask, folder):
    answer = ask.get("/v1/sweeps/mine")
    assert answer.json()["sweep_id"] == "0123456789abcdef"
    assert answer.json()["quarantine_reasons"] == {"NOT_FINITE": 1}
    assert answer.json()["snapshot"] == answer.headers["Pullback-Snapshot"] == open_sweep(folder / "mine").snapshot
    assert str(folder) not in answer.text


def test_a_damaged_sweep_does_not_hide_the_others(tmp_path):
    for name in ("a", "b"):
        create(tmp_path / name, LAYOUT, {"name": name})
    for snapshot in (tmp_path / "a" / "snapshots").iterdir():
        snapshot.write_bytes(b"")
    with serving(tmp_path, LocalBackend()) as (url, _):
        damaged, whole = httpx.get(f"{url}/v1/sweeps", trust_env=False).json()["sweeps"]
    assert damaged["id"] == "a"
    assert "cannot be opened" in damaged["error"]
    assert str(tmp_path) not in damaged["error"]
    assert whole["samples"]["pending"] == 10
    assert whole["state"] == "stopped"


def test_what_was_submitted_and_has_no_results_yet_is_listed_and_reported_as_such(tmp_path):
    create(tmp_path / "b", LAYOUT, {"name": "b"})
    me = psutil.Process()
    begun = DriverRecord("submitted", host=socket.gethostname(), pid=me.pid, began=me.create_time(), planned=7)
    write_record(tmp_path / "a", begun)
    write_record(tmp_path / "removed", replace(begun, life="done"))
    with serving(tmp_path, LocalBackend()) as (url, _), httpx.Client(base_url=url, trust_env=False) as ask:
        submitted, made = ask.get("/v1/sweeps").json()["sweeps"]
        unread = ask.get("/v1/sweeps/a/spectra")
        absent = ask.get("/v1/sweeps/c/spectra")
        ours = ask.get("/v1/sweeps/a/status").json()
    assert submitted == {"id": "a", "state": "submitted", "planned": 7, "message": ""}
    assert made["id"] == "b"
    assert unread.status_code == 404
    assert "GET /v1/sweeps/a/status" in unread.json()["error"]
    assert "there is no sweep c" in absent.json()["error"]
    assert ours["state"] == "submitted"


def test_spectra_as_json_hold_the_good_samples_with_their_numbers(ask):
    content = spectra(ask).json()
    assert content["sample"] == GOOD
    np.testing.assert_array_equal(content["eigenvalue"], EIGENVALUES)
    assert content["units"] == "squared distance per squared latent unit"


def test_quarantined_samples_come_when_asked_for_with_null_for_what_is_no_number(ask):
    content = spectra(ask, quarantined="true").json()
    assert content["sample"] == [0, 1, 2, 3, 8, 9]
    assert content["status"] == [1, 2, 1, 1, 1, 1]
    assert content["eigenvalue"][1][0] is None
    assert content["eigenvalue"][1][1] == record_of(0).eigenvalue[1, 1]


def test_spectra_as_npy_are_one_structured_array_without_pickles(ask):
    rows = np.load(io.BytesIO(spectra(ask, format="npy").content), allow_pickle=False)
    assert rows["sample"].tolist() == GOOD
    np.testing.assert_array_equal(rows["eigenvalue"], EIGENVALUES)


def test_spectra_as_arrow_name_their_snapshot(ask, folder):
    answer = spectra(ask, format="arrow", components="1:3")
    table = pa.ipc.open_stream(answer.content).read_all()
    assert table["sample"].to_pylist() == GOOD
    np.testing.assert_array_equal(table["eigenvalue"].to_pylist(), EIGENVALUES[:, 1:3])
    assert table.schema.metadata[b"snapshot"].decode() == open_sweep(folder / "mine").snapshot
    assert json.loads(table.schema.metadata[b"components"]) == [1, 3]


def test_spectra_as_zarr_open_with_xarray(ask, tmp_path):
    first, second = spectra(ask, format="zarr"), spectra(ask, format="zarr")
    assert first.content == second.content
    with zipfile.ZipFile(io.BytesIO(first.content)) as archive:
        archive.extractall(tmp_path)
    dataset = xr.open_zarr(tmp_path, chunks=None).load()
    assert dataset.sample.values.tolist() == GOOD
    assert dataset.eigenvalue.dims == ("sample", "component")
    np.testing.assert_array_equal(dataset.eigenvalue.values, EIGENVALUES)
    assert dataset.attrs["snapshot"] == first.headers["Pullback-Snapshot"]


@pytest.mark.parametrize(
    ("samples", "components", "expected"),
    [
        ("0:3", ":", ([0, 2], slice(None))),
        ("2:", ":2", ([2, 3, 8, 9], slice(2))),
        (":9", "3:", ([0, 2, 3, 8], slice(3, None))),
        ("5:1000", "0:1000", ([8, 9], slice(None))),
        ("4:8", ":", ([], slice(None))),
        ("10:", ":", ([], slice(None))),
        ("3:3", "2:3", ([], slice(2, 3))),
    ],
)
@pytest.mark.parametrize("form", ["json", "npy", "arrow", "zarr"])
def test_a_range_is_what_python_makes_of_it(ask, tmp_path, form, samples, components, expected):
    answer = spectra(ask, samples=samples, components=components, format=form)
    numbers, columns = expected
    wanted = EIGENVALUES[[GOOD.index(number) for number in numbers]][:, columns]
    if form == "json":
        found = answer.json()["sample"], np.reshape(answer.json()["eigenvalue"], wanted.shape)
    elif form == "npy":
        rows = np.load(io.BytesIO(answer.content), allow_pickle=False)
        found = rows["sample"].tolist(), rows["eigenvalue"]
    elif form == "arrow":
        table = pa.ipc.open_stream(answer.content).read_all()
        found = table["sample"].to_pylist(), np.reshape(table["eigenvalue"].to_pylist(), wanted.shape)
    else:
        zipfile.ZipFile(io.BytesIO(answer.content)).extractall(tmp_path)
        dataset = xr.open_zarr(tmp_path, consolidated=False, chunks=None)
        found = dataset.sample.values.tolist(), dataset.eigenvalue.values
    assert found[0] == numbers
    np.testing.assert_array_equal(found[1], wanted)


@pytest.mark.parametrize(
    "params",
    [
        {"samples": "3"},
        {"samples": "5:2"},
        {"samples": "-1:"},
        {"samples": "0:1:1"},
        {"samples": "٣:٤"},
        {"samples": "0:" + "9" * 400},
        {"components": "a:b"},
        {"components": "4:"},
        {"format": "pickle"},
        {"quarantined": "perhaps"},
        {"sample": "0:5"},
        {"snapshot": "../../etc/passwd"},
    ],
)
def test_a_wrong_parameter_is_reported(ask, params):
    answer = ask.get("/v1/sweeps/mine/spectra", params=params)
    assert answer.status_code == 422
    assert next(iter(params)) in answer.text


def test_eigenvectors_of_one_sample(ask):
    content = ask.get("/v1/sweeps/mine/eigenvectors", params={"sample": 8, "components": "1:3"}).json()
    np.testing.assert_array_equal(np.float32(content["eigenvector"]), record_of(2).eigenvector[0, 1:3])
    np.testing.assert_array_equal(content["eigenvalue"], record_of(2).eigenvalue[0, 1:3])
    np.testing.assert_array_equal(np.float32(content["latent"]), record_of(2).latent[0])
    assert (content["sample"], content["component"]) == (8, [1, 2])


@pytest.mark.parametrize("form", ["npy", "arrow", "zarr"])
def test_eigenvectors_come_in_every_format(ask, form):
    answer = ask.get("/v1/sweeps/mine/eigenvectors", params={"sample": 0, "format": form})
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == tables.MEDIA[form]
    assert answer.headers["Content-Disposition"].startswith('attachment; filename="mine.')


@pytest.mark.parametrize(("sample", "why"), [(1, "quarantined"), (5, "pending"), (10, "no sample 10")])
def test_a_sample_without_good_eigenvectors_says_why(ask, sample, why):
    answer = ask.get("/v1/sweeps/mine/eigenvectors", params={"sample": sample})
    assert answer.status_code == 404
    assert why in answer.json()["error"]


def test_a_quarantined_sample_has_eigenvectors_when_asked_for(ask):
    params = {"sample": 1, "quarantined": "true"}
    assert ask.get("/v1/sweeps/mine/eigenvectors", params=params).json()["status"] == 2


def test_a_snapshot_gives_the_same_answer_for_ever(tmp_path):
    store = create(tmp_path / "mine", LAYOUT, {"name": "mine"})
    commit(store, 0)
    with serving(tmp_path) as (url, _), httpx.Client(base_url=url, trust_env=False) as ask:
        routes = ["", "/spectra", "/eigenvectors?sample=0"]
        before = [ask.get(f"/v1/sweeps/mine{route}") for route in routes]
        snapshot = before[0].headers["Pullback-Snapshot"]
        commit(store, 1, 2)
        at = [ask.get(f"/v1/sweeps/mine{route}{'&' if '?' in route else '?'}snapshot={snapshot}") for route in routes]
        now = ask.get("/v1/sweeps/mine/spectra")
    with serving(tmp_path) as (url, _):  # which never had it open as the last one
        later = httpx.get(f"{url}/v1/sweeps/mine/spectra?snapshot={snapshot}", trust_env=False)
    for old, again in zip([*before, before[1]], [*at, later], strict=True):
        assert old.content == again.content
        assert old.headers["ETag"] == again.headers["ETag"]
        assert again.headers["Pullback-Snapshot"] == snapshot
    assert now.headers["Pullback-Snapshot"] == store.snapshot != snapshot
    assert now.headers["ETag"] != before[1].headers["ETag"]
    assert len(now.json()["sample"]) > len(before[1].json()["sample"])


def test_a_snapshot_that_is_not_there_is_not_found(ask):
    answer = ask.get("/v1/sweeps/mine/spectra", params={"snapshot": "Z" * 19 + "0"})
    assert answer.status_code == 404
    assert "has no snapshot" in answer.json()["error"]


@pytest.mark.parametrize("path", ["", "/mine", "/mine/status", "/mine/spectra", "/mine/events"])
def test_a_client_that_has_an_answer_gets_304_for_its_tag(ask, path):
    first = ask.get(f"/v1/sweeps{path}")
    again = ask.get(f"/v1/sweeps{path}", headers={"If-None-Match": f'"other", W/{first.headers["ETag"]}'})
    assert (first.status_code, again.status_code, again.content) == (200, 304, b"")
    assert again.headers["ETag"] == first.headers["ETag"]


def test_two_requests_that_ask_for_different_things_have_different_tags(ask):
    asked = [{}, {"components": "0:1"}, {"format": "npy"}, {"quarantined": "true"}]
    assert len({spectra(ask, **params).headers["ETag"] for params in asked}) == len(asked)


def test_too_much_at_once_is_refused_with_the_way_to_pages(ask, monkeypatch):
    monkeypatch.setattr(tables, "MOST_NUMBERS", {})
    monkeypatch.setattr("pullback.api.selection.MOST_NUMBERS", {"json": 12, "npy": 40})
    answer = ask.get("/v1/sweeps/mine/spectra")
    assert answer.status_code == 413
    assert "samples=0:3 and then samples=3:6" in answer.json()["error"]
    numbers = []
    for start in range(0, 10, 3):
        numbers += spectra(ask, samples=f"{start}:{start + 3}").json()["sample"]
    assert numbers == GOOD
    assert spectra(ask, format="npy").status_code == 200
    assert ask.get("/v1/sweeps/mine/eigenvectors", params={"sample": 0}).status_code == 413


def test_damaged_data_are_an_error_that_names_no_path_and_no_code(tmp_path):
    commit(create(tmp_path / "mine", LAYOUT, {"name": "mine"}), 0, 1, 2)
    with serving(tmp_path) as (url, _):
        assert httpx.get(f"{url}/v1/sweeps/mine/spectra", trust_env=False).status_code == 200
        for manifest in (tmp_path / "mine" / "manifests").iterdir():
            manifest.write_bytes(manifest.read_bytes()[:-40])
        create(tmp_path / "other", LAYOUT, {"name": "other"})  # a service that has nothing open yet
    with serving(tmp_path) as (url, _):
        answer = httpx.get(f"{url}/v1/sweeps/mine/spectra", trust_env=False)
    assert answer.status_code == 409
    assert "damaged or missing" in answer.json()["error"]
    assert str(tmp_path) not in answer.text
    assert "Traceback" not in answer.text


def test_the_snapshots_that_can_be_asked_for_are_listed(ask, folder):
    found = ask.get("/v1/sweeps/mine/snapshots").json()["snapshots"]
    assert [each["message"] for each in found] == ["shards", "plan"]
    assert found[0]["id"] == open_sweep(folder / "mine").snapshot
    assert ask.get("/v1/sweeps/mine", params={"snapshot": found[1]["id"]}).json()["samples"]["good"] == 0
    assert ask.get("/v1/sweeps/mine/snapshots", params={"limit": 1}).json()["snapshots"] == found[:1]
    assert ask.get("/v1/sweeps/nowhere/snapshots").status_code == 404


def test_an_analysis_that_nobody_made_says_how_to(ask):
    answer = ask.get("/v1/sweeps/mine/analysis")
    assert answer.status_code == 404
    assert "pullback analyze mine" in answer.json()["error"]


def test_the_report_that_is_kept_is_served_only_at_its_own_snapshot(ask, folder):
    snapshot = open_sweep(folder / "mine").snapshot
    kept = folder / "mine.report.html"
    try:
        kept.write_text(f"<p>snapshot {snapshot}</p>")
        answer = ask.get("/v1/sweeps/mine/report")
        assert answer.text == f"<p>snapshot {snapshot}</p>"
        assert "sandbox" in answer.headers["Content-Security-Policy"]
        kept.write_text("<p>snapshot of yesterday</p>")
        assert ask.get("/v1/sweeps/mine/report").status_code == 404
    finally:
        kept.unlink()


def test_the_metrics_count_requests_by_route(ask):
    ask.get("/v1/sweeps/mine/status")
    ask.get("/v1/sweeps/new/status")
    lines = ask.get("/metrics").text.splitlines()
    counted = [line for line in lines if line.startswith("pullback_http_requests_total") and "{id}/status" in line]
    assert any(float(line.rpartition(" ")[2]) >= 2 for line in counted)
    assert not any("/mine" in line for line in lines)


def test_an_odd_file_in_the_folder_hides_no_sweep(tmp_path):
    folder = tmp_path / "sweeps"
    commit(create(folder / "mine", LAYOUT, {"name": "mine"}), 0)
    create(tmp_path / "elsewhere", LAYOUT, {"name": "elsewhere"})
    (folder / ".torn.driver.json").write_text('{"life": "run')
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "photos").mkdir()
    (folder / "photos" / "one.jpg").touch()
    for name in ("linked", "photos"):
        write_record(folder / name, DriverRecord("running", planned=3))
    with serving(folder, LocalBackend()) as (url, _):
        listed = httpx.get(f"{url}/v1/sweeps", trust_env=False)
        assert [sweep["id"] for sweep in listed.json()["sweeps"]] == ["mine"]
        assert 'sweep="linked"' not in httpx.get(f"{url}/metrics", trust_env=False).text, "links are not followed"
