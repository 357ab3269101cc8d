"""The mean metric's axes from products, against the dense mean of whole metrics."""

import json

import numpy as np
import pytest
import torch

from pullback import load_distance, metric_at
from pullback.analysis.protocol import About
from pullback.applications import averaged_products, mean_axes
from pullback.applications.averaged_products import Networks, Task, multiply_here, start_worker
from pullback.applications.mean_axes import Options
from pullback.applications.protocol import Checkpoint, Progress, Stopped, Subject
from pullback.applications.results import ApplicationResult
from pullback.driving.pool_protocol import serial_pool
from pullback.driving.run import run_sweep
from pullback.errors import PullbackError
from pullback.jobs.plan import plan_results
from pullback.jobs.run import run_results
from pullback.metric.methods import Setting
from pullback.spec import job_of
from pullback.store.reader import open_sweep
from pullback.sweep.plan import make_plan
from sweep_jobs import job
from toy_generators import Classes, smooth_of_twelve

N, COUNT = 12, 8


@pytest.fixture(scope="module", autouse=True)
def _small_batches():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(averaged_products, "BATCH", 3)
        yield


def swept(store, **changes):
    run_sweep(make_plan(job(**{"count": COUNT, "store": str(store), **changes})), serial_pool)
    return open_sweep(store)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A sweep that keeps 3 of 12 eigenpairs, by an iterative method: H̄ is not stored."""
    kept = {"components": 3, "method": "lanczos"}
    return swept(tmp_path_factory.mktemp("sweeps") / "toy", generator="toy_generators:smooth_of_twelve", metric=kept)


@pytest.fixture(scope="module")
def dense(sweep):
    """The whole metrics of the sweep's codes, by the exact method."""
    codes = sweep.dataset()["latent"].values
    found = metric_at(smooth_of_twelve(), load_distance("mse", device="cpu"), codes, method="gauss_newton")
    return found.matrix.numpy()


def found_by(sweep, folder, stopped=lambda: False, report=lambda done, total: None, **options):
    progress = Progress(Checkpoint(folder), report, stopped)
    return mean_axes.run(Subject(sweep, None, "cpu"), Options(**{"axes": 4, "draws": 50, **options}), progress)


@pytest.fixture(scope="module")
def found(sweep, tmp_path_factory):
    return found_by(sweep, tmp_path_factory.mktemp("state"), block=3)


def test_the_axes_are_those_of_the_dense_mean(found, sweep, dense):
    assert not sweep.whole_metrics
    values, columns = np.linalg.eigh(dense.mean(axis=0))
    np.testing.assert_allclose(found["eigenvalue"], values[::-1][:4], rtol=1e-5)
    cosines = np.abs(np.sum(found["eigenvector"].values * columns.T[::-1][:4], axis=1))
    np.testing.assert_allclose(cosines, 1, atol=1e-6)
    assert (found["eigenvector"].values.max(axis=1) >= np.abs(found["eigenvector"].values).max(axis=1)).all()
    assert bool(found["converged"])


def test_the_residuals_are_those_of_the_dense_mean(found, sweep, dense, tmp_path):
    early = found_by(sweep, tmp_path, block=3, max_products=6)
    mean = dense.mean(axis=0)
    for result in (found, early):
        axes, values = result["eigenvector"].values, result["eigenvalue"].values
        wanted = np.linalg.norm(axes @ mean - values[:, None] * axes, axis=1)
        np.testing.assert_allclose(result["residual"], wanted, atol=1e-6 * values[0])
        nearest = np.abs(np.linalg.eigvalsh(mean)[None] - values[:, None]).min(axis=1)
        assert (nearest <= wanted + 1e-12).all()
    assert float(found["relative_residual"].max()) < 1e-5 < float(early["relative_residual"].max())
    assert not bool(early["converged"])
    assert len(mean_axes.cautions(result_of(early))) == 1


def test_rates_and_intervals_are_those_of_the_samples(found, dense):
    axes = found["eigenvector"].values
    rates = np.einsum("ai,sij,aj->sa", axes, dense, axes)
    np.testing.assert_allclose(found["rate"], rates, rtol=1e-4, atol=1e-8 * rates.max())
    np.testing.assert_allclose(found["rate"].values.mean(axis=0), found["eigenvalue"], rtol=1e-6)
    low, high = found["eigenvalue_ci95"].values
    assert (low < found["eigenvalue"].values).all()
    assert (high > found["eigenvalue"].values).all()
    share = np.trace(axes @ dense.mean(axis=0) @ axes.T) / np.trace(dense.mean(axis=0))
    assert float(found["trace_share"]) == pytest.approx(share, rel=0.2)  # the sweep's traces are estimates


