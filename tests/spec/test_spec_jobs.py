"""A job that is right: its defaults, its shorthand, its canonical form."""

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from pullback.distances import lpips, mse
from pullback.errors import SpecError
from pullback.generators import zoo
from pullback.spec import JobSpec, load_any_job, load_job

FOLDER = Path(__file__).parents[2] / "jobs"
JOBS = sorted([*FOLDER.glob("*.yaml"), *FOLDER.glob("analyses/*.yaml")])

SMALL = """\
name: small
generator: dcgan-faces
distance: lpips
samples: {count: 3}
"""


def load(folder, text, **options):
    path = folder / "job.yaml"
    path.write_text(text, encoding="utf-8")
    return load_job(path, **options)


def test_a_small_job_gets_every_default(tmp_path):
    job = load(tmp_path, SMALL)
    assert job.model_dump() == {
        "name": "small",
        "kind": "sweep",
        "generator": {
            "name": "dcgan-faces",
            "weights": None,
            "network": None,
            "condition": None,
            "family": None,
            "space": "z",
            "truncation": 1.0,
            "truncation_cutoff": None,
            "noise": "const",
            "noise_seed": 0,
            "control": None,
            "control_seed": 0,
            "args": None,
            "options": {},
        },
        "distance": {
            "name": "lpips",
            "trunk": "alex",
            "input_range": "standard",
            "clamp": False,
            "size": None,
            "mask": None,
        },
        "metric": {
            "method": "auto",
            "components": "all",
            "precision": "float32",
            "deterministic": False,
            "tolerance": 1e-6,
            "max_products": None,
            "relative_step": 1e-3,
        },
        "samples": {"count": 3, "seed": 0, "distribution": "normal", "scale": 1.0},
        "store": None,
        "resources": {
            "device": "auto",
            "workers": "auto",
            "shard_size": "auto",
            "batch": "auto",
            "tangents": "auto",
            "memory_gib": "auto",
            "retries": 2,
            "max_quarantined": 0.5,
            "fsync": True,
            "replay": "eager",
        },
    }
    assert job.store_path == Path("sweeps/small")


def test_a_store_that_is_named_is_the_store(tmp_path):
    assert load(tmp_path, SMALL + "store: else/where\n").store_path == Path("else/where")


def test_every_value_of_a_full_job_is_read(tmp_path):
    job = load(
        tmp_path,
        """\
name: full
generator: {name: dcgan-eyes, weights: eyes.pth, condition: cycle}
distance: {name: lpips, trunk: vgg, input_range: paper, clamp: true, size: 256, mask: [0, 0.25, 1, 0.75]}
metric: {method: gauss_newton, components: 7}
samples: {count: 9, seed: 4, distribution: normal, scale: 0.5}
resources: {device: cpu, workers: 2, shard_size: 3, batch: 4, tangents: 5, memory_gib: 1.5, retries: 0,
            max_quarantined: 0.1, fsync: false, replay: auto}
""",
    )
    assert job.generator.condition == "cycle"
    assert isinstance(job.distance, lpips.Options)
    assert job.distance.model_dump() == {
        "name": "lpips",
        "trunk": "vgg",
        "input_range": "paper",
        "clamp": True,
        "size": 256,
        "mask": (0.0, 0.25, 1.0, 0.75),
    }
    assert job.metric.components == 7
    assert job.samples.scale == 0.5
    assert list(job.resources.model_dump().values()) == ["cpu", 2, 3, 4, 5, 1.5, 0, 0.1, False, "auto"]


def test_a_bare_name_is_short_for_a_mapping_with_that_name(tmp_path):
    short = load(tmp_path, SMALL)
    long = load(tmp_path, SMALL.replace("dcgan-faces", "{name: dcgan-faces}").replace("lpips", "{name: lpips}"))
    assert short == long


@pytest.mark.parametrize(
    ("distance", "label"),
    [
        ("lpips", "lpips-alex"),
        ("{name: lpips, trunk: squeeze}", "lpips-squeeze"),
        ("mse", "mse"),
        ("ssim", "ssim"),
        ("{name: features, module: generator, layer: blocks.2}", "features-blocks.2"),
        ("mine:function", "mine:function"),
    ],
)
def test_a_distance_has_a_label_for_tables(tmp_path, distance, label):
    assert load(tmp_path, SMALL.replace("lpips", distance)).distance.label == label


def test_the_canonical_form_leaves_out_name_store_and_resources(tmp_path):
    one = load(tmp_path, SMALL)
    other = load(tmp_path, SMALL.replace("small", "other") + "store: x\nresources: {workers: 3, retries: 9}\n")
    assert one.canonical() == other.canonical()
    changed = load(tmp_path, SMALL + "metric: {components: 2}\nresources: {workers: 3}\n")
    assert set(changed.canonical()) == {"generator", "distance", "metric", "samples"}
    assert set(one.complete()) == {"generator", "distance", "metric", "samples"}


