"""The plan of a sweep: from a job to its identity, shards, memory and time, before anything is started.

Invariants: planning does not touch the sweep's store; writing is timed on a small store in a temporary folder. All
problems with weights, memory, disk and the store's path are reported together, so a sweep that starts can also finish.
Related modules: the identity of a sweep (`identity`), checks of the store's location (`preflight`), latent codes
(`latents`), computing (`worker`), running and committing (`driving.run`).
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pullback.distances import Distance, ResidualDistance
from pullback.errors import (
    MemoryPlanError,
    PullbackError,
    SpecError,
    StoreError,
    exit_message,
    is_interrupt,
    with_message,
)
from pullback.generators import any_condition, class_indices, generate, load_for, reference_tensor
from pullback.generators.registry import resolve_device
from pullback.generators.user_code import unmoved
from pullback.generators.user_files import watching
from pullback.metric.cost import Estimate, estimate
from pullback.metric.memory import GIB, Fit
from pullback.metric.precision import as_precise_as
from pullback.metric.strategy import Strategy
from pullback.spec import JobSpec
from pullback.spec.arguments import job_problems
from pullback.spec.metric import Method
from pullback.store.location import Location
from pullback.store.repository import SweepStore
from pullback.store.schema import PENDING, Layout, stored_bytes
from pullback.sweep.identity import existing_store, of_store, provenance_of
from pullback.sweep.inputs import Inputs
from pullback.sweep.parts import distance_of, examine, metric_options, reading_of
from pullback.sweep.preflight import disk_problems, placed, store_place
from pullback.sweep.shard_timing import seconds_per_shard

_SHARD_BYTES = 256 * 2**20
_SHARDS_WANTED = 16
_SHARDS_A_WORKER = 4
_MOST_PER_SHARD = 64


@dataclass(frozen=True)
class Plan:
    """The plan of a sweep.

    Attributes:
        job: the job.
        layout: sizes and shards.
        provenance: the record that is stored with the results, including the sweep's identity.
        device: what each worker computes on: `cpu`, `cuda` (a GPU each, or a share of one), or one GPU as `cuda:1`.
        workers: number of workers.
        shared_by: workers that share one GPU; 1 on a CPU.
        strategy: how each worker computes metrics, decided from its share of the memory.
        folder: absolute path of the working directory in which the plan was made; relative paths of the job start
            there.
        inputs: the inputs that decide the numbers; each worker checks that it has loaded the same.
        seconds_per_code: measured with one worker on this machine, storing included; None if not measured.
        finished: samples that the store already has.
    """

    job: JobSpec
    layout: Layout
    provenance: dict[str, Any]
    device: str
    workers: int
    strategy: Strategy
    folder: str
    inputs: Inputs
    seconds_per_code: float | None
    finished: int = 0
    shared_by: int = 1

    @property
    def method(self) -> Method:
        """The method that computes the metrics, with `auto` resolved."""
        return self.strategy.method

    @property
    def fit(self) -> Fit:
        """Batch and tangents of each worker, and their memory."""
        return self.strategy.fit

    @property
    def place(self) -> Location:
        """The location of the store, whatever the current working directory."""
        return placed(self.job, self.folder)

    @property
    def sweep_id(self) -> str:
        """The sweep's identity: equal for jobs that give equal numbers."""
        return str(self.provenance["sweep_id"])

    @property
    def stored_bytes(self) -> int:
        """Size of the finished store, before compression."""
        return stored_bytes(self.layout)

    @property
    def seconds(self) -> float | None:
        """Expected duration of the remaining work, without the start; None if it was not measured."""
        if self.seconds_per_code is None:
            return None
        return (self.layout.samples - self.finished) * self.seconds_per_code / self.workers


@dataclass(frozen=True)
class SweepIdentity:
    """Identity and progress of a job's sweep: all that a machine needs in order to submit it elsewhere."""

    job: JobSpec
    sweep_id: str
    finished: int
    folder: str
    inputs: Inputs

    @property
    def place(self) -> Location:
        """The location of the store, whatever the current working directory."""
        return placed(self.job, self.folder)


