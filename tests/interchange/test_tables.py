"""Tables as CSV files, results as xarray, and the citation."""

import csv
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import yaml
from sample_metrics import FakeSweep, random_metrics

import pullback
from command_line import call
from pullback.analysis.protocol import Table
from pullback.citation import bibtex, software
from pullback.errors import SpecError, StoreError
from pullback.interchange.tables import table_csv, write_tables
from pullback.store.creation import create
from stored_sweeps import LAYOUT, commit, filled, record_of

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def analysis():
    return pullback.analyze(FakeSweep(random_metrics(5, 4)), "anisotropy", "volume", draws=10)


def test_a_table_has_its_numbers_unrounded_and_empty_cells_for_missing_ones():
    table = Table(["name", ">value", ">n"], [["a, b", 1 / 3, 2], ["c", None, 3], ["d", float("nan"), 4], ["e", "–", 5]])
    rows = list(csv.reader(table_csv(table).splitlines()))
    assert rows == [["name", "value", "n"], ["a, b", repr(1 / 3), "2"], ["c", "", "3"], ["d", "", "4"], ["e", "", "5"]]


def test_every_table_of_every_result_is_a_file_with_its_headings(analysis, tmp_path):
    names = write_tables(analysis, tmp_path / "tables")
    assert sorted(names) == sorted(path.name for path in (tmp_path / "tables").iterdir())
    assert len(names) == sum(len(result.tables()) for result in analysis.values())
    for name in names:
        head, *rows = csv.reader((tmp_path / "tables" / name).read_text(encoding="utf-8").splitlines())
        assert rows
        assert all(len(row) == len(head) for row in rows)
    with pytest.raises(StoreError):
        write_tables(analysis, tmp_path / "tables")


def test_the_command_writes_tables_beside_what_it_prints(tmp_path):
    store = create(tmp_path / "sweep", LAYOUT, {"name": "s", "generator": "g", "distance": "d"})
    commit(store, *(record_of(LAYOUT, shard) for shard in range(3)))
    done = call("analyze", tmp_path / "sweep", "--statistic", "anisotropy", "--draws", "10", "--csv", tmp_path / "t")
    assert done.code == 0
    assert [path.suffix for path in (tmp_path / "t").iterdir()] == [".csv"] * len(list((tmp_path / "t").iterdir()))
    again = call("analyze", tmp_path / "sweep", "--statistic", "anisotropy", "--draws", "10", "--csv", tmp_path / "t")
    assert again.code == 1


def test_an_analysis_is_xarray_in_one_call(analysis, tmp_path):
    assert isinstance(analysis["volume"].dataset, xr.Dataset)
    tree = analysis.to_xarray()
    assert set(tree.children) == {"anisotropy", "volume"}
    xr.testing.assert_identical(tree["anisotropy"].to_dataset(), analysis["anisotropy"].dataset)
    filled(tmp_path / "sweep")
    stored = pullback.analyze(tmp_path / "sweep", "anisotropy", draws=5)
    assert np.isfinite(stored["anisotropy"].dataset["mean_spectrum"]).all()
    assert stored["anisotropy"].options.draws == 5
    with pytest.raises(SpecError):
        pullback.analyze(tmp_path / "sweep", "anisotropy", drawz=5)


def test_the_citation_names_this_version_and_agrees_with_the_citation_file():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert f"version = {{{version}}}" in software()
    known = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    paper = known["preferred-citation"]
    text = bibtex()
    assert known["title"] in text
    for part in (
        paper["title"],
        paper["url"],
        str(paper["year"]),
        *(each["family-names"] for each in paper["authors"]),
    ):
        assert part in text
    entries = re.findall(r"@\w+\{([\w]+),", text)
    assert len(entries) == len(set(entries)) == 2
    assert text.count("{") == text.count("}")
    assert call("cite").out == text
