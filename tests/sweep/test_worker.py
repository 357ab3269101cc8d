import sys

import numpy as np
import pytest
import torch

from pullback.distances import load_distance
from pullback.errors import RefusedError, SweepError, WorkCancelledError
from pullback.metric import compute as pullback_metric
from pullback.metric import exact, jacobian, metric_at
from pullback.store.schema import GOOD, QUARANTINED, SHARD_ARRAYS, Reason
from pullback.sweep import worker as worker_module
from pullback.sweep.latents import sample_latents
from pullback.sweep.plan import make_plan
from pullback.sweep.tasks import Task
from pullback.sweep.worker import Worker, WorkOrder
from sweep_jobs import job
from toy_generators import Classes, Smooth


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def a_worker(spec, here, **changes):
    plan = make_plan(spec)
    settings = {
        "device": "cpu",
        "method": plan.method,
        "batch": 1,
        "tangents": 6,
        "threads": 1,
        "fork": b"",
        "folder": str(here),
    }
    return Worker(WorkOrder(job=spec, layout=plan.layout, **{**settings, **changes}))


def computed(worker, shard, **task):
    """The record of a shard, of which no sample raises."""
    record, notes = worker.compute(Task(0, shard, **task))
    assert notes == []
    return record


def arrays(record):
    """Everything of a record that is a result; the time taken is not."""
    return {array.name: getattr(record, array.name) for array in SHARD_ARRAYS if array.name != "seconds"}


def test_the_same_shard_again_is_the_same_to_the_last_bit(here):
    worker = a_worker(job(), here)
    first = arrays(computed(worker, 1))
    computed(worker, 2)
    for name, again in arrays(computed(worker, 1)).items():
        np.testing.assert_array_equal(again, first[name], err_msg=name)
    for name, elsewhere in arrays(computed(a_worker(job(), here), 1)).items():
        np.testing.assert_array_equal(elsewhere, first[name], err_msg=name)


@pytest.mark.parametrize("batches", [0, 1, 3])
def test_a_wish_to_stop_is_fulfilled_after_the_batch_at_hand(here, monkeypatch, batches):
    worker = a_worker(job(resources={"shard_size": 7}), here)
    filled, fill = [], Worker._fill
    monkeypatch.setattr(worker_module, "codes_together", lambda batch, latent_dim: batch)
    monkeypatch.setattr(
        Worker, "_fill", lambda self, record, places, *rest: (filled.append(places), fill(self, record, places, *rest))
    )
    worker.stop_when = lambda: len(filled) >= batches
    with pytest.raises(WorkCancelledError, match="it is still pending"):
        worker.compute(Task(0, 0))
    assert filled == [[place] for place in range(batches)]


