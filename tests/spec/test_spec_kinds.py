"""Jobs of kind `analysis` and `application`: what is read, what is refused, and which jobs are the same."""

import contextlib
import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plugin_files import on_the_path, write_distribution
from pullback.errors import SpecError
from pullback.spec import AnalysisJob, ApplicationJob, JobSpec, job_of, load_any_job, load_job

STATISTIC = """
from pydantic import Field
from pullback.spec.options import Options as Base
SUMMARY = "Counts samples."
class Options(Base):
    draws: int = Field(default=10, ge=2)
    "Draws."
    shares: tuple[float, ...] = (0.5,)
    "Shares."
def compute(samples, options, progress): ...
def summary(result): ...
def figure(result): ...
"""
APPLICATION = """
from typing import Annotated, Literal
from pydantic import Field
from pullback.spec.options import Local, Options as Base
SUMMARY = "Steps along axes."
NEEDS = ("sweep",)
class Options(Base):
    steps: int = Field(default=7, ge=1)
    "Steps."
    path: Literal["linear", "sphere"] = "linear"
    "Path."
    directions: Annotated[str | None, Local()] = None
    "A file of directions."
def run(subject, options, progress): ...
def summary(result): ...
def figure(result): ...
"""


@pytest.fixture(autouse=True)
def plugins(tmp_path):
    folder = tmp_path / "site"
    folder.mkdir()
    write_distribution(folder, "pullback.statistics", {"tally": STATISTIC}, name="one")
    write_distribution(folder, "pullback.applications", {"stroll": APPLICATION}, name="two")
    with on_the_path(folder):
        yield


ANALYSIS = {"kind": "analysis", "name": "a", "sweep": "sweeps/x", "statistics": {"tally": {"draws": 50}}}
APPLY = {"kind": "application", "name": "b", "sweep": "sweeps/x", "application": {"name": "stroll", "steps": 3}}


def test_the_kind_decides_what_a_file_is_and_a_sweep_is_the_default(tmp_path):
    sweep = {"name": "s", "generator": "dcgan-faces", "distance": "mse", "samples": {"count": 2}}
    for content, model in ((sweep, JobSpec), (ANALYSIS, AnalysisJob), (APPLY, ApplicationJob)):
        path = tmp_path / "job.yaml"
        path.write_text(json.dumps(content))
        assert type(load_any_job(path)) is model
    with pytest.raises(SpecError) as caught:
        load_job(path)
    assert caught.value.problems[0].startswith("kind: ")


def test_the_options_of_a_plugin_are_read_into_its_own_model():
    job = job_of({**ANALYSIS, "statistics": {"tally": {"draws": 50, "shares": [0.1, 0.9]}}})
    assert job.statistics["tally"].shares == (0.1, 0.9)
    job = job_of(APPLY)
    assert (job.application.name, job.application.options.steps) == ("stroll", 3)


@pytest.mark.parametrize("short", ["tally", ["tally"], {"tally": None}, {"tally": {}}, {"tally": {"draws": 10}}])
def test_statistics_may_be_names_alone(short):
    job = job_of({**ANALYSIS, "statistics": short})
    assert job.statistics["tally"].draws == 10
    assert job.canonical() == {"kind": "analysis", "statistics": {"tally": {}}}


@pytest.mark.parametrize("content", [ANALYSIS, APPLY, {**APPLY, "application": "stroll", "generator": "dcgan-faces"}])
def test_a_job_written_as_json_is_the_same_job(content):
    job = job_of(content)
    again = job_of(json.loads(job.model_dump_json(exclude_none=True)))
    assert again == job
    assert again.canonical() == job.canonical()


def test_the_canonical_form_has_what_decides_the_result_and_no_defaults():
    assert job_of(APPLY).canonical() == {"kind": "application", "application": {"name": "stroll", "steps": 3}}
    other = job_of({**APPLY, "name": "c", "resources": {"device": "cpu"}})
    assert other.canonical() == job_of(APPLY).canonical()
    assert job_of({**APPLY, "application": {"name": "stroll", "steps": 7}}).canonical() == {
        "kind": "application",
        "application": {"name": "stroll"},
    }


