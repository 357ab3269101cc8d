"""The templates of CONTRIBUTING.md work as plug-ins: copied as they are, under a name of their own."""

from pathlib import Path

import numpy as np
import torch

from plugin_files import on_the_path, write_distribution
from pullback import load_distance
from pullback.jobs.plan import plan_results
from pullback.jobs.run import run_results
from pullback.spec import job_of
from pullback.store.reader import open_sweep
from toy_generators import Smooth

TEMPLATES = Path(__file__).parents[2] / "docs" / "templates"


def test_the_template_of_a_distance_is_a_distance(tmp_path):
    source = (TEMPLATES / "distance.py").read_text(encoding="utf-8")
    with on_the_path(write_distribution(tmp_path / "site", "pullback.distances", {"edges": source})):
        distance = load_distance("edges", strength=2.0, device="cpu")
        x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        assert distance(x, x).tolist() == [0, 0]
        assert bool((distance(x[:1], x[1:]) > 0).all())


def test_the_template_of_an_application_is_an_application(sweep, tmp_path):
    source = (TEMPLATES / "application.py").read_text(encoding="utf-8")
    with on_the_path(write_distribution(tmp_path / "site", "pullback.applications", {"walk": source}, name="walker")):
        options = {"name": "walk", "axes": 2, "step": 1e-2}
        job = job_of({"kind": "application", "name": "w", "sweep": sweep, "application": options})
        assert run_results(plan_results(job)).exit_code == 0
        result = plan_results(job).parts[0].load()
        opened = open_sweep(sweep)
        vectors = np.linalg.eigh(opened.mean_metric())[1]
        code = torch.as_tensor(opened.dataset()["latent"].values[:1])
        with torch.no_grad():
            wanted = [
                float((Smooth()(code + 1e-2 * torch.as_tensor(u).float()) - Smooth()(code)).square().mean())
                for u in (vectors[:, -1], vectors[:, -2])
            ]
        np.testing.assert_allclose(result.dataset["change"], wanted, rtol=1e-2)
        assert len(result.figures()) == len(result.tables()) == 1
