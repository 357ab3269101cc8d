"""The README's example of a user's generator runs: doctor, a sweep at given codes of W, a control."""

import re
from pathlib import Path

import numpy as np
import torch
import yaml

import pullback
from command_line import call

README = Path(__file__).parents[2] / "README.md"


def example():
    """The source of `mine.py` in the README."""
    return next(
        code for code in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL) if "class Mine" in code
    )


def test_the_readmes_generator_is_checked_swept_at_codes_of_w_and_controlled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(example())
    names = {}
    exec(example(), names)
    torch.manual_seed(0)
    torch.save({"g_ema": names["Mine"](32).state_dict()}, "w.pt")
    given = ("--weights", "w.pt", "--arg", "width=32")
    assert call("generators", "doctor", "mine:generator", *given, "--no-cost").code == 0
    codes = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
    np.save("w.npy", codes)
    generator = {"name": "mine:generator", "weights": "w.pt", "args": {"width": 32}}
    jobs = {
        "drawn": {"samples": {"count": 3}, "generator": generator},
        "given": {"samples": {"count": 3, "distribution": "codes", "codes": "w.npy"}, "generator": generator},
        "control": {"samples": {"count": 3}, "generator": {**generator, "control": "shuffled"}},
        "again": {"samples": {"count": 3, "distribution": "codes", "codes": "sweeps/drawn"}, "generator": generator},
    }
    for name, job in jobs.items():
        Path(f"{name}.yaml").write_text(yaml.safe_dump({"name": name, "distance": "mse", **job}))
        assert call("run", f"{name}.yaml", "--serial").code == 0
    sweeps = {name: pullback.open_sweep(f"sweeps/{name}") for name in jobs}
    latents = {name: sweep.values("latent", slice(0, 3)) for name, sweep in sweeps.items()}
    spectra = {name: sweep.values("eigenvalue", slice(0, 3)) for name, sweep in sweeps.items()}
    np.testing.assert_array_equal(latents["given"], codes)
    np.testing.assert_array_equal(latents["again"], latents["drawn"])
    np.testing.assert_allclose(spectra["again"], spectra["drawn"], rtol=1e-5)
    assert np.abs(spectra["control"] / spectra["drawn"] - 1).max() > 0.1
    network = pullback.load_generator("mine:generator", weights="w.pt", args={"width": 32}, device="cpu")
    one = pullback.metric_at(network, pullback.load_distance("mse"), codes[0])
    np.testing.assert_allclose(spectra["given"][0], one.eigenvalues.numpy().ravel(), rtol=1e-4)
    changed = {**jobs["drawn"], "generator": {**generator, "args": {"width": 16}}}
    Path("drawn.yaml").write_text(yaml.safe_dump({"name": "drawn", "distance": "mse", **changed}))
    assert call("run", "drawn.yaml", "--serial").code != 0
