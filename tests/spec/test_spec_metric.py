"""How the metric is computed: what a job may say of it, and one clear sentence for each wrong value."""

import re
from typing import get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pullback.errors import SpecError
from pullback.spec import JobSpec, MetricSpec, load_job, nearest
from pullback.spec.messages import number_hint, written
from pullback.spec.metric import METHODS, Precision

PREFIX = "name: small\ngenerator: dcgan-faces\ndistance: mse\nsamples: {count: 3}\nmetric: "


def job(tmp_path, metric):
    path = tmp_path / "job.yaml"
    path.write_text(PREFIX + metric + "\n", encoding="utf-8")
    return load_job(path)


def test_a_job_that_says_nothing_of_the_metric_gets_the_defaults(tmp_path):
    assert job(tmp_path, "{}").metric == MetricSpec()
    assert MetricSpec().model_dump() == {
        "method": "auto",
        "components": "all",
        "precision": "float32",
        "deterministic": False,
        "tolerance": 1e-6,
        "max_products": None,
        "relative_step": 1e-3,
    }


GOOD = {
    "{method: auto}": {},
    "{method: gauss_newton}": {"method": "gauss_newton"},
    "{method: backprop, precision: float64}": {"method": "backprop", "precision": "float64"},
    "{method: lanczos, components: 20, tolerance: 1.0e-4}": {
        "method": "lanczos",
        "components": 20,
        "tolerance": 1e-4,
    },
    "{method: block_krylov, max_products: 1}": {"method": "block_krylov", "max_products": 1},
    "{method: finite_difference, relative_step: 0.05}": {"method": "finite_difference", "relative_step": 0.05},
    "{precision: tf32}": {"precision": "tf32"},
    "{precision: bfloat16, deterministic: true}": {"precision": "bfloat16", "deterministic": True},
    "{max_products: null, deterministic: no}": {},
}


@pytest.mark.parametrize(("text", "canonical"), GOOD.items(), ids=GOOD)
def test_every_key_of_the_metric_is_read_and_is_part_of_what_the_job_is(tmp_path, text, canonical):
    loaded = job(tmp_path, text)
    assert loaded.canonical().get("metric", {}) == canonical
    assert loaded.metric == MetricSpec(**canonical)
    assert JobSpec.model_validate({"name": "again", **loaded.canonical()}).metric == loaded.metric


def test_a_job_may_name_exactly_the_methods_and_the_precisions_that_there_are():
    def words(key):
        return MetricSpec.model_json_schema()["properties"][key]["enum"]

    assert words("method") == ["auto", *METHODS]
    assert sorted(words("precision")) == sorted(get_args(Precision))