WRONG = {
    "a kind": ({"kind": "analysys"}, r"kind: 'analysys' is not one of .*; did you mean 'analysis'\?"),
    "a kind that is a list": ({"kind": ["analysis"]}, r"kind: \['analysis'\] is not one of .*"),
    "a statistic": ({**ANALYSIS, "statistics": ["taly"]}, r"statistics.taly: .*did you mean 'tally'\?"),
    "no statistics": ({**ANALYSIS, "statistics": {}}, "statistics: names of statistics .*"),
    "a number of statistics": ({**ANALYSIS, "statistics": 3}, "statistics: names of statistics .*not 3; there are .*"),
    "a key of a statistic": (
        {**ANALYSIS, "statistics": {"tally": {"drws": 3}}},
        r"statistics.tally.drws: unknown key; did you mean 'draws'\? allowed here are draws, shares",
    ),
    "a value of a statistic": (
        {**ANALYSIS, "statistics": {"tally": {"draws": 1}}},
        "statistics.tally.draws: must be at least 2, not 1; the nearest valid value is 2",
    ),
    "options that are no mapping": (
        {**ANALYSIS, "statistics": {"tally": 3}},
        "statistics.tally: a mapping of keys to values is needed, not 3",
    ),
    "no sweep": ({"kind": "analysis", "name": "a", "statistics": ["tally"]}, "sweep: this key is required"),
    "an application": ({**APPLY, "application": "strol"}, r"application: 'strol' is not one of .*'stroll'\?"),
    "no application": ({**APPLY, "application": None}, "application: a mapping of keys to values is needed, .*"),
    "a choice of an application": (
        {**APPLY, "application": {"name": "stroll", "path": "spher"}},
        r"application.path: 'spher' is not one of linear, sphere; did you mean 'sphere'\?",
    ),
    "text for a number": (
        {**APPLY, "application": {"name": "stroll", "steps": "3"}},
        "application.steps: a whole number is needed, not the text '3'; write 3",
    ),
    "nothing to work on": (
        {"kind": "application", "name": "b", "application": "stroll"},
        "the job: a `sweep` or a `generator` is needed",
    ),
    "a store beside a sweep": ({**APPLY, "store": "x"}, "the job: the result is kept beside the sweep; remove `store`"),
    "a key of a sweep": ({**ANALYSIS, "samples": {"count": 3}}, "samples: unknown key; .*"),
}


@pytest.mark.parametrize(("content", "sentence"), WRONG.values(), ids=WRONG)
def test_a_wrong_value_is_reported_with_its_path_and_what_is_valid(content, sentence):
    with pytest.raises(SpecError) as caught:
        job_of(content)
    (problem,) = caught.value.problems
    assert re.fullmatch(sentence, problem), problem


def test_every_problem_of_several_statistics_is_reported_at_once():
    with pytest.raises(SpecError) as caught:
        job_of({**ANALYSIS, "name": "", "statistics": {"tally": {"draws": 0, "other": 1}, "tale": {}}})
    assert sorted(problem.partition(":")[0] for problem in caught.value.problems) == [
        "name",
        "statistics.tale",
        "statistics.tally.draws",
        "statistics.tally.other",
    ]


def test_options_that_name_files_of_the_machine_are_known_as_such():
    assert list(job_of(APPLY).application.options.local_keys()) == []
    job = job_of({**APPLY, "application": {"name": "stroll", "directions": "/etc/passwd"}})
    assert list(job.application.options.local_keys()) == ["directions"]


def test_the_schema_of_a_job_has_the_options_of_every_plugin():
    statistics = AnalysisJob.model_json_schema()["properties"]["statistics"]
    assert "tally" in json.dumps(statistics)
    schema = json.dumps(ApplicationJob.model_json_schema())
    assert '"const": "stroll"' in schema
    assert '"sphere"' in schema
    assert "A file of directions." in schema


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["tally", "stroll"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6) | st.integers(), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([ANALYSIS, APPLY]),
    st.sampled_from(["kind", "name", "sweep", "snapshot", "statistics", "application", "generator", "resources"]),
    VALUES,
)
def test_any_value_at_any_key_gives_a_job_or_a_spec_error(plugins, content, key, value):
    with contextlib.suppress(SpecError):
        job = job_of({**content, key: value})
        assert job_of(json.loads(job.model_dump_json(exclude_none=True))) == job
