"""The plan of a sweep: from a job to its identity, shards, memory and time, before anything is started.

Invariants: nothing is written here; every problem of a job with its surroundings (weights, memory, disk, the store's
path) is found here, all at once, so that a sweep that starts can also end.
Leaves to others: sampling (`latents`), computing (`worker`), running and committing (`run`).
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pullback.distances import ResidualDistance, build_distance
from pullback.errors import MemoryPlanError, PullbackError, SpecError, StoreError
from pullback.generators import any_condition, class_indices, load_generator
from pullback.generators.zoo import resolve_device
from pullback.metric.jacobian import feature_map, jacobian
from pullback.metric.memory import GIB, Fit, fit, free_bytes
from pullback.spec import JobSpec
from pullback.store.folders import local_path
from pullback.store.schema import Layout, stored_bytes

FORMAT = 1
"""Version of the store's meaning; part of every sweep's identity."""
_SHARD_BYTES = 256 * 2**20
_SHARDS_WANTED = 16
_MOST_PER_SHARD = 64
_MEMORY_SHARE = 0.7
_CONVENTIONS = {
    "metric": "H = d²/dz² D²(G(z0), G(z)) at z = z0, with no factor of 1/2; computed as 2 JᵀJ",
    "distance": "D² is the squared distance; LPIPS itself is a D² and is not squared again",
    "images": "generators give images in [0, 1]",
}


@dataclass(frozen=True)
class Plan:
    """All that a sweep is going to be.

    Attributes:
        job: what was asked for.
        layout: sizes and shards.
        provenance: what is recorded with the results, the sweep's identity among it.
        device: `cpu` or `cuda`, what each worker computes on.
        workers: how many there are.
        fit: batch and tangents of each worker, and their memory.
        seconds_per_code: measured with one worker on this machine; None where it was not measured.
    """

    job: JobSpec
    layout: Layout
    provenance: dict[str, Any]
    device: str
    workers: int
    fit: Fit
    seconds_per_code: float | None

    @property
    def sweep_id(self) -> str:
        """The sweep's identity: equal for equal numbers, whatever computes them."""
        return str(self.provenance["sweep_id"])

    @property
    def stored_bytes(self) -> int:
        """Size of the finished store, before compression."""
        return stored_bytes(self.layout)

    def seconds(self, codes: int) -> float | None:
        """Expected duration for that many codes."""
        return None if self.seconds_per_code is None else codes * self.seconds_per_code / self.workers


def make_plan(job: JobSpec, *, measure: bool = False, source: str = "the job") -> Plan:
    """Plan a sweep.

    Args:
        job: the validated job.
        measure: also time a piece of the work, for `seconds_per_code`.
        source: what the job is called in an error.

    Raises:
        SpecError: with every problem that would keep the sweep from being finished.
    """
    problems: list[str] = []
    store = _store_folder(job, problems)
    parts = _load(job, problems)
    if parts is None:
        raise SpecError(problems, source)
    generator, distance, device = parts
    n = int(generator.latent_dim)  # type: ignore[arg-type]
    kept = n if job.metric.components == "all" else job.metric.components
    if kept > n:
        problems.append(
            f"metric.components: must be at most {n}, the latent size of {job.generator.name}, not {kept}; "
            f"the nearest valid value is {n}"
        )
    layout = Layout(job.samples.count, n, min(kept, n), shard_size(job, n, min(kept, n)))
    workers = _workers(job, device, layout.shards, problems)
    chosen = _fit(job, generator, distance, layout, device, workers, problems)
    if store is not None:
        problems += _disk_problems(store, stored_bytes(layout))
    if problems or chosen is None:
        raise SpecError(problems, source)
    seconds = _time_per_code(generator, distance, chosen, device) if measure else None
    provenance = _provenance(job, generator, distance, layout)
    return Plan(job, layout, provenance, device.type, workers, chosen, seconds)


def load_parts(job: JobSpec, device: str | torch.device) -> tuple[nn.Module, ResidualDistance]:
    """The job's generator and distance on a device.

    Raises:
        PullbackError: either cannot be loaded.
    """
    generator = load_generator(job.generator.name, weights=job.generator.weights, device=device)
    return generator, build_distance(job.distance, device)


