"""The page of a report as its readers meet it: numbered figures with their files, a control beside, small screens."""

import base64
import html
import json
import re
from html.parser import HTMLParser

import numpy as np
import odd_sweeps
import pytest
import torch

from pullback.analysis import analyze
from pullback.report import Control
from pullback.report.document import render
from pullback.report.figures import Embedded, embedded
from pullback.report.glossary import glossary, terms_in
from pullback.report.strips import image_strips
from pullback.report.sweep_figures import SWEEP_FIGURES, control_of, named

VOID = {"img", "meta", "br", "link", "input"}


class Structure(HTMLParser):
    """Checks that elements are closed in order, and collects attributes."""

    def __init__(self):
        super().__init__()
        self.open, self.attributes, self.wrong = [], [], []

    def handle_starttag(self, tag, attrs):
        self.attributes.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open[-1] in ("p", "li", "dt", "dd", "td", "th", "tr") and self.open[-1] != tag:
            self.open.pop()
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A sweep and another of the same codes that stands for its control, each with its analysis."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("page"))
        sweeps = [odd_sweeps.sweep_of(name, 5) for name in ("plain", "identical")]
        yield [(sweep, analyze(sweep, draws=20)) for sweep in sweeps]


@pytest.fixture(scope="module")
def page(opened):
    """The report with strips and a control; two figures are embedded as they are, the others as empty ones."""
    made = []

    def sparing(figure, stem):
        made.append(stem)
        return embedded(figure, stem) if len(made) <= 2 else Embedded("data:,", 245)

    (sweep, analysis), (control, of_control) = opened
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pullback.report.figures.embedded", sparing)
        strips = image_strips(sweep, analysis["mean_metric"].value)
        return render(sweep, analysis, strips, None, Control(control, of_control))


def text_of(page):
    page = re.sub(r"<style>.*?</style>", " ", page, flags=re.S)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", page)))


def test_the_page_is_well_formed_and_needs_no_other_file(page):
    structure = Structure()
    structure.feed(page)
    assert structure.wrong == []
    assert "<script" not in page
    for _, attributes in structure.attributes:
        for key in ("src", "href"):
            assert attributes.get(key, "#").startswith(("data:", "#"))
    anchors = {
        attributes["href"][1:] for _, attributes in structure.attributes if attributes.get("href", "").startswith("#")
    }
    assert anchors
    assert anchors <= {attributes.get("id") for _, attributes in structure.attributes}


def test_figures_and_tables_are_numbered_in_order_and_have_captions(page):
    text = text_of(page)
    for kind, least in (("Figure", 8), ("Table", 4)):
        numbers = [int(number) for number in re.findall(rf"\b{kind} (\d+)\. \S", text)]
        assert numbers == list(range(1, len(numbers) + 1))
        assert len(numbers) >= least


def test_a_figure_is_a_vector_with_a_pdf_and_its_numbers_as_csv(page):
    picture = re.search(r'class="plot" alt="[^"]+" src="data:image/svg\+xml;base64,([^"]+)"', page)
    assert b"<svg" in base64.b64decode(picture[1])
    files = dict(re.findall(r'download="([^"]+)" href="data:[^"]*?;base64,([^"]+)"', page))
    (pdf,) = (content for name, content in files.items() if name.endswith("2-anisotropy-spectrum.pdf"))
    assert base64.b64decode(pdf).startswith(b"%PDF")
    (numbers,) = (content for name, content in files.items() if name.endswith("2-anisotropy-spectrum.csv"))
    assert base64.b64decode(numbers).decode().startswith("series,rank,mean |λ|")
    (steps,) = (content for name, content in files.items() if name.endswith("1-strips.csv"))
    assert len(base64.b64decode(steps).decode().splitlines()) == 1 + 3 * 6 * 7


def test_the_page_is_no_wider_than_a_phone(page):
    style = re.search(r"<style>(.*?)</style>", page, re.S)[1]
    screen = style.split("@media print")[0]
    assert 'name="viewport" content="width=device-width, initial-scale=1"' in page
    assert not re.search(r"(?<![-\w])(?:min-)?width:\s*\d+(?:px|pt|rem|em)", screen), "no fixed width"
    assert "min(100%, 20rem)" in screen
    for table in re.finditer(r"<table>", page):
        assert page[: table.start()].rstrip().endswith('<div class="scroll">'), "a wide table scrolls by itself"
    for plot in re.finditer(r'<img class="plot"', page):
        assert page[: plot.start()].endswith('<div class="scroll">')


