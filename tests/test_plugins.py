"""The registries: what they find, what a broken plug-in costs, and that listing imports nothing."""

import pickle
import sys

import pytest

from command_line import call
from plugin_files import in_the_package, on_the_path, write_distribution
from pullback.errors import PluginError, UnknownPluginError
from pullback.plugins import OURS, REGISTRIES, STATISTICS, Registry
from test_imports import in_a_fresh_process

GROUP = STATISTICS.group
GOOD = """
from pullback.spec.options import Options as Base
SUMMARY = "Counts samples."
class Options(Base):
    draws: int = 10
    "Draws."
def compute(samples, options, progress): ...
def summary(result): ...
def figure(result): ...
"""


@pytest.fixture
def visiting(tmp_path):
    """Register modules as statistics of a third party, for as long as the test lasts."""
    folder = tmp_path / "visitor"
    with on_the_path(folder):
        yield lambda **modules: write_distribution(folder, GROUP, modules)


def test_an_entry_point_is_found_by_its_name_and_imported_only_when_asked_for(visiting):
    visiting(census=GOOD)
    assert "census" in STATISTICS.names()
    assert "visitor_census" not in sys.modules
    assert STATISTICS.module("census").SUMMARY == "Counts samples."
    assert STATISTICS.options("census")().draws == 10
    (row,) = (row for row in STATISTICS.describe() if row["name"] == "census")
    assert (row["source"], row["module"], row["problem"]) == ("visitor 1.2", "visitor_census", None)


def test_a_module_of_the_package_is_found_once_it_has_a_summary(tmp_path):
    (tmp_path / "census.py").write_text(GOOD)
    (tmp_path / "helper.py").write_text("SOMETHING = 1\n")
    (tmp_path / "_private.py").write_text(GOOD)
    with in_the_package(STATISTICS.package, tmp_path):
        assert "census" in STATISTICS.names()
        assert not {"helper", "_private"} & {*STATISTICS.names()}
        assert STATISTICS.module("census").__name__ == f"{STATISTICS.package}.census"
        with pytest.raises(UnknownPluginError, match="SUMMARY"):
            STATISTICS.module("helper")
    assert "census" not in STATISTICS.names()


BROKEN = {
    "raising": "raise RuntimeError('no licence')",
    "ending": "import sys\nsys.exit(3)",
    "torn": "def (",
    "lacking": "SUMMARY = 'x'\n",
    "lengthy": GOOD.replace('"Counts samples."', '"two\\nlines"'),
    "loose": GOOD.replace("class Options(Base)", "class Options"),
    "calm": GOOD + "compute = 3\n",
    "wanting": "import a_library_that_nobody_has",
}


def test_a_broken_plugin_costs_one_sentence_and_leaves_the_others_alone(visiting):
    visiting(census=GOOD, **BROKEN)
    assert {"census", *BROKEN} <= {*STATISTICS.names()}
    for name in BROKEN:
        with pytest.raises(PluginError) as caught:
            STATISTICS.module(name)
        assert name in str(caught.value)
        assert "visitor 1.2" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert STATISTICS.module("census").SUMMARY
    problems = {row["name"]: row["problem"] for row in STATISTICS.describe()}
    assert problems["census"] is None
    assert all(problems[name] for name in BROKEN)


@pytest.mark.parametrize("lacking", STATISTICS.exports)
def test_the_message_names_the_export_that_is_missing(visiting, lacking):
    visiting(census=GOOD + f"del {lacking}\n")
    with pytest.raises(PluginError, match=lacking):
        STATISTICS.module("census")


def test_a_name_that_two_plugins_claim_is_the_first_ones_and_ours_come_first(tmp_path):
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "census.py").write_text(GOOD.replace("Counts", "Counts our"))
    write_distribution(tmp_path / "a", GROUP, {"census": GOOD}, name="alpha")
    write_distribution(tmp_path / "b", GROUP, {"tally": GOOD}, name="beta")
    write_distribution(tmp_path / "c", GROUP, {"tally": GOOD}, name="gamma")
    with (
        in_the_package(STATISTICS.package, tmp_path / "ours"),
        on_the_path(tmp_path / "a"),
        on_the_path(tmp_path / "b"),
        on_the_path(tmp_path / "c"),
    ):
        rows = [row for row in STATISTICS.describe() if row["name"] in ("census", "tally")]
    usable = {row["name"]: row["source"] for row in rows if row["problem"] is None}
    assert usable == {"census": OURS, "tally": "beta 1.2"}
    assert sorted(row["source"] for row in rows if row["problem"]) == ["alpha 1.2", "gamma 1.2"]


def test_a_name_that_no_file_could_have_is_listed_as_unusable(visiting):
    folder = visiting(census=GOOD)
    points = folder / "visitor-1.2.dist-info" / "entry_points.txt"
    points.write_text(points.read_text() + "../up = visitor_census\n")
    assert "census" in STATISTICS.names()
    assert "../up" not in STATISTICS.names()
    assert any(row["name"] == "../up" and row["problem"] for row in STATISTICS.describe())


def test_an_unknown_name_is_reported_with_the_nearest_one(visiting):
    visiting(census=GOOD)
    with pytest.raises(UnknownPluginError) as caught:
        STATISTICS.module("cenus")
    assert (caught.value.nearest, caught.value.exit_code) == ("census", 2)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.nearest) == (str(caught.value), "census")


def test_a_package_that_does_not_exist_has_no_plugins():
    nothing = Registry("nothing", "pullback.nowhere.at_all", "pullback.nothing")
    assert nothing.names() == []
    with pytest.raises(UnknownPluginError):
        nothing.module("x")


def test_listing_every_name_imports_nothing_heavy():
    code = """
import sys
from pullback.plugins import REGISTRIES
assert all(isinstance(registry.names(), list) for registry in REGISTRIES)
heavy = ("torch", "numpy", "pydantic", "pullback.analysis", "pullback.distances")
print(*(name for name in heavy if name in sys.modules))
"""
    assert in_a_fresh_process(code) == []


def test_each_module_of_ours_has_what_its_registry_asks_for():
    for registry in REGISTRIES:
        for row in registry.describe():
            assert row["problem"] is None or row["source"] != OURS, row


def test_the_command_lists_what_is_usable_and_why_the_rest_is_not(visiting):
    visiting(census=GOOD, raising=BROKEN["raising"])
    printed = call("plugins")
    assert printed.code == 0
    assert "census" in printed.out
    assert "no licence" in printed.err
    rows = {row["name"]: row for row in call("plugins", "--json").json}
    assert rows["census"]["kind"] == "statistic"
    assert rows["raising"]["problem"]
