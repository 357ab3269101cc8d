"""What one process measures: the seconds of a method or of the floor, a peak of memory, errors against float64.

`python -m pullback.bench.child` answers the requests of `metric`. Our methods run as a worker of a sweep runs them:
`metric_at`, certificate and eigenpairs included, with freed memory kept. The baselines (the paper's method `backprop`,
and `arpack`) and the floor run as a plain script would run them.
Leaves to others: which process measures what, in which order, and what is made of the numbers (`metric`).
"""

import math
import platform
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from pullback.bench.baselines import BASELINES, arpack_pairs
from pullback.bench.machine import device_name, peak_memory
from pullback.bench.processes import serve
from pullback.distances import Distance, ResidualDistance, load_distance
from pullback.generators import any_condition, like, load_generator
from pullback.metric import PullbackMetric, metric_at
from pullback.metric.backprop import backprop_metric
from pullback.metric.memory import LivePeak, codes_together, fit, is_out_of_memory, keep_freed_memory, usable_bytes
from pullback.metric.methods import DENSE, choose
from pullback.metric.precision import Precision, arithmetic, in_double, relative_error, require
from pullback.metric.products import squared_map

BATCHES = (1, 2, 4, 8, 16, 25, 32, 50, 64, 100, 128)
"""Batch sizes tried for the floor."""
ENOUGH = 2.0
"""Seconds of forward passes that tell the floor; more passes are extrapolated."""
_REFERENCE_POINTS = 2
"""Codes that a baseline is timed at in one run."""
_LONG = 20.0
"""Seconds after which one code of a baseline is enough."""
_SETTLED = 2.0
"""Seconds from which on a run on a GPU is long enough that getting its memory again does not show."""


