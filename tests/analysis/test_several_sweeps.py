"""A statistic that reads several sweeps: in Python, jobs, the command line, HTTP, the cache and the report."""

import sys
import time
from pathlib import Path

import httpx
import pytest
import yaml

from api.served_sweeps import LAYOUT, commit, serving
from command_line import call
from plugin_files import on_the_path, write_distribution
from pullback.analysis import choose, run_statistics
from pullback.analysis.cache import cached_comparisons, cached_statistics, load_result
from pullback.analysis.protocol import sweeps_of
from pullback.api.analyses import Analyses
from pullback.api.catalog import Catalog
from pullback.api.problem_details import RequestError
from pullback.errors import PluginError, SpecError
from pullback.jobs.plan import plan_results, whole_job
from pullback.jobs.run import run_results
from pullback.jobs.state import planned_at
from pullback.plugins import STATISTICS
from pullback.spec import job_of
from pullback.store.creation import create
from pullback.store.location import split_snapshot
from pullback.store.reader import open_sweep
from pullback.store.repository import SweepStore

CONTRAST = '''
"""Differences of the number of samples."""
import xarray as xr
from pullback.spec.options import Options as Base
SUMMARY = "differences of the number of samples"
SWEEPS = {sweeps!r}
class Options(Base):
    factor: int = 1
    "Multiplies the differences."
def compute(samples, others, options, progress):
    found = [options.factor * (len(samples) - len(other)) for other in others]
    return xr.Dataset({{"difference": (("other",), found)}})
def summary(result):
    values = result["difference"].values
    return [(f"against {{about.name}}", int(value)) for about, value in zip(result.further, values)]
def figure(result):
    return None
def sentences(result):
    return [f"compared with {{len(result.further)}}"]
'''


