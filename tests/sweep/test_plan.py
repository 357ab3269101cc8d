import hashlib
import json
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pullback.errors import SpecError
from pullback.generators.families.dcgan import Dcgan, Options
from pullback.sweep import plan as plan_module
from pullback.sweep.plan import make_plan, shard_size, threads_of
from sweep_jobs import job


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def checkpoint(path, seed=0):
    """A small DCGAN of 8 × 8 images in the file format of trained ones."""
    torch.manual_seed(seed)
    path.parent.mkdir(exist_ok=True)
    torch.save(Dcgan(Options(widths=(6, 8, 3))).state_dict(), path)
    return str(path)


def problems(spec, **options):
    with pytest.raises(SpecError) as caught:
        make_plan(spec, **options)
    return caught.value.problems


# Identity


def test_what_changes_no_number_changes_no_identity():
    plain = make_plan(job()).sweep_id
    assert make_plan(job(name="another")).sweep_id == plain
    assert make_plan(job(store="elsewhere/far")).sweep_id == plain
    assert make_plan(job(resources={"shard_size": 5, "workers": 3, "retries": 9, "device": "cpu"})).sweep_id == plain
    assert make_plan(job(distance={"name": "mse", "clamp": False})).sweep_id == plain  # the default, written out


def test_each_thing_that_changes_a_number_changes_the_identity():
    jobs = [
        job(),
        job("toy_generators:linear"),
        job({"name": "toy_generators:classes", "condition": "one"}),
        job({"name": "toy_generators:classes", "condition": "cycle"}),
        job(distance={"name": "mse", "clamp": True}),
        job(distance={"name": "mse", "size": 16}),
        job(metric={"components": 3}),
        job(seed=1),
        job(count=8),
        job(samples={"count": 7, "scale": 2.0}),
    ]
    assert len({make_plan(each).sweep_id for each in jobs}) == len(jobs)


def test_the_content_of_a_weight_file_is_part_of_the_identity_and_its_place_is_not(here):
    one, copy = checkpoint(here / "one.pth"), str(here / "copy.pth")
    shutil.copy(one, copy)
    other = checkpoint(here / "other.pth", seed=1)
    with_weights = [make_plan(job({"name": "dcgan-faces", "weights": path})).sweep_id for path in (one, copy, other)]
    assert with_weights[0] == with_weights[1] != with_weights[2]
    moved = here / "moved" / "one.pth"
    moved.parent.mkdir()
    shutil.copy(one, moved)
    by_path = [make_plan(job(path)).sweep_id for path in (one, str(moved), "moved/one.pth", other)]
    assert by_path[0] == by_path[1] == by_path[2] != by_path[3]


def test_the_identity_is_the_hash_of_what_is_recorded_as_such():
    plan = make_plan(job({"name": "toy_generators:classes", "condition": "two"}, seed=3))
    identity = plan.provenance["identity"]
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    assert plan.sweep_id == hashlib.sha256(text.encode()).hexdigest()[:16]
    assert sorted(identity) == ["format", "spec", "weights"]
    assert sorted(identity["spec"]) == ["distance", "generator", "samples"]  # metric has its defaults
    assert identity["spec"]["samples"]["seed"] == 3
    assert identity["spec"]["generator"]["condition"] == "two"


# Problems


def test_every_problem_is_reported_at_once(here, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *arguments, **options: False)
    found = problems(
        job(
            metric={"components": 9},
            resources={"memory_gib": 0.001},
        )
    )
    assert len(found) == 3
    assert any(p.startswith("metric.components: must be at most 6") and "nearest valid value is 6" in p for p in found)
    assert any(p.startswith("store: ") and "may not be written to" in p for p in found)
    assert any(p.startswith("memory: ") and "GiB" in p for p in found)


def test_missing_weights_do_not_hide_a_bad_store_and_a_bad_distance(here, monkeypatch):
    (here / "file").write_text("")
    monkeypatch.setenv("PULLBACK_CACHE", str(here / "empty"))
    monkeypatch.setattr("pullback.weights.manifest.places", lambda variant: iter([here / "nowhere"]))
    found = problems(job("dcgan-faces", distance="lpips", store="file/inside"), source="my.yaml")
    assert len(found) == 3
    assert any(p.startswith("generator: ") and "pullback weights fetch dcgan-faces" in p for p in found)
    assert any(p.startswith("distance: ") and "pullback weights fetch trunk-alex" in p for p in found)
    assert any(p.startswith("store: ") and "is a file" in p for p in found)


def test_the_source_of_the_job_is_named():
    with pytest.raises(SpecError, match=r"^my\.yaml: 1 problem\n"):
        make_plan(job(metric={"components": 9}), source="my.yaml")


