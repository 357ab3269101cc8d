"""The driver on a cluster and what is recorded of it, without a Ray."""

import json
import sys
import time
from dataclasses import dataclass, replace
from types import SimpleNamespace

import heads
import pytest

from pullback.cluster import driver
from pullback.cluster import submission as jobs
from pullback.driving.control import read_record, write_record
from pullback.driving.pool_protocol import ShardFailed
from pullback.driving.record import DriverRecord
from pullback.driving.run import Outcome
from pullback.driving.sidecar_files import sidecar_path
from pullback.errors import SpecError, SweepError
from pullback.spec import JobSpec
from pullback.store.reader import SweepStatus
from pullback.sweep.plan import identify, make_plan

JOB = {
    "name": "mine",
    "generator": "toy_generators:smooth",
    "distance": "mse",
    "samples": {"count": 8},
    "store": "mine",
}
SWEEP = "0123456789abcdef"
DONE = Outcome(SweepStatus(4, 4, 0, 0), 4, (), False, False, "", "snapshot")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["driver"])
    monkeypatch.delenv(jobs.JOB_VARIABLE, raising=False)
    return tmp_path


def job_of(**resources: object) -> JobSpec:
    return JobSpec.model_validate({**JOB, "resources": resources})


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, 0),
        ({"status": SweepStatus(4, 3, 1, 0)}, 4),
        ({"status": SweepStatus(4, 3, 0, 1)}, 1),
        ({"failed": (ShardFailed(0, "why"),), "interrupted": True}, 1),
        ({"broken": "why", "cancelled": True}, 1),
        ({"interrupted": True}, 130),
        ({"cancelled": True, "status": SweepStatus(4, 3, 1, 0)}, 130),
    ],
)
def test_a_driver_leaves_with_the_code_of_a_run(changes, code):
    assert replace(DONE, **changes).exit_code == code


def test_a_driver_takes_the_job_of_a_file_or_of_its_environment(folder, monkeypatch):
    with pytest.raises(SpecError, match="PULLBACK_JOB, is needed"):
        driver.job_given()
    monkeypatch.setenv(jobs.JOB_VARIABLE, "{}")
    with pytest.raises(SpecError, match="holds no job"):
        driver.job_given()
    job = job_of()
    monkeypatch.setenv(jobs.JOB_VARIABLE, job.model_dump_json(exclude_none=True))
    write_record("mine", DriverRecord("submitted"))
    assert driver.job_given() == job
    (folder / "job.yaml").write_text(
        "{name: other, generator: toy_generators:smooth, distance: mse, samples: {count: 1}}"
    )
    monkeypatch.setattr(sys, "argv", ["driver", "job.yaml"])
    assert driver.job_given().name == "other"


def test_a_driver_refuses_a_folder_that_it_does_not_share_with_the_submitter(folder, monkeypatch, capsys):
    monkeypatch.setenv(jobs.JOB_VARIABLE, job_of().model_dump_json(exclude_none=True))
    assert driver.main() == 1
    printed = capsys.readouterr().out
    assert printed.startswith("error: mine is not on a disk that the cluster's head shares")
    assert "nothing was computed" in printed
    assert list(folder.iterdir()) == []


def fake_ray(monkeypatch, resources, asked):
    """A cluster with these resources, whose tasks run here; `asked` gets what they ask for."""

    def remote(**options):
        asked.append(options)
        return lambda function: SimpleNamespace(remote=lambda *arguments: function(*arguments))

    made = []

    def plan(job, workers_there):
        made.append((job.resources.device, workers_there))
        return made[-1]

    fake = SimpleNamespace(cluster_resources=lambda: resources, remote=remote, get=lambda reference: reference)
    monkeypatch.setattr(driver, "ray", fake)
    monkeypatch.setattr(driver, "make_plan", plan)


