"""Mistakes of users, by name: commands, calls of the Python API, and the files that both name."""

import gzip
import shutil
from pathlib import Path

import numpy as np
import torch
import yaml

STORED = Path(__file__).parent / "data" / "sweeps" / "0.1"
JOB = {"name": "mine", "generator": "mine:make", "distance": "mse", "samples": {"count": 5}}

JOBS = {
    "zoo.yaml": {"generator": "dcgan-face"},
    "two.yaml": {"samples": {"count": 0, "sead": 1}, "metrik": {}},
    "rank.yaml": {"metric": {"components": 7}},
    "absent.yaml": {"generator": "mine:absent"},
    "module.yaml": {"generator": "nobody:make"},
    "arguments.yaml": {"generator": {"name": "mine:make", "args": {"depth": 3}}},
    "file.yaml": {"generator": "none.pth"},
    "space.yaml": {"generator": {"name": "mine:make", "space": "ww"}},
    "trunk.yaml": {"distance": {"name": "lpips", "trunk": "alx"}},
    "mask.yaml": {"distance": {"name": "mse", "mask": [0.5, 0, 0.2, 1]}},
    "function.yaml": {"distance": "mine:absent"},
    "scheme.yaml": {"store": "ftp://host/sweep"},
    "bucket.yaml": {"store": "s3://"},
    "another.yaml": {"store": "sweeps/gauss_newton"},
    "kind.yaml": {"kind": "sweeep"},
    "statistic.yaml": {"kind": "analysis", "sweep": "sweeps/gauss_newton", "statistics": ["homogenity"]},
    "application.yaml": {"kind": "application", "sweep": "sweeps/gauss_newton", "application": {"name": "serch"}},
}
"""Keys that differ from the valid job; an analysis and an application have theirs alone."""

COMMANDS = {
    "no such command": "pullback rnu",
    "no such subcommand": "pullback bench metrc",
    "no such option": "pullback run job.yaml --sreial",
    "a missing argument": "pullback show",
    "a number out of range": "pullback figure spectra sweeps/gauss_newton --dpi 1",
    "text for a number": "pullback snapshots sweeps/gauss_newton --limit many",
    "no such job": "pullback run nowhere.yaml",
    "a folder for a job": "pullback plan sweeps",
    "no such generator": "pullback plan zoo.yaml",
    "three mistakes": "pullback plan two.yaml",
    "no such kind of job": "pullback plan kind.yaml",
    "no such statistic in a job": "pullback plan statistic.yaml",
    "no such application in a job": "pullback plan application.yaml",
    "more components than the code has": "pullback plan rank.yaml",
    "no such factory": "pullback plan absent.yaml",
    "no such module": "pullback plan module.yaml",
    "an argument that the factory lacks": "pullback plan arguments.yaml",
    "no such weight file": "pullback plan file.yaml",
    "a space that the generator lacks": "pullback plan space.yaml",
    "no such trunk": "pullback plan trunk.yaml",
    "an empty mask": "pullback plan mask.yaml",
    "no such distance function": "pullback plan function.yaml",
    "a store of an unknown kind": "pullback plan scheme.yaml",
    "an address without a bucket": "pullback plan bucket.yaml",
    "a store that holds another sweep": "pullback plan another.yaml",
    "no such sweep": "pullback show sweeps/gaus_newton",
    "no such sweep, and none beside it": "pullback analyze nowhere/mine",
    "a file that is no sweep": "pullback report notes.txt",
    "a folder that is no sweep": "pullback audit plain",
    "no such snapshot": "pullback analyze sweeps/gauss_newton --snapshot 00000000000000000000",
    "no such statistic": "pullback analyze sweeps/gauss_newton --statistic homogenity",
    "an option out of range": "pullback analyze sweeps/gauss_newton --draws 0",
    "an option of another statistic": "pullback analyze sweeps/gauss_newton --statistic anisotropy --random-axes 5",
    "a statistic of two sweeps with one": "pullback analyze sweeps/gauss_newton --statistic comparison",
    "a statistic of one sweep with two":
        "pullback analyze sweeps/gauss_newton --with sweeps/block_krylov --statistic anisotropy",
    "no such format of figures": "pullback figure spectra sweeps/gauss_newton --format jpg",
    "an export in an unknown format": "pullback export sweeps/gauss_newton out.xlsx",
    "an export onto a file": "pullback export sweeps/gauss_newton taken.csv",
    "an export in an unknown layout": "pullback export sweeps/gauss_newton out.npz --layout gansapce",
    "an import of something else": "pullback import notes.txt --into sweeps/imported",
    "an axis beyond the last": "pullback axes sweeps/gauss_newton --axis 99",
    "no such axis": "pullback axes sweeps/gauss_newton --axis smile",
    "no such application": "pullback apply serch sweeps/gauss_newton",
    "an option of an application out of range":
        "pullback apply search sweeps/gauss_newton --unit alex:conv3:1 --evaluations 0",
    "no such picture": "pullback invert nobody.png --generator mine:make",
    "a folder without pictures": "pullback invert plain --generator mine:make",
    "an option that inversion lacks": "pullback invert flat.npy --generator mine:make --set colour=1",
    "an option without a value": "pullback invert flat.npy --generator mine:make --set prior",
    "a solver that inversion lacks": "pullback invert flat.npy --generator mine:make --solver hybird",
    "no such weights": "pullback weights fetch dcgan-fcaes",
    "no such generator to inspect": "pullback generators show dcgan-fcaes",
    "an age without a unit": "pullback gc sweeps/gauss_newton --older-than 5",
    "the status of no sweep": "pullback status sweeps/mein",
    "a token with a space": "pullback tokens add 'my token' --scope read --file tokens.json",
    "a file of tokens that is none": "pullback tokens list --file notes.txt",
}  # fmt: skip
"""Each fails, and prints its message to standard error alone."""

