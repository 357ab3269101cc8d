"""deploy/entrypoint.sh and deploy/slurm/pullback.sbatch, run for real on loopback."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from pullback.api.tokens import add_token
from pullback.driving.sweep_state import sweep_state
from pullback.errors import PullbackError
from pullback.store.reader import open_sweep

pytestmark = [pytest.mark.end_to_end]

ROOT = Path(__file__).parents[2]
ENTRYPOINT = ROOT / "deploy" / "entrypoint.sh"
SBATCH = ROOT / "deploy" / "slurm" / "pullback.sbatch"
NUMBER = 900_000_000 + os.getpid()
"""Of a job: Ray's folder and ports go by it."""
PORT = 20000 + NUMBER % 5000 * 2
JOB = """\
name: {name}
generator: {generator}
distance: mse
samples: {{count: {count}, seed: 1}}
store: {name}
resources: {{workers: 1, shard_size: 1, device: cpu}}
"""
PULLBACK = '#!/bin/sh\nexec "{python}" -m pullback "$@"\n'
SRUN = """\
#!/bin/sh
echo "$@" >> "$SRUN_LOG"
while [ "${1#--}" != "$1" ]; do shift; done
exec "$@"
"""
SCONTROL = """\
#!/bin/sh
[ "$1 $2" = "show hostnames" ] && echo "$3" | tr , '\\n'
"""
FAKE_RAY = """\
#!/bin/sh
echo "ray $RAY_ADDRESS $RAY_AUTH_MODE $RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER $RAY_AUTH_TOKEN" >> "$SRUN_LOG"
[ -z "$FAIL" ] || exit 1
trap 'kill $!; exit 0' TERM
sleep 60 & wait
"""


@pytest.fixture
def place(tmp_path):
    """A user's folder, with what SLURM would bring on the path."""
    programs = {"srun": SRUN, "scontrol": SCONTROL, "pullback": PULLBACK.format(python=sys.executable)}
    for name, text in programs.items():
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


