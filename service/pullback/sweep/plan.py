"""The plan of a sweep: from a job to its identity, shards, memory and time, before anything is started.

Invariants: nothing is written here; every problem of a job with its surroundings (weights, memory, disk, the store's
path) is found here, all at once, so that a sweep that starts can also end.
Leaves to others: which sweep a job is (`identity`), where its store can be (`place`), sampling (`latents`), computing
(`worker`), running and committing (`run`).
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pullback.distances import Distance, ResidualDistance, build_distance
from pullback.errors import MemoryPlanError, PullbackError, SpecError, StoreError
from pullback.generators import any_condition, class_indices, like, load_generator
from pullback.generators.zoo import resolve_device
from pullback.metric.jacobian import derivative_at, feature_map
from pullback.metric.memory import GIB, Fit, fit, usable_bytes
from pullback.metric.methods import DENSE, Method, Setting, choose, expected_products, product_at
from pullback.metric.precision import arithmetic, require
from pullback.spec import JobSpec
from pullback.store.location import Location, locate
from pullback.store.repository import SweepStore
from pullback.store.schema import PENDING, Layout, stored_bytes
from pullback.sweep.identity import existing_store, provenance_of
from pullback.sweep.place import disk_problems, store_place

_SHARD_BYTES = 256 * 2**20
_SHARDS_WANTED = 16
_SHARDS_A_WORKER = 4
_MOST_PER_SHARD = 64


@dataclass(frozen=True)
class Plan:
    """All that a sweep is going to be.

    Attributes:
        job: what was asked for.
        layout: sizes and shards.
        provenance: what is recorded with the results, the sweep's identity among it.
        device: `cpu` or `cuda`, what each worker computes on.
        workers: how many there are.
        method: how metrics are computed, `auto` resolved.
        fit: batch and tangents of each worker, and their memory.
        seconds_per_code: measured with one worker on this machine; None where it was not measured.
        finished: samples that the store has already.
    """

    job: JobSpec
    layout: Layout
    provenance: dict[str, Any]
    device: str
    workers: int
    method: Method
    fit: Fit
    seconds_per_code: float | None
    finished: int = 0

    @property
    def place(self) -> Location:
        """Where the store is or will be."""
        return locate(self.job.store_path)

    @property
    def sweep_id(self) -> str:
        """The sweep's identity: equal for equal numbers, whatever computes them."""
        return str(self.provenance["sweep_id"])

    @property
    def stored_bytes(self) -> int:
        """Size of the finished store, before compression."""
        return stored_bytes(self.layout)

    @property
    def seconds(self) -> float | None:
        """Expected duration of what is not finished yet; None where it was not measured."""
        if self.seconds_per_code is None:
            return None
        return (self.layout.samples - self.finished) * self.seconds_per_code / self.workers


@dataclass(frozen=True)
class Identified:
    """Which sweep a job is, and how far; what the machine needs to know that has others plan and compute it."""

    job: JobSpec
    sweep_id: str
    finished: int

    @property
    def place(self) -> Location:
        """Where the store is or will be."""
        return locate(self.job.store_path)


def identify(job: JobSpec, source: str = "the job") -> Identified:
    """Find out which sweep a job is. Needs its generator and distance, but none of the devices that it asks for.

    Raises:
        SpecError: as `make_plan`, with what can be told without planning.
    """
    problems: list[str] = []
    place, cpu = store_place(job, problems), torch.device("cpu")
    generator, distance = _generator(job, cpu, problems), _distance(job, cpu, problems)
    if generator is None or distance is None:
        raise SpecError(problems, source)
    provenance = provenance_of(job, generator, distance, "")
    store = _existing(place, provenance, problems)
    if problems:
        raise SpecError(problems, source)
    finished = 0 if store is None else int((store.status() != PENDING).sum())
    return Identified(job, str(provenance["sweep_id"]), finished)


