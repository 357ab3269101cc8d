"""Errors that name arguments, and the paths of a job for them."""

import pickle

import pytest

from pullback.errors import ArgumentError, SpecError, WeightsError
from pullback.generators import load_for
from pullback.spec import GeneratorSpec
from pullback.spec.arguments import arguments_of, job_problems


def test_an_argument_has_the_path_of_its_section():
    error = ArgumentError("space", "there is no w", [("noise", "too loud"), ("device", "there is no GPU")])
    assert error.problems == ["space: there is no w", "noise: too loud", "device: there is no GPU"]
    assert job_problems(error, "generator") == [
        "generator.space: there is no w",
        "generator.noise: too loud",
        "resources.device: there is no GPU",
    ]


def test_other_errors_name_the_section_or_keep_their_paths():
    assert job_problems(WeightsError("no file"), "generator") == ["generator: no file"]
    assert job_problems(SpecError(["samples.count: too few"]), "generator") == ["samples.count: too few"]


def test_only_errors_of_arguments_are_translated():
    with pytest.raises(SpecError) as caught, arguments_of("distance"):
        raise ArgumentError("mask", "it is empty")
    assert caught.value.problems == ["distance.mask: it is empty"]
    with pytest.raises(WeightsError), arguments_of("distance"):
        raise WeightsError("no file")


def test_every_problem_of_arguments_survives_another_process():
    error = pickle.loads(pickle.dumps(ArgumentError("a", "x", [("b", "y")])))
    assert (error.each, error.problems) == ([("a", "x"), ("b", "y")], ["a: x", "b: y"])


def test_a_generator_of_a_job_names_keys_of_the_job():
    with pytest.raises(SpecError) as caught:
        load_for(GeneratorSpec(name="toy_generators:linear", space="w", noise="none"), "cpu")
    assert [problem.partition(": ")[0] for problem in caught.value.problems] == ["generator.space", "generator.noise"]
