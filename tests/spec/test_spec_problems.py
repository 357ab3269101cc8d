"""Jobs that are wrong: every problem is told at once, with its path and the nearest valid value."""

import pickle
import re

import pytest

from pullback.errors import PullbackError, SpecError
from pullback.spec import load_job
from pullback.spec.yaml_reader import MAX_BYTES

ZOO = ("dcgan-faces", "dcgan-eyes")

SMALL = """\
name: small
generator: dcgan-faces
distance: {name: lpips}
samples: {count: 3}
"""


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


# What replaces what in the small job, and the one problem that it makes: a pattern of its whole sentence.
WRONG_VALUES = {
    "unknown key at the top": ("name:", "store_path: x\nname:", "store_path: unknown key; did you mean 'store'.*"),
    "unknown key below": ("count: 3", "count: 3, sead: 1", "samples.sead: unknown key; did you mean 'seed'.*"),
    "unknown key of a union": (
        "{name: lpips}",
        "{name: lpips, trunc: alex}",
        "distance.trunc: unknown key; did you mean 'trunk'.*allowed here are .*input_range.*",
    ),
    "a key of the other distance": (
        "{name: lpips}",
        "{name: mse, trunk: alex}",
        "distance.trunk: unknown key; allowed here are name, clamp, size, mask",
    ),
    "a key like nothing": (
        "name:",
        "qqqq: x\nname:",
        "qqqq: unknown key; allowed here are name, kind, generator, distance.*",
    ),
    "missing key": ("name: small\n", "", "name: this key is required"),
    "missing key below": ("{count: 3}", "{seed: 3}", "samples.count: this key is required"),
    "text for a number": ("count: 3", "count: three", "samples.count: a whole number is needed, not the text 'three'"),
    "quoted number": ("count: 3", "count: '3'", "samples.count: .* not the text '3'; write 3"),
    "fraction for a whole number": ("count: 3", "count: 3.5", "samples.count: a whole number is needed, not 3.5"),
    "true for a number": ("count: 3", "count: yes", "samples.count: a whole number is needed, not true.*"),
    "mapping for a number": ("count: 3", "count: {a: 1}", "samples.count: a whole number is needed, not a mapping"),
    "list for a mapping": ("{count: 3}", "[3]", r"samples: a mapping of keys to values is needed, not \[3\]"),
    "number for text": ("name: small", "name: 12", "name: text is needed, not 12; put it in quotes, '12', .*"),
    "date for text": ("name: small", "name: 2020-01-31", r"name: .* not the date 2020-01-31 \(put it in quotes\)"),
    "boolean for text": ("name: small", "name: no", "name: text is needed, not false .*quotes.*"),
    "text for a boolean": (
        "{name: lpips}",
        "{name: lpips, clamp: 'true'}",
        "distance.clamp: true or false is needed, not the text 'true'",
    ),
    "null for text": ("name: small", "name:", "name: text is needed, not an empty value"),
    "null for a mapping": ("{count: 3}", "", "samples: a mapping .* not an empty value"),
    "null for a generator": ("dcgan-faces", "~", "generator: a mapping .* not an empty value"),
    "null for a distance": ("{name: lpips}", "null", "distance: a mapping .* not an empty value"),
    "exponent without a point": ("count: 3", "count: 3, scale: 1e-3", "samples.scale: .*'1e-3'; .*write 1.0e-3"),
    "exponent without a sign": ("count: 3", "count: 3, scale: 2.5e3", r"samples.scale: .*write 2.5e\+3"),
    "exponent of a fraction": ("count: 3", "count: 3, scale: .5e3", r"samples.scale: .*write 0.5e\+3"),
    "exponent for a whole number": ("count: 3", "count: 1e3", "samples.count: a whole number .* write 1000"),
    "exponent in a union": ("count: 3}", "count: 3}\nresources: {batch: 1e1}", "resources.batch: .* write 10"),
    "quoted fraction": ("count: 3", "count: 3, scale: '2.5'", "samples.scale: .* write 2.5, without quotes"),
    "infinity as text": ("count: 3", "count: 3, scale: inf", "samples.scale: a number is needed, not the text 'inf'"),
    "infinity": ("count: 3", "count: 3, scale: .inf", "samples.scale: a finite number is needed, not inf"),
    "not a number": ("count: 3", "count: 3, scale: .nan", "samples.scale: a finite number is needed, not nan"),
    "too few": ("count: 3", "count: 0", "samples.count: must be at least 1, not 0; the nearest valid value is 1"),
    "too many": ("count: 3", "count: 10000001", "samples.count: .*; the nearest valid value is 10000000"),
    "too small": ("{name: lpips}", "{name: lpips, size: 15}", "distance.size: .*; the nearest valid value is 16"),
    "negative": ("count: 3", "count: 3, seed: -1", "samples.seed: .*; the nearest valid value is 0"),
    "not above zero": (
        "count: 3",
        "count: 3, scale: 0",
        r"samples.scale: must be greater than 0(\.0)?, not 0; the default is 1\.0",
    ),
    "too many in a union": (
        "count: 3}",
        "count: 3}\nresources: {workers: 4097}",
        "resources.workers: must be at most 4096, not 4097; the nearest valid value is 4096",
    ),
    "too few in a union": (
        "count: 3}",
        "count: 3}\nmetric: {components: 0}",
        "metric.components: must be at least 1, not 0; the nearest valid value is 1",
    ),
    "neither of a union": (
        "count: 3}",
        "count: 3}\nmetric: {components: al}",
        "metric.components: 'al' is not one of all or a whole number; did you mean 'all'.*",
    ),
    "more bits than a number has": ("count: 3", f"count: 0x{'f' * 5000}", "samples.count: .* more than 63 bits"),
    "word of a list": (
        "{name: lpips}",
        "{name: lpips, trunk: alexnet}",
        "distance.trunk: 'alexnet' is not one of alex, vgg, squeeze; did you mean 'alex'.*",
    ),
    "unknown method": (
        "count: 3}",
        "count: 3}\nmetric: {method: gaus-newton}",
        "metric.method: .* did you mean 'gauss_newton'.*",
    ),
    "unknown device": ("count: 3}", "count: 3}\nresources: {device: cudda}", "resources.device: .*mean 'cuda'.*"),
    "another word for a device": ("count: 3}", "count: 3}\nresources: {device: gpu}", "resources.*mean 'cuda'.*"),
    "no memory": (
        "count: 3}",
        "count: 3}\nresources: {memory_gib: 0}",
        r"resources.memory_gib: must be greater than 0(\.0)?, not 0; the default is auto",
    ),
    "unknown generator": (
        "dcgan-faces",
        "dcgan-face",
        "generator.name: .*did you mean 'dcgan-faces'.*module:factory.*",
    ),
    "unknown generator in full": ("dcgan-faces", "{name: dcgan-eye}", "generator.name: .*did you mean 'dcgan-eyes'.*"),
    "unknown distance": (
        "{name: lpips}",
        "lpip",
        "distance: 'lpip' is not one of features, lpips, mse, ssim, module:function; did you mean 'lpips'.*",
    ),
    "distance without a name": (
        "{name: lpips}",
        "{trunk: alex}",
        "distance: it needs a `name`, one of features, lpips, mse, ssim, module:function",
    ),
    "distance named by a list": (
        "{name: lpips}",
        "{name: [lpips]}",
        "distance: the `name` must be text, one of .*lpips, mse.*",
    ),
    "space in the name": ("name: small", "name: my job", "name: 'my job' .*; the nearest valid value is 'my-job'"),
    "slash in the name": ("name: small", "name: ../up", "name: '../up' .*; the nearest valid value is 'up'"),
    "empty name": ("name: small", "name: ''", "name: '' may have letters, .*at most 100.*"),
    "empty store": ("name:", "store: ''\nname:", "store: it must not be empty"),
    "number as a key": ("name:", "1: 2\nname:", "1: a key must be text, not 1; .*"),
    "number as a key below": ("count: 3", "count: 3, 1.5: 2", r"samples.1\.5: a key must be text, not 1.5; .*"),
    "null as a key": ("name:", "~: 2\nname:", ".*: a key must be text, not an empty value.*"),
    "boolean as a key": ("name:", "on: 2\nname:", ".*: a key must be text, not true.*"),
    "half a character": ("name: small", 'name: "\\ud800"', r"name: .*\\ud800.*"),
}


