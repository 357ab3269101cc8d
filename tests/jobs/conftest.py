import pytest
from plugins_of_jobs import write_plugins

from plugin_files import on_the_path
from pullback.driving.pool_protocol import serial_pool
from pullback.driving.run import run_sweep
from pullback.sweep.plan import make_plan
from sweep_jobs import job


@pytest.fixture(scope="module")
def plugins(tmp_path_factory):
    with on_the_path(write_plugins(tmp_path_factory.mktemp("plugins") / "site")) as folder:
        yield folder


@pytest.fixture
def sweep(tmp_path, plugins, monkeypatch):
    """The working directory's finished sweep of 4 samples, `sweeps/toy`."""
    monkeypatch.chdir(tmp_path)
    run_sweep(make_plan(job(count=4)), serial_pool)
    return "sweeps/toy"
