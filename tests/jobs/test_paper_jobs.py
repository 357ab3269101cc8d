"""The jobs of jobs/paper/ are valid, name registered generators, and run on small checkpoints of the same families."""

from pathlib import Path

import pytest
import yaml

from command_line import call
from dcgan_files import save_faces
from pullback.generators import zoo
from pullback.spec import load_job
from pullback.store.reader import open_sweep

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data" / "generators"
JOBS = sorted((ROOT / "jobs" / "paper").glob("*.yaml"))
STAND_INS = {
    "biggan_deep": (DATA / "pytorch_pretrained_biggan" / "biggan_deep", {}),
    "deepsim": (DATA / "deepsim_upconv" / "upconvGAN_pool5.safetensors", {}),
    "pggan": (DATA / "genforce" / "pggan16.pth", {}),
    "stylegan1": (DATA / "genforce" / "stylegan16.pth", {}),
    "stylegan2": (DATA / "rosinality_stylegan2" / "converted.pt", {}),
    "bigbigan": (DATA / "ajbrock_biggan" / "imagenet_style.safetensors", {"family": "bigbigan"}),
}
"""A small checkpoint of each family, and what a job has to say about it."""


def test_every_space_of_the_papers_table_has_its_job():
    families = {zoo()[load_job(path, zoo()).generator.name].family for path in JOBS}
    assert families == {*STAND_INS, "dcgan"}
    assert len(JOBS) >= 17


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_a_job_of_the_paper_has_its_conventions(path):
    job = load_job(path, zoo())
    assert (job.distance.trunk, job.distance.input_range, job.distance.clamp) == ("squeeze", "paper", True)
    assert job.generator.space in zoo()[job.generator.name].spaces
    assert job.samples.count >= 100


@pytest.mark.parametrize("name", ["biggan-deep-256", "bigbigan", "stylegan2-cat-256-w"])
def test_a_job_of_the_paper_is_planned_and_runs_on_a_small_checkpoint(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = yaml.safe_load((ROOT / "jobs" / "paper" / f"{name}.yaml").read_text())
    family = zoo()[job["generator"]["name"]].family
    save_faces(tmp_path / "faces.tar")
    stand_in, more = STAND_INS.get(family, (tmp_path / "faces.tar", {}))
    job["generator"] = {**job["generator"], "name": str(stand_in), **more}
    job["resources"] = {"fsync": False}
    job["distance"], job["samples"]["count"] = "mse", 2  # SqueezeNet's weights are in no package
    Path("job.yaml").write_text(yaml.safe_dump(job))
    assert call("run", "job.yaml", "--serial").code == 0
    assert open_sweep(f"sweeps/{job['name']}").status().good == 2