def test_a_record_holds_the_metrics_of_its_own_samples(here):
    spec = job(metric={"components": 4})
    record = computed(a_worker(spec, here), 1)
    latents = sample_latents(spec.samples, [2, 3], 6)
    wanted = metric_at(Smooth(), load_distance("mse", device="cpu"), latents)
    np.testing.assert_array_equal(record.latent, latents)
    np.testing.assert_allclose(record.eigenvalue, wanted.eigenvalues[:, :4], rtol=1e-6)
    np.testing.assert_allclose(record.metric_sum, wanted.matrix.sum(dim=0), rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(record.trace, wanted.eigenvalues.sum(dim=1), rtol=1e-6)
    kept = wanted.eigenvalues[:, :4].sum(dim=1) / wanted.eigenvalues.sum(dim=1)
    np.testing.assert_allclose(record.trace_share, kept, rtol=1e-6)
    for vectors, values, matrix in zip(record.eigenvector, record.eigenvalue, wanted.matrix.numpy(), strict=True):
        np.testing.assert_allclose(vectors @ matrix, values[:, None] * vectors, atol=1e-6 * values[0])
    assert record.status.tolist() == [GOOD, GOOD]
    assert record.condition.tolist() == [-1, -1]
    assert (record.seconds > 0).all()


def test_every_record_fits_the_layout_also_the_last_and_smaller_one(here):
    spec = job()
    worker, layout = a_worker(spec, here), make_plan(spec).layout
    sizes = []
    for shard in range(layout.shards):
        record = computed(worker, shard)
        record.validate(layout)
        sizes.append(len(record.status))
    assert sizes == [2, 2, 2, 1]


def test_classes_are_taken_in_turn_over_the_samples_of_the_sweep(here):
    spec = job({"name": "toy_generators:classes", "condition": "cycle"})
    worker = a_worker(spec, here)
    records = [computed(worker, shard) for shard in range(4)]
    classes = np.concatenate([record.condition for record in records])
    assert classes.tolist() == [0, 1, 2, 0, 1, 2, 0]
    a = Classes().matrix.detach().numpy().astype(np.float64)
    trace = np.trace(2 * a.T @ a / len(a))
    np.testing.assert_allclose(np.concatenate([r.trace for r in records]), trace * (1.0 + classes) ** 2, rtol=1e-5)


def test_one_class_is_that_of_every_sample(here):
    worker = a_worker(job({"name": "toy_generators:classes", "condition": "three"}), here)
    assert computed(worker, 0).condition.tolist() == [2, 2]


@pytest.mark.parametrize(
    ("factory", "reason"),
    [("nan_images", Reason.NOT_FINITE), ("nan_without_derivative", Reason.JACOBIAN_PROBE)],
)
def test_samples_without_a_trustworthy_metric_are_quarantined_with_the_reason(here, factory, reason):
    spec = job(f"sweep_jobs:{factory}", count=40, resources={"shard_size": 40})
    record = computed(a_worker(spec, here), 0)
    bad = record.latent[:, 1] > 1
    assert 0 < bad.sum() < 20
    np.testing.assert_array_equal(record.status, np.where(bad, QUARANTINED, GOOD))
    np.testing.assert_array_equal(record.reason, np.where(bad, reason, Reason.NONE))
    record.validate(make_plan(spec).layout)
    good = metric_at(Smooth(), load_distance("mse", device="cpu"), record.latent[~bad]).matrix
    np.testing.assert_allclose(record.metric_sum, good.sum(dim=0), rtol=1e-5, atol=1e-12)


def test_a_wrong_derivative_quarantines_every_sample_and_leaves_no_sum(here):
    spec = job("sweep_jobs:wrong_derivative")
    record = computed(a_worker(spec, here), 0)
    assert record.status.tolist() == [QUARANTINED, QUARANTINED]
    assert record.reason.tolist() == [Reason.JACOBIAN_PROBE] * 2
    assert not record.metric_sum.any()
    record.validate(make_plan(spec).layout)


def test_a_generator_that_never_changes_its_image_is_no_error(here):
    record = computed(a_worker(job("sweep_jobs:grey"), here), 0)
    assert record.status.tolist() == [GOOD, GOOD]
    assert not record.eigenvalue.any()
    assert record.trace_share.tolist() == [1, 1]


def test_what_did_not_fit_once_is_not_tried_again(here, monkeypatch):
    spec = job(resources={"shard_size": 4})
    wanted = arrays(computed(a_worker(spec, here), 0))
    compute, tried = pullback_metric.by_jacobian, []

    def scarce(generator, distance, z, condition, setting, batch, tangents):
        tried.append((batch, tangents))
        if batch * tangents > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return compute(generator, distance, z, condition, setting, batch, tangents)

    monkeypatch.setattr(pullback_metric, "by_jacobian", scarce)
    worker = a_worker(spec, here, batch=4, tangents=6)
    found = arrays(computed(worker, 0))
    assert tried == [(4, 6), (2, 6), (1, 6), (1, 3), (1, 1)]
    np.testing.assert_array_equal(found["latent"], wanted["latent"])
    np.testing.assert_allclose(found["eigenvalue"], wanted["eigenvalue"], rtol=1e-5)
    computed(worker, 1)
    assert set(tried[5:]) == {(1, 1)}


def test_no_more_than_a_few_whole_metrics_are_held(here, monkeypatch):
    sizes = []

    def noting(generator, distance, z, **options):
        sizes.append(len(z))
        return metric_at(generator, distance, z, **options)

    monkeypatch.setattr(worker_module, "metric_at", noting)
    computed(a_worker(job(resources={"shard_size": 5}), here, batch=2), 0)
    assert sizes == [4, 1]


def test_an_error_names_its_samples_and_its_place_in_the_users_code(here, monkeypatch):
    worker = a_worker(job(resources={"shard_size": 3}), here, batch=2)

    def fail(z, condition=None):
        raise ValueError("boom")

    monkeypatch.setattr(worker.generator, "forward", fail)
    with pytest.raises(SweepError, match=r"sample 3 to 5: ValueError: boom \(.*test_worker\.py:\d+\)"):
        computed(worker, 1)


def test_the_jobs_method_and_arithmetic_reach_the_metric(here):
    metric = {"method": "block_krylov", "components": 2, "precision": "float64"}
    record = computed(a_worker(job(metric=metric), here), 0)
    assert (record.products > 0).all()
    assert np.isnan(record.column_error).all()
    assert (record.precision_error < 1e-8).all()
    assert (record.coordinate_error < 1e-6).all()
    assert record.zero_error.tolist() == [0, 0]
    assert record.status.tolist() == [GOOD, GOOD]
    vectors, values = record.eigenvector.astype(np.float64), record.eigenvalue
    np.testing.assert_allclose(record.metric_sum, np.einsum("mkn,mk,mkl->nl", vectors, values, vectors), rtol=1e-4)


def test_what_does_not_converge_is_quarantined_and_kept(here):
    metric = {"method": "lanczos", "components": 3, "max_products": 3, "tolerance": 1e-9}
    record = computed(a_worker(job(metric=metric), here), 0)
    assert record.reason.tolist() == [Reason.NOT_CONVERGED] * 2
    assert np.isfinite(record.eigenvalue).all()


def test_a_worker_finds_a_users_own_module_in_the_drivers_folder(here, monkeypatch):
    folder = here / "project"
    folder.mkdir()
    (folder / "module_of_a_user.py").write_text("from toy_generators import Smooth as build\n")
    spec = job("module_of_a_user:build")
    monkeypatch.chdir(folder)
    layout = make_plan(spec).layout
    monkeypatch.chdir(here)
    monkeypatch.delitem(sys.modules, "module_of_a_user")
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(folder)])
    order = WorkOrder(spec, layout, "cpu", "gauss_newton", 1, 6, 1, str(folder), b"")
    assert (computed(Worker(order), 0).status == GOOD).all()


