import pytest
from pool_runs import HERE, make_environment

from pullback.spec import JobSpec


@pytest.fixture(scope="module")
def mark_path(tmp_path_factory):
    return tmp_path_factory.mktemp("mark") / "died"


@pytest.fixture(scope="module")
def our_ray(mark_path):
    from pullback.cluster.pool import local_ray

    make_environment(mark_path)  # Ray's workers inherit this process's environment as it is now
    with local_ray(cpus=2):
        yield


@pytest.fixture
def make_job(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(HERE)

    def make(generator: str, count: int = 8, seed: int = 1, **resources: object) -> JobSpec:
        return JobSpec.model_validate(
            {
                "name": "pool",
                "generator": generator,
                "distance": "mse",
                "samples": {"count": count, "seed": seed},
                "store": str(tmp_path / "pool"),
                "resources": {"device": "cpu", "workers": 2, "shard_size": 1, **resources},
            }
        )

    return make