@pytest.mark.parametrize("url", ["file:///tmp/sweep", "https://host/sweep", "s3://bucket"])
def test_a_store_at_an_address_that_holds_no_sweep_is_refused(url, here):
    (found,) = problems(job(store=url))
    assert found.startswith("store: ")
    assert url in found
    assert "s3://bucket/prefix" in found
    assert list(here.iterdir()) == []


def test_a_store_on_a_server_that_does_not_answer_is_a_problem_at_once(here, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    (found,) = problems(job(store="s3://bucket/sweep"))
    assert found.startswith("store: s3://bucket/sweep cannot be reached")
    assert list(here.iterdir()) == []


def test_a_store_that_is_a_file_is_refused(here):
    (here / "taken").write_text("precious")
    (found,) = problems(job(store="taken"))
    assert "taken is a file" in found
    assert (here / "taken").read_text() == "precious"


def test_a_store_in_the_home_folder_is_looked_for_there(here, monkeypatch):
    home = here / "home"
    home.mkdir()
    (home / "taken").write_text("")
    monkeypatch.setenv("HOME", str(home))
    (found,) = problems(job(store="~/taken"))
    assert f"{home / 'taken'} is a file" in found


@pytest.mark.parametrize("resources", [{"memory_gib": 0.5}, {}])
def test_a_latent_space_too_large_for_any_memory_is_refused(resources):
    found = problems(job("sweep_jobs:huge", metric={"components": 2}, resources=resources))
    memory = [p for p in found if p.startswith("memory: ")]
    assert len(memory) == 1
    assert "n = 200000" in memory[0]
    if resources:
        assert "0.5 GiB may be used" in memory[0]


def test_a_sweep_too_large_for_the_disk_is_refused(monkeypatch):
    need = make_plan(job()).stored_bytes
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=need))
    assert make_plan(job()).stored_bytes == need
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=need - 1))
    (found,) = problems(job())
    assert found.startswith("store: ")
    assert "lower samples.count or metric.components" in found


def test_the_stored_size_grows_with_samples_and_components():
    """n = 6: 4·6 of latents, 4·6 of vectors and 8 of eigenvalue for each component; the rest is the same."""
    few, more = make_plan(job(metric={"components": 2})), make_plan(job(metric={"components": 5}))
    assert more.stored_bytes - few.stored_bytes == 7 * 3 * (4 * 6 + 8)
    twice = make_plan(job(count=14)).stored_bytes
    assert make_plan(job(count=28)).stored_bytes == 2 * twice


@pytest.mark.weights
def test_images_too_small_for_the_trunk_are_refused_with_the_way_out(lpips_alex):
    (found,) = problems(job(distance="lpips"))
    assert found.startswith("distance: ")
    assert "set its `size` to" in found
    assert make_plan(job(distance={"name": "lpips", "size": 31})).layout.latent_dim == 6


def test_an_unknown_factory_and_a_failing_one_are_problems_of_the_job(here):
    (found,) = problems(job("toy_generators:smoth"))
    assert "'smoth'" in found
    (here / "failing_generator.py").write_text("def build():\n    return 1 / 0\n")
    (found,) = problems(job("failing_generator:build"))
    assert "ZeroDivisionError" in found


def test_a_condition_that_does_not_fit_is_a_problem_of_the_job():
    (found,) = problems(job("toy_generators:classes"))
    assert "class-conditional" in found
    (found,) = problems(job({"name": "toy_generators:smooth", "condition": "cycle"}))
    assert "has no classes" in found


def test_fixed_pieces_that_do_not_fit_into_memory_are_a_problem():
    found = problems(job(resources={"batch": 10_000, "tangents": 6, "memory_gib": 0.1}))
    assert len(found) == 1
    assert "batch of 10000 and 6 tangents" in found[0]
    assert "raise resources.memory_gib" in found[0]


# Sizes


@pytest.mark.parametrize(
    ("count", "asked", "n", "components", "workers", "wanted"),
    [
        (1, "auto", 6, 6, 1, 1),
        (16, "auto", 6, 6, 4, 1),
        (17, "auto", 6, 6, 4, 2),
        (1000, "auto", 100, 100, 2, 63),  # a sixteenth of the sweep
        (1000, "auto", 100, 100, 64, 4),  # enough for 64 workers, four times each
        (100_000, "auto", 100, 100, 2, 64),  # no more than 64
        (1000, "auto", 4096, 4096, 2, 4),  # 64 MiB of vectors a code: 256 MiB a shard
        (1000, "auto", 4096, 256, 2, 63),
        (1000, "auto", 200_000, 200_000, 2, 1),
        (1000, 500, 6, 6, 64, 500),
        (10, 500, 6, 6, 2, 10),  # a shard no larger than the sweep
    ],
)
def test_shards_are_many_and_none_is_large(count, asked, n, components, workers, wanted):
    assert shard_size(job(count=count, resources={"shard_size": asked}), n, components, workers) == wanted


