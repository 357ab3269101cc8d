"""A statistic that is one module: it appears in jobs, the command line, HTTP, the cache and the report."""

import importlib
from contextlib import suppress
from pathlib import Path

import httpx
import numpy as np
import pytest
import yaml

from api.served_sweeps import LAYOUT, commit, serving
from command_line import call
from plugin_files import in_the_package, on_the_path, write_distribution
from pullback import Client
from pullback.analysis import Samples, choose, run_statistics
from pullback.analysis.cache import cached_statistics, load_result
from pullback.analysis.figure_files import to_bytes
from pullback.analysis.runner import compute
from pullback.cli import completion
from pullback.errors import PluginError, PullbackError, SpecError, UnknownPluginError
from pullback.plugins import OURS, STATISTICS
from pullback.report.figures import Embedded
from pullback.spec.options import Options
from pullback.store.artifacts import artifact_names
from pullback.store.creation import create
from pullback.store.reader import open_sweep

CENSUS = '''
"""Counts eigenvalues above a threshold."""
import numpy as np
import xarray as xr
from pydantic import Field
from pullback.analysis.bootstrap import BootstrapOptions, interval, weighted_means
SUMMARY = "Eigenvalues above a threshold."
class Options(BootstrapOptions):
    threshold: float = Field(default=0.5, ge=0)
    "Eigenvalues up to this do not count."
    listed: tuple[int, ...] = ()
    "Samples to list."
def compute(samples, options, progress):
    counts = (samples.eigenvalues > options.threshold).sum(axis=1)
    means = weighted_means(samples.bootstrap(options.draws, options.seed), counts)
    progress(1, 1)
    return xr.Dataset({
        "count": (("sample",), counts), "mean": ((), counts.mean()), "mean_ci95": (("end",), np.stack(interval(means))),
    })
def summary(result):
    return [("eigenvalues above the threshold", float(result["mean"]))]
def figure(result):
    from pullback.analysis.drawing import Figure
    figure = Figure()
    figure.subplots().hist(result["count"].values)
    return {"Counts of samples.": figure}
def sentences(result):
    return [f"In the mean {float(result['mean']):.3f} eigenvalues count."]
'''