def test_a_worker_uses_the_threads_it_is_given(here):
    before = torch.get_num_threads()
    try:
        a_worker(job(), here, threads=2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_result_that_the_storage_refused_at_first_is_written_without_computing_it_again(here, monkeypatch):
    worker, refused, computations = a_worker(job(), here), [], []

    def write(fork, record):
        if len(refused) < 2:
            refused.append(record.shard)
            raise RefusedError("it is busy")
        return b"written"

    compute = worker.compute
    monkeypatch.setattr(worker, "compute", lambda task: computations.append(task) or compute(task))
    monkeypatch.setattr(worker_module, "write_shard", write)
    monkeypatch.setattr(worker_module, "WRITE_PAUSES", (0.01, 0.01))
    assert worker.run(Task(0, 1)).fork == b"written"
    assert (refused, len(computations)) == ([1, 1], 1)
    refused[:] = []
    monkeypatch.setattr(worker_module, "WRITE_PAUSES", (0.01,))
    with pytest.raises(RefusedError, match="busy"):
        worker.run(Task(1, 2))


def test_a_worker_that_is_to_stop_waits_for_no_storage(here, monkeypatch):
    worker, tries = a_worker(job(), here), []

    def write(fork, record):
        tries.append(record.shard)
        worker.stop_when = lambda: True
        raise RefusedError("it is busy")

    monkeypatch.setattr(worker_module, "write_shard", write)
    monkeypatch.setattr(worker_module, "WRITE_PAUSES", (1000.0,))
    with pytest.raises(RefusedError, match="busy"):
        worker.run(Task(0, 0))
    assert tries == [0, 0]


@pytest.mark.parametrize("where", ["the metric", "the derivative that is recorded", "the copy in float64"])
def test_an_interrupt_is_one_whatever_torch_makes_of_it(here, where, monkeypatch):
    def broken_off(*arguments, **options):
        try:
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("the stack of transformations is empty")

    if where == "the metric":
        monkeypatch.setattr(worker_module, "metric_at", broken_off)
    elif where == "the derivative that is recorded":
        monkeypatch.setattr(jacobian, "Linearization", broken_off)
    else:
        monkeypatch.setattr(exact, "in_double", broken_off)
    with pytest.raises(KeyboardInterrupt):
        a_worker(job(), here).compute(Task(0, 0, isolate=True))