@pytest.mark.parametrize(
    ("resources", "head_has_gpu", "asked", "planned", "tasks"),
    [
        ({"CPU": 6.0}, False, {}, ("cpu", 6), 0),
        ({"CPU": 6.0, "GPU": 4.0}, True, {}, ("cuda", 4), 0),
        ({"CPU": 6.0, "GPU": 4.0}, False, {}, ("cuda", 4), 1),
        ({"CPU": 6.0, "GPU": 4.0}, False, {"device": "cpu", "workers": 3}, ("cpu", 3), 0),
        ({"CPU": 6.0, "GPU": 4.0}, False, {"workers": 9}, ("cuda", 9), 1),
        ({"CPU": 6.0}, False, {"device": "cuda"}, ("cuda", 1), 1),
    ],
)
def test_the_plan_is_made_where_the_workers_will_be(
    folder, monkeypatch, resources, head_has_gpu, asked, planned, tasks
):
    options = []
    fake_ray(monkeypatch, resources, options)
    monkeypatch.setattr(driver.torch.cuda, "is_available", lambda: head_has_gpu)
    assert driver.planned(job_of(**asked)) == planned
    assert options == [{"num_gpus": 1, "num_cpus": 0}] * tasks


def test_a_plan_for_a_cluster_has_its_workers_and_the_memory_of_one_machine(folder):
    here = make_plan(job_of(device="cpu", shard_size=1, workers=1))
    there = make_plan(job_of(device="cpu", shard_size=1), workers_there=8)
    assert (there.workers, there.layout.shards) == (8, 8)
    assert there.fit.available > here.fit.available / 8
    assert there.sweep_id == here.sweep_id


def test_a_job_for_gpus_is_identified_on_a_machine_without(folder, monkeypatch):
    monkeypatch.setattr(driver.torch.cuda, "is_available", lambda: False)
    with pytest.raises(SpecError, match="sees no CUDA device"):
        make_plan(job_of(device="cuda"))
    found = identify(job_of(device="cuda"))
    assert found.sweep_id == make_plan(job_of(device="cpu")).sweep_id
    assert (str(found.place), found.finished) == ("mine", 0)


def test_a_cluster_whose_files_differ_from_the_submitters_computes_nothing_and_names_them(folder, monkeypatch):
    found = identify(job_of(device="cpu"))
    inputs = jobs._inputs(found)
    monkeypatch.setenv(jobs.INPUTS_VARIABLE, inputs)
    planned = make_plan(job_of(device="cpu"))
    assert driver._as_submitted(planned) is planned
    recorded = json.loads(inputs)
    recorded["weights"]["toy_generators (source)"] = "0" * 64
    recorded["inputs"]["sources"]["toy_generators.py"] = "0" * 64
    monkeypatch.setenv(jobs.INPUTS_VARIABLE, json.dumps(recorded))
    with pytest.raises(SweepError, match=r"toy_generators \(source\) on .* is not what the job was submitted with"):
        driver._as_submitted(planned)
    recorded = json.loads(inputs)
    recorded["inputs"]["built"]["generator: tensor matrix"] = "0" * 16
    monkeypatch.setenv(jobs.INPUTS_VARIABLE, json.dumps(recorded))
    with pytest.raises(SweepError, match="tensor matrix"):
        driver._as_submitted(planned)


@dataclass
class Job:
    """What Ray's client gives of a job."""

    submission_id: str
    value: str
    driver_exit_code: int | None = None
    message: str = ""

    @property
    def status(self):
        return SimpleNamespace(value=self.value)


class Cluster:
    """A cluster as its client shows it."""

    def __init__(self, *known: Job, log: str = "") -> None:
        self.known, self.log, self.stopped = list(known), log, []

    def list_jobs(self):
        return self.known

    def get_job_logs(self, submission):
        return self.log

    def stop_job(self, submission):
        self.stopped.append(submission)
        return True

    def submit_job(self, **what):
        if what["submission_id"] in [job.submission_id for job in self.known]:
            raise RuntimeError("already there")
        self.known.append(Job(what["submission_id"], "PENDING"))


