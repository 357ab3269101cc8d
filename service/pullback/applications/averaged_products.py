"""Products of the mean metric H̄ with blocks of vectors, as means of the samples' products H_i V, without any matrix.

Codes are multiplied in batches of `BATCH`, in this process or in several. A batch is summed where it is computed, and
the sums are added in the order of the batches, so the number of processes changes no result.

`Averaged` records every finished block and the partial sum of the current one in a checkpoint. A search that only
depends on its products, such as `metric.krylov.top_eigenpairs`, therefore resumes: it runs again from its start, and
reads recorded products until it comes to the first one that is missing.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pullback.applications.protocol import Progress, Subject
from pullback.applications.worker_processes import process_count, worker_processes
from pullback.distances import Distance
from pullback.errors import PullbackError
from pullback.generators.base import class_indices, reference_tensor
from pullback.metric.allocation import is_out_of_memory
from pullback.metric.contents import one_call
from pullback.metric.methods import Setting, product_at
from pullback.metric.precision import arithmetic, as_precise_as, in_double, in_single
from pullback.metric.strategy import Request, decide
from pullback.spec import GeneratorSpec, JobSpec
from pullback.store.reader import open_sweep

Floats = npt.NDArray[np.float64]

BATCH = 8
"""Codes of one task. It decides the order of summation, so it is the same on every machine."""
_SAVED_EVERY = 5.0
"""Seconds between two checkpoints within a block."""


class Networks:
    """The generator and the distance of an application, prepared for products at the precision of its sweep.

    Args:
        subject: the input of an application with a sweep.
        kept: number of wanted eigenpairs, for the choice of the chunk of vectors.

    Raises:
        PullbackError: the networks cannot be loaded, or no product works.
    """

    def __init__(self, subject: Subject, kept: int) -> None:
        assert subject.sweep is not None
        job = JobSpec.model_validate({"name": "application", **subject.sweep.provenance["spec"]})
        generator = in_single(subject.generator)
        distance = as_precise_as(subject.distance, generator)
        metric = job.metric
        if metric.precision == "float64":
            generator, distance = in_double(generator), in_double(distance)
        method = (
            "finite_difference" if subject.sweep.provenance.get("method") == "finite_difference" else "block_krylov"
        )
        setting = Setting("gauss_newton", metric.precision, metric.deterministic, relative_step=metric.relative_step)
        self.generator: nn.Module = generator
        self.distance: Distance = distance
        self._condition = job.generator.condition
        with arithmetic(metric.precision, metric.deterministic):
            strategy = decide(generator, distance, Request(method, kept, 1, setting))
        self._setting = Setting(
            strategy.method,
            metric.precision,
            metric.deterministic,
            relative_step=metric.relative_step,
            route=strategy.route,
        )
        self._tangents = strategy.fit.tangents

    @property
    def latent_dim(self) -> int:
        """n, the size of a latent code."""
        return int(self.generator.latent_dim)  # type: ignore[arg-type]

    def multiply(self, task: "Task") -> "Products":
        """Return the sum of H_i V over a batch of codes, and the rates v_aᵀ H_i v_a.

        If the device has less memory than planned, smaller chunks of vectors are multiplied at once.

        Raises:
            PullbackError: a product is not finite.
        """
        like = reference_tensor(self.generator)
        classes = class_indices(self.generator, self._condition, task.numbers)
        vectors = torch.as_tensor(task.vectors)
        total, rates = torch.zeros_like(vectors), np.empty((len(task.numbers), len(vectors)))
        with arithmetic(self._setting.precision, self._setting.deterministic), one_call():
            for place, (number, code) in enumerate(zip(task.numbers, task.codes, strict=True)):
                own = None if classes is None else classes[place].to(like.device)
                images = self._images(torch.as_tensor(code).to(like), own, vectors.to(like))
                if not bool(images.isfinite().all()):
                    raise PullbackError(
                        f"a product with the metric of sample {number} is not finite. The blocks that are finished are "
                        "kept. Leave the sample out by computing the sweep again on this machine, or use float64"
                    )
                total += images
                rates[place] = (images * vectors).sum(dim=1).numpy()
        return Products(total.numpy(), rates)

    def _images(self, code: Tensor, condition: Tensor | None, vectors: Tensor) -> Tensor:
        while True:
            try:
                product = product_at(self.generator, self.distance, code, condition, self._setting, self._tangents)
                return product(vectors).detach().to("cpu", torch.float64)
            except Exception as error:
                if isinstance(error, PullbackError) or not is_out_of_memory(error) or self._tangents == 1:
                    raise
            # Outside the `except` block: its traceback keeps alive the tensors that filled the memory.
            self._tangents //= 2
            if code.device.type == "cuda":
                torch.cuda.empty_cache()


@dataclass(frozen=True, eq=False)
class Task:
    """A batch of codes and the vectors that their metrics multiply.

    Attributes:
        numbers: of the samples, `[batch]`.
        codes: `[batch, n]`.
        vectors: V, `[p, n]`.
    """

    numbers: Sequence[int]
    codes: npt.NDArray[Any]
    vectors: Floats


@dataclass(frozen=True, eq=False)
class Products:
    """Products of a batch of metrics.

    Attributes:
        total: Σ_i H_i V, `[p, n]`.
        rates: v_aᵀ H_i v_a, `[batch, p]`.
    """

    total: Floats
    rates: Floats


Spread = Callable[[Iterable[Task]], Iterator[Products]]
"""Computes tasks, and yields their products in order."""


@contextmanager
def spread(subject: Subject, kept: int, networks: Networks) -> Iterator[Spread]:
    """Yield a function that computes tasks: in this process, or in as many as the job's `resources.workers` asks for.

    Args:
        subject: the input of an application with a sweep.
        kept: number of wanted eigenpairs.
        networks: for tasks in this process.

    Raises:
        PullbackError: a process died.
    """
    if process_count(subject) == 1:
        yield lambda tasks: map(networks.multiply, tasks)
        return
    assert subject.sweep is not None
    given = (str(subject.sweep.location), subject.sweep.snapshot, subject.spec, kept)
    with worker_processes(subject, start_worker, given) as pool:

        def compute(tasks: Iterable[Task]) -> Iterator[Products]:
            try:
                yield from pool.map(multiply_here, tasks)
            except BrokenProcessPool as error:
                raise PullbackError(
                    "a process that multiplied vectors died, perhaps because memory ran out. Finished products are "
                    "kept. Run the job again with fewer `resources.workers`"
                ) from error

        yield compute


_networks: list[Networks] = []
"""The networks of a worker process."""


def start_worker(device: str, place: str, snapshot: str, spec: GeneratorSpec | None, kept: int) -> None:
    """Load the networks of a worker process."""
    _networks[:] = [Networks(Subject(open_sweep(place, snapshot), spec, device), kept)]


def multiply_here(task: Task) -> Products:
    """Compute a task with the networks of this worker process."""
    return _networks[0].multiply(task)


@dataclass
class Averaged:
    """The map V -> H̄V for the mean metric H̄ of many codes, with a record of all products in a checkpoint.

    Attributes:
        numbers: of the samples, `[N]`.
        codes: `[N, n]`.
        compute: computes tasks.
        progress: called after each batch.
        expected: number of blocks that are expected, for the progress.
        vectors: the blocks of vectors that were multiplied, each `[p, n]`.
        images: their products with H̄.
        resumed: number of products H_i v that were read from the checkpoint.
    """

    numbers: npt.NDArray[np.int64]
    codes: npt.NDArray[Any]
    compute: Spread
    progress: Progress
    expected: int
    vectors: list[Floats] = field(default_factory=list)
    images: list[Floats] = field(default_factory=list)
    resumed: int = 0

    def __post_init__(self) -> None:
        self._asked = 0
        self._partial: tuple[Floats, Floats, Floats] | None = None
        self._saved = time.monotonic()
        state = self.progress.checkpoint.load()
        if state is None or state["numbers"].tolist() != self.numbers.tolist():
            return
        if len(state["blocks"]):
            starts = np.cumsum(state["blocks"])[:-1]
            self.vectors = list(np.split(state["vectors"], starts))
            self.images = list(np.split(state["images"], starts))
        if len(state["rates"]):
            self._partial = state["current"], state["total"], state["rates"]

    def __call__(self, vectors: Tensor) -> Tensor:
        """Return H̄V `[p, n]` in float64 for V `[p, n]`."""
        return torch.as_tensor(self.multiply(vectors.to("cpu", torch.float64).numpy())[0])

    def multiply(self, vectors: Floats, record: bool = True) -> tuple[Floats, Floats]:
        """Return H̄V `[p, n]`, and the rates v_aᵀ H_i v_a `[N, p]`, which are empty for a block that was recorded.

        Args:
            vectors: V, `[p, n]`.
            record: False for a block after which nothing is multiplied.
        """
        if record and self._asked < len(self.vectors):
            known = self.vectors[self._asked]
            if known.shape == vectors.shape and np.allclose(known, vectors, rtol=0, atol=1e-9):
                self._asked += 1
                self.resumed += known.shape[0] * len(self.numbers)
                return self.images[self._asked - 1], np.empty((0, len(vectors)))
            # Computed with another version of torch, say: what follows is none of this search's.
            del self.vectors[self._asked :], self.images[self._asked :]
            self._partial = None
        total, rates = self._sum(vectors)
        image = total / len(self.numbers)
        self._partial = None
        if record:
            self.vectors.append(vectors)
            self.images.append(image)
            self._asked += 1
            self._save()
        return image, rates

    def _sum(self, vectors: Floats) -> tuple[Floats, Floats]:
        """Σ_i H_i V and the rates, from where an interrupted run had come to."""
        total, rates = np.zeros_like(vectors), np.empty((len(self.numbers), len(vectors)))
        done = 0
        if self._partial is not None:
            current, sums, known = self._partial
            if current.shape == vectors.shape and np.allclose(current, vectors, rtol=0, atol=1e-9):
                total, done = sums.copy(), len(known)
                rates[:done] = known
                self.resumed += len(vectors) * done
        tasks = [
            Task(
                self.numbers[start : start + BATCH].tolist(),
                self.codes[start : start + BATCH],
                vectors,
            )
            for start in range(done, len(self.numbers), BATCH)
        ]
        blocks = max(self.expected, self._asked + 1)
        for products in self.compute(tasks):
            total += products.total
            rates[done : done + len(products.rates)] = products.rates
            done += len(products.rates)
            self._partial = vectors, total, rates[:done]
            if time.monotonic() - self._saved > _SAVED_EVERY:
                self._save()
            try:
                self.progress(self._asked * len(self.numbers) + done, blocks * len(self.numbers))
            except BaseException:  # the run is stopped here: what is done since the last checkpoint is kept too
                self._save()
                raise
        return total, rates

    def _save(self) -> None:
        """Replace the checkpoint by what is known now."""
        nothing = np.empty((0, self.codes.shape[1]))
        current, total, rates = self._partial or (nothing, nothing, np.empty((0, 0)))
        self.progress.checkpoint.save(
            numbers=self.numbers,
            blocks=np.array([len(block) for block in self.vectors], dtype=np.int64),
            vectors=np.concatenate([*self.vectors, nothing]),
            images=np.concatenate([*self.images, nothing]),
            current=current,
            total=total,
            rates=rates,
        )
        self._saved = time.monotonic()
