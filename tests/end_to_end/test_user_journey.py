"""The way of a user through the product, on the real generator: run, look, analyse, report, export."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import icechunk
import numpy as np
import pytest
import xarray as xr
import yaml

import pullback

pytestmark = [pytest.mark.end_to_end, pytest.mark.xdist_group("journey")]  # one sweep serves several tests

ROOT = Path(__file__).parent.parent.parent


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pullback", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=200,
    )


@pytest.fixture(scope="session")
def folder(tmp_path_factory, faces, lpips_alex):
    """A folder with a finished sweep of six codes of the quickstart job."""
    folder = tmp_path_factory.mktemp("journey")
    job = yaml.safe_load((ROOT / "jobs" / "quickstart.yaml").read_text())
    job["samples"]["count"] = 6
    job["resources"] = {"device": "cpu", "shard_size": 4}
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    done = run(folder, "run", "job.yaml", "--serial")
    assert done.returncode == 0, done.stderr
    return folder


def test_every_way_of_reading_gives_the_same_numbers(folder):
    sweep = pullback.open_sweep(folder / "sweeps/quickstart")
    ours = sweep.dataset().load()
    repository = icechunk.Repository.open(icechunk.local_filesystem_storage(str(sweep.path)))
    plain = xr.open_zarr(repository.readonly_session("main").store, consolidated=False).load()
    done = run(folder, "export", "sweeps/quickstart", "out.zarr")
    assert done.returncode == 0, done.stderr
    exported = xr.open_zarr(folder / "out.zarr", consolidated=False).load()
    assert ours["eigenvector"].dims == ("sample", "component", "latent_dim")
    for name in ours.variables:
        np.testing.assert_array_equal(ours[name].values, plain[name].values)
        np.testing.assert_array_equal(ours[name].values, exported[name].values)
        assert ours[name].dims == plain[name].dims == exported[name].dims
    shown = json.loads(run(folder, "show", "sweeps/quickstart", "--json").stdout)
    assert shown["snapshot"] == sweep.snapshot
    assert shown["samples"] == {"planned": 6, "good": 6, "quarantined": 0, "pending": 0}


def test_the_stored_metric_is_that_of_the_python_face_and_of_its_own_eigenpairs(folder, faces, lpips_alex):
    dataset = pullback.open_sweep(folder / "sweeps/quickstart").dataset()
    metric = pullback.metric_at(faces, lpips_alex, dataset["latent"].values[4])
    np.testing.assert_allclose(dataset["eigenvalue"].values[4], metric.eigenvalues.numpy(), rtol=1e-4)
    vectors = dataset["eigenvector"].values[4].astype(np.float64)
    rebuilt = vectors.T @ (dataset["eigenvalue"].values[4][:, None] * vectors)
    np.testing.assert_allclose(rebuilt, metric.matrix.numpy(), atol=1e-6 * float(metric.eigenvalues[0]))


def test_such_a_gan_is_anisotropic_and_homogeneous(folder):
    done = run(folder, "analyze", "sweeps/quickstart", "--json")
    assert done.returncode == 0, done.stderr
    analysis = json.loads(done.stdout)
    assert analysis["samples"] == 6
    assert 20 <= analysis["anisotropy"]["dim"]["0.99"]["below"] <= 60
    assert analysis["homogeneity"]["log"]["mean"] > 0.9
    assert analysis["homogeneity"]["pairs"] == 30


def test_the_report_is_one_file_whose_strips_show_the_claim(folder):
    done = run(folder, "report", "sweeps/quickstart")
    assert done.returncode == 0, done.stderr
    html = (folder / "sweeps/quickstart.report.html").read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="(?!data:|#)', html), "the report needs other files"
    assert html.count("data:image/svg+xml;base64,") >= 5
    for needed in ("dcgan-faces", "lpips-alex", "input_range: standard", "trunk-alex", "torch", "snapshot"):
        assert needed in html
    ratio = re.search(r":\s+(\d+) times less", html)
    assert ratio is not None
    assert int(ratio[1]) > 10, "the last axis must change the image far less than the first"


def test_the_readmes_python_example_works_as_printed(folder, faces, lpips_alex):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    # The reader has the checkpoint ffhq.pkl; test_own_generator runs the class Mine.
    examples = [example for example in examples if "ffhq.pkl" not in example and "class Mine" not in example]
    assert len(examples) == 2
    for example in examples:
        done = subprocess.run([sys.executable, "-c", example], cwd=folder, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr


def test_the_readmes_client_example_works_as_printed(folder):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```py\n(.*?)```", text, flags=re.DOTALL)
    command = [sys.executable, "-m", "pullback", "serve", "sweeps", "--port", "0"]
    with subprocess.Popen(
        command, cwd=folder, stderr=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "300"}
    ) as service:
        try:
            url = re.search(r"http://127\.0\.0\.1:\d+", service.stderr.readline())[0]
            assert example.count("http://127.0.0.1:8000") == 1
            names = {"pullback": pullback}
            exec(example.replace("http://127.0.0.1:8000", url), names)
        finally:
            service.send_signal(signal.SIGINT)
            service.wait(timeout=30)
    assert names["spectra"]["eigenvalue"].shape == (6, 10)


def test_the_readmes_jobs_are_valid(tmp_path):
    from pullback.generators import zoo
    from pullback.spec import job_of, load_job

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    job, analysis = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    (tmp_path / "job.yaml").write_text(job)
    assert load_job(tmp_path / "job.yaml", zoo()).samples.count == 200
    assert set(job_of(yaml.safe_load(analysis)).statistics) == {"homogeneity", "anisotropy"}