def test_the_canonical_form_has_no_key_with_its_default(tmp_path):
    assert load(tmp_path, SMALL).canonical() == {
        "generator": {"name": "dcgan-faces"},
        "distance": {"name": "lpips"},
        "samples": {"count": 3},
    }
    text = SMALL.replace("lpips", "{name: lpips, trunk: squeeze, clamp: false}") + "metric: {components: 2}\n"
    assert load(tmp_path, text).canonical() == {
        "generator": {"name": "dcgan-faces"},
        "distance": {"name": "lpips", "trunk": "squeeze"},
        "metric": {"components": 2},
        "samples": {"count": 3},
    }


def test_a_key_that_a_later_version_adds_does_not_change_an_older_job(tmp_path):
    class LaterMse(mse.Options):
        gamma: float = 1.0

    class LaterJob(JobSpec):
        distance: LaterMse

    older = load(tmp_path, SMALL.replace("lpips", "mse"))
    same, other = (
        LaterJob.model_validate({**older.model_dump(), "distance": distance})
        for distance in ("mse", {"name": "mse", "gamma": 2.2})
    )
    assert same.canonical() == older.canonical()
    assert other.canonical()["distance"] == {"name": "mse", "gamma": 2.2}


def test_the_complete_form_has_every_default(tmp_path):
    complete = load(tmp_path, SMALL).complete()
    assert complete["distance"]["trunk"] == "alex"
    assert complete["samples"] == {"count": 3, "seed": 0, "distribution": "normal", "scale": 1.0}
    again = JobSpec.model_validate({"name": "again", **complete})
    assert (again.complete(), again.canonical()) == (complete, load(tmp_path, SMALL).canonical())


@pytest.mark.parametrize(
    "change",
    [
        ("dcgan-faces", "dcgan-eyes"),
        ("dcgan-faces", "{name: dcgan-faces, weights: mine.pth}"),
        ("lpips", "mse"),
        ("lpips", "{name: lpips, clamp: true}"),
        ("lpips", "{name: lpips, trunk: vgg}"),
        ("lpips", "{name: lpips, mask: [0, 0, 0.5, 1]}"),
        ("lpips", "mine:f"),
        ("count: 3", "count: 4"),
        ("count: 3", "count: 3, seed: 1"),
        ("samples", "metric: {components: 1}\nsamples"),
        ("samples", "metric: {method: lanczos}\nsamples"),
        ("samples", "metric: {precision: float64}\nsamples"),
        ("samples", "metric: {deterministic: true}\nsamples"),
        ("samples", "metric: {tolerance: 0.01}\nsamples"),
        ("samples", "metric: {max_products: 30}\nsamples"),
        ("samples", "metric: {relative_step: 0.01}\nsamples"),
    ],
)
def test_the_canonical_form_follows_everything_that_decides_a_number(tmp_path, change):
    assert load(tmp_path, SMALL).canonical() != load(tmp_path, SMALL.replace(*change)).canonical()


def test_a_written_default_and_an_omitted_one_are_the_same_job(tmp_path):
    written = SMALL.replace("count: 3", "count: 3, seed: 0, scale: 1") + "metric: {components: all}\n"
    assert load(tmp_path, SMALL).canonical() == load(tmp_path, written).canonical()


def test_a_canonical_form_validates_to_itself(tmp_path):
    job = load(tmp_path, SMALL)
    again = JobSpec.model_validate({"name": "again", **job.canonical()})
    assert again.canonical() == job.canonical()


def test_a_job_cannot_be_changed(tmp_path):
    job = load(tmp_path, SMALL)
    with pytest.raises(ValidationError, match="frozen"):
        job.samples.count = 4
    assert job.samples.count == 3


@pytest.mark.parametrize("name", ["mine.pth", "folder/mine", "module:factory"])
def test_generators_of_ones_own_need_no_registration(tmp_path, name):
    assert load(tmp_path, SMALL.replace("dcgan-faces", name), generators=["dcgan-faces"]).generator.name == name


def test_there_are_jobs_to_submit():
    assert "quickstart.yaml" in [path.name for path in JOBS]


@pytest.mark.parametrize("path", JOBS, ids=lambda path: str(path.relative_to(FOLDER)))
def test_every_job_of_the_repository_is_valid(path):
    assert load_any_job(path, generators=zoo()).name == path.stem


NUMBERS = [
    *(("metric", key) for key in ("components", "tolerance", "max_products", "relative_step")),
    *(("samples", key) for key in ("count", "seed", "scale")),
    *(("resources", key) for key in ("workers", "shard_size", "batch", "tangents", "memory_gib", "retries")),
    ("resources", "max_quarantined"),
    ("distance", "size"),
]


@pytest.mark.parametrize(("section", "key"), NUMBERS)
@pytest.mark.parametrize("number", ["-1", "1.0e+308", "-1.0e+308", ".inf", "-.inf", ".nan", str(2**63), "9" * 400])
def test_no_number_of_a_job_is_without_bounds(section, key, number, tmp_path):
    job = {"name": "x", "generator": "dcgan-faces", "distance": {"name": "mse"}, "samples": {"count": 3}}
    job[section] = {**job.get(section, {}), key: "HERE"}
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job).replace("HERE", number))
    with pytest.raises(SpecError) as caught:
        load_job(path)
    assert any(problem.startswith(f"{section}.{key}") for problem in caught.value.problems)
