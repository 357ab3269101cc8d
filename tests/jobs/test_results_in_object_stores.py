"""Analyses and applications of a sweep in an object store: results beside it, followed from any machine."""

import s3_server
from pullback.driving.control import read_record
from pullback.driving.sidecar_files import sidecar_path
from pullback.jobs.plan import plan_results
from pullback.jobs.run import run_results
from pullback.jobs.state import JobTarget, state_of
from pullback.spec import job_of
from pullback.store.artifacts import artifact_names
from stored_sweeps import filled

pytestmark = s3_server.needed


def test_a_job_of_a_sweep_in_an_object_store_runs_and_is_done_as_seen_from_another_machine(bucket, plugins, tmp_path):
    filled(f"{bucket}/sweep")
    job = job_of({"kind": "analysis", "name": "a", "sweep": f"{bucket}/sweep", "statistics": {"tally": {}}})
    plan = plan_results(job)
    assert str(plan.place).startswith(f"{bucket}/sweep.analysis-")
    assert run_results(plan).exit_code == 0
    assert any("tally" in name for name in artifact_names(f"{bucket}/sweep"))
    assert state_of(plan.place).state == "done"
    for what in ("job", "driver"):  # another machine has neither
        sidecar_path(plan.place, what).unlink()
    assert read_record(plan.place).life == "done", "it is an object beside the sweep"
    assert state_of(JobTarget(plan.place, job)).state == "done"
    assert plan_results(job).finished == 1