@pytest.mark.parametrize(("old", "new", "sentence"), WRONG_VALUES.values(), ids=WRONG_VALUES)
def test_a_wrong_value_is_told_with_its_path_and_what_is_valid(tmp_path, old, new, sentence):
    assert old in SMALL
    (problem,) = problems_of(tmp_path, SMALL.replace(old, new, 1))
    assert re.fullmatch(sentence, problem)


WRONG_FORMS = {
    "empty": ("", "it is empty.*"),
    "comments alone": ("# nothing\n", "it is empty.*"),
    "text": ("hello", "the job must be a mapping .* not str"),
    "list": ("- a\n- b\n", "the job must be a mapping .* not list"),
    "broken": ("name: [", "line 1, column 8: not valid YAML: .*"),
    "tab": ("name: a\n\tgenerator: b\n", "line 2, column 1: not valid YAML: .*"),
    "several documents": (SMALL + "---\n" + SMALL, "line 5, column 1: not valid YAML: .*another document"),
    "control character": (b"name: \x01\n", "not valid YAML: .*#x0001.*"),
    "no such date": (SMALL + "store: 2020-13-01\n", "not valid YAML: month must be .*"),
    "alias": ("name: &a x\nstore: *a\n", r"line 2: aliases \(\*a\) are not allowed.*"),
    "alias of itself": ("name: &a [*a]\n", "line 1: aliases .*"),
    "too deep": ("name: " + "[" * 30 + "]" * 30, "line 1: nested more than 20 deep"),
    "far too deep": ("{a: " * 15_000, "line 1: nested more than 20 deep"),
    "code": (SMALL + "store: !!python/object/apply:os.getcwd []\n", "line 5: tags .*!!python/object/apply:os.getcwd.*"),
    "tag": (SMALL + "store: !mine x\n", r"line 5: tags \(!mine\) are not allowed.*"),
    "a tag that its value does not fit": (SMALL + "store: !!bool maybe\n", r"line 5: tags \(!!bool\) .*"),
    "an empty number": (SMALL + "store: !!int ''\n", r"line 5: tags \(!!int\) .*"),
    "key that is a list": (SMALL + "? [a]\n: b\n", "line 5, column 3: not valid YAML: .*unhashable.*"),
    "not UTF-8": ("name: é".encode("latin-1"), "it is not UTF-8 text: .* at byte 6"),
    "a large key": (f"0x{'f' * 500}: 1\n" + SMALL, "the job: .*more than 63 bits"),
}


