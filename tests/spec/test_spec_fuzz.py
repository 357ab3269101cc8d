"""Whatever a file holds, `load_job` gives a job or a SpecError."""

import contextlib
import json
import os
import tempfile
from pathlib import Path

import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pullback.errors import SpecError
from pullback.spec import JobSpec, load_job

GOOD = {
    "name": "fuzz",
    "generator": {"name": "dcgan-faces", "weights": None, "condition": None},
    "distance": {"name": "lpips", "trunk": "alex", "input_range": "standard", "clamp": False, "size": 64, "mask": None},
    "metric": {
        "method": "gauss_newton",
        "components": "all",
        "precision": "float32",
        "deterministic": False,
        "tolerance": 0.5,
        "max_products": 9,
        "relative_step": 0.5,
    },
    "samples": {"count": 3, "seed": 0, "distribution": "normal", "scale": 1.0},
    "store": "here",
    "resources": {"device": "cpu", "workers": 1, "batch": "auto", "memory_gib": 1.0, "retries": 1},
}
PATHS = [(key,) for key in GOOD] + [
    (key, inner) for key, part in GOOD.items() if isinstance(part, dict) for inner in part
]

# Fragments that YAML treats in a special way.
WORDS = r"""
name samples count generator distance lpips : - ? { } [ ] , # &a *a << !!int !!bool !!float !!set !!timestamp !x ''
--- ... ' " | > %YAML ~ = null yes 1e3 1.5 0x 0b_ 0o7 1:30 .inf .nan 2020-01-01 2020-99-99 \ud800 \x é
"""
PIECES = st.sampled_from(
    [*WORDS.split(), " ", ": ", "- ", "\n", "\n  ", "\t", "\x00", "\ufeff", "\u2028", "1-01-01 1:1:1+99:99", "9" * 5000]
)
TEXTS = st.text(max_size=200) | st.lists(PIECES | st.text(max_size=5), max_size=30).map("".join)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.dates(),
    st.binary(max_size=5),
    st.sampled_from(
        ["auto", "all", "cycle", "lpips", "mse", "1e-3", "cuda", "x:y", "x.npy", "features", "ssim", 10**30, 2**64]
    ),
)
KEYS = SCALARS | st.sampled_from(
    ["name", "count", "trunk", "lpips", "mse", "size", "clamp", "mask", "layer", "module", "components"]
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


def load_or_refuse(content):
    """The job in a file with this content, or None where it is refused; any other error is a failure."""
    handle, name = tempfile.mkstemp(suffix=".yaml")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        job = None
        with contextlib.suppress(SpecError):
            job = load_job(name, generators=["dcgan-faces"])
    finally:
        Path(name).unlink()
    assert job is None or JobSpec.model_validate({"name": "x", **json.loads(json.dumps(job.canonical()))})
    return job


@settings(deadline=None, max_examples=300)
@given(TEXTS)
@example("samples: {count: !!int ''}")
@example("a: !!bool x")
@example("a: !!timestamp x")
@example(f"samples: {{seed: 0x{'f' * 5000}}}")
@example(f"0x{'f' * 500}: 1")
def test_any_text_gives_a_job_or_a_spec_error(text):
    load_or_refuse(text.encode("utf-8", "surrogatepass"))


@settings(deadline=None, max_examples=200)
@given(TEXTS)
def test_any_text_after_a_good_job_gives_a_job_or_a_spec_error(text):
    load_or_refuse((yaml.safe_dump(GOOD) + text).encode("utf-8", "surrogatepass"))


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=100))
def test_any_bytes_give_a_job_or_a_spec_error(content):
    assert load_or_refuse(content) is None


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(PATHS), VALUES)
def test_any_value_at_any_path_gives_a_job_or_a_spec_error(path, value):
    job = {key: dict(part) if isinstance(part, dict) else part for key, part in GOOD.items()}
    holder = job[path[0]] if len(path) == 2 else job
    holder[path[-1]] = value
    text = yaml.safe_dump(job, allow_unicode=False)
    load_or_refuse(text.encode())


@settings(deadline=None, max_examples=100)
@given(
    st.sampled_from([(), *[path for path in PATHS if len(path) == 1 and isinstance(GOOD[path[0]], dict)]]), KEYS, VALUES
)
def test_any_additional_key_is_refused_unless_it_is_known(path, key, value):
    job = {name: dict(part) if isinstance(part, dict) else part for name, part in GOOD.items()}
    holder = job[path[0]] if path else job
    known = {"shard_size", "tangents"}  # the only keys that GOOD leaves out
    if isinstance(key, str) and (key in holder or key in known):
        return
    holder[key] = value
    assert load_or_refuse(yaml.safe_dump(job).encode()) is None


def test_the_job_that_is_fuzzed_is_a_good_one():
    assert load_or_refuse(yaml.safe_dump(GOOD).encode()).canonical()["distance"]["size"] == 64


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 10**7), st.integers(0, 2**63 - 1), st.floats(min_value=1e-30, max_value=1e30))
def test_a_valid_job_keeps_its_numbers_exactly(count, seed, scale):
    job = {**GOOD, "samples": {"count": count, "seed": seed, "scale": scale}}
    loaded = load_or_refuse(yaml.safe_dump(job).encode())
    assert (loaded.samples.count, loaded.samples.seed, loaded.samples.scale) == (count, seed, scale)