@given(st.integers(1, 10_000_000), st.integers(1, 5000), st.data())
def test_a_shard_is_never_empty_nor_larger_than_the_sweep_or_a_quarter_gigabyte(count, n, data):
    components = data.draw(st.integers(1, n))
    size = shard_size(job(count=count, resources={}), n, components, workers=1)
    assert 1 <= size <= min(count, 64)
    assert size == 1 or size * components * n * np.dtype(np.float32).itemsize <= 2**28


def test_workers_are_one_a_core_but_no_more_than_shards(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(5)), raising=False)
    resources = {"device": "cpu", "shard_size": 1}
    assert make_plan(job(count=100, resources=resources)).workers == 5
    assert make_plan(job(count=3, resources=resources)).workers == 3
    assert make_plan(job(count=3, resources={**resources, "workers": 8})).workers == 3
    assert make_plan(job(count=100, resources={**resources, "workers": 8})).workers == 8


def test_workers_on_one_machine_share_its_memory(monkeypatch):
    monkeypatch.setattr("pullback.metric.cost.usable_bytes", lambda device: 8 * 2**30)
    alone = make_plan(job(resources={"device": "cpu", "workers": 1})).fit.available
    among_four = make_plan(job(resources={"device": "cpu", "workers": 4})).fit.available
    assert alone == 8 * 2**30
    assert among_four == pytest.approx(alone / 4, abs=1)
    asked = make_plan(job(resources={"device": "cpu", "workers": 4, "memory_gib": 0.25})).fit.available
    assert asked == 2**28


def test_fixed_batch_and_tangents_are_kept():
    fit = make_plan(job(resources={"batch": 3, "tangents": 2})).fit
    assert (fit.batch, fit.tangents) == (3, 2)


def test_layout_follows_the_job():
    plan = make_plan(job(metric={"components": 4}))
    layout = plan.layout
    assert (layout.samples, layout.latent_dim, layout.components, layout.shard_size) == (7, 6, 4, 2)
    assert make_plan(job()).layout.components == 6


# Time, and leaving nothing behind


@pytest.mark.parametrize("generator", ["toy_generators:smooth", {"name": "toy_generators:classes", "condition": "two"}])
def test_the_time_of_a_sweep_is_measured_when_asked_for(generator):
    plan = make_plan(job(generator, resources={"workers": 4, "batch": 2}), measure=True)
    assert 0 < plan.seconds_per_code < 10
    assert plan.seconds == pytest.approx(plan.layout.samples / 4 * plan.seconds_per_code)
    unmeasured = make_plan(job())
    assert unmeasured.seconds_per_code is None
    assert unmeasured.seconds is None


@pytest.mark.parametrize(
    ("cores", "torch_has", "workers", "threads"), [(8, 8, 2, 4), (8, 3, 2, 3), (8, 3, 4, 2), (2, 2, 5, 1)]
)
def test_workers_share_the_cores_and_take_no_more_threads_than_torch_is_given(
    monkeypatch, cores, torch_has, workers, threads
):
    monkeypatch.setattr(plan_module, "usable_cores", lambda: cores)
    monkeypatch.setattr(torch, "get_num_threads", lambda: torch_has)
    assert threads_of(workers) == threads


def test_measuring_leaves_the_threads_of_torch_as_they_were():
    torch.set_num_threads(2)
    try:
        make_plan(job(), measure=True)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_planning_writes_nothing(here):
    make_plan(job(store="deep/er/store"), measure=True)
    assert list(here.iterdir()) == []
    problems(job(metric={"components": 9}))
    assert list(here.iterdir()) == []


def test_the_provenance_records_all_that_the_numbers_came_from(here):
    path = checkpoint(here / "one.pth")
    plan = make_plan(job(path))
    provenance = plan.provenance
    assert provenance["name"] == "toy"
    assert provenance["sweep_id"] == plan.sweep_id
    assert provenance["spec"]["samples"] == {"count": 7, "seed": 0, "distribution": "normal", "scale": 1.0}
    assert list(provenance["weights"]) == ["one.pth"]
    assert len(provenance["weights"]["one.pth"]) == 64
    assert provenance["versions"]["torch"] == torch.__version__
    assert "2 JᵀJ" in provenance["conventions"]["metric"]