@pytest.fixture(params=["a module of the package", "an entry point"])
def census(request, tmp_path, monkeypatch):
    """The statistic `census`, in either way; nothing else is touched."""
    site = tmp_path / "site"
    if request.param == "an entry point":
        with on_the_path(write_distribution(site, STATISTICS.group, {"census": CENSUS})):
            monkeypatch.setenv("PYTHONPATH", str(site))  # for processes that a service starts
            yield request.param
    else:
        site.mkdir()
        (site / "census.py").write_text(CENSUS)
        with in_the_package(STATISTICS.package, site):
            yield request.param


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The folder of a stored sweep, `sweeps/mine`."""
    (tmp_path / "sweeps").mkdir()
    commit(create(tmp_path / "sweeps/mine", LAYOUT, {"name": "mine", "generator": "g", "distance": "mse"}), 0, 1)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "sweeps/mine"


def true_mean(place, threshold):
    return float((open_sweep(place).dataset()["eigenvalue"].values > threshold).sum(axis=1).mean())


def test_the_command_line_has_its_options_and_shows_its_table(census, mine):
    helped = call("analyze", "--help")
    assert helped.code == 0
    assert "--threshold" in helped.out
    assert "Eigenvalues up to this do not count." in " ".join(helped.out.split())
    assert "census" in call("plugins").out
    assert "census" in completion.complete_statistic("ce")
    printed = call("analyze", mine, "--statistic", "census", "--threshold", "0.7", "--draws", "20", "--json")
    assert printed.code == 0
    assert printed.json["census"]["mean"] == true_mean(mine, 0.7)
    assert printed.json["options"] == {"census": {"draws": 20, "seed": 0, "threshold": 0.7, "listed": []}}
    table = call("analyze", mine, "--statistic", "census", "--listed", "[1, 2]")
    assert "eigenvalues above the threshold" in table.out
    assert "--statistic census" in table.next_commands()[0]


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--statistic", "cenus"], "census"),
        (["--statistic", "census", "--threshold", "-1"], "threshold"),
        (["--statistic", "census", "--threshold", "much"], "threshold"),
        (["--statistic", "census", "--points", "5"], "points"),
        (["--statistic", "census", "--listed", "[1.5]"], "listed"),
        (["--statistic", "census", "--listed", "["], "listed"),
        (["--draws", "0"], "draws"),
    ],
)
def test_wrong_requests_are_refused_with_the_name_of_what_is_wrong(census, mine, arguments, names):
    printed = call("analyze", mine, *arguments)
    assert (printed.code, printed.out) == (2, "")
    assert names in printed.err
    assert artifact_names(mine) == []


def test_results_are_cached_by_snapshot_and_options(census, mine):
    sweep = open_sweep(mine)
    calls = []
    for threshold in (0.5, 0.7, 0.5):
        asked = choose(["census"], {"threshold": threshold, "draws": 20})
        analysis = run_statistics(sweep, asked, lambda *done: calls.append(done))
        assert float(analysis["census"]["mean"]) == true_mean(mine, threshold)
    assert calls == [("census", 1, 1)] * 2
    assert len(artifact_names(mine)) == 2
    assert load_result(sweep, "census", STATISTICS.options("census")()) is None
    assert {*cached_statistics(sweep)} == {"census"}


def test_a_job_of_kind_analysis_computes_it(census, mine):
    content = {"kind": "analysis", "name": "counting", "sweep": str(mine), "statistics": {"census": {"threshold": 0.7}}}
    Path("counting.yaml").write_text(yaml.safe_dump(content))
    assert "census" in call("plan", "counting.yaml").out
    assert call("run", "counting.yaml").code == 0
    options = choose(["census"], {"threshold": 0.7})["census"]
    assert float(load_result(open_sweep(mine), "census", options)["mean"]) == true_mean(mine, 0.7)
    content["statistics"] = {"census": {"treshold": 0.7}}
    Path("counting.yaml").write_text(yaml.safe_dump(content))
    refused = call("plan", "counting.yaml")
    assert refused.code == 2
    assert "'threshold'" in refused.err


def test_http_has_a_route_with_its_options_and_computes_it(census, mine):
    with serving(mine.parent) as (url, _), Client(url) as client:
        described = httpx.get(f"{url}/openapi.json", trust_env=False).json()["paths"]
        route = described["/v1/sweeps/{id}/statistics/census"]
        assert {each["name"] for each in route["get"]["parameters"]} == {
            *("id", "snapshot", "draws", "seed", "threshold", "listed")
        }
        assert "threshold" in {each["name"] for each in described["/v1/sweeps/{id}/analysis"]["post"]["parameters"]}
        assert "census" in {each["name"] for each in client.statistics()}
        wrong = httpx.get(f"{url}/v1/sweeps/mine/statistics/census?threshold=-1", trust_env=False)
        assert wrong.status_code == 422
        assert "threshold" in str(wrong.json()["problems"])
        asked = f"{url}/v1/sweeps/mine/statistics/census?threshold=0.7&draws=20"
        missing = httpx.get(asked, trust_env=False)
        assert missing.status_code == 404
        assert "--threshold=0.7" in missing.json()["error"]
        if census == "a module of the package":  # a process that the service starts does not see the test's folder
            run_statistics(open_sweep(mine), choose(["census"], {"threshold": 0.7, "draws": 20}))
        else:
            made = client.analyze("mine", statistics=["census"], threshold=0.7, draws=20, poll=0.1, timeout=120)
            assert made["census"]["mean"] == true_mean(mine, 0.7)
        answer = httpx.get(asked, trust_env=False)
        assert answer.status_code == 200
        content = answer.json()
        assert content["result"]["mean"] == true_mean(mine, 0.7)
        assert content["tables"][0]["rows"][0][0] == "eigenvalues above the threshold"
        again = httpx.post(asked, trust_env=False)
        assert (again.status_code, again.json()["state"]) == (200, "done")
        assert httpx.get(f"{url}{again.headers['Location']}", trust_env=False).json() == content


@pytest.mark.parametrize("census", ["an entry point"], indirect=True)
def test_the_report_has_its_section_once_it_is_cached(census, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pullback.report.figures.embedded", lambda figure, stem: Embedded("data:,", 245))
    content = {
        "name": "toy",
        "generator": "toy_generators:smooth",
        "distance": "mse",
        "samples": {"count": 4},
        "resources": {"workers": 1},
    }
    Path("toy.yaml").write_text(yaml.safe_dump(content))
    assert call("run", "toy.yaml", "--serial").code == 0
    assert call("analyze", "sweeps/toy", "--statistic", "census", "--threshold", 0.001).code == 0
    assert call("report", "sweeps/toy", "--draws", 10, "--out", "toy.html").code == 0
    page = Path("toy.html").read_text()
    assert "<h2>Census</h2>" in page
    assert "Counts of samples." in page
    assert f"In the mean {true_mean('sweeps/toy', 0.001):.3f} eigenvalues count." in page


BROKEN = {
    "compute": "def compute(samples, options, progress):\n    raise ZeroDivisionError('nothing')\n",
    "compute's type": "def compute(samples, options, progress):\n    return 3\n",
    "summary": "def summary(result):\n    return [1, 2, 3]\n",
    "figure's type": "def figure(result):\n    return 'a picture'\n",
    "summary's rows": "from pullback.analysis import Table\ndef summary(result):\n    return Table([''], [[1, 2]])\n",
    "figure": "def figure(result):\n    raise KeyError('colour')\n",
    "sentences": "def sentences(result):\n    return 1 / 0\n",
    "to_json": "def to_json(result):\n    return 5\n",
}


def drawn(result):
    """The figures as the report draws them."""
    with result.guard("figure"):
        return [to_bytes(figure, "png", 50) for figure in result.figures().values()]


@pytest.mark.parametrize("part", BROKEN)
def test_a_statistic_that_fails_costs_one_sentence_and_not_the_others(tmp_path, part):
    site = write_distribution(tmp_path / "site", STATISTICS.group, {"census": CENSUS + BROKEN[part]})
    samples = Samples.of_metrics([np.diag([2.0, 1.0, 0.1]), np.diag([3.0, 1.0, 0.2])])
    with on_the_path(site):
        chosen = choose(["census"], {"draws": 10})["census"]
        if part.startswith("compute"):
            with pytest.raises(PluginError, match="census"):
                compute(samples, "census", chosen)
            return
        result = compute(samples, "census", chosen)
        parts = {
            "summary": result.tables,
            "summary's rows": result.tables,
            "figure": result.figures,
            "figure's type": lambda: drawn(result),
            "sentences": result.sentences,
            "to_json": lambda: result.json,
        }
        for name, show in parts.items():
            if name == part:
                with pytest.raises(PluginError, match="census"):
                    show()
            elif name.partition("'")[0] != part.partition("'")[0]:
                show()


def test_options_of_one_name_and_different_types_are_distinguished(tmp_path):
    other = CENSUS.replace("threshold: float = Field(default=0.5, ge=0)", "threshold: int = 3")
    samples = write_distribution(tmp_path / "site", STATISTICS.group, {"census": CENSUS, "muster": other})
    with on_the_path(samples):
        chosen = choose(["census", "muster"], {"threshold": 0.25, "muster_threshold": 7, "draws": 10})
        assert (chosen["census"].threshold, chosen["muster"].threshold) == (0.25, 7)
        assert chosen["census"].draws == chosen["muster"].draws == 10
        assert "--muster-threshold" in call("analyze", "--help").out
        with pytest.raises(SpecError):
            choose(["census"], {"muster_threshold": 7})


def test_options_named_like_parameters_of_the_commands_are_distinguished(tmp_path, mine):
    fields = 'snapshot: str = "none"\n    json: int = 1\n    statistic: bool = False\n    needed: int'
    other = CENSUS.replace("listed: tuple[int, ...] = ()", fields)
    with on_the_path(write_distribution(tmp_path / "site", STATISTICS.group, {"muster": other})):
        helped = call("analyze", "--help").out
        assert all(f"--muster-{name}" in helped for name in ("snapshot", "json", "statistic"))
        given = ["--muster-snapshot", "first", "--muster-json", 3, "--needed", 5]
        printed = call("analyze", mine, "--statistic", "muster", *given, "--json")
        assert printed.json["options"]["muster"]["snapshot"] == "first"
        assert call("analyze", mine, "--draws", 10).code == 0
        missing = call("analyze", mine, "--statistic", "muster")
        assert missing.code == 2
        assert "needed" in missing.err
        with serving(mine.parent) as (url, _):
            paths = httpx.get(f"{url}/openapi.json", trust_env=False).json()["paths"]
        named = {each["name"] for each in paths["/v1/sweeps/{id}/statistics/muster"]["get"]["parameters"]}
        assert {"snapshot", "muster_snapshot", "needed"} <= named


def test_any_kind_of_array_is_shown_as_json_and_what_cannot_be_stored_is_one_sentence(tmp_path, mine):
    code = (
        CENSUS
        + """
