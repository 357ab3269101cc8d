"""The Ray that a run starts lets in only its own processes."""

import os
import subprocess
import sys
from contextlib import suppress

import pytest

from pullback.cluster.pool import _short_temporary_folder, local_ray, ray

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]

KNOCK = """
import ray, sys
try:
    ray.init(address=sys.argv[1], _node_ip_address="127.0.0.1", log_to_driver=False)
    print("in")
except ConnectionError:
    print("refused")
"""


def knock(address: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", KNOCK, address],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def test_a_local_ray_wants_a_token_that_stands_nowhere_but_in_its_processes(monkeypatch, tmp_path):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with local_ray(cpus=1):
        token = ray.get(ray.remote(lambda: os.environ["RAY_AUTH_TOKEN"]).remote())
        address = ray.get_runtime_context().gcs_address
        with (
            knock(address, RAY_AUTH_MODE="disabled") as without,
            knock(address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token) as with_it,
        ):
            assert with_it.communicate(timeout=60)[0].strip() == "in"
            with suppress(subprocess.TimeoutExpired):  # Ray tries for some twenty seconds
                without.wait(timeout=3)
            without.kill()
            assert "in" not in without.stdout.read()
        (folder,) = _short_temporary_folder().glob(f"pullback-ray-{os.getpid()}-*")
        searched = subprocess.run(["grep", "-rl", token, folder], capture_output=True, text=True, timeout=60)
        assert searched.stdout == ""
    assert len(token) == 64
    assert not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN"} & set(os.environ)
    assert list(tmp_path.iterdir()) == []
