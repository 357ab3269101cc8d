"""Jobs that are wrong: every problem is reported at once, with its path and the nearest valid value.

The wording of their messages stands in tests/golden/messages.txt.
"""

import pickle
import re

import pytest

from pullback.errors import PullbackError, SpecError
from pullback.spec import load_job
from pullback.spec.yaml_reader import MAX_BYTES
from wrong_jobs import SMALL, WRONG_FORMS, WRONG_VALUES, ZOO


def problems_of(folder, text):
    path = folder / "job.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SpecError) as caught:
        load_job(path, generators=ZOO)
    assert caught.value.exit_code == 2
    assert str(path) in str(caught.value)
    assert all(problem in str(caught.value) for problem in caught.value.problems)
    return caught.value.problems


def test_the_small_job_of_these_tests_is_right(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(SMALL)
    assert load_job(path, generators=ZOO).samples.count == 3


@pytest.mark.parametrize(("old", "new", "key"), WRONG_VALUES.values(), ids=WRONG_VALUES)
def test_a_wrong_value_is_one_problem_with_its_path(tmp_path, old, new, key):
    assert old in SMALL
    (problem,) = problems_of(tmp_path, SMALL.replace(old, new, 1))
    assert problem.startswith(f"{key}: ")


@pytest.mark.parametrize(("content", "place"), WRONG_FORMS.values(), ids=WRONG_FORMS)
def test_a_file_that_is_no_plain_yaml_mapping_is_one_problem_with_its_line(tmp_path, content, place):
    (problem,) = problems_of(tmp_path, content)
    assert problem.startswith(f"{place}: " if place else "")


def test_a_bomb_of_aliases_is_refused_before_it_is_built(tmp_path):
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [" + ", ".join([f"*a{i - 1}"] * 9) + "]" for i in range(1, 40)]
    found = problems_of(tmp_path, "\n".join(lines))
    assert len(found) == 39 * 9
    assert found[0].startswith("line 2: aliases (*a0)")


def test_code_in_a_job_is_not_run(tmp_path):
    mark = tmp_path / "mark"
    problems_of(
        tmp_path, f"name: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [{mark}]]"
    )
    assert not mark.exists()


def test_a_file_of_any_size_above_the_limit_is_refused(tmp_path):
    padding = MAX_BYTES - len(SMALL) - len("#\n")
    path = tmp_path / "job.yaml"
    path.write_text(SMALL + "#" + "x" * padding + "\n")
    assert load_job(path).name == "small"
    (problem,) = problems_of(tmp_path, SMALL + "#" + "x" * (padding + 1) + "\n")
    assert str(MAX_BYTES + 1) in problem


def test_the_error_of_a_missing_file_names_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError, match=rf"(?s)nowhere\.yaml.*{re.escape(str(tmp_path))}"):
        load_job("nowhere.yaml")


@pytest.mark.parametrize(("written", "found"), [("eyes.yaml", "jobs/eyes.yaml"), ("eyes", "jobs/eyes.yaml")])
def test_a_missing_file_is_looked_for_among_the_jobs(tmp_path, monkeypatch, written, found):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "eyes.yaml").write_text(SMALL)
    with pytest.raises(SpecError, match=found):
        load_job(written)


@pytest.mark.parametrize("name", ["./mine.py:f", "folder/mine.py:f", "folder/mine:f"])
def test_a_distance_that_is_named_by_its_file_suggests_the_module(tmp_path, name):
    (problem,) = problems_of(tmp_path, SMALL.replace("{name: lpips}", repr(name)))
    assert "folder.mine:f" in problem if "folder" in name else "mine:f" in problem


def test_a_folder_is_no_job(tmp_path):
    with pytest.raises(SpecError, match="folder"):
        load_job(tmp_path)


@pytest.mark.parametrize(("written", "read"), [("010", "8"), ("-0_17", "-15"), ("1:30", "90"), ("1:30.5", "90.5")])
def test_a_number_that_yaml_reads_to_another_base_is_a_problem(tmp_path, written, read):
    problems = problems_of(tmp_path, SMALL.replace("{count: 3}", f"{{count: 3, seed: {written}}}"))
    assert problems[0].startswith("samples.seed: ")
    assert re.search(rf"{written} .* {read}\b", problems[0])


@pytest.mark.parametrize(("written", "read"), [("0", 0), ("10", 10), ("0x10", 16), ("1_000", 1000)])
def test_a_number_that_is_what_it_looks_like_is_taken(tmp_path, written, read):
    (tmp_path / "job.yaml").write_text(SMALL.replace("{count: 3}", f"{{count: 3, seed: {written}}}"))
    assert load_job(tmp_path / "job.yaml").samples.seed == read


def test_a_name_beyond_100_characters_is_cut_to_the_nearest_valid_one(tmp_path):
    (problem,) = problems_of(tmp_path, SMALL.replace("small", "a" * 101))
    assert problem.endswith(repr("a" * 100))


def test_a_long_value_is_not_printed_in_full(tmp_path):
    (problem,) = problems_of(tmp_path, SMALL.replace("count: 3", f"count: {'x' * 5000}"))
    assert len(problem) < 200


def test_all_problems_are_reported_at_once(tmp_path):
    found = problems_of(
        tmp_path,
        """\
name: my job
name: my job
generator: {name: dcgan-face, colour: red}
distance: {name: lpips, trunk: alexnet, size: 1}
metric: {components: 0}
samples: {seed: -1, scale: 1e-3}
resources: {workers: none, batch: 2.5}
surprise: 1
""",
    )
    assert sorted(problem.partition(":")[0] for problem in found) == [
        "distance.size",
        "distance.trunk",
        "generator.colour",
        "generator.name",
        "metric.components",
        "name",
        "name",
        "resources.batch",
        "resources.workers",
        "samples.count",
        "samples.scale",
        "samples.seed",
        "surprise",
    ]


def test_an_error_counts_its_problems():
    assert str(SpecError(["a: b"])) == "the job: 1 problem\n  - a: b"
    assert str(SpecError(["a: b", "c: d"], "x.yaml")) == "x.yaml: 2 problems\n  - a: b\n  - c: d"
    assert issubclass(SpecError, PullbackError)


def test_an_error_reaches_another_process_as_it_is():
    error = SpecError(["samples.count: too few", "distance: none"], "job.yaml")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.problems, type(again)) == (str(error), error.problems, SpecError)
