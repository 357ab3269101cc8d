"""Every number and every sentence of a report follows from what is stored, on sweeps that are odd.

The yardstick is computed here from whole metrics of the stored codes, and from the stored arrays; the claims are read
out of the page as a reader sees it.
"""

import html
import json
import re

import numpy as np
import odd_sweeps
import pytest
import torch

from pullback.analysis import analyze
from pullback.cli.analysis import print_analysis
from pullback.distances import load_distance
from pullback.errors import PullbackError
from pullback.metric import metric_at
from pullback.report import write_report
from pullback.report.document import render
from pullback.report.figures import Embedded
from pullback.report.strips import image_strips

CASES = {
    "two samples": ("plain", 2, {}),
    "one dimension": ("one_dimension", 5, {}),
    "two dimensions": ("two_dimensions", 5, {}),
    "rank one": ("rank_one", 6, {}),
    "isotropic": ("isotropic", 5, {}),
    "identical": ("identical", 5, {}),
    "one class": ("one_class", 6, {}),
    "partly zero": ("partly_flat", 12, {}),
    "partly not finite": ("partly_broken", 12, {}),
    "truncated": ("wide", 8, {"method": "block_krylov", "components": 5}),
    "truncated, steep": ("steep", 8, {"method": "block_krylov", "components": 8}),
    "truncated by differences": ("wide", 5, {"method": "finite_difference", "components": 3}),
    "truncated, rank one": ("rank_one", 6, {"method": "lanczos", "components": 1}),
    "truncated, partly zero": ("partly_flat", 12, {"method": "block_krylov", "components": 2}),
    "whole, some kept": ("wide", 8, {"method": "gauss_newton", "components": 5}),
    "backprop, some kept": ("wide", 4, {"method": "backprop", "components": 5}),
}