CALLS = {
    "no such generator, in Python": "pullback.load_generator('dcgan-fcaes')",
    "no such device": "pullback.load_generator('mine:make', device='cuad')",
    "a network of a file that has one": "pullback.load_generator('mine:make', network='g')",
    "a discriminator": "pullback.load_generator('discriminator.pth', device='cpu')",
    "a file of two networks": "pullback.load_generator('several.pth', network='g_emma', device='cpu')",
    "a classifier": "pullback.load_generator('classifier.pth', device='cpu')",
    "an empty file of weights": "pullback.load_generator('empty.pth', device='cpu')",
    "a web page for weights": "pullback.load_generator('page.pth', device='cpu')",
    "a pointer of git-lfs for weights": "pullback.load_generator('pointer.safetensors', device='cpu')",
    "a compressed file for weights": "pullback.load_generator('packed.pth', device='cpu')",
    "a picture for weights": "pullback.load_generator('notes.png', device='cpu')",
    "no such distance": "pullback.load_distance('lpisp')",
    "no such option of a distance": "pullback.load_distance('mse', trunk='alex')",
    "a mask beyond the image": "pullback.load_distance('mse', mask=[0, 0, 2, 1])",
    "codes of another length": "pullback.metric_at(pullback.load_generator('mine:make'), mse, torch.zeros(5))",
    "codes that are not finite": "pullback.metric_at(pullback.load_generator('mine:make'), mse, torch.full((6,), nan))",
    "no such method": "pullback.metric_at(pullback.load_generator('mine:make'), mse, torch.zeros(6), method='krylof')",
    "images of two sizes": "mse(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 12, 12))",
    "one image without its batch": "mse(torch.zeros(3, 16, 16), torch.zeros(3, 16, 16))",
    "images out of range": "mse(torch.zeros(1, 3, 4, 4), torch.linspace(0, 255, 48).view(1, 3, 4, 4))",
    "no such sweep, in Python": "pullback.open_sweep('sweeps/gaus_newton')",
    "no such statistic, in Python": "pullback.analyze('sweeps/gauss_newton', 'homogenity')",
}  # fmt: skip
"""Each raises a PullbackError or a ValueError. `mse` is that distance, and `nan` the number."""


def fill(folder: Path) -> None:
    """Write the files that the commands and calls name: sweeps of a released version, jobs, weights, pictures."""
    shutil.copytree(STORED, folder, dirs_exist_ok=True)
    for name, changes in JOBS.items():
        job = {"name": JOB["name"]} if "sweep" in changes else JOB
        (folder / name).write_text(yaml.safe_dump({**job, **changes}))
    (folder / "plain").mkdir()
    for name in ("notes.txt", "notes.png", "taken.csv", "plain/notes.txt"):
        (folder / name).write_text("bread, milk\n")
    np.save(folder / "flat.npy", np.zeros((4, 5, 7), dtype=np.float32))
    weight, bias = torch.zeros(4, 3, 4, 4), torch.zeros(2, 2)
    networks = {
        "discriminator": {"netD": {"main.0.weight": weight, "main.2.weight": torch.zeros(1, 4, 4, 4)}},
        "several": {"g": {"fc.weight": bias}, "g_ema": {"fc.weight": bias}},
        "classifier": {"features.0.weight": weight, "classifier.1.weight": bias},
    }
    for name, content in networks.items():
        torch.save(content, folder / f"{name}.pth")
    (folder / "notes.txt").chmod(0o600)
    (folder / "empty.pth").write_bytes(b"")
    (folder / "page.pth").write_text("<!DOCTYPE html><html>not found</html>")
    (folder / "pointer.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n")
    (folder / "packed.pth").write_bytes(gzip.compress(b"x" * 99, mtime=0))
