"""Running small jobs over the Ray that a test module holds, and looking at what became of them."""

import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from pullback.cluster.pool import RayPool
from pullback.driving.control import events_path, request_cancel
from pullback.driving.pool_protocol import ShardFailed, serial_pool
from pullback.driving.run import Outcome, SweepProgress, run_sweep
from pullback.spec import JobSpec
from pullback.store.creation import create
from pullback.store.reader import open_sweep
from pullback.sweep.latents import sample_latents
from pullback.sweep.plan import make_plan
from pullback.sweep.tasks import Budgets
from pullback.sweep.worker import ShardDone, WorkOrder

HERE = Path(__file__).parent
MARK = "PULLBACK_TEST_MARK"
"""The variable that names the file by which a fault that comes once knows that it came."""


def make_environment(mark: Path) -> None:
    """Let processes that this one starts from now on find the tests' modules and the mark."""
    os.environ[MARK] = str(mark)
    there = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]  # an empty one is any folder
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([str(HERE), str(HERE.parent), *there]))


def order_of(job: JobSpec) -> tuple[WorkOrder, object]:
    plan = make_plan(job)
    store = create(job.store_path, plan.layout, plan.provenance)
    order = WorkOrder(job, plan.layout, "cpu", plan.method, 1, plan.fit.tangents, 1, str(HERE), store.fork())
    return order, store


def run_all(job: JobSpec, retries: int, workers: int = 2) -> list[ShardDone | ShardFailed]:
    order, _ = order_of(job)
    shards = list(range(order.layout.shards))
    results = RayPool(order, workers, retries).results(shards, lambda: False)
    return [result for result in results if isinstance(result, ShardDone | ShardFailed)]


def run_here(
    job: JobSpec,
    retries: int = 2,
    budgets: Budgets | None = None,
    report: Callable[[SweepProgress], None] = lambda progress: None,
    wish: threading.Event | None = None,
) -> tuple[Outcome, int]:
    """Run a job over the Ray that its module holds; the outcome, and how many workers were started."""
    pools = []

    @contextmanager
    def pool(order: WorkOrder, plan: object) -> Iterator[RayPool]:
        pools.append(RayPool(order, int(job.resources.workers), retries, budgets))
        yield pools[0]

    def wanting(progress: SweepProgress) -> None:
        report(progress)
        if wish is not None and wish.is_set():
            request_cancel(job.store_path)

    outcome = run_sweep(make_plan(job), pool, wanting)
    return outcome, int(next(pools[0]._names).partition("-")[2])


def events(job: JobSpec) -> list[dict]:
    return [json.loads(line) for line in events_path(job.store_path).read_text().splitlines()]


def bad_samples(job: JobSpec) -> set[int]:
    """The samples that the fragile generators fail on."""
    codes = sample_latents(job.samples, range(job.samples.count), 6)
    return {int(index) for index in np.flatnonzero(codes[:, 0] < -1.0)}


def arrays_of(path: Path) -> Mapping[str, np.ndarray]:
    return {name: array.values for name, array in open_sweep(path).dataset(only_good=False).load().variables.items()}


def assert_equals_a_clean_run(job: JobSpec, bad: set[int] = frozenset(), generator: str = "smooth") -> None:
    """The codes to the bit and the spectra of all samples but the bad ones, as of a serial run of a plain generator."""
    clean = job.model_copy(
        update={
            "store": f"{job.store_path}-clean",
            "generator": job.generator.model_copy(update={"name": f"toy_generators:{generator}"}),
        }
    )
    run_sweep(make_plan(clean), serial_pool)
    found, wanted = arrays_of(job.store_path), arrays_of(clean.store_path)
    good = np.array([sample not in bad for sample in range(job.samples.count)])
    np.testing.assert_array_equal(found["status"], np.where(good, 1, 2))
    np.testing.assert_array_equal(found["latent"], wanted["latent"])
    np.testing.assert_allclose(found["eigenvalue"][good], wanted["eigenvalue"][good], rtol=1e-5)
    np.testing.assert_allclose(found["trace"][good], wanted["trace"][good], rtol=1e-5)
