"""A user's own code through the commands, in processes of their own: what it prints, what changes between runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

NOISY = """
import atexit, ctypes, logging, os, sys
import torch
import parts
print("imported")
atexit.register(print, "at exit")
logging.basicConfig(stream=sys.stdout, level=logging.INFO)
class Net(torch.nn.Module):
    latent_dim = 3
    def __init__(self):
        super().__init__()
        self.lin = torch.nn.Linear(3, 192)
        self.lin.load_state_dict(torch.load("w.pt"))
        print("built")
    def forward(self, z):
        print("pass")
        os.write(1, b"raw\\n")
        sys.__stdout__.write("under\\n")
        ctypes.CDLL(None).printf(b"from C\\n")
        logging.info("logged")
        return torch.sigmoid(parts.GAIN * self.lin(z)).view(-1, 3, 8, 8)
make = Net
"""
JOB = """
name: mine
generator: noisy:make
distance: mse
samples: {count: 4}
resources: {workers: 1, shard_size: 2, device: cpu}
"""


def torch_file(path, seed):
    torch.manual_seed(seed)
    torch.save(torch.nn.Linear(3, 192).state_dict(), path)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "noisy.py").write_text(NOISY)
    (tmp_path / "parts.py").write_text("GAIN = 1.0\n")
    for name in ("statistics", "profile", "ray", "queue"):  # as many folders of scripts have
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('the wrong module')\n")
    (tmp_path / "job.yaml").write_text(JOB)
    torch_file(tmp_path / "w.pt", 0)
    return tmp_path


def pullback(folder, *arguments):
    command = Path(sys.executable).with_name("pullback")
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([command, *arguments], cwd=folder, env=variables, capture_output=True, text=True, timeout=300)


def test_json_stands_alone_whatever_users_code_prints(folder):
    result = pullback(folder, "plan", "job.yaml", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["name"] == "mine"
    for printed in ("imported", "built", "pass", "raw", "under", "from C", "logged", "at exit"):
        assert printed in result.stderr


def test_a_job_runs_on_ray_beside_files_with_the_names_of_modules_and_is_refused_once_a_file_changes(folder):
    done = pullback(folder, "run", "job.yaml")
    assert done.returncode == 0, done.stderr
    shown = json.loads(pullback(folder, "show", "sweeps/mine", "--json").stdout)
    assert sorted(shown["inputs"]["sources"]) == ["noisy.py", "parts.py"]
    assert sorted(shown["inputs"]["opened"]) == ["w.pt"]
    torch_file(folder / "w.pt", 1)
    refused = pullback(folder, "run", "job.yaml")
    assert refused.returncode == 2
    assert "w.pt; generator: tensor lin.bias" in refused.stderr
    torch_file(folder / "w.pt", 0)
    (folder / "parts.py").write_text("GAIN = 2.0\n")
    assert "differs in parts.py" in pullback(folder, "run", "job.yaml", "--serial").stderr
    (folder / "parts.py").write_text("GAIN = 1.0\n")
    again = pullback(folder, "run", "job.yaml", "--serial")
    assert again.returncode == 0
    assert "nothing to do" in again.stderr
