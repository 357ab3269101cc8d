"""Sweeps that released versions made (tests/data/sweeps) are served over HTTP and read through the client."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from served_sweeps import serving

from pullback.api.client import Client
from pullback.store.reader import open_sweep

VERSIONS = sorted((Path(__file__).parent.parent / "data" / "sweeps").iterdir())


@pytest.mark.parametrize("version", VERSIONS, ids=[path.name for path in VERSIONS])
def test_the_client_reads_sweeps_of_released_versions_and_their_analyses(version, tmp_path):
    shutil.copytree(version, tmp_path / "user")
    folder = tmp_path / "user" / "sweeps"
    with serving(folder) as (url, _), Client(url) as client:
        assert {each["id"] for each in client.list()} == {"gauss_newton", "block_krylov"}
        for name, whole in (("gauss_newton", True), ("block_krylov", False)):
            details, analysis = client.show(name), client.analysis(name)
            assert details["samples"]["good"] == 12
            assert details["whole_metrics"] is whole
            mean = analysis["mean_metric"]
            assert mean["of"] == ("whole metrics" if whole else "kept part")
            assert (mean["trace_share"] < 0.999) is not whole
            assert "12" in client.report(name)
            stored = open_sweep(folder / name).dataset()
            np.testing.assert_allclose(client.spectra(name)["eigenvalue"], stored.eigenvalue.values)