@pytest.mark.parametrize(("content", "sentence"), WRONG_FORMS.values(), ids=WRONG_FORMS)
def test_a_file_that_is_no_plain_yaml_mapping_is_refused(tmp_path, content, sentence):
    (problem,) = problems_of(tmp_path, content)
    assert re.fullmatch(sentence, problem)


def test_a_bomb_of_aliases_is_refused_before_it_is_built(tmp_path):
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [" + ", ".join([f"*a{i - 1}"] * 9) + "]" for i in range(1, 40)]
    found = problems_of(tmp_path, "\n".join(lines))
    assert len(found) == 39 * 9
    assert found[0] == "line 2: aliases (*a0) are not allowed; write it out"


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
    assert problem == f"it has {MAX_BYTES + 1} bytes; a job has at most {MAX_BYTES}"


def test_a_missing_file_is_told_with_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError, match=r"nowhere\.yaml: 1 problem\n.*no such file.*" + re.escape(str(tmp_path))):
        load_job("nowhere.yaml")


@pytest.mark.parametrize(("written", "found"), [("eyes.yaml", "jobs/eyes.yaml"), ("eyes", "jobs/eyes.yaml")])
def test_a_missing_file_is_looked_for_among_the_jobs(tmp_path, monkeypatch, written, found):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "eyes.yaml").write_text(SMALL)
    with pytest.raises(SpecError, match=rf"did you mean {found}\?"):
        load_job(written)