def driver_record(life="submitted", number=1, ago=100, **changes) -> DriverRecord:
    """A record as it was written so many seconds ago."""
    facts = {"updated": time.time() - ago, "address": "http://head:8265", **changes}
    return DriverRecord(life, submission=f"pullback-{SWEEP}-{number}", **facts)


def attempt(value, number=1, **facts) -> Job:
    return Job(f"pullback-{SWEEP}-{number}", value, **facts)


AWAY = {"host": "another", "pid": 7, "began": 1.0}
LATELY = 20
"""A record of so many seconds ago is still believed, but Ray may know better."""
LOG = f"Running entrypoint for job x: {jobs.ENTRYPOINT}\nerror: one\nerror: of your job\n  - more\n"


@pytest.mark.parametrize(
    ("record", "known", "state", "message"),
    [
        # what Ray says decides as long as the driver's own record is not here
        ({}, [attempt("PENDING")], "submitted", ""),
        ({}, [attempt("RUNNING")], "starting", ""),
        ({}, [attempt("STOPPED")], "cancelled", "it was cancelled"),
        ({}, [attempt("SUCCEEDED")], "stopped", "submit the same job to resume"),
        ({}, [attempt("FAILED", driver_exit_code=1)], "failed", "of your job\n  - more"),
        ({}, [attempt("FAILED", driver_exit_code=137)], "stopped", "or was killed"),
        ({}, [attempt("FAILED", message="no such node")], "failed", "of your job"),
        ({}, [], "stopped", "knows nothing of it"),
        ({"ago": 0}, [], "submitted", ""),
        ({"number": 2}, [attempt("STOPPED")], "stopped", "knows nothing of it"),
        ({}, [attempt("STOPPED"), attempt("RUNNING", 2)], "starting", ""),
        # a driver that writes its record
        ({"life": "running", "ago": 0, **AWAY}, [attempt("SUCCEEDED")], "running", ""),
        ({"life": "running", "ago": LATELY, **AWAY}, [attempt("RUNNING")], "running", ""),
        (
            {"life": "running", "ago": LATELY, **AWAY},
            [attempt("SUCCEEDED")],
            "stopped",
            "killed, or its machine is gone",
        ),
        ({"life": "running", "ago": LATELY, **AWAY}, [attempt("FAILED", driver_exit_code=1)], "stopped", "killed"),
        ({"life": "interrupted", **AWAY}, [attempt("STOPPED")], "cancelled", "it was cancelled"),
        ({"life": "interrupted", **AWAY}, [attempt("FAILED", driver_exit_code=130)], "stopped", ""),
        ({"life": "failed", "message": "why", **AWAY}, [attempt("SUCCEEDED")], "failed", "why"),
    ],
)
def test_a_driver_on_a_cluster_is_reported_rightly(folder, monkeypatch, record, known, state, message):
    monkeypatch.setattr(jobs, "_client", lambda address, seconds: Cluster(*known, log=LOG))
    write_record("mine", driver_record(**record))
    found = jobs.sweep_state_with_cluster("mine")
    assert (found.state, message in found.message) == (state, True), found


def test_what_is_gone_on_with_is_a_new_submission_and_what_runs_is_not(folder, monkeypatch):
    sweep = identify(job_of())
    cluster = Cluster()
    monkeypatch.setattr(jobs, "_client", lambda address, seconds: cluster)
    assert jobs.submit_to("http://head:8265", sweep)
    assert not jobs.submit_to("http://head:8265", sweep)
    assert [job.submission_id for job in cluster.known] == [f"pullback-{sweep.sweep_id}-1"]
    sidecar_path("mine", "driver").unlink()
    assert not jobs.submit_to("http://head:8265", sweep)
    assert read_record("mine").submission.endswith("-1"), "as from another machine"
    assert jobs.cancel("mine")
    assert cluster.stopped == [f"pullback-{sweep.sweep_id}-1"]
    cluster.known[0].value = "STOPPED"
    assert not jobs.cancel("mine")
    sidecar_path("mine", "cancel").touch()
    assert jobs.submit_to("http://head:8265", sweep)
    assert [job.submission_id[-2:] for job in cluster.known] == ["-1", "-2"]
    assert read_record("mine").submission.endswith("-2")
    assert not sidecar_path("mine", "cancel").exists(), "a wish of before would stop it at once"
    # a driver that has recorded its end, which Ray does not know yet
    write_record("mine", replace(read_record("mine"), life="cancelled"))
    assert not jobs.cancel("mine")
    assert jobs.submit_to("http://head:8265", sweep)
    assert [job.submission_id[-2:] for job in cluster.known] == ["-1", "-2", "-3"]