def test_all_text_has_one_size_and_that_of_notes(page):
    style = re.search(r"<style>(.*?)</style>", page, re.S)[1].split("@media print")[0]
    body = re.sub(r"h[12] \{[^}]*\}", "", style)
    assert set(re.findall(r"(?:font-size: |font: )([\d.]+rem)", body)) == {"1rem", ".875rem"}
    widths = {float(width) for width in re.findall(r"--w: (\d+)", page)}
    assert min(widths) > 200


def test_one_word_stands_for_one_thing(page):
    text = text_of(page.split("<h2>Provenance")[0])
    assert not re.search(r"\bpoints?\b", text)
    assert "μ" not in text
    assert "trace not kept" not in text
    for explained in ("D²", "U", "t", "λ", "H̄"):
        assert f"<dt>{explained}</dt>" in page
    assert "sign" in text


def test_the_summary_is_computed_and_names_the_control(opened, page):
    (sweep, analysis), (_, of_control) = opened
    result = text_of(re.search(r'<div class="summary">(.*?)</div>', page, re.S)[1])
    dim = analysis["anisotropy"].json["dim"]["0.99"]
    assert f"{dim['needed']} of {sweep.layout.latent_dim} directions carry 99 % of the change of the image" in result
    assert f"{analysis['mean_metric'].json['dim']['0.99']['needed']} carry 99 %" in result
    for found in (analysis, of_control):
        assert f"C_log = {found['homogeneity'].json['log']['mean']:.2f}" in result
    assert "the control identical has" in result


def test_rows_of_the_control_stand_beside_those_of_the_sweep(opened, page):
    rows = re.findall(r"<tr( class=\"control\")?><td>(.*?)</td><td class=\"number\">(.*?)</td>", page)
    shown = {name: value for _, name, value in rows}
    for (_, analysis), suffix in zip(opened, ("", ", identical"), strict=True):
        assert shown[f"C_log{suffix}"] == f"{analysis['homogeneity'].json['log']['mean']:.3f}"
        assert shown[f"99 %{suffix}"] == str(analysis["anisotropy"].json["dim"]["0.99"]["needed"])
    assert all(bool(marked) == name.endswith(", identical") for marked, name, _ in rows)


def test_a_control_is_grey_and_recognised_by_its_generator(opened):
    class Shuffled:
        name = "eyes"
        provenance = {"spec": {"generator": {"name": "dcgan-eyes", "control": "shuffled"}}}  # noqa: RUF012

    assert control_of(Shuffled) == "shuffled"
    assert control_of(opened[0][0]) is None
    entries = named([opened[0], (Shuffled, opened[1][1]), opened[0]])
    assert [entry.name for entry in entries] == ["plain", "eyes (shuffled)", "plain 2"]
    assert len({str(entry.style) for entry in entries}) == 3


def test_figures_of_several_sweeps_have_each_of_them(opened):
    entries = named(opened)
    for name, figure in SWEEP_FIGURES.items():
        drawn = figure.draw(entries)
        assert drawn, name
        for caption, each in drawn.items():
            assert "plain" in caption
            labels = each.axes[0].get_legend_handles_labels()[1]
            assert {"plain", "identical"} <= set(labels), name


def test_axes_against_random_directions_are_relative_to_the_mean_eigenvalue(opened):
    (drawn,) = SWEEP_FIGURES["null"].draw(named(opened[:1])).values()
    values = opened[0][1]["mean_metric"].value.eigenvalues
    line = next(line for line in drawn.axes[0].lines if line.get_label() == "plain")
    np.testing.assert_allclose(line.get_ydata(), values / values.mean())


def test_the_glossary_holds_the_terms_that_the_page_uses(page):
    entries = glossary()
    assert len(entries) > 40
    assert not any(mark in meaning for meaning in entries.values() for mark in ("`", "**", "\n"))
    assert "sample" in terms_in("Two samples.")
    assert "driver" not in terms_in("Two samples.")
    shown = page.split('id="glossary"')[1]
    for term in ("metric", "good", "quarantined", "mean metric"):
        assert f"<dt>{term}</dt>" in shown
    assert "<dt>submission</dt>" not in shown


def test_the_page_shows_how_to_cite_with_the_snapshot(opened, page):
    cited = page.split("How to cite")[1]
    assert "@inproceedings{wang2021geometry" in cited
    assert opened[0][0].snapshot in cited
    assert json.dumps(opened[0][0].provenance["sweep_id"]).strip('"') in cited