def make_plan(
    job: JobSpec, *, measure: bool = False, source: str = "the job", workers_there: int | None = None
) -> Plan:
    """Plan a sweep.

    Args:
        job: the validated job.
        measure: also time a piece of the work, for `seconds_per_code`.
        source: what the job is called in an error.
        workers_there: how many workers a cluster has room for, of whose machines this is one.

    Raises:
        SpecError: with every problem that would keep the sweep from being finished.
    """
    problems: list[str] = []
    place = store_place(job, problems)
    device = _device(job, problems)
    generator = _generator(job, device, problems)
    distance = _distance(job, device, problems)
    if generator is None:
        raise SpecError(problems, source)
    workers = workers_there or _workers(job, device, problems)
    layout = _layout(job, generator, workers, problems)
    workers = min(workers, layout.shards)
    if place is not None:
        problems += disk_problems(place, stored_bytes(layout))
    if distance is None or not _measurable(job, generator, distance, device, problems):
        raise SpecError(problems, source)
    beside = workers if workers_there is None else min(workers, usable_cores())  # of a cluster's, those of a machine
    chosen = _fit(job, generator, distance, layout, device, beside, problems)
    method = _method(job, distance, device, layout, chosen, problems)
    provenance = provenance_of(job, generator, distance, method or "")
    store = _existing(place, provenance, problems)
    if problems or chosen is None or method is None:
        raise SpecError(problems, source)
    finished = 0
    if store is not None:  # its shards are what they are, whatever the job's resources say by now
        layout, finished = store.layout, int((store.status() != PENDING).sum())
        method = store.provenance["method"]  # another machine's memory may have decided otherwise
    seconds = _time_per_code(generator, distance, method, layout, chosen, device) if measure else None
    if device.type == "cuda":  # what was tried here must not be missing to the worker that gets this GPU
        del generator, distance
        torch.cuda.empty_cache()
    return Plan(job, layout, provenance, device.type, workers, method, chosen, seconds, finished)


def load_parts(job: JobSpec, device: str | torch.device) -> tuple[nn.Module, Distance]:
    """The job's generator and distance on a device.

    Raises:
        PullbackError: either cannot be loaded.
    """
    generator = load_generator(job.generator.name, weights=job.generator.weights, device=device)
    return generator, build_distance(job.distance, device)


