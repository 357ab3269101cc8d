"""Axes of the mean metric as files: each layout is read again as the same directions."""

import numpy as np
import pytest
import torch

from command_line import call
from pullback.errors import StoreError
from pullback.interchange.axes import axes_of
from pullback.interchange.direction_files import read_directions
from pullback.interchange.exports import export_as
from pullback.store.creation import create
from pullback.store.reader import open_sweep
from pullback.store.schema import Layout
from stored_sweeps import altered, commit, record_of

N = 5


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Six samples with a mean metric of known axes."""
    layout = Layout(samples=6, latent_dim=N, components=N, shard_size=3)
    stream = np.random.default_rng(0)
    basis = np.linalg.qr(stream.standard_normal((N, N)))[0]
    metric = (basis * np.array([9.0, 4, 2, 1, 0.5])) @ basis.T
    path = tmp_path_factory.mktemp("axes") / "sweep"
    store = create(path, layout, {"name": "known", "method": "gauss_newton", "generator": "g", "distance": "d"})
    commit(store, *(altered(record_of(layout, shard), metric_sum=3 * metric) for shard in (0, 1)))
    return open_sweep(path)


def test_axes_are_unit_eigenvectors_of_the_mean_metric(sweep):
    found = axes_of(sweep)
    np.testing.assert_allclose(found.eigenvalues, [9, 4, 2, 1, 0.5])
    np.testing.assert_allclose(sweep.mean_metric() @ found.vectors.T, found.vectors.T * found.eigenvalues, atol=1e-12)
    assert (found.vectors[np.arange(N), np.abs(found.vectors).argmax(axis=1)] > 0).all()
    codes = sweep.dataset()["latent"].values.astype(float)
    np.testing.assert_allclose(found.deviations, (codes @ found.vectors.T).std(axis=0))
    np.testing.assert_allclose(found.shares, found.eigenvalues / 16.5)


@pytest.mark.parametrize(
    ("name", "layout", "strength"),
    [
        ("a.npy", "axes", None),
        ("a.npz", "axes", "eigenvalues"),
        ("g.npz", "ganspace", "deviations"),
        ("e.pt", "e4e", "deviations"),
    ],
)
def test_each_layout_is_read_again_as_the_same_axes(sweep, tmp_path, name, layout, strength):
    export_as(sweep, tmp_path / name, layout, components=3)
    found, axes = read_directions(tmp_path / name, N), axes_of(sweep, 3)
    np.testing.assert_allclose(found.vectors, axes.vectors, atol=1e-6)
    if strength is not None:
        np.testing.assert_allclose(found.strengths, getattr(axes, strength), rtol=1e-6)


def test_ganspace_and_e4e_files_have_the_shapes_of_their_tools(sweep, tmp_path):
    export_as(sweep, tmp_path / "g.npz", "ganspace", 3)
    with np.load(tmp_path / "g.npz", allow_pickle=False) as file:
        shapes = {name: (file[name].shape, file[name].dtype) for name in file.files}
    several, one, each = (3, 1, N), (1, N), (3,)
    expected = {"act_comp": several, "act_mean": one, "act_stdev": each, "lat_comp": several, "lat_mean": one}
    expected |= {"lat_stdev": each, "var_ratio": each, "random_stdevs": each}
    assert shapes == {name: (shape, np.float32) for name, shape in expected.items()}
    export_as(sweep, tmp_path / "e.pt", "e4e", 3)
    held = torch.load(tmp_path / "e.pt", weights_only=True)
    assert {name: tuple(value.shape) for name, value in held.items()} == {"comp": several, "mean": one, "std": each}


def test_singular_values_of_magnet_are_those_of_the_jacobian(sweep, tmp_path):
    export_as(sweep, tmp_path / "m.npz", "magnet", 2)
    with np.load(tmp_path / "m.npz") as file:
        values = sweep.dataset()["eigenvalue"].values[:, :2]
        np.testing.assert_allclose(2 * file["svds"] ** 2, np.maximum(values, 0))
        np.testing.assert_array_equal(file["latents"], sweep.dataset()["latent"].values)


@pytest.mark.parametrize(
    ("name", "layout", "components"),
    [
        ("a.npz", "e4e", None),
        ("a.pt", "ganspace", None),
        ("a.csv", "magnet", None),
        ("a.npy", "axis", None),
        ("a.npy", "axes", N + 1),
        ("a.npz", "magnet", N + 1),
        ("a", "paper", 2),
    ],
)
def test_what_cannot_be_exported_is_refused_and_nothing_is_written(sweep, tmp_path, name, layout, components):
    with pytest.raises(StoreError):
        export_as(sweep, tmp_path / name, layout, components)
    assert list(tmp_path.iterdir()) == []


def test_the_command_takes_the_layout_from_the_ending_and_never_replaces_a_file(sweep, tmp_path):
    out = tmp_path / "axes.npy"
    assert call("export", sweep.path, out, "--components", "2").code == 0
    assert np.load(out).shape == (2, N)
    again = call("export", sweep.path, out)
    assert again.code == 1
    assert "exists already" in again.err
    assert call("export", sweep.path, tmp_path / "g.npz", "--layout", "ganspace").code == 0
    assert call("export", sweep.path, tmp_path / "a.csv", "--components", "2").code == 1
    assert call("export", sweep.path, tmp_path / "a.csv").code == 0
