"""The distances of a job: what may be written for each, and one clear sentence for each wrong value."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pullback.distances import features, lpips, mse, ssim
from pullback.errors import SpecError
from pullback.spec import CustomOptions, JobSpec, explain, load_job, names_code

PREFIX = "name: small\ngenerator: dcgan-faces\nsamples: {count: 3}\ndistance: "


def job(tmp_path, distance):
    path = tmp_path / "job.yaml"
    path.write_text(PREFIX + distance + "\n")
    return load_job(path)


GOOD = {
    "lpips": (lpips.Options, {"name": "lpips"}),
    "{name: lpips, trunk: squeeze}": (lpips.Options, {"name": "lpips", "trunk": "squeeze"}),
    "mse": (mse.Options, {"name": "mse"}),
    "ssim": (ssim.Options, {"name": "ssim"}),
    "{name: ssim, clamp: true, size: 64}": (ssim.Options, {"name": "ssim", "clamp": True, "size": 64}),
    "{name: features, module: mine.nets:make, layer: blocks.2}": (
        features.Options,
        {"name": "features", "module": "mine.nets:make", "layer": "blocks.2"},
    ),
    "{name: features, module: generator, layer: '3'}": (
        features.Options,
        {"name": "features", "module": "generator", "layer": "3"},
    ),
    "mine:function": (CustomOptions, {"name": "mine:function"}),
    "{name: mine:function, size: 32}": (CustomOptions, {"name": "mine:function", "size": 32}),
    "{name: mse, mask: [0, 0, 1, 0.5]}": (mse.Options, {"name": "mse", "mask": [0, 0, 1, 0.5]}),
    "{name: ssim, mask: masks/face.npy}": (ssim.Options, {"name": "ssim", "mask": "masks/face.npy"}),
}


@pytest.mark.parametrize("text", GOOD)
def test_a_distance_is_read_and_keeps_what_was_written(tmp_path, text):
    model, canonical = GOOD[text]
    loaded = job(tmp_path, text)
    assert type(loaded.distance) is model
    assert loaded.canonical()["distance"] == canonical
    assert JobSpec.model_validate({"name": "again", **loaded.canonical()}).distance == loaded.distance


FEATURES = "{{name: features, module: {}, layer: x}}"
MASK = "{{name: mse, mask: {}}}"
WRONG = {
    "unknown": ("ssimm", r"distance: 'ssimm' is not one of features, lpips, mse, ssim, module:function; .*'ssim'\?"),
    "unknown in full": ("{name: feature}", r"distance: 'feature' is not one of .*; did you mean 'features'\?"),
    "a number": ("3", "distance: a mapping of keys to values is needed, not 3"),
    "a list": ("[lpips]", r"distance: a mapping of keys to values is needed, not \['lpips'\]"),
    "no name": ("{layer: x}", "distance: it needs a `name`, one of .*lpips, .*, module:function"),
    "an empty name": ("{name: }", "distance: it needs a `name`, one of .*"),
    "a function without a name": ("'mine:'", "distance.name: 'mine:' is not of the form 'module:function', .*"),
    "a path and a function": ("mine/own.py:f", "distance.name: 'mine/own.py:f' is not of the form .*"),
    "an unknown key of a function": (
        "{name: 'mine:f', trunk: alex}",
        "distance.trunk: unknown key; allowed here are name, clamp, size, mask",
    ),
    "a key of the features": ("{name: ssim, layer: x}", "distance.layer: unknown key; allowed here are name, .*mask"),
    "no layer": ("{name: features, module: generator}", "distance.layer: this key is required"),
    "no module": ("{name: features, layer: x}", "distance.module: this key is required"),
    "an empty layer": ("{name: features, module: generator, layer: ''}", "distance.layer: it must not be empty"),
    "a number as a layer": (
        "{name: features, module: generator, layer: 3}",
        "distance.layer: text is needed, not 3; put it in quotes, '3', if it is meant",
    ),
    "a module without a factory": (
        FEATURES.format("mine"),
        "distance.module: 'mine' is neither 'generator' .* nor 'module:factory' .*",
    ),
    "nearly the generator": (FEATURES.format("generators"), r"distance.module: .*; did you mean 'generator'\?"),
    "clamping a layer": (
        "{name: features, module: generator, layer: x, clamp: true}",
        "distance.module: a layer of the generator measures no image; remove clamp",
    ),
    "resizing and clamping a layer": (
        "{name: features, module: generator, layer: x, clamp: true, size: 64}",
        "distance.module: a layer of the generator measures no image; remove clamp and size",
    ),
    "size of a function": ("{name: 'mine:f', size: 8}", "distance.size: must be at least 16, not 8; .*16"),
    "mask of a word": (MASK.format("centre"), r"distance.mask: a box \[top, left, bottom, right\] or .* 'centre'"),
    "mask of three": (MASK.format("[0, 0, 1]"), r"distance.mask: a box .* or the path .* not \[0, 0, 1\]"),
    "mask of pixels": (MASK.format("[0, 0, 32, 64]"), r"distance.mask: .*\[0, 0, 32, 64\] \(divide pixels by .*"),
    "mask upside down": (MASK.format("[0.5, 0, 0.2, 1]"), r"distance.mask: .* with top < bottom and left < right; .*"),
    "mask without a width": (MASK.format("[0, 0.5, 1, 0.5]"), "distance.mask: .* with top < bottom and left < right.*"),
    "mask below zero": (MASK.format("[-0.1, 0, 1, 1]"), "distance.mask: a box is .* from 0 to 1.*"),
    "mask that is no number": (MASK.format("[.nan, 0, 1, 1]"), "distance.mask: a box is .* from 0 to 1.*"),
    "mask of text": (
        MASK.format("['0.1', 0, 1, 1]"),
        "distance.mask: a number is needed, not the text '0.1'; write 0.1.*",
    ),
    "mask of truth": (MASK.format("[no, 0, 1, 1]"), "distance.mask: a number is needed, not false .*"),
    "mask of a mapping": (MASK.format("{top: 0}"), "distance.mask: a box .* is needed, not a mapping"),
    "mask of an image": (MASK.format("mask.png"), r"distance.mask: .* the path of an array \(.npy\) is needed, .*"),
}


@pytest.mark.parametrize(("text", "sentence"), WRONG.values(), ids=WRONG)
def test_a_wrong_distance_is_reported_in_one_sentence(tmp_path, text, sentence):
    with pytest.raises(SpecError) as caught:
        job(tmp_path, text)
    (problem,) = caught.value.problems
    assert re.fullmatch(sentence, problem)


def test_every_wrong_value_of_a_distance_is_reported_at_once():
    wrong = {"name": "features", "module": "x", "layer": 3, "clamp": 1, "size": 1, "mask": "x", "colour": "red"}
    with pytest.raises(ValidationError) as caught:
        JobSpec.model_validate({"name": "x", "generator": "g", "distance": wrong, "samples": {"count": 1}})
    found = [problem.partition(":")[0] for problem in explain(caught.value)]
    keys = ("clamp", "colour", "layer", "mask", "module", "size")
    assert sorted(found) == [f"distance.{key}" for key in keys]


@pytest.mark.parametrize("name", ["a:b", "a.b.c:d", "_a:B1"])
def test_a_name_of_code_is_known(name):
    assert names_code(name)


@pytest.mark.parametrize(
    "name", ["", "a", ":", "a:", ":b", "a:b:c", "a..b:c", "a-b:c", "a/b:c", "1a:b", "a: b", "a:b()"]
)
def test_a_name_that_no_code_has_is_not_taken_for_one(name):
    assert not names_code(name)


@given(st.tuples(*[st.floats(0, 1)] * 4))
def test_a_box_is_taken_exactly_when_it_has_an_area(box):
    top, left, bottom, right = box
    distance = {"name": "mse", "mask": list(box)}
    data = {"name": "x", "generator": "g", "distance": distance, "samples": {"count": 1}}
    if top < bottom and left < right:
        assert JobSpec.model_validate(data).distance.mask == box
    else:
        with pytest.raises(ValidationError):
            JobSpec.model_validate(data)
