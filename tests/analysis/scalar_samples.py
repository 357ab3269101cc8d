"""Samples with chosen codes and provenance, and one check of everything that a result shows."""

import json

import numpy as np
from sample_metrics import eigenpairs

from pullback.analysis import Samples
from pullback.analysis.protocol import About
from pullback.analysis.runner import compute
from pullback.plugins import STATISTICS


def samples_of(metrics, *, kept=None, latent=None, trace=None, whole=True, **provenance):
    """`Samples` of metrics [N, n, n], with `kept` eigenpairs of each; as of an iterative method where not `whole`."""
    metrics = np.asarray(metrics, dtype=np.float64)
    values, vectors = eigenpairs(metrics, kept)
    columns = {
        "eigenvalue": values,
        "eigenvector": vectors,
        "trace": np.trace(metrics, axis1=1, axis2=2) if trace is None else np.asarray(trace, dtype=np.float64),
    }
    if latent is not None:
        columns["latent"] = np.asarray(latent)
    parts = np.einsum("ski,sk,skj->sij", vectors, values, vectors)
    mean = (metrics if whole else parts).mean(axis=0)
    return Samples(About("toy", "S1", len(metrics)), columns, mean=mean, whole=whole, provenance=provenance)


def result_of(name, samples, **options):
    """The result of a statistic; 100 draws by default."""
    return compute(samples, name, STATISTICS.options(name)(**{"draws": 100, **options}))


def shown(result):
    """All text that a result shows. Draws its figures too, so that whatever fails fails here."""
    json.dumps(result.json, allow_nan=False)
    words = [*result.sentences(), *result.notes(), *result.cautions()]
    for caption, figure in result.figures().items():
        figure.canvas.draw()
        words.append(caption)
        for axes in figure.axes:
            assert axes.get_xlabel() or axes.get_ylabel()
    for table in result.tables():
        words += [cell for row in table.text() for cell in row]
    assert "nan" not in " ".join(words).lower().split()
    return " ".join(words)