@pytest.fixture(scope="module", autouse=True)
def contrasts(tmp_path_factory):
    """The statistics `contrast`, of two sweeps, and `contrasts`, of several."""
    modules = {"contrast": CONTRAST.format(sweeps=2), "contrasts": CONTRAST.format(sweeps="several")}
    with on_the_path(write_distribution(tmp_path_factory.mktemp("site"), STATISTICS.group, modules)):
        yield


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with the stored sweeps `mine`, of 9 good samples, and `yours`, of 3."""
    for name, shards in (("mine", (0, 1, 2)), ("yours", (0,))):
        origin = {"name": name, "sweep_id": name, "generator": "g", "distance": "mse"}
        commit(create(tmp_path / name, LAYOUT, origin), *shards)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def grown(place):
    """Commit one more shard of a sweep; returns the snapshot before."""
    before = open_sweep(place).snapshot
    commit(SweepStore.open(place), 1)
    return before


def asked(statistic="contrast", **options):
    return choose([statistic], options)


def test_it_is_computed_once_for_the_snapshots_of_both_sweeps(folder):
    mine, yours = open_sweep("mine"), open_sweep("yours")
    assert load_result(mine, "contrast", STATISTICS.options("contrast")(), [yours]) is None
    first = run_statistics(mine, asked(), others=[yours])["contrast"]
    assert first["difference"].values.tolist() == [6]
    assert [about.name for about in first.sweeps] == ["mine", "yours"]
    assert [about.samples for about in first.sweeps] == [9, 3]
    again = load_result(mine, "contrast", first.options, [yours])
    assert again.sweeps == first.sweeps
    assert again.title == "Contrast with yours"
    grown("yours")
    later = open_sweep("yours")
    assert load_result(mine, "contrast", first.options, [later]) is None
    assert run_statistics(mine, asked(), others=[later])["contrast"]["difference"].values.tolist() == [2]
    assert load_result(mine, "contrast", first.options, [yours])["difference"].values.tolist() == [6]


def test_what_is_cached_is_found_without_the_other_sweep(folder):
    mine = open_sweep("mine")
    run_statistics(mine, asked("contrasts", factor=2), others=[open_sweep("yours"), mine])
    (found,) = cached_comparisons(mine)
    assert (found.options.factor, found["difference"].values.tolist()) == (2, [12, 0])
    assert [about.name for about in found.further] == ["yours", "mine"]
    assert cached_statistics(mine) == {}


@pytest.mark.parametrize(("statistic", "others"), [("contrast", 0), ("contrast", 2), ("contrasts", 0), ("census", 0)])
def test_another_number_of_sweeps_is_refused(folder, statistic, others):
    mine = open_sweep("mine")
    if statistic == "census":  # reads one sweep, and is given two
        statistic, others = "certificate", 1
    with pytest.raises(SpecError) as caught:
        run_statistics(mine, asked(statistic), others=[mine] * others)
    assert caught.value.problems[0].startswith("with: ")


def test_the_number_of_sweeps_is_a_number_or_several():
    class Wrong:
        __name__, SWEEPS = "wrong", "many"

    with pytest.raises(PluginError, match="several"):
        sweeps_of(Wrong)


def test_a_snapshot_follows_an_at_sign():
    snapshot = "0123456789ABCDEFGHJK"
    assert split_snapshot(f"s3://bucket/a@b@{snapshot}") == ("s3://bucket/a@b", snapshot)
    assert split_snapshot("sweeps/a@b") == ("sweeps/a@b", None)


def test_the_command_line_names_the_other_sweeps_and_their_snapshots(folder):
    before = grown("yours")
    printed = call("analyze", "mine", "--with", "yours", "--statistic", "contrast", "--json")
    assert (printed.code, printed.json["contrast"]["difference"]) == (0, [2])
    assert [other["name"] for other in printed.json["further"]] == ["yours"]
    printed = call("analyze", "mine", "--with", f"yours@{before}", "--statistic", "contrast")
    assert "against yours" in printed.out
    assert f"--with yours@{before}" in printed.next_commands()[0]
    refused = call("analyze", "mine", "--statistic", "contrast")
    assert (refused.code, "--with: " in refused.err) == (2, True)
    assert call("analyze", "mine", "--with", "absent", "--statistic", "contrast").code != 0


def test_compare_is_short_for_the_analysis_of_two_sweeps(folder):
    before = grown("yours")
    quick = ("--draws", "10", "--homogeneity-samples", "4", "--json")
    short = call("compare", "mine", f"yours@{before}", *quick)
    long = call("analyze", "mine", "--with", f"yours@{before}", "--statistic", "comparison", *quick)
    assert (short.code, short.json) == (0, long.json)
    assert list(short.json["further"][0].values())[:2] == ["yours", before]


def test_a_job_names_the_other_sweeps_and_keeps_its_identity_when_they_grow(folder):
    content = {"kind": "analysis", "name": "both", "sweep": "mine", "with": "yours", "statistics": ["contrast"]}
    Path("both.yaml").write_text(yaml.safe_dump(content))
    assert call("run", "both.yaml").code == 0
    plan = plan_results(job_of(content))
    assert plan.finished == 1
    assert plan.as_dict()["further"] == [f"yours@{open_sweep('yours').snapshot}"]
    moved = job_of(whole_job(plan))
    assert [Path(other).is_absolute() for other in moved.others] == [True]
    assert plan_results(moved).job_id == plan.job_id
    before = grown("yours")
    later = plan_results(job_of(content))
    assert (later.job_id, later.finished) == (plan.job_id, 0)
    assert planned_at(plan.place).finished == 1, "what the driver computed stays at its snapshots"
    pinned = plan_results(job_of({**content, "with": [f"yours@{before}"]}))
    assert pinned.finished == 1
    assert pinned.job_id != plan.job_id
    assert plan_results(job_of({**content, "with": ["mine"]})).job_id != plan.job_id
    assert run_results(later).computed == 1


def test_a_job_without_other_sweeps_is_the_one_that_earlier_versions_made(folder):
    content = {"kind": "analysis", "name": "one", "sweep": "mine", "statistics": ["certificate"]}
    assert "with" not in whole_job(plan_results(job_of(content)))
    with pytest.raises(SpecError) as caught:
        job_of({**content, "wth": ["yours"]})
    assert "'with'" in caught.value.problems[0]
    with pytest.raises(SpecError) as caught:
        plan_results(job_of({**content, "statistics": ["contrast"]}))
    assert caught.value.problems[0].startswith("with: ")


def test_http_names_the_other_sweeps_by_id(folder):
    run_statistics(open_sweep("mine"), asked(), others=[open_sweep("yours")])
    with serving(folder) as (url, _):
        described = httpx.get(f"{url}/openapi.json", trust_env=False).json()["paths"]
        names = {each["name"] for each in described["/v1/sweeps/{id}/statistics/contrast"]["get"]["parameters"]}
        assert names == {"id", "snapshot", "with", "factor"}
        own = described["/v1/sweeps/{id}/statistics/certificate"]["get"]["parameters"]
        assert "with" not in {each["name"] for each in own}
        where = f"{url}/v1/sweeps/mine/statistics/contrast"
        found = httpx.get(f"{where}?with=yours", trust_env=False)
        assert found.json()["result"]["difference"] == [6]
        assert [each["name"] for each in found.json()["further"]] == ["yours"]
        made = httpx.post(f"{where}?with=yours", trust_env=False)
        assert made.status_code == 200
        assert f"with=yours@{open_sweep('yours').snapshot}" in made.headers["location"]
        assert httpx.get(f"{where}?with=absent", trust_env=False).status_code == 404
        assert httpx.get(where, trust_env=False).status_code == 422
        missing = httpx.get(f"{where}?with=yours&factor=3", trust_env=False)
        assert (missing.status_code, "--with=yours" in missing.json()["error"]) == (404, True)


def test_the_process_that_a_service_starts_reads_the_same_snapshots(folder):
    catalog = Catalog(folder)
    mine, yours = catalog.open("mine"), catalog.open("yours")
    analyses = Analyses(1, (sys.executable, "-c", "import sys; sys.exit(' '.join(sys.argv[1:]))"))
    try:
        assert not analyses.start(mine, asked(), [yours])
        end = time.monotonic() + 30
        while True:
            with pytest.raises(RequestError) as caught:
                analyses.cached(mine, asked(), [yours])
            if "failed" in str(caught.value):
                break
            assert time.monotonic() < end
            time.sleep(0.02)
    finally:
        analyses.close()
    assert f"--with={yours.sweep.path}@{yours.sweep.snapshot}" in str(caught.value)


def test_a_job_over_http_names_ids(folder):
    content = {"kind": "analysis", "name": "both", "sweep": "mine", "with": ["../yours"], "statistics": ["contrast"]}
    with serving(folder) as (url, _):
        refused = httpx.post(f"{url}/v1/jobs", json=content, trust_env=False)
    assert refused.status_code == 422
    assert refused.json()["problems"][0].startswith("with: ")


def test_the_report_shows_what_is_cached_of_several_sweeps(folder, monkeypatch):
    shown = []
    monkeypatch.setattr("pullback.report.write_report", lambda sweep, analysis, *rest: shown.append(analysis))
    run_statistics(open_sweep("mine"), asked(), others=[open_sweep("yours")])
    monkeypatch.setattr("pullback.cli.analysis.analysis_of", lambda sweep, asked, others=(): {})
    assert call("report", "mine").code == 0
    assert [result.title for result in shown[0].values()] == ["Contrast with yours"]
