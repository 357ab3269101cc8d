"""C_log, C_lin and C_vec of all pairs: against the definitions, in one process and in several."""

from functools import partial

import numpy as np
import pytest
from sample_metrics import eigenpairs, random_metrics, rotation

from pullback.analysis import pair_kernel, pair_matrix, tile_workers
from pullback.analysis.correlations import correlations
from pullback.analysis.pair_kernel import Spectra
from pullback.analysis.pair_matrix import Matrices, in_turn, matrices, measured_error, tile_values, tiles
from pullback.analysis.pairs import on_device
from pullback.errors import PullbackError


def parts(values, vectors):
    """The part of each metric that its kept eigenpairs make."""
    return np.einsum("ski,sk,skj->sij", vectors, values, vectors)


@pytest.fixture(params=[None, 5], ids=["all kept", "5 kept"])
def pairs(request):
    return eigenpairs(random_metrics(7, 9), request.param)


@pytest.mark.parametrize("run", [in_turn, on_device("cpu")], ids=["numpy", "torch"])
@pytest.mark.parametrize("edge", [2, 256])
def test_the_matrices_are_those_of_the_definitions_at_any_tile_size(pairs, run, edge, monkeypatch):
    monkeypatch.setattr(pair_matrix, "LARGEST_EDGE", edge)
    monkeypatch.setattr(pair_kernel, "CACHED", edge * 4 * 81)
    found = matrices(Spectra(pairs[0]), pairs[1], run=run)
    log, linear = correlations(*pairs)
    assert found.log == pytest.approx(log, abs=2e-6)
    assert found.linear == pytest.approx(linear, abs=2e-6)
    assert found.vec == pytest.approx(np.corrcoef(parts(*pairs).reshape(7, -1)), abs=2e-6)


def test_a_spectrum_over_eleven_decades_is_compared_as_in_float64():
    values, vectors = eigenpairs(random_metrics(5, 30, decay=25.0))
    vectors = vectors.astype(np.float32)
    found = matrices(Spectra(values), vectors)
    assert values[:, -1].max() < 1e-10
    assert found.log == pytest.approx(correlations(values, vectors)[0], abs=1e-4)


def test_metrics_of_any_scale_give_the_same_with_null_and_negative_eigenvalues():
    values, vectors = eigenpairs(random_metrics(6, 8))
    values[:3, -2:] = [0.0, -1e-17]
    found = matrices(Spectra(values * np.logspace(-35, 35, 6)[:, None]), vectors)
    log, linear = correlations(values, vectors)
    assert found.log == pytest.approx(log, abs=2e-6)
    assert found.linear == pytest.approx(linear, abs=2e-6)


def test_the_vectorised_correlation_does_not_depend_on_a_common_rotation_beyond_its_means():
    """C_vec of matrices whose entries have mean zero is their cosine, whatever the basis."""
    metrics = random_metrics(3, 6)
    basis = np.linalg.qr(np.column_stack([np.ones(7), np.eye(7)[:, :6]]))[0][:, 1:]  # orthogonal to (1, ..., 1)
    values, vectors = eigenpairs(metrics)
    inside = vectors @ basis.T
    cosine = np.einsum("iab,jab->ij", metrics, metrics)
    cosine /= np.sqrt(np.outer(np.diag(cosine), np.diag(cosine)))
    assert matrices(Spectra(values), inside).vec == pytest.approx(cosine, abs=1e-6)
    turn = basis @ rotation(6) @ basis.T
    assert matrices(Spectra(values), inside @ turn.T).vec == pytest.approx(cosine, abs=1e-6)


def test_zero_and_isotropic_metrics_have_no_axes_but_isotropic_ones_have_entries():
    metrics = random_metrics(4, 5)
    metrics[1], metrics[2] = 0.0, 3.0 * np.eye(5)
    found = matrices(Spectra(eigenpairs(metrics)[0]), eigenpairs(metrics)[1])
    for matrix in (found.log, found.linear):
        assert np.isnan(matrix[[1, 2]]).all()
        assert np.isnan(matrix[:, [1, 2]]).all()
        assert np.isfinite(matrix[np.ix_([0, 3], [0, 3])]).all()
    assert np.isnan(found.vec[1]).all()
    others = [0, 2, 3]
    assert found.vec[np.ix_(others, others)] == pytest.approx(np.corrcoef(metrics[others].reshape(3, -1)), abs=2e-6)
    equal = np.full((2, 5, 5), 0.7)
    assert np.isnan(matrices(Spectra(eigenpairs(equal)[0]), eigenpairs(equal)[1]).vec).all()


