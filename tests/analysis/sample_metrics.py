"""Small metrics with known structure, shared by the tests of this folder."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import xarray as xr
from scipy.stats import ortho_group

from pullback.analysis import Analysis
from pullback.plugins import STATISTICS
from pullback.store.reader import ZeroMetrics


def random_metrics(points, n, *, decay=6.0, jitter=0.3, seed=0):
    """Positive definite matrices [points, n, n] whose eigenvectors are those of one basis, disturbed."""
    generator = np.random.default_rng(seed)
    basis = np.linalg.qr(generator.standard_normal((n, n)))[0]
    spectrum = np.exp(-decay * np.arange(n) / n)
    metrics = []
    for _ in range(points):
        turned = np.linalg.qr(basis + jitter / np.sqrt(n) * generator.standard_normal((n, n)))[0]
        values = spectrum * np.exp(0.3 * generator.standard_normal(n))
        metrics.append((turned * values) @ turned.T)
    return np.array(metrics)


def eigenpairs(metrics, kept=None):
    """Eigenvalues [points, k], descending, and rows of eigenvectors [points, k, n]."""
    values, columns = np.linalg.eigh(metrics)
    return values[:, ::-1][:, :kept].copy(), columns.transpose(0, 2, 1)[:, ::-1][:, :kept].copy()


def rotation(n, seed=0):
    return ortho_group.rvs(n, random_state=seed)


class FakeSweep:
    """The attributes of a stored sweep that an analysis reads; as of an iterative method where not `whole`."""

    def __init__(
        self, metrics, kept=None, path="sweeps/fake", snapshot="S1", pending=0, quarantined=0, whole=True, trace=None
    ):
        self.metrics, self.path, self.name, self.snapshot = metrics, path, "fake", snapshot
        points, n = metrics.shape[:2]
        values, vectors = eigenpairs(metrics, kept) if points else (np.zeros((0, n)), np.zeros((0, n, n)))
        self.whole_metrics = whole
        self._parts = metrics if whole else np.einsum("ski,sk,skj->sij", vectors, values, vectors)
        self._status = SimpleNamespace(
            planned=points + pending + quarantined, good=points, quarantined=quarantined, pending=pending
        )
        self._dataset = xr.Dataset(
            {
                "eigenvalue": (("sample", "component"), values),
                "eigenvector": (("sample", "component", "latent_dim"), vectors.astype(np.float32)),
                "sample": (("sample",), np.arange(points)),
                "trace": (("sample",), np.trace(metrics, axis1=1, axis2=2) if trace is None else np.asarray(trace)),
                "symmetry_error": (("sample",), np.linspace(1e-9, 1e-8, points)),
                "negative_eigenvalue": (("sample",), np.zeros(points)),
                "trace_share": (("sample",), np.ones(points)),
                "probe_error": (("sample",), np.full(points, np.nan)),
            }
        )

    def status(self):
        return self._status

    def dataset(self):
        return self._dataset

    def mean_metric(self, kept=False):
        assert kept or self.whole_metrics
        return self._parts.mean(axis=0)

    def zero_metrics(self):
        zero = np.flatnonzero(~self.metrics.any(axis=(1, 2)))
        return ZeroMetrics(tuple(zero.tolist()), ())


def again_of(analysis):
    """The same analysis with every result converted to its stored form and back."""
    return Analysis(
        {
            name: replace(result, dataset=stored_form(name)(result.value) if stored_form(name) else result.dataset)
            for name, result in analysis.items()
        }
    )


def stored_form(name):
    return getattr(STATISTICS.module(name), "to_dataset", None)
