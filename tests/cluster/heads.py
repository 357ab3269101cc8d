"""The head of a Ray cluster on loopback with a dashboard, in processes of its own, as `ray start` makes it."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from pullback.cluster.pool import _short_temporary_folder

TESTS = Path(__file__).parents[1]
_START_SECONDS = 90


@dataclass(frozen=True)
class Head:
    """A running head: the address of its dashboard, and the token that it wants."""

    address: str
    token: str


@contextmanager
def running() -> Iterator[Head]:
    """A head with two CPUs, gone after the block with all that it started."""
    folder = Path(tempfile.mkdtemp(prefix="pullback-head-", dir=_short_temporary_folder()))
    gcs, board, agent, grpc, env_agent, metrics, client = free_ports(7)
    token = secrets.token_hex(32)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PULLBACK_JOB"))}
    bin_folder = Path(sys.executable).parent
    environment |= {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "PYTHONPATH": str(TESTS),
        "PATH": os.pathsep.join([str(bin_folder), os.environ.get("PATH", "")]),
    }
    options = {
        "port": gcs,
        "node-ip-address": "127.0.0.1",
        "dashboard-host": "127.0.0.1",
        "dashboard-port": board,
        "dashboard-agent-listen-port": agent,
        "dashboard-agent-grpc-port": grpc,
        "runtime-env-agent-port": env_agent,
        "metrics-export-port": metrics,
        "ray-client-server-port": client,
        "min-worker-port": 0,  # any that are free: those of another Ray may be the default ones
        "max-worker-port": 0,
        "num-cpus": 2,
        "object-store-memory": 100 * 2**20,
        "temp-dir": folder,
    }
    command = [str(bin_folder / "ray"), "start", "--head", "--block", "--disable-usage-stats"]
    with (folder / "out").open("wb") as out:
        process = subprocess.Popen(
            [*command, *(f"--{name}={value}" for name, value in options.items())],
            env=environment,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    head = Head(f"http://127.0.0.1:{board}", token)
    try:
        _await(head, process, folder / "out")
        yield head
    finally:
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.terminate()
        process.wait(timeout=30)
        _, left = psutil.wait_procs(children, timeout=20)
        for each in left:
            each.kill()
        shutil.rmtree(folder, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens at."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _await(head: Head, process: subprocess.Popen[bytes], out: Path) -> None:
    asked = urllib.request.Request(f"{head.address}/api/jobs/", headers={"Authorization": f"Bearer {head.token}"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, out.read_text()
        try:
            with opener.open(asked, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise AssertionError(f"the head did not start: {out.read_text()}")