@pytest.mark.parametrize("name", ["./mine.py:f", "folder/mine.py:f", "folder/mine:f"])
def test_a_distance_that_is_named_by_its_file_suggests_the_module(tmp_path, name):
    (problem,) = problems_of(tmp_path, SMALL.replace("{name: lpips}", repr(name)))
    assert "folder.mine:f" in problem if "folder" in name else "mine:f" in problem


def test_a_folder_is_no_job(tmp_path):
    with pytest.raises(SpecError, match="it is a folder, and a job is a YAML file"):
        load_job(tmp_path)


def test_a_key_that_stands_twice_is_told_with_both_lines(tmp_path):
    assert problems_of(tmp_path, SMALL + "name: other\n") == ["name: the key stands twice, on lines 1 and 5; keep one"]


def test_a_key_that_stands_twice_below_is_told_with_its_path(tmp_path):
    text = SMALL.replace("samples: {count: 3}", "samples:\n  count: 3\n  seed: 1\n  count: 4")
    assert problems_of(tmp_path, text) == ["samples.count: the key stands twice, on lines 5 and 7; keep one"]


def test_a_key_written_in_two_ways_still_stands_twice(tmp_path):
    assert problems_of(tmp_path, SMALL + '"name": other\n') == [
        "name: the key stands twice, on lines 1 and 5; keep one"
    ]


@pytest.mark.parametrize(("written", "read"), [("010", "8"), ("-0_17", "-15"), ("1:30", "90"), ("1:30.5", "90.5")])
def test_a_number_that_yaml_reads_to_another_base_is_told(tmp_path, written, read):
    problems = problems_of(tmp_path, SMALL.replace("{count: 3}", f"{{count: 3, seed: {written}}}"))
    assert problems[0] == (f"samples.seed: {written} would be read as {read}; write that, or the number that you mean")


@pytest.mark.parametrize(("written", "read"), [("0", 0), ("10", 10), ("0x10", 16), ("1_000", 1000)])
def test_a_number_that_is_what_it_looks_like_is_taken(tmp_path, written, read):
    (tmp_path / "job.yaml").write_text(SMALL.replace("{count: 3}", f"{{count: 3, seed: {written}}}"))
    assert load_job(tmp_path / "job.yaml").samples.seed == read


def test_a_merge_key_does_not_slip_another_value_in(tmp_path):
    text = SMALL.replace("{count: 3}", "{<<: {count: 5}, seed: 1}")
    assert problems_of(tmp_path, text) == ["samples.<<: merge keys (line 4) are not allowed; write the keys out"]


def test_a_name_beyond_100_characters_is_cut_to_the_nearest_valid_one(tmp_path):
    (problem,) = problems_of(tmp_path, SMALL.replace("small", "a" * 101))
    assert problem.endswith(f"; the nearest valid value is {'a' * 100!r}")
    assert "at most 100" in problem


def test_a_long_value_is_not_printed_in_full(tmp_path):
    (problem,) = problems_of(tmp_path, SMALL.replace("count: 3", f"count: {'x' * 5000}"))
    assert len(problem) < 200


def test_every_problem_is_told_at_once(tmp_path):
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
