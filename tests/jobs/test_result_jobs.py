"""Analyses and applications as jobs: identity, results kept beside the sweep, resuming, cancelling, failing."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import yaml

from pullback.analysis.runner import run_statistics
from pullback.applications.protocol import Checkpoint
from pullback.applications.results import forget_results, load_results
from pullback.cluster.submission import cancel
from pullback.driving.background import write_job
from pullback.driving.control import events_path, read_record
from pullback.driving.sidecar_files import sidecar_path
from pullback.errors import PullbackError, SpecError, StoreError
from pullback.jobs.address import base_of, is_address
from pullback.jobs.plan import plan_results, whole_job
from pullback.jobs.run import run_results
from pullback.jobs.state import planned_at, state_of, target_of
from pullback.spec import job_of
from pullback.store.artifacts import artifact_names, save_artifact
from pullback.store.location import locate
from pullback.store.reader import open_sweep
from pullback.store.repository import SweepStore
from stored_sweeps import LAYOUT, commit, filled, record_of
from sweep_jobs import job


def analysis(sweep="sweeps/toy", statistics=("tally",), **changes):
    return job_of({"kind": "analysis", "name": "a", "sweep": sweep, "statistics": statistics, **changes})


def application(options="stroll", sweep="sweeps/toy", **changes):
    content = {"kind": "application", "name": "b", "sweep": sweep, "application": options, **changes}
    return job_of({key: value for key, value in content.items() if value is not None})


def events(plan):
    return [json.loads(line)["event"] for line in events_path(plan.place).read_text().splitlines()]


def test_an_analysis_keeps_each_statistic_and_has_nothing_to_do_afterwards(sweep):
    plan = plan_results(analysis(statistics={"tally": {"times": 3}, "homogeneity": {"draws": 20}}))
    assert [part.finished for part in plan.parts] == [False, False]
    seen = []
    outcome = run_results(plan, lambda name, done, total: seen.append(name))
    assert (outcome.computed, outcome.finished, outcome.exit_code) == (2, 2, 0)
    assert int(plan.parts[0].load().dataset["count"]) == 12
    assert set(seen) == {"tally", "homogeneity"}
    assert events(plan) == ["run", "computed", "computed", "done"]
    assert state_of(plan.place).state == "done"
    again = run_results(plan_results(analysis(statistics={"tally": {"times": 3}, "homogeneity": {"draws": 20}})))
    assert (again.computed, again.finished) == (0, 2)


def test_the_job_and_the_short_form_give_the_same_cached_result(sweep):
    plan = plan_results(analysis())
    asked = dict(plan.options)
    first = run_statistics(open_sweep(sweep), asked)["tally"].dataset
    assert plan.finished == 1
    assert run_results(plan).computed == 0
    assert plan.parts[0].load().dataset.identical(first)


def test_an_analysis_without_statistics_takes_the_usual_ones(sweep):
    plan = plan_results(job_of({"kind": "analysis", "name": "a", "sweep": sweep}))
    assert {"anisotropy", "homogeneity", "mean_metric"} <= set(plan.options)
    named = plan_results(analysis(statistics=list(plan.options)))
    assert named.job_id == plan.job_id


def test_equal_jobs_have_one_address_whatever_their_name_device_and_working_directory(sweep, tmp_path, monkeypatch):
    plan = plan_results(application())
    others = [
        application(name="other", resources={"device": "cpu"}),
        application(sweep=str(tmp_path / sweep)),
        application({"name": "stroll", "steps": 3, "sizes": [1.0]}),
    ]
    assert {plan_results(each).job_id for each in others} == {plan.job_id}
    assert {plan_results(each).place.path.absolute() for each in others} == {plan.place.path.absolute()}
    different = [
        application({"name": "stroll", "steps": 4}),
        application(snapshot=plan.snapshot),
        application(generator="toy_generators:smooth"),
        analysis(),
    ]
    assert len({plan.job_id, *(plan_results(each).job_id for each in different)}) == 5
    assert is_address(plan.place.name)
    assert base_of(plan.place) == locate(sweep)


def test_the_yaml_file_of_a_sweep_names_the_sweep_too(sweep, tmp_path):
    file = tmp_path / "toy.yaml"
    file.write_text(yaml.safe_dump(job(count=4).model_dump(mode="json", exclude_none=True)))
    assert plan_results(application(sweep=str(file))).job_id == plan_results(application()).job_id


def test_an_application_keeps_its_result_with_its_options_for_the_report(sweep):
    plan = plan_results(application({"name": "stroll", "steps": 2}))
    assert run_results(plan).exit_code == 0
    (result,) = load_results(sweep, plan.snapshot)
    assert (result.application, result.options.steps) == ("stroll", 2)
    trace = np.trace(open_sweep(sweep).mean_metric())
    np.testing.assert_allclose(result.dataset["value"], [trace, 2 * trace])
    assert [table.title for table in result.tables()] == ["Stroll"]
    assert list(result.figures()) == ["The value of each step"]
    assert result.json["begun"] == 0
    assert load_results(sweep, "another") == []


def test_an_application_that_failed_goes_on_from_its_checkpoint(sweep):
    plan = plan_results(application({"name": "stroll", "steps": 5, "fails_at": 2}))
    with pytest.raises(PullbackError, match="the path ends here"):
        run_results(plan)
    found = state_of(plan.place)
    assert (found.state, found.exit_code) == ("failed", 1)
    assert "the path ends here" in found.message
    assert events(plan)[-1] == "failed"
    assert run_results(plan).exit_code == 0
    result = plan.parts[0].load()
    assert (int(result.dataset["begun"]), result.dataset.sizes["step"]) == (2, 5)
    assert not sidecar_path(plan.place, "checkpoint").joinpath(plan.snapshot).exists()


def test_a_job_that_is_cancelled_says_so_and_goes_on(sweep):
    plan = plan_results(application({"name": "stroll", "steps": 5}))

    def stop(name, done, total):
        if done == 2:
            assert cancel(plan.place)

    outcome = run_results(plan, stop)
    assert (outcome.cancelled, outcome.exit_code) == (True, 130)
    assert state_of(plan.place).state == "cancelled"
    assert run_results(plan).exit_code == 0
    assert int(plan.parts[0].load().dataset["begun"]) == 2


def test_an_interrupted_job_is_stopped_and_keeps_its_finished_results(sweep):
    plan = plan_results(analysis(statistics={"tally": {}, "homogeneity": {}}))

    def interrupt(name, done, total):
        if name == "homogeneity":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_results(plan, interrupt)
    found = state_of(plan.place)
    assert (found.state, found.good, found.pending) == ("stopped", 1, 1)
    assert run_results(plan).computed == 1


def test_a_second_driver_of_a_running_job_is_refused(sweep):
    plan = plan_results(application())
    refused = []

    def second(name, done, total):
        if done == 1:
            with pytest.raises(StoreError) as caught:
                run_results(plan)
            refused.append(str(caught.value))

    run_results(plan, second)
    assert len(refused) == 1


def test_a_job_that_names_a_snapshot_finds_the_results_of_that_snapshot(sweep):
    plan = plan_results(analysis())
    run_results(plan)
    pinned = plan_results(analysis(snapshot=plan.snapshot))
    assert (pinned.finished, pinned.snapshot) == (1, plan.snapshot)
    with pytest.raises(StoreError):
        plan_results(analysis(snapshot="ABC"))


def test_a_statistic_that_raises_costs_one_sentence_and_its_traceback_is_in_the_journal(sweep):
    plan = plan_results(analysis(statistics={"tally": {"broken": True}}))
    with pytest.raises(PullbackError, match="ZeroDivisionError: nothing to divide"):
        run_results(plan)
    raised = [json.loads(line) for line in events_path(plan.place).read_text().splitlines()]
    assert any("nothing to divide" in each.get("traceback", "") for each in raised)


def test_a_generator_alone_is_a_subject_too(tmp_path, plugins, monkeypatch):
    monkeypatch.chdir(tmp_path)
    alone = application("colour", sweep=None, generator="toy_generators:smooth")
    plan = plan_results(alone)
    assert run_results(plan).exit_code == 0
    assert 0 < float(plan.parts[0].load().dataset["mean"]) < 1
    assert state_of(plan.place).state == "done"
    assert plan.base == locate("applications/b")
    assert not Path("applications/b").exists()
    assert run_results(plan_results(alone)).computed == 0


def test_an_application_takes_the_sweeps_generator_unless_the_job_names_one(sweep):
    values = []
    for each in (application("colour"), application("colour", generator="toy_generators:linear")):
        run_results(plan_results(each))
        values.append(float(plan_results(each).parts[0].load().dataset["mean"]))
    assert values[0] != values[1]
    assert len([name for name in artifact_names(sweep) if "colour" in name]) == 2


def test_an_application_that_lacks_what_it_needs_is_refused(tmp_path, plugins, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError) as caught:
        plan_results(application(sweep=None, generator="toy_generators:smooth"))
    assert caught.value.problems[0].startswith("sweep: ")
    with pytest.raises(StoreError):
        plan_results(analysis(sweep="sweeps/none"))


def test_a_job_is_found_by_its_file_and_by_its_address_from_any_folder(sweep, tmp_path, monkeypatch):
    file = tmp_path / "b.yaml"
    file.write_text(application().model_dump_json(exclude_none=True))
    plan = plan_results(application())
    assert target_of(file).place == plan.place
    with pytest.raises(StoreError):
        state_of(plan.place)
    run_results(plan)
    address = str(plan.place.path.absolute())
    monkeypatch.chdir("/")
    assert target_of(address).place == locate(address)
    assert state_of(address).state == "done"
    assert planned_at(address).job_id == plan.job_id
    assert state_of(tmp_path / sweep).planned == 4, "a sweep's state counts samples"


def test_results_of_snapshots_that_leave_the_history_are_removed(sweep):
    plan = plan_results(application())
    run_results(plan)
    assert forget_results(sweep, datetime.now(UTC)) == 0, "the last snapshot stays"
    save_artifact(sweep, plan.key("stroll").name.replace(plan.snapshot, "OLD"), plan.parts[0].load().dataset)
    assert forget_results(sweep, datetime.now(UTC), dry_run=True) == 1
    assert forget_results(sweep, datetime.now(UTC)) == 1
    assert plan.finished == 1


def test_a_finished_job_stays_done_when_its_sweep_goes_on_and_the_next_run_reads_the_new_snapshot(tmp_path, plugins):
    path = tmp_path / "more"
    filled(path, shards=(0, 1))
    plan = plan_results(analysis(sweep=str(path)))
    run_results(plan)
    commit(SweepStore.open(locate(path)), record_of(LAYOUT, 2))
    assert state_of(plan.place).state == "done"
    assert planned_at(plan.place).snapshot == plan.snapshot
    newer = plan_results(analysis(sweep=str(path)))
    assert (newer.job_id, newer.finished) == (plan.job_id, 0)
    assert run_results(newer).computed == 1
    assert planned_at(plan.place).snapshot == newer.snapshot != plan.snapshot


def test_a_job_that_is_named_by_its_file_is_followed_without_the_file_that_its_driver_left(sweep, tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text(yaml.safe_dump(analysis().model_dump(mode="json", exclude_none=True)))
    plan = plan_results(analysis())
    run_results(plan)
    sidecar_path(plan.place, "job").unlink()
    assert state_of(target_of(file)).state == "done"
    assert planned_at(plan.place) is None


def test_a_generators_file_counts_by_its_content_and_not_by_its_path(sweep, tmp_path, monkeypatch):
    def planned(path):
        return plan_results(application(generator={"name": "toy_generators:smooth", "weights": path}))

    (tmp_path / "one.pt").write_bytes(b"one")
    (tmp_path / "copy.pt").write_bytes(b"one")
    (tmp_path / "two.pt").write_bytes(b"two")
    first = planned("one.pt")
    assert planned("copy.pt").job_id == planned(str(tmp_path / "one.pt")).job_id == first.job_id
    assert planned("two.pt").job_id != first.job_id
    write_job(first.place, whole_job(first))
    monkeypatch.chdir("/")
    assert planned_at(tmp_path / "sweeps" / first.place.name).job_id == first.job_id


def test_a_checkpoint_is_replaced_whole_and_a_torn_one_counts_for_nothing(tmp_path):
    checkpoint = Checkpoint(tmp_path / "state")
    assert checkpoint.load() is None
    checkpoint.save(codes=np.eye(2), step=3)
    checkpoint.save(codes=np.eye(3), step=4)
    state = checkpoint.load()
    np.testing.assert_array_equal(state["codes"], np.eye(3))
    assert int(state["step"]) == 4
    file = next(checkpoint.folder.iterdir())
    file.write_bytes(file.read_bytes()[:40])
    assert checkpoint.load() is None
    checkpoint.clear()
    checkpoint.clear()
    assert not checkpoint.folder.exists()


def test_a_killed_job_is_stopped_and_resumed(sweep, tmp_path, plugins):
    code = f"""
import os, signal, sys
sys.path[:0] = [{str(plugins)!r}, {str(Path(__file__).parents[1])!r}]
from pullback.jobs.plan import plan_results, whole_job
from pullback.jobs.run import run_results
from pullback.spec import job_of
plan = plan_results(job_of({application({"name": "stroll", "steps": 5}).model_dump(mode="json", exclude_none=True)!r}))
run_results(plan, lambda name, done, total: os.kill(os.getpid(), signal.SIGKILL) if done == 3 else None)
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False)
    plan = plan_results(application({"name": "stroll", "steps": 5}))
    assert read_record(plan.place).life == "running"
    assert state_of(plan.place).state == "stopped"
    assert run_results(plan).exit_code == 0
    assert int(plan.parts[0].load().dataset["begun"]) == 3