WRONG = {
    "a word": ("fast", "metric: a mapping of keys to values is needed, not the text 'fast'"),
    "an unknown key": (
        "{tolerence: 0.1}",
        r"metric\.tolerence: unknown key; did you mean 'tolerance'\? allowed here are method, components, precision, "
        "deterministic, tolerance, max_products, relative_step",
    ),
    "a misspelt method": (
        "{method: gauss-newton}",
        r"metric\.method: 'gauss-newton' is not one of auto, gauss_newton, backprop, lanczos, block_krylov, "
        r"finite_difference; did you mean 'gauss_newton'\?",
    ),
    "another of the paper's words": ("{method: BackwardIter}", r"metric\.method: .*; did you mean 'lanczos'\?"),
    "one of the paper's words": ("{method: ForwardIter}", r"metric\.method: .*; did you mean 'finite_difference'\?"),
    "a method that is no word": ("{method: 2}", r"metric\.method: 2 is not one of auto, gauss_newton, .*"),
    "an unknown precision": (
        "{precision: float16}",
        r"metric\.precision: 'float16' is not one of float32, float64, tf32, bfloat16; did you mean 'bfloat16'\?",
    ),
    "another word for a precision": ("{precision: fp32}", r"metric\.precision: 'fp32' .*; did you mean 'float32'\?"),
    "a precision like nothing": (
        "{precision: high}",
        r"metric\.precision: 'high' is not one of float32, float64, tf32, bfloat16",
    ),
    "bits for a precision": ("{precision: 64}", r"metric\.precision: 64 is not one of float32, .*"),
    "a number for a choice": ("{deterministic: 1}", r"metric\.deterministic: true or false is needed, not 1"),
    "text for a choice": (
        "{deterministic: 'no'}",
        r"metric\.deterministic: true or false is needed, not the text 'no'",
    ),
    "a tolerance as YAML reads no number": (
        "{tolerance: 1e-6}",
        r"metric\.tolerance: a number is needed, not the text '1e-6'; YAML reads 1e-6 as text: write 1\.0e-6",
    ),
    "a tolerance of nothing": (
        "{tolerance: 0}",
        r"metric\.tolerance: must be greater than 0(\.0)?, not 0; the default is 1\.0e-6",
    ),
    "a tolerance below nothing": (
        "{tolerance: -1.0e-6}",
        r"metric\.tolerance: must be greater than 0(\.0)?, not -1e-06; the default is 1\.0e-6",
    ),
    "a tolerance of everything": (
        "{tolerance: 1}",
        r"metric\.tolerance: must be less than 1(\.0)?, not 1; the default is 1\.0e-6",
    ),
    "a tolerance without end": ("{tolerance: .inf}", r"metric\.tolerance: a finite number is needed, not inf"),
    "a tolerance that is no number": ("{tolerance: .nan}", r"metric\.tolerance: a finite number is needed, not nan"),
    "no tolerance": ("{tolerance: }", r"metric\.tolerance: a number is needed, not an empty value"),
    "no products": (
        "{max_products: 0}",
        r"metric\.max_products: must be at least 1, not 0; the nearest valid value is 1",
    ),
    "half a product": ("{max_products: 2.5}", r"metric\.max_products: a whole number is needed, not 2\.5"),
    "products as YAML reads no number": (
        "{max_products: 1e3}",
        r"metric\.max_products: a whole number is needed, not the text '1e3'; write 1000",
    ),
    "all products": ("{max_products: all}", r"metric\.max_products: a whole number is needed, not the text 'all'"),
    "a step as YAML reads no number": (
        "{relative_step: 5e-2}",
        r"metric\.relative_step: a number is needed, not the text '5e-2'; YAML reads 5e-2 as text: write 5\.0e-2",
    ),
    "a step that is too long": (
        "{relative_step: 1.5}",
        r"metric\.relative_step: must be less than 1(\.0)?, not 1\.5; the default is 0\.001",
    ),
    "a step of nothing": (
        "{relative_step: 0.0}",
        r"metric\.relative_step: must be greater than 0(\.0)?, not 0\.0; the default is 0\.001",
    ),
}


@pytest.mark.parametrize(("text", "sentence"), WRONG.values(), ids=WRONG)
def test_a_wrong_value_of_the_metric_is_reported_in_one_sentence(tmp_path, text, sentence):
    with pytest.raises(SpecError) as caught:
        job(tmp_path, text)
    (problem,) = caught.value.problems
    assert re.fullmatch(sentence, problem)


def test_every_wrong_value_of_the_metric_is_reported_at_once(tmp_path):
    keys = list(MetricSpec.model_fields)
    with pytest.raises(SpecError) as caught:
        job(tmp_path, "{" + ", ".join(f"{key}: []" for key in keys) + "}")
    assert [problem.partition(":")[0] for problem in caught.value.problems] == [f"metric.{key}" for key in keys]


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers() | st.booleans() | st.text("abcxyz", min_size=1))
def test_a_number_that_a_message_writes_is_read_as_it_by_yaml(value):
    text = written(value) if not isinstance(value, bool) else str(value).lower()
    if isinstance(value, str):
        assert text == value
    else:
        assert yaml.safe_load(text) == value
        assert type(yaml.safe_load(text)) is type(value)


@given(st.integers(1, 99), st.integers(-30, 30))
def test_a_number_that_yaml_took_for_text_is_suggested_as_one_that_it_reads(digits, power):
    taken = f"{digits}e{power}"
    assert isinstance(yaml.safe_load(taken), str)
    hint = number_hint(taken).rpartition("write ")[2]
    assert yaml.safe_load(hint) == float(taken)


@pytest.mark.parametrize(
    ("word", "allowed", "meant"),
    [
        ("fp32", ("tf32", "float32"), "float32"),
        ("FP64", ("float32", "float64"), "float64"),
        ("gpu", ("auto", "cpu", "cuda"), "cuda"),
        ("gpu", ("auto", "cpu"), "cpu"),  # where what is meant is not allowed, the letters decide
        ("BP", ("backprop", "lanczos"), "backprop"),
    ],
)
def test_another_word_for_a_value_suggests_ours(word, allowed, meant):
    assert nearest(word, allowed) == f"; did you mean {meant!r}?"