def compute(samples, options, progress):
    when = np.array(["2026-01-01"], dtype="datetime64[ns]")
    return xr.Dataset({"when": (("day",), when), "name": ((), "x"), "many": (("i",), np.zeros(5000))})
def summary(result):
    return []
"""
    )
    unstorable = code.replace("5000)", "3)").replace('((), "x")', '(("i",), np.array([{}, 1, print], dtype=object))')
    site = write_distribution(tmp_path / "site", STATISTICS.group, {"dated": code, "odd": unstorable})
    with on_the_path(site):
        printed = call("analyze", mine, "--statistic", "dated", "--json")
        assert printed.code == 0, printed.err
        assert printed.json["dated"]["many"] == {"shape": [5000]}
        assert call("analyze", mine, "--statistic", "dated").code == 0
        refused = call("analyze", mine, "--statistic", "odd")
        assert refused.code == 1
        assert "odd" in refused.err
        assert "Traceback" not in refused.err


def test_a_broken_plugin_leaves_the_commands_of_the_others_alone(tmp_path, mine):
    with on_the_path(write_distribution(tmp_path / "site", STATISTICS.group, {"census": "raise RuntimeError('x')"})):
        assert call("analyze", "--help").code == 0
        assert call("analyze", mine, "--draws", "10").code == 0
        refused = call("analyze", mine, "--statistic", "census")
        assert refused.code == 1
        assert "census" in refused.err
        with pytest.raises(PluginError):
            choose(["census"], {})


def test_the_default_statistics_are_chosen_if_none_is_named():
    assert list(choose((), {})) == ["anisotropy", "homogeneity", "mean_metric", "certificate"]
    with pytest.raises(UnknownPluginError):
        choose(["nothing"], {})
    assert all(isinstance(each, Options) for each in choose((), {"points": 50}).values())


def test_the_template_of_a_statistic_is_a_statistic(tmp_path, mine):
    source = (Path(__file__).parents[2] / "docs/templates/statistic.py").read_text(encoding="utf-8")
    with on_the_path(write_distribution(tmp_path / "site", STATISTICS.group, {"effective": source})):
        one_direction, alike = np.diag([1.0, 0, 0, 0]), np.eye(4)
        samples = Samples.of_metrics([one_direction, alike, alike, np.zeros((4, 4))])
        result = compute(samples, "effective", choose(["effective"], {"draws": 200})["effective"])
        np.testing.assert_allclose(result["effective_rank"].values, [1, 4, 4, np.nan])
        assert float(result["mean"]) == pytest.approx(3)
        low, high = result["mean_ci95"].values
        assert 1 <= low < 3 < high <= 4
        assert len(result.tables()) == len(result.figures()) == len(result.sentences()) == 1
        assert call("analyze", mine, "--statistic", "effective", "--ranks", "2").code == 0


def test_every_statistic_of_ours_is_complete_and_reads_samples_alone():
    metrics = [np.diag([2.0, 1.0, 0.1]), np.diag([3.0, 1.0, 0.2]), np.diag([1.0, 2.0, 0.2])]
    bare = Samples.of_metrics(metrics)
    columns = {"eigenvalue": bare.eigenvalues, "eigenvector": bare.eigenvectors, "trace": bare.trace}
    columns["latent"] = np.random.default_rng(0).standard_normal((3, 3))
    blocks = {"blocks": {"noise": [0, 1], "class": [1, 3]}}
    samples = Samples(bare.about, columns, mean=bare.mean_metric(), provenance=blocks)
    for name in (plugin.name for plugin in STATISTICS.plugins() if plugin.source == OURS):
        module = importlib.import_module(f"{STATISTICS.package}.{name}")
        assert all(field.description for field in module.Options.model_fields.values())
        if not hasattr(module, "SWEEPS"):  # those of several sweeps are tested with them
            result = compute(samples, name, module.Options())
            assert result.json is not None
            assert result.tables()
            assert isinstance(result.figures(), dict)
            with suppress(PullbackError):  # codes or blocks are missing, which it says
                compute(bare, name, module.Options())
        with pytest.raises(PullbackError):
            choose([name], {"no_such_option": 1})
