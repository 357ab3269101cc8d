"""Power cuts at random over a run: the next run ends as a clean one does."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from command_line import call
from disks import mounted
from pullback.store.audit import audit
from pullback.store.reader import open_sweep

JOB = """\
name: toy
generator: toy_generators:smooth
distance: mse
samples: {{count: 300}}
store: sweeps/toy
resources: {{shard_size: 3, batch: 3, workers: 1, fsync: {fsync}}}
"""
TESTS = str(Path(__file__).parents[1])


def images_of_a_run(disk, place, fsync, cuts):
    """Copies of what is on the disk, at random moments of a run; all that is in memory only is lost to them."""
    (place / "job.yaml").write_text(JOB.format(fsync=str(fsync).lower()))
    subprocess.run(["sync", "-f", place / "job.yaml"], check=True)
    path = os.pathsep.join([TESTS, os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "pullback", "run", "job.yaml", "--serial"]
    images = []
    with subprocess.Popen(
        command, cwd=place, env={**os.environ, "PYTHONPATH": path}, stderr=subprocess.DEVNULL
    ) as driver:
        while driver.poll() is None:
            if len(images) < cuts and (place / "sweeps" / "toy").exists():
                images.append(disk.with_name(f"image{len(images)}"))
                subprocess.run(["cp", "--sparse=always", disk, images[-1]], check=True)
            time.sleep(random.uniform(0.2, 1))
        assert driver.returncode == 0
    images.append(disk.with_name("image at the end"))
    subprocess.run(["cp", "--sparse=always", disk, images[-1]], check=True)
    return images


@pytest.mark.parametrize("fsync", [True, False])
def test_after_a_power_cut_the_next_run_ends_as_a_clean_one(tmp_path, monkeypatch, fsync):
    monkeypatch.setattr(sys, "path", [*sys.path])
    with mounted(tmp_path) as (disk, place):
        images = images_of_a_run(disk, place, fsync, cuts=2)
        clean = open_sweep(place / "sweeps" / "toy").dataset(only_good=False).drop_vars("seconds").load()
    kept = []
    for image in images:
        subprocess.run(["mount", "-o", "loop", image, place], check=True)
        monkeypatch.chdir(place)
        try:
            if (place / "sweeps" / "toy").exists():
                found = audit("sweeps/toy")
                assert not (fsync and (found.damages or found.went_back)), "nothing that was committed is lost"
                kept.append(found.committed)
                if found.damages:
                    assert call("audit", "sweeps/toy", "--repair").code == 0
            assert call("run", "job.yaml", "--serial").code == 0
            again = open_sweep("sweeps/toy").dataset(only_good=False).drop_vars("seconds").load()
            assert again.drop_attrs().equals(clean.drop_attrs())
        finally:
            monkeypatch.chdir(tmp_path)
            subprocess.run(["umount", place], check=True)
    if fsync:
        assert kept[-1] == 100, "the last commit was on the disk when the run ended"
