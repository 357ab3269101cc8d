"""A distance that is one module of a third party: the job, its schema and messages, Python and the command line."""

import json

import pytest
import torch

from command_line import call
from plugin_files import on_the_path, write_distribution
from pullback import load_distance
from pullback.errors import PluginError, SpecError
from pullback.spec import JobSpec, job_of

BLUR = '''
"""The squared difference of images that are averaged first."""
from pydantic import Field
from torch.nn.functional import avg_pool2d
from pullback.distances.base import ResidualDistance
from pullback.spec import DistanceOptions
SUMMARY = "the squared difference of averaged images"
class Options(DistanceOptions):
    """The options of this distance."""
    side: int = Field(default=2, ge=1, le=16)
    "Pixels that are averaged along each side."
    @property
    def label(self):
        return f"blurry-{self.side}"
class Blurry(ResidualDistance):
    def __init__(self, options, mask):
        super().__init__(options.clamp, options.size, mask)
        self.side = options.side
        self.name = options.label
    def features(self, images):
        return avg_pool2d(images, self.side).flatten(1)
def build(options, mask):
    return Blurry(options, mask)
'''
PLAIN = BLUR.replace("class Options(DistanceOptions)", "from pullback.spec import Options as Base\nclass Options(Base)")
JOB = {"name": "j", "generator": "dcgan-faces", "samples": {"count": 2}}


@pytest.fixture(autouse=True)
def plugin(tmp_path):
    with on_the_path(write_distribution(tmp_path / "site", "pullback.distances", {"blurry": BLUR, "plain": PLAIN})):
        yield


def test_a_job_takes_the_distance_with_its_own_options():
    job = job_of({**JOB, "distance": {"name": "blurry", "side": 4, "clamp": True}})
    assert (job.distance.side, job.distance.label) == (4, "blurry-4")
    assert job.canonical()["distance"] == {"name": "blurry", "side": 4, "clamp": True}
    assert JobSpec.model_validate_json(job.model_dump_json()) == job
    assert job_of({**JOB, "distance": "blurry"}).canonical()["distance"] == {"name": "blurry"}


@pytest.mark.parametrize(
    ("distance", "start"),
    [
        ("blury", "distance: 'blury' is not one of "),
        ({"name": "blurry", "sid": 1}, "distance.sid: unknown key; did you mean 'side'? allowed here are name, clamp"),
        ({"name": "blurry", "side": 99}, "distance.side: must be at most 16, not 99; the nearest valid value is 16"),
        ({"name": "blurry", "mask": [0, 0, 9, 9]}, "distance.mask: a box is "),
    ],
)
def test_a_wrong_value_of_it_is_reported_like_one_of_ours(distance, start):
    with pytest.raises(SpecError) as caught:
        job_of({**JOB, "distance": distance})
    (problem,) = caught.value.problems
    assert problem.startswith(start)
    assert distance != "blury" or problem.endswith("did you mean 'blurry'?")


def test_the_schema_of_a_job_has_its_options():
    schema = json.dumps(JobSpec.model_json_schema())
    assert '"const": "blurry"' in schema
    assert "Pixels that are averaged along each side." in schema


def test_it_measures_images_through_its_options():
    x, y = torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8)
    distance = load_distance("blurry", side=4, device="cpu")
    assert distance.name == "blurry-4"
    torch.testing.assert_close(distance(x, y), torch.tensor([3 * 2 * 2.0]))
    assert load_distance("blurry", device="cpu", mask=[0, 0, 1, 0.5]).mask is not None


def test_one_whose_options_lack_the_common_ones_is_refused_in_one_sentence():
    with pytest.raises(SpecError) as caught:
        job_of({**JOB, "distance": "plain"})
    (problem,) = caught.value.problems
    assert "DistanceOptions" in problem
    with pytest.raises((SpecError, PluginError)):
        load_distance("plain", device="cpu")


def test_the_command_line_knows_it(tmp_path):
    from pullback.cli.completion import complete_distance

    assert complete_distance("blu") == ["blurry"]
    job = tmp_path / "job.yaml"
    job.write_text(json.dumps({**JOB, "distance": {"name": "blurry", "side": 0}}))
    done = call("plan", job)
    assert done.code == 2
    assert "distance.side: must be at least 1" in done.err