@pytest.fixture(scope="module", params=CASES, ids=[name.replace(" ", "-") for name in CASES])
def case(request, tmp_path_factory):
    """A sweep with its analysis, its report as text, and the whole metrics of its good samples."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("odd"))
        generator, count, metric = CASES[request.param]
        sweep = odd_sweeps.sweep_of(generator, count, **metric)
        analysis = analyze(sweep, draws=50)
        strips = image_strips(sweep, analysis["mean_metric"].value)
        patch.setattr("pullback.report.figures.embedded", lambda figure, stem: Embedded("data:,", 245))
        page = render(sweep, analysis, strips)
        made = getattr(odd_sweeps, generator)()
        codes = sweep.dataset()["latent"].values
        classes = "cycle" if generator == "one_class" else None
        whole = metric_at(made, load_distance("mse", device="cpu"), codes, condition=classes, method="gauss_newton")
        return sweep, analysis, strips, text_of(page), whole.matrix.numpy()


def text_of(page):
    """What a reader sees, on one line; cells of a table are divided by bars."""
    page = re.sub(r"<style>.*?</style>|<pre>.*?</pre>", " ", page, flags=re.S)
    page = re.sub(r"</t[dh]>", " | ", page)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", page)))


def needed(values, share, total):
    """The number of leading values that reach a share of a total."""
    return int(np.sum(np.cumsum(values) < (share - 1e-9) * total)) + 1


def stated(words):
    """Least and most that a count in words allows."""
    numbers = [int(number) for number in re.findall(r"\d+", words)]
    if "more than the" in words:
        return max([numbers[0] + 1, *numbers[1:]]), None
    if "at least" in words:
        return numbers[0], None
    return numbers[0], numbers[-1]


def holds(words, truth):
    least, most = stated(words)
    return least <= truth and (most is None or truth <= most)


def test_every_count_of_ranks_and_axes_is_true_of_the_whole_metrics(case):
    sweep, _, _, text, matrices = case
    spectra = np.linalg.eigvalsh(matrices)[:, ::-1].clip(0)
    own, mean = spectra.mean(axis=0), np.linalg.eigvalsh(matrices.mean(axis=0))[::-1].clip(0)
    tolerance = 0.02 if sweep.provenance["method"] == "finite_difference" else 1e-5

    def true(words, values, share):
        reached = {needed(values, share * (1 + sign * tolerance * (1 - share)), values.sum()) for sign in (-1, 0, 1)}
        return any(holds(words, count) for count in reached)

    rows = re.findall(
        r"([\d.]+) % \| ([^|]*\d[^|]*) \| [^|]* \| (≥ \d+|\d+) \| ([^|]*) \|",
        text.split("axes of the mean H")[1].split("Table 2.")[0],
    )
    assert len(rows) == 4
    for share, ranks, below, axes in rows:
        share = float(share) / 100
        assert true(ranks, own, share), (share, ranks, own)
        assert true(axes, mean, share), (share, axes, mean)
        assert int(re.findall(r"\d+", below)[0]) <= needed(own, share + 1e-7, own.sum())
    own_axes, fixed_axes = r"own eigenvectors, (.*?) of (\d+) directions carr", r"for all codes.*?, (.*?) (?:is|are) n"
    headline = re.search(rf"{own_axes}.*?mean over (\d+) samples.*?{fixed_axes}", text)
    assert true(headline[1], own, 0.99)
    assert int(headline[2]) == sweep.layout.latent_dim
    assert int(headline[3]) == sweep.status().good
    assert true(headline[4], mean, 0.99)


def test_json_table_and_report_say_the_same(case, capsys):
    from rich.console import Console

    sweep, analysis, _, text, _ = case
    content = json.loads(json.dumps(analysis.to_json(), allow_nan=False))
    print_analysis(analysis, sweep, Console(width=250), ["anisotropy", "homogeneity", "mean_metric"])
    table = re.sub(r"\s+", " ", capsys.readouterr().out)
    k, n = sweep.layout.components, sweep.layout.latent_dim
    iterative = sweep.provenance["method"] in ("block_krylov", "lanczos", "finite_difference")
    assert content["mean_metric"]["of"] == ("kept part" if iterative and k < n else "whole metrics")
    for wording in (text, table):
        assert ("kept part" in wording) == (iterative and k < n)
        assert ("estimated" in wording) == (iterative and k < n)
        assert (f"Only {k} of {n} eigenpair" in wording) == (k < n)
        assert ("exactly zero" in wording) == bool(content["zero_metrics"]["count"])
        assert "lower than" not in wording
    good = sweep.dataset()
    share = float(good["eigenvalue"].sum() / good["trace"].sum())
    assert content["anisotropy"]["trace_share"] == pytest.approx(share, rel=1e-9)
    assert sweep.trace_share() == pytest.approx(share, rel=1e-9)
    if k < n:
        for wording in (text, table):
            claimed = re.search(r"kept of each metric, with (?:more than )?([\d.]+) % of the trace", wording)
            assert float(claimed[1]) == pytest.approx(100 * share, rel=6e-3)


def test_shares_and_mean_metrics_of_truncated_sweeps_are_those_of_the_whole_metrics(case):
    sweep, analysis, _, _, matrices = case
    k, spectra = sweep.layout.components, np.linalg.eigvalsh(matrices)[:, ::-1]
    true = spectra[:, :k].sum() / spectra.sum()
    low, high = analysis["anisotropy"].value.trace_share_range
    slack = 0.03 if sweep.provenance["method"] == "finite_difference" else 1e-4
    assert low * (1 - slack) <= true <= high * (1 + slack)
    mean = np.linalg.eigvalsh(matrices.mean(axis=0))[::-1]
    if sweep.whole_metrics:
        np.testing.assert_allclose(sweep.mean_metric(), matrices.mean(axis=0), rtol=1e-4, atol=1e-9)
        np.testing.assert_allclose(analysis["mean_metric"].value.eigenvalues, mean, rtol=1e-4, atol=1e-9)
    else:
        with pytest.raises(PullbackError, match=r"kept=True"):
            sweep.mean_metric()
        found = analysis["mean_metric"].value.eigenvalues
        assert (found > 0).all()
        assert (found <= mean[: len(found)] * (1 + slack)).all()
        axes = analysis["mean_metric"].value.eigenvectors
        along = np.einsum("ki,ij,kj->k", axes, matrices.mean(axis=0), axes)
        assert (along >= found * (1 - slack)).all(), "the whole mean metric has at least the rate shown along each axis"


def test_zero_metrics_are_counted_and_named(case):
    sweep, _, _, text, matrices = case
    good = sweep.dataset()["sample"].values
    found = sweep.zero_metrics()
    assert list(found.good) == good[~matrices.any(axis=(1, 2))].tolist()
    everywhere = sweep.dataset(only_good=False)
    zero = np.flatnonzero((everywhere["eigenvalue"] == 0).all("component"))
    if "partly-flat" in sweep.name:
        assert zero.tolist() == np.flatnonzero(everywhere["latent"][:, 0] > 0).tolist()
    assert list(found.samples) == zero.tolist()
    claim = re.search(r"(\d+) samples? ha\w+ \w+ that \w+ exactly zero \((.*?)\): samples? ([\d–, ]+)\.", text)
    assert (claim is not None) == bool(len(zero))
    if claim:
        assert int(claim[1]) == len(found.samples)
        counts = dict(reversed(counted.split()) for counted in claim[2].split(" and "))
        wanted = {"good": len(found.good), "quarantined": len(found.quarantined)}
        assert {key: int(counts.get(key, 0)) for key in wanted} == wanted
        named = [list(map(int, run.split("–"))) for run in claim[3].split(", ")]
        assert [sample for run in named for sample in range(run[0], run[-1] + 1)] == zero.tolist()


def test_homogeneity_is_stated_where_it_exists_and_only_over_the_pairs_that_have_it(case):
    _, analysis, _, text, _ = case
    section, found = text.split("Homogeneity", 1)[1], analysis["homogeneity"].value
    for label, matrix in (("C_log", found.log), ("C_lin", found.linear), ("C_vec", found.vec)):
        mean, interval, std, median, pairs = (
            cell.strip()
            for cell in re.search(rf"{label} \|([^|]*)\|([^|]*)\|([^|]*)\|([^|]*)\|([^|]*)\|", section).groups()
        )
        values = matrix[~np.eye(len(matrix), dtype=bool) & np.isfinite(matrix)]
        assert int(pairs) == len(values)
        if not len(values):
            assert (mean, interval, std, median) == ("–",) * 4
            continue
        assert float(mean) == pytest.approx(values.mean(), abs=6e-4)
        assert float(std) == pytest.approx(values.std(), abs=6e-4)
        assert float(median) == pytest.approx(np.median(values), abs=6e-4)
        assert (interval == "–") == (len(matrix) < 3)
        assert label == "C_vec" or "It is 1 where" in text
    missing = [
        len(matrix) * (len(matrix) - 1) - summary.defined
        for matrix, summary in (
            (found.log, found.log_summary),
            (found.linear, found.linear_summary),
            (found.vec, found.vec_summary),
        )
    ]
    claimed = [int(many) for many in re.findall(r"not exist for (\d+) of", text)]
    assert sorted(claimed) == sorted({many for many in missing if many})


def test_what_is_said_of_the_images_is_what_was_measured(case):
    _, _, strips, text, _ = case
    section = text.split("What the axes do")[1].split(" Anisotropy ")[0]
    codes = int(re.search(r"moves (\d+) code", section)[1])
    assert codes == len(strips.titles) == min(3, codes)
    change = strips.change_at_the_ends
    if not np.isfinite(change).all():
        assert "not finite" in section
        return
    amounts = re.search(
        r"changed by ([\d.e-]+) in mse(, at those of axis (\d+) by ([\d.e-]+)(?:: ([^:]*?)\. )?)?", section
    )
    assert float(amounts[1]) == pytest.approx(change[0], rel=6e-3)
    if len(strips.ranks) > 1:
        assert int(amounts[3]) == strips.ranks[-1] + 1
        assert float(amounts[4].rstrip(".")) == pytest.approx(change[-1], rel=6e-3, abs=1e-12)
        times = re.search(r"([\d.]+) times (less|more)", amounts[5] or "")
        if times:
            ratio = change[0] / change[-1]
            assert (times[2] == "less") == (ratio > 1)
            assert float(times[1]) == pytest.approx(max(ratio, 1 / ratio), rel=0.06)
        else:
            assert change[-1] == 0 or change[0] / change[-1] == pytest.approx(1, rel=0.06)
    expected, measured = re.search(r"would be ([\d.e-]+), and ([\d.e-]+) is measured", section).groups()
    assert float(expected) == pytest.approx(strips.eigenvalues[0] * strips.steps[-1] ** 2 / 2, rel=6e-3)
    assert float(measured) == pytest.approx(change[0], rel=6e-3)


def test_what_is_said_of_the_certificate_is_what_is_stored(case):
    sweep, _, _, text, _ = case
    section = text.split(" Certificate ", 1)[1].split(" Symbols ")[0]
    rows = re.findall(r"\| ([^|]+?) \| ([\d.e–-]+) \| ([\d.e–-]+) \| ([\d.e-]+) ", "| " + section.split("limit | ")[1])
    assert len(rows) >= 5
    measured = [(float(worst), float(limit)) for _, _, worst, limit in rows if worst != "–"]
    claim = re.search(r"within all (\d+) limits", section)
    assert (claim is not None) == all(worst <= limit for worst, limit in measured)
    if claim:
        assert int(claim[1]) == len(measured)
    assert ("Jacobian columns" in section) == (sweep.provenance["method"] == "gauss_newton")


def test_what_has_no_statistics_is_refused_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sweep = odd_sweeps.sweep_of("plain", 1)
    with pytest.raises(PullbackError, match="1 good sample of 1"):
        write_report(sweep, analyze(sweep, draws=10), tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