@pytest.mark.parametrize("stop", [1, 5])
def test_an_interrupted_run_goes_on_where_it_was_and_gives_the_same(stop, found, sweep, tmp_path):
    calls = []
    with pytest.raises(Stopped):
        found_by(sweep, tmp_path, lambda: len(calls) >= stop, lambda done, total: calls.append((done, total)), block=3)
    again = []
    result = found_by(sweep, tmp_path, report=lambda done, total: again.append(done), block=3)
    assert int(result["resumed"]) > 0
    batches = -(-COUNT // averaged_products.BATCH)
    assert len(calls) + len(again) == batches * int(found["rounds"])
    for name in ("eigenvalue", "eigenvector", "residual", "rate"):
        np.testing.assert_array_equal(result[name], found[name])


def test_a_checkpoint_of_other_samples_is_left_alone(found, sweep, tmp_path):
    with pytest.raises(Stopped):
        found_by(sweep, tmp_path, lambda: True, samples=4)
    result = found_by(sweep, tmp_path, block=3)
    assert int(result["resumed"]) == 0
    np.testing.assert_array_equal(result["eigenvalue"], found["eigenvalue"])


def test_some_samples_are_the_mean_of_these(sweep, dense, tmp_path):
    some = found_by(sweep, tmp_path, samples=5, seed=3)
    chosen = some["sample"].values
    assert len(set(chosen.tolist())) == 5
    wanted = np.linalg.eigvalsh(dense[chosen].mean(axis=0))[::-1][:4]
    np.testing.assert_allclose(some["eigenvalue"], wanted, rtol=1e-5)


def test_a_worker_process_computes_what_this_process_does(sweep):
    codes = sweep.dataset()["latent"].values[:3]
    task = Task([0, 1, 2], codes, np.eye(N)[:2])

    start_worker("cpu", str(sweep.location), sweep.snapshot, None, 4)
    there, here = multiply_here(task), Networks(Subject(sweep, None, "cpu"), 4).multiply(task)
    np.testing.assert_array_equal(there.total, here.total)
    np.testing.assert_array_equal(there.rates, here.rates)


def test_classes_take_their_own_metric(tmp_path):
    opened = swept(tmp_path / "toy", count=6, generator={"name": "toy_generators:classes", "condition": "cycle"})
    result = found_by(opened, tmp_path / "state", axes=2)
    matrix = Classes().matrix.detach().double().numpy()
    plain = 2 * matrix.T @ matrix / matrix.shape[0]
    wanted = np.linalg.eigvalsh(plain)[::-1][:2] * np.mean([1, 4, 9])
    np.testing.assert_allclose(result["eigenvalue"], wanted, rtol=1e-5)


def test_a_distance_that_is_no_sum_of_squares_has_products_too(tmp_path):
    opened = swept(tmp_path / "toy", count=3, distance={"name": "ssim", "size": 16})
    result = found_by(opened, tmp_path / "state", axes=2)
    wanted = np.linalg.eigvalsh(opened.mean_metric())[::-1][:2]
    np.testing.assert_allclose(result["eigenvalue"], wanted, rtol=1e-3)


def test_a_product_that_is_not_finite_names_its_sample(sweep, tmp_path, monkeypatch):
    def broken(*_):
        return lambda vectors: vectors * torch.nan

    monkeypatch.setattr(averaged_products, "product_at", broken)
    with pytest.raises(PullbackError, match="sample 0"):
        found_by(sweep, tmp_path)


def test_less_memory_than_planned_means_smaller_chunks(sweep, monkeypatch):
    networks, true, tried = Networks(Subject(sweep, None, "cpu"), 4), averaged_products.product_at, []
    task = Task([0], sweep.dataset()["latent"].values[:1], np.eye(N)[:4])
    wanted = networks.multiply(task)

    def scarce(generator, distance, code, condition, setting: Setting, tangents):
        tried.append(tangents)
        if tangents > 2:
            raise MemoryError("out of memory")
        return true(generator, distance, code, condition, setting, tangents)

    networks._tangents = 8
    monkeypatch.setattr(averaged_products, "product_at", scarce)
    np.testing.assert_allclose(networks.multiply(task).total, wanted.total, rtol=1e-4, atol=1e-9)
    assert tried == [8, 4, 2]


def test_the_job_keeps_its_result_with_table_words_and_figure(sweep):
    content = {"name": "mean_axes", "axes": 2, "draws": 20}
    described = {"kind": "application", "name": "m", "sweep": str(sweep.location), "application": content}
    plan = plan_results(job_of(described))
    two = plan_results(job_of({**described, "resources": {"workers": 2}}))
    assert two.job_id == plan.job_id  # resources decide no result
    assert run_results(plan).exit_code == 0
    result = plan_results(job_of(described)).parts[0].load()
    assert len(result.tables()[0].rows) == 2
    assert [figure.get_label() for figure in result.figures().values()] == ["mean-axes"]
    assert len(result.sentences()) == 2
    assert result.cautions() == []
    assert "rate" not in json.loads(json.dumps(result.json, allow_nan=False))


def result_of(dataset):
    return ApplicationResult("mean_axes", Options(), dataset, About("toy", "", COUNT))