def test_of_two_submitters_at_the_same_moment_one_begins_and_the_other_attaches(folder, monkeypatch):
    cluster = Cluster()
    submit = cluster.submit_job

    def slower(**what):
        """Somebody else's submission of the same sweep comes in between."""
        cluster.known.append(Job(what["submission_id"], "PENDING"))
        submit(**what)

    cluster.submit_job = slower
    monkeypatch.setattr(jobs, "_client", lambda address, seconds: cluster)
    sweep = identify(job_of())
    assert not jobs.submit_to("http://head:8265", sweep)
    assert [job.submission_id for job in cluster.known] == [f"pullback-{sweep.sweep_id}-1"]
    assert read_record("mine").submission == f"pullback-{sweep.sweep_id}-1"


def test_a_submission_that_fails_leaves_everything_as_it_was(folder, monkeypatch):
    cluster = Cluster()
    cluster.submit_job = lambda **what: (_ for _ in ()).throw(RuntimeError("no room"))
    monkeypatch.setattr(jobs, "_client", lambda address, seconds: cluster)
    for earlier in (None, driver_record("cancelled")):
        if earlier is not None:
            write_record("mine", earlier)
        with pytest.raises(SweepError, match=r"refuses: no room\nNothing was started"):
            jobs.submit_to("http://head:8265", identify(job_of()))
        assert read_record("mine") == earlier


def test_a_cluster_that_is_silent_is_asked_again_only_after_a_while(folder, monkeypatch):
    asked = []

    def silent(address, seconds):
        asked.append(seconds)
        raise ConnectionError("no answer")

    monkeypatch.setattr(jobs, "_client", silent)
    monkeypatch.setattr(jobs, "_silent", {})
    write_record("mine", driver_record(address="http://silent:8265"))
    for _ in range(3):
        found = jobs.sweep_state_with_cluster("mine")
        assert (found.state, found.unsure) == ("stopped", True)
        assert "http://silent:8265 does not answer" in found.message
    assert asked == [jobs._STATE_SECONDS]
    monkeypatch.setattr(jobs, "_silent", {})
    jobs.sweep_state_with_cluster("mine")
    assert len(asked) == 2


def test_a_cluster_that_is_gone_is_one_message_and_its_sweeps_are_read_from_their_stores(folder):
    address = f"http://127.0.0.1:{heads.free_ports(1)[0]}"
    with pytest.raises(SweepError, match=r"does not answer, or refuses: Failed to connect[\s\S]*Nothing was started"):
        jobs.submit_to(address, identify(job_of()))
    assert list(folder.iterdir()) == []
    write_record("mine", driver_record(address=address))
    found = jobs.sweep_state_with_cluster("mine")
    assert (found.state, found.exit_code) == ("stopped", 1)
    assert "whether a driver is running is not known" in found.message
    assert "submit the same job to resume" in found.message
    write_record("mine", driver_record("running", address=address, ago=LATELY, **AWAY))
    assert jobs.sweep_state_with_cluster("mine").state == "running", "its driver's own record says so"
    write_record("mine", driver_record("running", address=address, **AWAY))
    assert "its driver has ended" in jobs.sweep_state_with_cluster("mine").message