def identify(job: JobSpec, source: str = "the job") -> SweepIdentity:
    """Find the identity of a job's sweep. Loads its generator and distance on the CPU, whatever device the job names.

    Raises:
        SpecError: as `make_plan`, with the problems that can be found without planning.
    """
    problems: list[str] = []
    folder = str(Path.cwd())
    place, cpu = store_place(job, problems), torch.device("cpu")
    generator, distance = _generator(job, cpu, problems), _distance(job, cpu, problems)
    inputs = None if generator is None or distance is None else _inputs(job, generator, distance, cpu, problems)
    if generator is None or inputs is None:
        raise SpecError(problems, source)
    provenance = provenance_of(job, generator, inputs, "")
    store = _existing(place, provenance, problems)
    if problems:
        raise SpecError(problems, source)
    if store is not None:
        provenance = of_store(provenance, store)
    finished = 0 if store is None else int((store.status() != PENDING).sum())
    return SweepIdentity(job, str(provenance["sweep_id"]), finished, folder, inputs)


def make_plan(
    job: JobSpec, *, measure: bool = False, source: str = "the job", workers_there: int | None = None
) -> Plan:
    """Plan a sweep.

    Args:
        job: the validated job.
        measure: also time a piece of the work, for `seconds_per_code`.
        source: the name of the job in an error.
        workers_there: number of workers that the cluster of this machine has room for; None without a cluster.

    Raises:
        SpecError: with every problem that would keep the sweep from being finished.
    """
    problems: list[str] = []
    folder = str(Path.cwd())
    place = store_place(job, problems)
    device = _device(job, problems)
    generator = _generator(job, device, problems)
    distance = _distance(job, device, problems)
    if generator is None:
        raise SpecError(problems, source)
    distance = None if distance is None else as_precise_as(distance, generator)
    workers = workers_there or _workers(job, device)
    layout = _layout(job, generator, workers, problems)
    workers = min(workers, layout.shards)
    if place is not None:
        problems += disk_problems(place, stored_bytes(layout))
    if distance is None or not _measurable(job, generator, distance, problems):
        raise SpecError(problems, source)
    inputs = _inputs(job, generator, distance, device, problems)
    if inputs is None:
        raise SpecError(problems, source)
    provenance = provenance_of(job, generator, inputs, "")
    store = _existing(place, provenance, problems)
    # In a cluster, only the workers of one machine share its memory.
    beside = workers if workers_there is None else min(workers, usable_cores())
    shared_by = 1
    if device.type == "cuda":
        beside = shared_by = 1 if workers_there is not None else -(-workers // _gpus(device))
    method = job.metric.method
    if store is not None:
        method = store.provenance.get("method", method)  # a machine with other memory may have resolved `auto`
    finished = 0
    if store is not None:  # its shards keep their size, even if the job's resources have changed
        layout, finished = store.layout, int((store.status() != PENDING).sum())
    threads = threads_of(workers) if measure and not problems else None
    with unmoved():
        found = _estimate(job, generator, distance, method, layout, beside, threads, problems)
    if problems or found is None:
        raise SpecError(problems, source)
    strategy, seconds = found.strategy, found.seconds_per_code
    if seconds is not None:
        many = min(layout.shard_size, layout.samples)
        seconds += seconds_per_shard(layout, seconds * many, job.resources.fsync) / many
    provenance |= {"method": strategy.method, "route": strategy.route, "note": strategy.note}
    provenance = provenance if store is None else of_store(provenance, store)
    if device.type == "cuda":  # free the memory used for measuring, so the worker on this GPU has all of it
        del generator, distance
        torch.cuda.empty_cache()
    return Plan(job, layout, provenance, str(device), workers, strategy, folder, inputs, seconds, finished, shared_by)


def shard_size(job: JobSpec, latent_dim: int, components: int, workers: int) -> int:
    """Return the number of samples in a shard: the job's, or few enough that every worker gets shards."""
    if job.resources.shard_size != "auto":
        return min(job.resources.shard_size, job.samples.count)
    per_code = 4 * components * latent_dim
    by_bytes = max(1, _SHARD_BYTES // per_code)
    by_count = max(1, -(-job.samples.count // max(_SHARDS_WANTED, _SHARDS_A_WORKER * workers)))
    return min(by_bytes, by_count, _MOST_PER_SHARD)


def _device(job: JobSpec, problems: list[str]) -> torch.device:
    """Return the job's device; the CPU if it does not exist, so that further problems are found."""
    try:
        return resolve_device(job.resources.device)
    except SpecError as error:
        problems += job_problems(error, "resources")
        return torch.device("cpu")


def _generator(job: JobSpec, device: torch.device, problems: list[str]) -> nn.Module | None:
    try:
        generator = load_for(job.generator, device)
    except PullbackError as error:
        problems += job_problems(error, "generator")
        return None
    try:
        class_indices(generator, job.generator.condition, range(1))
    except SpecError as error:
        problems += job_problems(error, "generator")
    return generator


def _distance(job: JobSpec, device: torch.device, problems: list[str]) -> Distance | None:
    try:
        return distance_of(job, device)
    except PullbackError as error:
        problems += job_problems(error, "distance")
        return None


def _measurable(job: JobSpec, generator: nn.Module, distance: Distance, problems: list[str]) -> bool:
    """Whether the distance accepts the generator's images. Derivatives are tried when the strategy is chosen."""
    z = torch.randn(1, int(generator.latent_dim), generator=torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    z = z.to(reference_tensor(generator))
    condition = any_condition(generator, 1, z.device)
    try:
        with unmoved(), watching(reading_of(generator, distance)), torch.no_grad():
            if isinstance(distance, ResidualDistance):
                distance.residual_at(generator, z, condition)
            else:
                images = generate(generator, z, condition)
                distance(images, images)
    except SystemExit as error:
        problems.append(f"generator: computing with {job.generator.name} failed: {exit_message(error)}")
        return False
    except Exception as error:  # whatever a user's generator raises
        if is_interrupt(error):
            raise KeyboardInterrupt from error
        first_line = str(with_message(error)).strip().partition("\n")[0]
        problems.append(
            f"distance: it cannot measure the images of {job.generator.name}: {first_line}"
            if isinstance(error, ValueError)
            else f"distance: the metric of {job.generator.name} cannot be computed: {first_line}"
        )
        return False
    return True


def _estimate(
    job: JobSpec,
    generator: nn.Module,
    distance: Distance,
    method: str,
    layout: Layout,
    shared_by: int,
    threads: int | None,
    problems: list[str],
) -> Estimate | None:
    """Choose how each worker computes the metrics, and estimate its memory and time; None if no way works.

    Args:
        job: the job.
        generator: on the worker's device.
        distance: on the worker's device.
        method: the job's method, or the one with which the sweep began.
        layout: sizes and shards.
        shared_by: workers that share the free memory.
        threads: CPU threads of a worker while its time is measured; None to measure no time.
        problems: the list to which problems are added.
    """
    resources = job.resources
    asked = resources.memory_gib
    held = 2 * 4 * layout.shard_size * layout.components * layout.latent_dim  # eigenvectors, and their joined copy
    held += 3 * 8 * layout.latent_dim**2  # the sum of the metrics, and its next summands
    try:
        return estimate(
            generator,
            distance,
            codes=layout.shard_size,
            components=layout.components,
            method=method,
            **metric_options(job),
            budget=None if asked == "auto" else int(asked * GIB),
            shared_by=shared_by,
            batch=None if resources.batch == "auto" else resources.batch,
            tangents=None if resources.tangents == "auto" else resources.tangents,
            held=held,
            timed=threads is not None,
            threads=threads,
            scale=job.samples.scale,
        )
    except MemoryPlanError as error:
        more = "" if asked == "auto" else " Or raise resources.memory_gib."
        problems.append(f"memory: {error}{more}")
    except PullbackError as error:
        problems += job_problems(error, "metric")
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


def _inputs(
    job: JobSpec, generator: nn.Module, distance: Distance, device: torch.device, problems: list[str]
) -> Inputs | None:
    try:
        return examine(job, generator, distance, device)
    except PullbackError as error:
        problems += job_problems(error, "generator")
        return None


def _existing(place: Location | None, provenance: dict[str, Any], problems: list[str]) -> SweepStore | None:
    try:
        return None if place is None else existing_store(place, provenance)
    except StoreError as error:
        problems.append(f"store: {error}")
        return None


def _workers(job: JobSpec, device: torch.device) -> int:
    asked = job.resources.workers
    if asked != "auto":
        return asked  # if there are fewer GPUs, workers share them
    return _gpus(device) if device.type == "cuda" else usable_cores()


def _gpus(device: torch.device) -> int:
    """Return the number of GPUs for the workers: 1 if the job names one, else all of this machine."""
    return 1 if device.index is not None else max(1, torch.cuda.device_count())


def usable_cores() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def threads_of(workers: int) -> int:
    """Return the CPU threads of each worker: an equal share of the cores, but no more than torch's limit here.

    `OMP_NUM_THREADS` or `torch.set_num_threads` sets the limit. Two processes that each use all cores wait for each
    other in every parallel loop, which can take a hundred times as long.
    """
    return max(1, min(torch.get_num_threads(), usable_cores() // workers))