def shard_size(job: JobSpec, latent_dim: int, components: int, workers: int) -> int:
    """Codes in a shard: as the job says, else enough shards for all workers, retries and progress, none too large."""
    if job.resources.shard_size != "auto":
        return min(job.resources.shard_size, job.samples.count)
    per_code = 4 * components * latent_dim
    by_bytes = max(1, _SHARD_BYTES // per_code)
    by_count = max(1, -(-job.samples.count // max(_SHARDS_WANTED, _SHARDS_A_WORKER * workers)))
    return min(by_bytes, by_count, _MOST_PER_SHARD)


def _device(job: JobSpec, problems: list[str]) -> torch.device:
    """The job's device; the CPU, to go on looking for problems, where there is no such device."""
    try:
        return resolve_device(job.resources.device)
    except SpecError as error:
        problems += error.problems
        return torch.device("cpu")


def _generator(job: JobSpec, device: torch.device, problems: list[str]) -> nn.Module | None:
    try:
        generator = load_generator(job.generator.name, weights=job.generator.weights, device=device)
    except PullbackError as error:
        problems += _as_problems(error, "generator")
        return None
    try:
        class_indices(generator, job.generator.condition, range(1))
    except SpecError as error:
        problems += error.problems
    return generator


def _distance(job: JobSpec, device: torch.device, problems: list[str]) -> Distance | None:
    try:
        return build_distance(job.distance, device)
    except PullbackError as error:
        problems += _as_problems(error, "distance")
        return None


def _measurable(
    job: JobSpec, generator: nn.Module, distance: Distance, device: torch.device, problems: list[str]
) -> bool:
    """Whether the distance takes the generator's images, and both can be differentiated in forward mode."""
    method: Method = "gauss_newton" if isinstance(distance, ResidualDistance) else "backprop"
    try:
        _vectors(generator, distance, method, device, batch=1, vectors=1)()
    except Exception as error:  # whatever a user's generator raises
        told = str(error).strip().partition("\n")[0]
        problems.append(
            f"distance: the metric of {job.generator.name} cannot be computed: {told} "
            "(torch must be able to differentiate the generator forwards and backwards)"
            if not isinstance(error, ValueError)
            else f"distance: it cannot measure the images of {job.generator.name}: {told}"
        )
        return False
    return True


def _vectors(
    generator: nn.Module, distance: Distance, method: Method, device: torch.device, batch: int, vectors: int
) -> Callable[[], Any]:
    """A piece of a worker's work at random codes: vectors pushed forward for a batch, or multiplied at one code."""
    n = int(generator.latent_dim)  # type: ignore[arg-type]
    condition = any_condition(generator, batch, device)
    drawn = torch.randn(batch + vectors, n, generator=torch.Generator().manual_seed(0)).to(like(generator))
    z, directions = drawn[:batch], drawn[batch:]
    if method == "gauss_newton":
        assert isinstance(distance, ResidualDistance)
        push = derivative_at(feature_map(generator, distance, condition), z)
        return lambda: push(directions[:, None].expand(-1, batch, -1))
    own = None if condition is None else condition[:1]
    product = product_at(generator, distance, z[0], own, Setting(method), 1 if method == "backprop" else vectors)
    return lambda: product(directions)


def _method(
    job: JobSpec,
    distance: Distance,
    device: torch.device,
    layout: Layout,
    chosen: Fit | None,
    problems: list[str],
) -> Method | None:
    """The job's method, `auto` resolved; None where it cannot be."""
    try:
        require(job.metric.precision, device)
        whole = chosen is None or chosen.whole
        return choose(job.metric.method, distance, layout.latent_dim, layout.components, whole)
    except PullbackError as error:
        problems += _as_problems(error, "metric")
        return None


def _layout(job: JobSpec, generator: nn.Module, workers: int, problems: list[str]) -> Layout:
    n = int(generator.latent_dim)  # type: ignore[arg-type]
    kept = n if job.metric.components == "all" else job.metric.components
    if kept > n:
        problems.append(
            f"metric.components: must be at most {n}, the latent size of {job.generator.name}, not {kept}; "
            f"the nearest valid value is {n}"
        )
        kept = n
    return Layout(job.samples.count, n, kept, shard_size(job, n, kept, workers))


def _existing(place: Location | None, provenance: dict[str, Any], problems: list[str]) -> SweepStore | None:
    try:
        return None if place is None else existing_store(place, provenance)
    except StoreError as error:
        problems.append(f"store: {error}")
        return None


def _as_problems(error: PullbackError, path: str) -> list[str]:
    return error.problems if isinstance(error, SpecError) else [f"{path}: {error}"]


def _workers(job: JobSpec, device: torch.device, problems: list[str]) -> int:
    here = torch.cuda.device_count() if device.type == "cuda" else usable_cores()
    asked = job.resources.workers
    if asked == "auto":
        return here
    if device.type == "cuda" and asked > here:
        problems.append(
            f"resources.workers: each worker holds a GPU and there are {here}; the nearest valid value is {here}"
        )
    return asked


def usable_cores() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def threads_of(workers: int) -> int:
    """CPU threads of each of so many workers: its share of the cores, and no more than torch is let use here.

    The latter is `OMP_NUM_THREADS` or `torch.set_num_threads`. Two processes that each use all cores wait for each
    other in every parallel loop, which can take a hundred times as long.
    """
    return max(1, min(torch.get_num_threads(), usable_cores() // workers))


def _fit(
    job: JobSpec,
    generator: nn.Module,
    distance: Distance,
    layout: Layout,
    device: torch.device,
    workers: int,
    problems: list[str],
) -> Fit | None:
    shared_by = 1 if device.type == "cuda" else workers  # CPU workers share the machine's memory, GPUs are one each
    resources = job.resources
    asked = resources.memory_gib
    budget = usable_bytes(device) // shared_by if asked == "auto" else int(asked * GIB)
    try:
        return fit(
            generator,
            distance,
            codes=layout.shard_size,
            budget=budget,
            batch=None if resources.batch == "auto" else resources.batch,
            tangents=None if resources.tangents == "auto" else resources.tangents,
            held=2 * 4 * layout.shard_size * layout.components * layout.latent_dim,  # eigenvectors, and joined
        )
    except MemoryPlanError as error:
        more = "" if asked == "auto" else " Or raise resources.memory_gib."
        problems.append(f"memory: {error}{more}")
        return None


def _time_per_code(
    generator: nn.Module, distance: Distance, method: Method, layout: Layout, chosen: Fit, device: torch.device
) -> float:
    """Seconds for one code, from a few vectors taken through the networks as a worker would."""
    batch = chosen.batch if method == "gauss_newton" else 1
    few = min(chosen.tangents, layout.latent_dim) if method != "backprop" else 1
    with one_thread(device), arithmetic():
        work = _vectors(generator, distance, method, device, batch, few)
        durations = []
        for _ in range(2):  # the first one warms up
            began = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            durations.append(time.perf_counter() - began)
        eigen = _eigen_seconds(layout.latent_dim) if method in DENSE else 0.0
    return durations[-1] * expected_products(method, layout.latent_dim, layout.components) / few / batch + eigen


def _eigen_seconds(n: int) -> float:
    """What the eigen-decomposition of one metric takes: n³, from the time of a smaller one."""
    tried = min(n, 256)
    drawn = torch.randn(tried, tried, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix = drawn + drawn.T
    durations = []
    for _ in range(2):
        began = time.perf_counter()
        torch.linalg.eigh(matrix)
        durations.append(time.perf_counter() - began)
    return durations[-1] * (n / tried) ** 3


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """Within it, torch uses one CPU thread, as each of several workers on one machine does."""
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