def test_the_error_of_single_precision_is_measured():
    values, vectors = eigenpairs(random_metrics(6, 9))
    spectra, every = Spectra(values), tiles(6, 9, 9)
    found = tile_values(spectra, vectors, every[0])
    assert 0 < measured_error(values, vectors, every[0].pairs, found) < 1e-5
    found.log[:] += 0.01
    assert measured_error(values, vectors, every[0].pairs, found) == pytest.approx(0.01, rel=1e-2)


def test_processes_share_a_matrix_and_give_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(tile_workers, "cache_folder", lambda: tmp_path)
    values, vectors = eigenpairs(random_metrics(7, 9))
    alone = matrices(Spectra(values), vectors)
    calls = []
    shared = matrices(
        Spectra(values),
        vectors,
        lambda done, total: calls.append((done, total)),
        partial(tile_workers.shared, workers=2, identity="S1"),
    )
    assert all(np.array_equal(getattr(shared, name), getattr(alone, name)) for name in ("log", "linear", "vec"))
    assert calls[-1] == (49, 49)
    assert not [path for path in (tmp_path / "pairs").iterdir() if path.is_dir()], "nothing is left behind"


class Worker(tile_workers._Child):
    """A worker in this process; it computes nothing if `silent`."""

    silent = False

    def __init__(self, folder):
        self.process = self
        if not self.silent:
            tile_workers.work(folder)

    def poll(self):
        return 1

    def end(self):
        return "out of luck"


def test_an_interrupted_matrix_continues_with_the_tiles_that_are_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(tile_workers, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(tile_workers, "_Child", Worker)
    monkeypatch.setattr(pair_matrix, "LARGEST_EDGE", 3)
    values, vectors = eigenpairs(random_metrics(7, 9))
    spectra, every = Spectra(values), tiles(7, 9, 9)
    run = tile_workers.shared(spectra, vectors, every, workers=1, identity="S1")
    next(run)
    run.close()  # as an exception of the caller does
    (folder,) = (path for path in (tmp_path / "pairs").iterdir() if path.is_dir())
    (folder / "3.npy").unlink()
    computed = []
    monkeypatch.setattr(tile_workers, "tile_values", lambda *given: computed.append(given[2]) or tile_values(*given))
    found = matrices(spectra, vectors, run=partial(tile_workers.shared, workers=1, identity="S1"))
    assert computed == [every[3]]
    assert np.array_equal(found.log, matrices(spectra, vectors).log)
    assert not folder.exists()


def test_processes_that_die_are_an_error_that_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(tile_workers, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(Worker, "silent", True)
    monkeypatch.setattr(tile_workers, "_Child", Worker)
    values, vectors = eigenpairs(random_metrics(4, 5))
    with pytest.raises(PullbackError, match="out of luck"):
        matrices(Spectra(values), vectors, run=partial(tile_workers.shared, workers=1, identity="S1"))


def test_a_second_run_of_the_same_matrix_works_in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(tile_workers, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(tile_workers, "_Child", Worker)
    values, vectors = eigenpairs(random_metrics(4, 5))
    spectra, every = Spectra(values), tiles(4, 5, 5)
    first = tile_workers.shared(spectra, vectors, every, workers=1, identity="S1")
    second = tile_workers.shared(spectra, vectors, every, workers=1, identity="S1")
    found = [next(first)[1], next(second)[1]]
    assert np.array_equal(found[0].log, found[1].log)
    assert len([path for path in (tmp_path / "pairs").iterdir() if path.is_dir()]) == 2
    assert list(first) == list(second) == []


def test_shapes_that_do_not_agree_are_refused():
    values, vectors = eigenpairs(random_metrics(3, 4))
    with pytest.raises(ValueError, match="eigenvectors"):
        matrices(Spectra(values[:, :2]), vectors)
    with pytest.raises(ValueError, match="eigenvalues"):
        Spectra(values[0])


def test_an_empty_matrix_holds_no_number():
    assert np.isnan(Matrices.empty(2).vec).all()