def shard_size(job: JobSpec, latent_dim: int, components: int) -> int:
    """Codes in a shard: as the job says, else enough shards for retries and progress to be cheap, none too large."""
    if job.resources.shard_size != "auto":
        return min(job.resources.shard_size, job.samples.count)
    per_code = 4 * components * latent_dim
    by_bytes = max(1, _SHARD_BYTES // per_code)
    by_count = max(1, -(-job.samples.count // _SHARDS_WANTED))
    return min(by_bytes, by_count, _MOST_PER_SHARD)


def _load(job: JobSpec, problems: list[str]) -> tuple[nn.Module, ResidualDistance, torch.device] | None:
    """Generator, distance and device, or None where any of them is a problem; all are tried."""
    device = torch.device("cpu")
    try:
        device = resolve_device(job.resources.device)
    except SpecError as error:
        problems += error.problems
    generator = distance = None
    try:
        generator = load_generator(job.generator.name, weights=job.generator.weights, device=device)
        class_indices(generator, job.generator.condition, range(job.samples.count)[:1])
    except PullbackError as error:
        problems += _as_problems(error, "generator")
    try:
        distance = build_distance(job.distance, device)
    except PullbackError as error:
        problems += _as_problems(error, "distance")
    if generator is None or distance is None:
        return None
    try:
        n = int(generator.latent_dim)  # type: ignore[arg-type]
        feature_map(generator, distance, any_condition(generator, 1, device))(torch.zeros(1, n, device=device))
    except (ValueError, RuntimeError) as error:
        problems.append(f"distance: it cannot measure the images of {job.generator.name}: {error}")
        return None
    return generator, distance, device


def _as_problems(error: PullbackError, path: str) -> list[str]:
    return error.problems if isinstance(error, SpecError) else [f"{path}: {error}"]


def _workers(job: JobSpec, device: torch.device, shards: int, problems: list[str]) -> int:
    here = torch.cuda.device_count() if device.type == "cuda" else (_usable_cores())
    asked = job.resources.workers
    if asked == "auto":
        return max(1, min(here, shards))
    if device.type == "cuda" and asked > here:
        problems.append(
            f"resources.workers: each worker holds a GPU and there are {here}; the nearest valid value is {here}"
        )
    return asked


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def _fit(
    job: JobSpec,
    generator: nn.Module,
    distance: ResidualDistance,
    layout: Layout,
    device: torch.device,
    workers: int,
    problems: list[str],
) -> Fit | None:
    shared_by = 1 if device.type == "cuda" else workers  # CPU workers share the machine's memory, GPUs are one each
    resources = job.resources
    if resources.memory_gib == "auto":
        budget = int(_MEMORY_SHARE * free_bytes(device) / shared_by)
    else:
        budget = int(resources.memory_gib * GIB)
    try:
        return fit(
            generator,
            distance,
            codes=layout.shard_size,
            budget=budget,
            batch=None if resources.batch == "auto" else resources.batch,
            tangents=None if resources.tangents == "auto" else resources.tangents,
        )
    except MemoryPlanError as error:
        problems.append(f"memory: {error}")
        return None


def _store_folder(job: JobSpec, problems: list[str]) -> Path | None:
    """Where the store is or will be; None where none can be."""
    try:
        store = local_path(job.store if job.store is not None else job.store_path)
    except StoreError as error:
        problems.append(f"store: {error}")
        return None
    existing = next(folder for folder in (store, *store.absolute().parents) if folder.exists())
    if not existing.is_dir():
        problems.append(f"store: {existing} is a file; choose another folder")
        return None
    if not os.access(existing, os.W_OK | os.X_OK):
        problems.append(f"store: the folder {existing} may not be written to; choose another one")
    return store


def _disk_problems(store: Path, need: int) -> list[str]:
    if store.exists():
        return []
    existing = next(folder for folder in store.absolute().parents if folder.exists())
    free = shutil.disk_usage(existing).free
    if need <= free:
        return []
    return [
        f"store: it will have up to {need / GIB:.3g} GiB and {existing} has {free / GIB:.3g} GiB free; "
        "lower samples.count or metric.components, or choose another folder"
    ]


def _time_per_code(generator: nn.Module, distance: ResidualDistance, chosen: Fit, device: torch.device) -> float:
    """Seconds for one code, from a few tangents pushed through for one batch, as a worker would."""
    n = int(generator.latent_dim)  # type: ignore[arg-type]
    few = min(chosen.tangents, n)
    features = feature_map(generator, distance, any_condition(generator, chosen.batch, device))
    z = torch.randn(chosen.batch, n, generator=torch.Generator().manual_seed(0)).to(device)

    def piece(codes: torch.Tensor) -> torch.Tensor:
        return features(torch.cat([codes, z[:, few:]], dim=1))

    with one_thread(device):
        durations = []
        for _ in range(2):  # the first one warms up
            began = time.perf_counter()
            jacobian(piece, z[:, :few], few)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            durations.append(time.perf_counter() - began)
    return durations[-1] * n / few / chosen.batch


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


def _provenance(job: JobSpec, generator: nn.Module, distance: ResidualDistance, layout: Layout) -> dict[str, Any]:
    weights = {**dict(getattr(generator, "weights", {})), **distance.weights}
    spec = job.canonical()
    identity = {"format": FORMAT, "spec": _without_paths(spec), "weights": weights}
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return {
        "format": FORMAT,
        "name": job.name,
        "sweep_id": hashlib.sha256(text.encode()).hexdigest()[:16],
        "identity": identity,
        "generator": job.generator.name,
        "distance": job.distance.label,
        "classes": list(getattr(generator, "classes", ())),
        "spec": spec,
        "weights": weights,
        "conventions": _CONVENTIONS,
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("pullback", "torch", "numpy", "zarr", "icechunk")},
        },
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _without_paths(spec: dict[str, Any]) -> dict[str, Any]:
    """Where a weight file lies does not decide the numbers; its hash does, and that stands beside."""
    generator = {**spec["generator"], "weights": None}
    if Path(generator["name"]).is_file():
        generator["name"] = Path(generator["name"]).name
    return {**spec, "generator": generator}