def environment(place: Path, **more: str) -> dict[str, str]:
    path = os.pathsep.join([str(place / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    modules = os.pathsep.join(str(ROOT / "tests" / part) for part in ("", "cluster", "deploy", "sweep"))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SLURM_"))}
    return {**kept, "PATH": path, "PYTHONPATH": modules, "SRUN_LOG": str(place / "srun.log"), "COLUMNS": "200", **more}


def write_job(place: Path, name: str, generator: str, count: int) -> None:
    (place / f"{name}.yaml").write_text(JOB.format(name=name, generator=generator, count=count))


# The container's


@contextmanager
def serving(place: Path, **more: str):
    """`entrypoint.sh serve` in a process of its own; yields it, and the address that it says."""
    command = ["sh", str(ENTRYPOINT), "serve"]
    variables = environment(place, PULLBACK_PORT="0", **more)
    service = subprocess.Popen(command, cwd=place, env=variables, stderr=subprocess.PIPE, text=True)
    try:
        line = service.stderr.readline()
        found = re.search(r"at (http://\S+)", line)
        assert found, line + service.stderr.read()
        yield service, found[1]
    finally:
        service.kill()
        service.communicate()


def listening(process: psutil.Process) -> set[str]:
    every = [process, *process.children(recursive=True)]
    found = [each for one in every for each in one.net_connections("tcp") if each.status == psutil.CONN_LISTEN]
    return {each.laddr.ip for each in found}


def test_without_tokens_the_service_listens_on_loopback_only_and_a_signal_ends_it(place):
    with serving(place) as (service, url):
        assert listening(psutil.Process(service.pid)) == {"127.0.0.1"}
        assert httpx.get(f"{url}/v1/sweeps", timeout=60, trust_env=False).json() == {"sweeps": [], "next": None}
        assert (place / "sweeps").is_dir()
        assert "pullback" in " ".join(psutil.Process(service.pid).cmdline()), "the signal must reach it, not a shell"
        service.send_signal(signal.SIGTERM)
        assert service.wait(30) in (0, -signal.SIGTERM)


def test_with_tokens_nobody_is_let_in_without_one(place):
    file = place / "tokens.json"
    headers = {"Authorization": f"Bearer {add_token(file, 'anna', 'read')}"}
    # never beyond loopback in a test; a container listens at 0.0.0.0
    with serving(place, PULLBACK_TOKENS=str(file), PULLBACK_HOST="127.0.0.1") as (_, url):
        assert httpx.get(f"{url}/v1/sweeps", timeout=60, trust_env=False).status_code == 401
        assert httpx.get(f"{url}/metrics", timeout=60, trust_env=False).status_code == 401
        assert httpx.get(f"{url}/metrics", headers=headers, timeout=60, trust_env=False).status_code == 200


def test_a_service_whose_tokens_are_missing_does_not_start(place):
    variables = environment(place, PULLBACK_TOKENS=str(place / "none.json"), PULLBACK_HOST="127.0.0.1")
    done = subprocess.run(["sh", ENTRYPOINT], cwd=place, env=variables, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "cannot be read" in done.stderr


def test_any_other_command_is_run_as_it_stands(place):
    command = ["sh", ENTRYPOINT, "sh", "-c", 'echo "$1"; exit 7', "x", "two words"]
    done = subprocess.run(command, cwd=place, env=environment(place), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (7, "two words\n")


# SLURM's


def sbatch(place: Path, job: str, number: int, **more: str) -> subprocess.Popen[str]:
    """The batch script, as SLURM would start it on the first node."""
    variables = environment(place, SLURM_JOB_ID=str(number), **more)
    variables.setdefault("PULLBACK_RAY_OPTIONS", "--num-cpus=1 --object-store-memory=100000000")
    return subprocess.Popen(
        ["bash", SBATCH, f"{job}.yaml"],
        cwd=place,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], timeout: float = 120) -> tuple[int, str]:
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, output


def wait_for(place: Path, name: str, good: int, process: subprocess.Popen[str]):
    """The state of a sweep as soon as it has so many good samples."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[0]
        try:
            found = sweep_state(place / name)
        except PullbackError:
            found = None
        if found is not None and found.good >= good:
            return found
        time.sleep(0.1)
    raise AssertionError("the sweep made no progress")


def left_of(number: int) -> list[str]:
    """What a job's Ray left on this machine: processes, and its folder."""
    folder = f"/tmp/pullback-{os.getuid()}-{number}"
    mine = [each for each in psutil.process_iter(["cmdline"]) if folder in " ".join(each.info["cmdline"] or ())]
    return [str(each) for each in mine] + [folder] * Path(folder).exists()


@pytest.mark.ray
@pytest.mark.xdist_group("ray")
@pytest.mark.usefixtures("ray_start")
def test_a_job_whose_driver_is_killed_fails_and_submitted_again_ends_with_the_sweeps_status(place):
    """Whatever the steps of SLURM and Ray say: all of them end well here."""
    write_job(place, "slow", "raising_slowly:generator", 16)
    process = sbatch(place, "slow", NUMBER)
    driver = psutil.Process(wait_for(place, "slow", 1, process).driver.pid)
    ours = psutil.Process(process.pid)
    assert driver in ours.children(recursive=True)
    assert listening(ours) <= {"127.0.0.1", "::ffff:127.0.0.1"}
    driver.kill()
    code, output = finish(process)
    assert code == 1, output
    assert "its driver has ended" in output
    before = open_sweep(place / "slow").status()
    assert before.pending > 0, "nothing was tested"
    assert left_of(NUMBER) == []

    code, output = finish(sbatch(place, "slow", NUMBER))
    assert code == 4, output
    after = open_sweep(place / "slow").status()
    assert (after.pending, after.quarantined > 0, after.good >= before.good) == (0, True, True)
    assert left_of(NUMBER) == []


def fake_ray(place: Path, driver: str = "exit 0") -> None:
    """In place of Ray, which several nodes cannot have on loopback, and of the driver."""
    python = f'#!/bin/sh\n[ "$1" = -c ] && exit 0\n{driver}\n'
    for name, text in {"ray": FAKE_RAY, "python": python}.items():
        (place / "bin" / name).write_text(text)
        (place / "bin" / name).chmod(0o755)


def without_status(place: Path) -> None:
    """In place of `pullback status`, which takes seconds to start, where its answer decides nothing."""
    (place / "bin" / "pullback").write_text("#!/bin/sh\nexit 1\n")


@pytest.mark.parametrize(
    ("factory", "code", "later"),
    [("toy_generators:smooth", 0, 0), ("sweep_jobs:nan_images", 4, 4), ("toy_generators:none", 2, 1)],
)
def test_a_container_exits_with_its_sweeps_status_and_so_does_a_job_whatever_its_driver_said(
    place, factory, code, later
):
    write_job(place, "small", factory, 7)
    command = ["sh", ENTRYPOINT, "run", "small.yaml", "--serial"]
    done = subprocess.run(command, cwd=place, env=environment(place), capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
    fake_ray(place, driver="exit 1" if code == 0 else "exit 0")
    found, output = finish(sbatch(place, "small", NUMBER))
    assert found == later, output


def test_a_job_that_is_asked_to_stop_asks_its_driver_and_waits_for_it(place):
    fake_ray(place, driver="trap 'kill $!; sleep 2; echo committed; exit 130' TERM; touch begun; sleep 60 & wait")
    write_job(place, "small", "toy_generators:smooth", 4)
    process = sbatch(place, "small", NUMBER)
    deadline = time.monotonic() + 60
    while not (place / "begun").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)  # as SLURM does two minutes before the end
    code, output = finish(process, timeout=45)
    assert code == 1
    assert "committed" in output


def test_on_several_nodes_one_ray_is_started_on_each_with_the_jobs_token(place):
    fake_ray(place)
    write_job(place, "small", "toy_generators:smooth", 4)
    variables = {"SLURM_JOB_NUM_NODES": "3", "SLURM_JOB_NODELIST": "a1,a2,a3", "PULLBACK_RAY_OPTIONS": "--num-cpus=7"}
    code, output = finish(sbatch(place, "small", NUMBER, **variables))
    assert code == 1, "nothing was computed"
    assert "no sweep" in output
    lines = (place / "srun.log").read_text().splitlines()
    steps = sorted(line for line in lines if line.startswith("--"))
    head, workers = (next(line for line in steps if f"--nodes={many}" in line) for many in (1, 2))
    assert f"--nodelist=a1 ray start --head --block --port={PORT}" in head
    assert f"--exclude=a1 ray start --block --address=a1:{PORT}" in workers
    for step in (head, workers):
        assert "--num-cpus=7" in step
        assert "127.0.0.1" not in step
    started = {line for line in lines if line.startswith("ray ")}
    (one,) = started  # the same to all
    assert re.fullmatch(rf"ray a1:{PORT} token 1 [0-9a-f]{{64}}", one)
    assert one.split()[-1] not in output


@pytest.mark.parametrize(
    ("variables", "cores"),
    [
        ({"SLURM_CPUS_PER_TASK": "6", "SLURM_CPUS_ON_NODE": "8"}, "--num-cpus=6"),
        ({"SLURM_CPUS_ON_NODE": "8"}, "--num-cpus=8"),
        ({}, ""),
    ],
)
def test_on_a_node_that_others_use_too_ray_has_the_jobs_cores(place, variables, cores):
    fake_ray(place)
    without_status(place)
    write_job(place, "small", "toy_generators:smooth", 4)
    finish(sbatch(place, "small", NUMBER, FAIL="yes", PULLBACK_RAY_OPTIONS="", **variables))
    head = next(line for line in (place / "srun.log").read_text().splitlines() if "ray start --head" in line)
    assert re.findall(r"--num-cpus=\d+", head) == ([cores] if cores else [])


def test_a_job_whose_ray_does_not_start_fails_at_once(place):
    fake_ray(place)
    without_status(place)
    (place / "bin" / "python").write_text("#!/bin/sh\nexec sleep 60\n")  # which waits for it
    write_job(place, "small", "toy_generators:smooth", 4)
    began = time.monotonic()
    code, output = finish(sbatch(place, "small", NUMBER, FAIL="yes"))
    assert code == 1
    assert "Ray's head has ended" in output
    assert time.monotonic() - began < 30