class Measurements:
    """A generator and a distance, and everything that can be measured of them; a process uses one of it.

    Args:
        generator: as `load_generator` takes it.
        distance: the arguments of `load_distance`.
        device: a torch device.
        threads: CPU threads; None leaves torch its own choice.
        points: latent codes, N(0, I), seeded.
        components: eigenpairs of each metric; None for all.
        tf32: whether the floor and the baselines may use TF32.
        keep_memory: whether this process keeps the memory that it frees, as a worker does.

    Raises:
        PullbackError: the generator or the distance cannot be loaded.
    """

    def __init__(
        self,
        generator: str,
        distance: dict[str, Any],
        device: str,
        threads: int | None,
        points: int,
        components: int | None,
        tf32: bool,
        keep_memory: bool,
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        if keep_memory:
            keep_freed_memory()
        self.generator: nn.Module = load_generator(generator, device=device)
        self.distance: Distance = load_distance(**distance, device=device)
        self.latent_dim = int(self.generator.latent_dim)  # type: ignore[arg-type]
        drawn = torch.randn(points, self.latent_dim, generator=torch.Generator().manual_seed(0))
        self.codes = drawn.to(like(self.generator))
        self.classes = any_condition(self.generator, points, self.codes.device)
        self.components = components
        self.plain: Precision = "tf32" if tf32 else "float32"
        self._exact: Tensor | None = None
        self._last_run = 0.0

    def facts(self) -> dict[str, Any]:
        """What the numbers go by: `latent_dim`, `device` (the model of the CPU or GPU), `threads`, `versions`."""
        device = self.codes.device
        cuda = {"cuda": torch.version.cuda} if device.type == "cuda" else {}
        return {
            "latent_dim": self.latent_dim,
            "device": device_name(device),
            "threads": torch.get_num_threads(),
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                **cuda,
                **{name: version(name) for name in ("pullback", "numpy")},
            },
        }

    def warm_up(self, method: str, precision: Precision) -> dict[str, Any]:
        """Do everything once that is done only the first time, and have the memory that a run takes."""
        generator, distance, codes = self._networks(precision)
        if method in BASELINES:  # one of their backward passes
            with arithmetic(self._plain(precision)), torch.enable_grad():
                squared = squared_map(generator, distance, codes[0], self._class_of(0))
                code = codes[:1].clone().requires_grad_()
                (gradient,) = torch.autograd.grad(squared(code).sum(), code, create_graph=True)
                torch.autograd.grad(gradient.sum(), code)
            self._give_back()
            return {}
        plan = fit(generator, distance, codes=len(codes))
        used = choose(method, distance, self.latent_dim, self.components or self.latent_dim, plan.whole)
        self._metrics(method, precision, codes_together(plan.batch, self.latent_dim) if used in DENSE else 1)
        self._give_back()
        return {}

    def run(self, method: str, precision: Precision) -> dict[str, Any]:
        """Time a method once.

        Returns:
            `seconds` per metric; `points`, the codes that were timed; the `method` that was used; `certified`, whether
            all certificates were passed (None of a baseline); and `residual`, the largest ‖Hv − λv‖ / λ₁ (None of
            `backprop`).
        """
        if self.codes.device.type == "cuda" and self._last_run < _SETTLED:
            self._timed(method, precision)  # the memory was given back after the last run
        reply, self._last_run = self._timed(method, precision)
        self._give_back()
        return reply

    def memory(self, method: str, precision: Precision) -> dict[str, Any]:
        """Extra memory of one metric, in bytes.

        Returns:
            `peak_memory_bytes` as measured; `predicted_memory_bytes`, what `metric.memory` expects of `gauss_newton`
            (None of other methods).
        """
        used: list[str] = []

        def one() -> object:
            if method in BASELINES:
                return self._baseline(method, precision, 0)
            metric = self._metrics(method, precision, 1)
            used.append(metric.method)
            return metric

        one()  # the whole of it: after one backward pass a baseline still has 40 MB to take for good
        peak = peak_memory(one, self.codes.device)
        generator, distance, _ = self._networks(precision)
        predicted = fit(generator, distance, codes=1).bytes if used and used[-1] == "gauss_newton" else None
        return {"peak_memory_bytes": peak, "predicted_memory_bytes": predicted}

    def error(self, method: str, precision: Precision) -> dict[str, Any]:
        """How far a method is from double backpropagation in float64, at the first code.

        Returns:
            `error_of`: "metric" where the method makes all of H, else "eigenvalues"; `relative_error`:
            ‖H − H64‖ / ‖H64‖ (Frobenius), or the largest |λᵢ − λᵢ64| / λ₁64.
        """
        if self._exact is None:
            self._exact = self._reference("float64", 0).to("cpu", torch.float64)
        matrix: Tensor | None = None
        if method == "backprop":
            matrix = self._reference(precision, 0)
        elif method == "arpack":
            found = self._arpack(precision, 0)[0]
        else:
            metric = self._metrics(method, precision, 1)
            matrix = None if metric.matrix is None else metric.matrix[0]
            found = metric.eigenvalues[0]
        if matrix is not None:
            return {"error_of": "metric", "relative_error": _number(relative_error(matrix[None], self._exact[None])[0])}
        wanted = torch.linalg.eigvalsh((self._exact + self._exact.T) / 2).flip(0)
        difference = (found - wanted[: len(found)]).abs().max()
        return {"error_of": "eigenvalues", "relative_error": _number(difference / wanted[0])}

    def find_floor(self) -> dict[str, Any]:
        """The `batch` size with which n forward passes take least, and their `seconds`.

        Sizes are tried upwards while it gets better, and as far as memory goes.
        """
        with LivePeak() as taken:
            self._passes(1)()
        best, best_seconds, worse = 1, math.inf, 0
        for batch in [size for size in BATCHES if size <= self.latent_dim]:
            if worse == 2 or batch * taken.peak > usable_bytes(self.codes.device):
                break
            try:
                seconds = self.floor(batch)["seconds"]
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                break
            if seconds < best_seconds:
                best, best_seconds, worse = batch, seconds, 0
            else:
                worse += 1
        return {"batch": best, "seconds": best_seconds}

    def floor(self, batch: int) -> dict[str, Any]:
        """The `seconds` of n forward passes of generator and distance without derivatives, at a batch size."""
        n = self.latent_dim
        one = self._passes(batch)
        self._seconds(one)  # its memory, and the algorithms for its sizes
        count = max(1, min(-(-n // batch), int(ENOUGH / max(self._seconds(one), 1e-9))))
        everything = self._passes(batch, count)
        seconds = self._seconds(everything) * n / min(n, count * batch)
        self._give_back()
        return {"seconds": seconds}

    def _passes(self, batch: int, count: int = 1) -> Callable[[], object]:
        """Forward passes of as many batches, of n codes at most."""
        n = self.latent_dim
        codes = torch.randn(min(n, count * batch), n, generator=torch.Generator().manual_seed(1)).to(self.codes)
        classes = any_condition(self.generator, len(codes), codes.device)
        distance, generator = self.distance, self.generator
        parts = [slice(start, start + batch) for start in range(0, len(codes), batch)]
        if isinstance(distance, ResidualDistance):
            residual_at = distance.residual_at

            def forward(part: slice) -> Tensor:
                return residual_at(generator, codes[part], None if classes is None else classes[part])
        else:
            squared = squared_map(generator, distance, self.codes[0], self._class_of(0))

            def forward(part: slice) -> Tensor:
                return squared(codes[part])

        def run() -> None:
            with torch.no_grad(), arithmetic(self.plain):
                for part in parts:
                    forward(part)

        return run

    def _timed(self, method: str, precision: Precision) -> tuple[dict[str, Any], float]:
        if method in BASELINES:
            each: list[float] = []
            residuals: list[float | None] = []
            while len(each) < min(_REFERENCE_POINTS, len(self.codes)) and sum(each) < _LONG:
                each.append(self._seconds(lambda: residuals.append(self._baseline(method, precision, len(each)))))
            reply = {"seconds": sum(each) / len(each), "points": len(each), "method": method, "certified": None}
            told = [residual for residual in residuals if residual is not None]
            return {**reply, "residual": max(told, default=None)}, sum(each)
        metrics: list[PullbackMetric] = []
        seconds = self._seconds(lambda: metrics.append(self._metrics(method, precision, len(self.codes))))
        certificate = metrics[0].certificate
        return {
            "seconds": seconds / len(self.codes),
            "points": len(self.codes),
            "method": metrics[0].method,
            "certified": bool(certificate.passed.all()),
            "residual": _number(certificate.eigen_residual.max()),
        }, seconds

    def _metrics(self, method: str, precision: Precision, points: int) -> PullbackMetric:
        """Metrics at the first codes, as a worker computes them."""
        classes = None if self.classes is None else self.classes[:points].tolist()
        return metric_at(
            self.generator,
            self.distance,
            self.codes[:points],
            condition=classes,
            components=self.components,
            method=method,
            precision=precision,
        )

    def _baseline(self, method: str, precision: Precision, index: int) -> float | None:
        """Run a baseline at one code; the residual of its eigenpairs, where it makes some."""
        if method == "arpack":
            return self._arpack(precision, index)[1]
        self._reference(precision, index)
        return None

    def _arpack(self, precision: Precision, index: int) -> tuple[Tensor, float]:
        """The largest eigenvalues at one code by ARPACK, and the largest of their residuals."""
        generator, distance, codes = self._networks(precision)
        squared = squared_map(generator, distance, codes[index], self._class_of(index))
        with arithmetic(self._plain(precision)):
            return arpack_pairs(squared, codes[index], self.components or self.latent_dim - 1)

    def _reference(self, precision: Precision, index: int) -> Tensor:
        """H at one code by the paper's method alone, as computed."""
        generator, distance, codes = self._networks(precision)
        with arithmetic(self._plain(precision)):
            return backprop_metric(generator, distance, codes[index], self._class_of(index))

    def _networks(self, precision: Precision) -> tuple[nn.Module, Distance, Tensor]:
        require(precision, self.codes.device)
        if precision == "float64":
            return in_double(self.generator), in_double(self.distance), self.codes.double()
        return self.generator, self.distance, self.codes

    def _plain(self, precision: Precision) -> Precision:
        """The arithmetic of a baseline: that of its name, else the plain processes' own."""
        return self.plain if precision == "float32" else precision

    def _class_of(self, index: int) -> Tensor | None:
        return None if self.classes is None else self.classes[index : index + 1]

    def _give_back(self) -> None:
        """Leave a GPU's memory to the processes that are timed next: they plan with what is free."""
        if self.codes.device.type == "cuda":
            torch.cuda.empty_cache()

    def _seconds(self, work: Callable[[], object]) -> float:
        device = self.codes.device
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began


def _number(value: Tensor) -> float | None:
    """For JSON, which has no NaN."""
    return float(value) if math.isfinite(float(value)) else None


def main() -> None:
    """Answer requests: `load` first, then the name of a measurement with its arguments."""
    loaded: list[Measurements] = []

    def load(path: list[str], **arguments: Any) -> dict[str, Any]:
        sys.path += [folder for folder in path if folder not in sys.path]  # where the parent finds a user's modules
        loaded.append(Measurements(**arguments))
        return loaded[0].facts()

    def measured(name: str) -> Callable[..., dict[str, Any]]:
        return lambda **arguments: getattr(loaded[0], name)(**arguments)

    serve({"load": load, **{name: measured(name) for name in REQUESTS}})


REQUESTS = ("warm_up", "run", "memory", "error", "find_floor", "floor")
"""What can be asked for once it is loaded."""

if __name__ == "__main__":
    main()
