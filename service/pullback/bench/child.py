"""Measurements in one process: seconds of a method or of the floor, peak memory, errors against float64.

`python -m pullback.bench.child` answers the requests of `metric`. Pullback's methods run as in a worker: `metric_at`
with certificate and eigenpairs, and an allocator that keeps freed memory. The baselines (`backprop` and `arpack`) and
the floor run as in a plain script.
"""

import math
import platform
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

import pullback
from pullback.bench.baselines import BASELINES, arpack_pairs
from pullback.bench.machine import device_name, peak_memory
from pullback.bench.processes import serve
from pullback.distances import Distance, ResidualDistance, load_distance
from pullback.generators import any_condition, load_generator
from pullback.generators.codes import trial_codes
from pullback.generators.family import FamilyGenerator
from pullback.metric import PullbackMetric, metric_at
from pullback.metric.allocation import LivePeak, is_out_of_memory, keep_freed_memory, usable_bytes
from pullback.metric.backprop import backprop_metric
from pullback.metric.check_timing import seconds_verifying, synchronize
from pullback.metric.memory import codes_together
from pullback.metric.methods import DENSE, Setting
from pullback.metric.precision import arithmetic, in_double, relative_error, require
from pullback.metric.products import squared_map
from pullback.metric.strategy import Request, Strategy, decide
from pullback.spec.metric import Precision

BATCHES = (1, 2, 4, 8, 16, 25, 32, 50, 64, 100, 128)
"""Batch sizes to try for the floor."""
ENOUGH = 2.0
"""Seconds of forward passes that are timed for the floor. Further passes are extrapolated."""
_REFERENCE_POINTS = 2
"""Largest number of codes in a timed run of a baseline."""
_LONG = 20.0
"""Seconds after which a run of a baseline starts no further code."""
_SETTLED = 2.0
"""Shorter runs on a GPU are repeated, because their time would include allocating their memory again."""


class Measurements:
    """Measurements of one generator and one distance. A process has one instance.

    Args:
        generator: name, path or factory for `load_generator`.
        distance: arguments of `load_distance`.
        device: a torch device.
        threads: CPU threads; None uses torch's default.
        points: number of latent codes, N(0, I), seeded.
        components: eigenpairs of each metric; None for all.
        tf32: whether the floor and the baselines may use TF32.
        keep_memory: whether the allocator keeps freed memory, as in a worker.
        options: further arguments of `load_generator`, such as the space.

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
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        if keep_memory:
            keep_freed_memory()
        self.generator: nn.Module = load_generator(generator, device=device, **(options or {}))
        self.distance: Distance = load_distance(**distance, device=device)
        self.latent_dim = int(self.generator.latent_dim)  # type: ignore[arg-type]
        self.codes = trial_codes(self.generator, points, 0)
        self.classes = any_condition(self.generator, points, self.codes.device)
        self.components = components
        self.plain: Precision = "tf32" if tf32 else "float32"
        self._exact: Tensor | None = None
        self._last_run = 0.0

    def facts(self) -> dict[str, Any]:
        """Return `latent_dim`, `family`, `space`, `device` (the model of the CPU or GPU), `threads` and `versions`.

        `family` and `space` are None for a generator that belongs to no family.
        """
        device = self.codes.device
        known = self.generator if isinstance(self.generator, FamilyGenerator) else None
        cuda = {"cuda": torch.version.cuda} if device.type == "cuda" else {}
        return {
            "latent_dim": self.latent_dim,
            "family": None if known is None else known.family,
            "space": None if known is None else known.space,
            "device": device_name(device),
            "threads": torch.get_num_threads(),
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                **cuda,
                "pullback": pullback.__version__,
                "numpy": version("numpy"),
            },
        }

    def warm_up(self, method: str, precision: Precision) -> dict[str, Any]:
        """Run once, so that caches are filled and memory is allocated before the timed runs."""
        generator, distance, codes = self._networks(precision)
        if method in BASELINES:  # one backward pass is enough
            with arithmetic(self._plain(precision)), torch.enable_grad():
                squared = squared_map(generator, distance, codes[0], self._class_of(0))
                code = codes[:1].clone().requires_grad_()
                (gradient,) = torch.autograd.grad(squared(code).sum(), code, create_graph=True)
                torch.autograd.grad(gradient.sum(), code)
            self._release()
            return {}
        chosen = self._strategy(method, precision, len(codes))
        many = codes_together(chosen.fit.batch, self.latent_dim) if chosen.method in DENSE else 1
        self._metrics(method, precision, many)
        self._release()
        return {}

    def run(self, method: str, precision: Precision) -> dict[str, Any]:
        """Time a method once.

        Returns:
            `seconds` per metric; `points`, the number of timed codes; the `method` that was used; `certified`, whether
            all certificates passed (None for a baseline); `certificate_share`, the share of the time that the
            certificates take (0 for a baseline); and `residual`, the largest ‖Hv − λv‖ / λ₁ (None for `backprop`).
        """
        if self.codes.device.type == "cuda" and self._last_run < _SETTLED:
            self._timed(method, precision)  # allocates the memory that the last run released
        reply, self._last_run = self._timed(method, precision)
        self._release()
        return reply

    def memory(self, method: str, precision: Precision) -> dict[str, Any]:
        """Measure the memory of one metric, in bytes.

        Returns:
            `peak_memory_bytes`, measured; `predicted_memory_bytes`, the estimate for `gauss_newton` (None for other
            methods).
        """
        used: list[str] = []

        def one() -> object:
            if method in BASELINES:
                return self._baseline(method, precision, 0)
            metric = self._metrics(method, precision, 1)
            used.append(metric.method)
            return metric

        one()  # a whole metric: one backward pass is not enough, since a baseline later allocates 40 MB that it keeps
        peak = peak_memory(one, self.codes.device)
        whole = bool(used) and used[-1] == "gauss_newton"
        predicted = self._strategy(method, precision, 1).fit.bytes if whole else None
        return {"peak_memory_bytes": peak, "predicted_memory_bytes": predicted}

    def error(self, method: str, precision: Precision) -> dict[str, Any]:
        """Measure the error of a method against double backpropagation in float64, at the first code.

        Returns:
            `error_of`: "metric" if the method gives the whole H, else "eigenvalues"; `relative_error`:
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
        """Find the `batch` size at which n forward passes are fastest, and their `seconds`.

        Tries larger sizes until two in a row are slower, or memory runs out.
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
        """Time n forward passes of generator and distance, without derivatives, at one batch size; return `seconds`."""
        n = self.latent_dim
        one = self._passes(batch)
        self._seconds(one)  # allocates memory and chooses algorithms for these sizes
        count = max(1, min(-(-n // batch), int(ENOUGH / max(self._seconds(one), 1e-9))))
        everything = self._passes(batch, count)
        seconds = self._seconds(everything) * n / min(n, count * batch)
        self._release()
        return {"seconds": seconds}

    def _passes(self, batch: int, count: int = 1) -> Callable[[], object]:
        """Return a function that makes `count` forward passes of at most n codes in total."""
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
            reply |= {"certificate_share": 0.0}
            known = [residual for residual in residuals if residual is not None]
            return {**reply, "residual": max(known, default=None)}, sum(each)
        metrics: list[PullbackMetric] = []
        before = seconds_verifying()
        seconds = self._seconds(lambda: metrics.append(self._metrics(method, precision, len(self.codes))))
        verifying = seconds_verifying() - before
        certificate = metrics[0].certificate
        return {
            "seconds": seconds / len(self.codes),
            "points": len(self.codes),
            "method": metrics[0].method,
            "certified": bool(certificate.passed.all()),
            "certificate_share": verifying / seconds,
            "residual": _number(certificate.eigen_residual.max()),
        }, seconds

    def _metrics(self, method: str, precision: Precision, points: int) -> PullbackMetric:
        """Compute metrics at the first codes, as a worker does."""
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
        """Run a baseline at one code; return the residual of its eigenpairs, or None for `backprop`."""
        if method == "arpack":
            return self._arpack(precision, index)[1]
        self._reference(precision, index)
        return None

    def _arpack(self, precision: Precision, index: int) -> tuple[Tensor, float]:
        """Compute the largest eigenvalues at one code by ARPACK, and their largest residual."""
        generator, distance, codes = self._networks(precision)
        squared = squared_map(generator, distance, codes[index], self._class_of(index))
        with arithmetic(self._plain(precision)):
            return arpack_pairs(squared, codes[index], self.components or self.latent_dim - 1)

    def _reference(self, precision: Precision, index: int) -> Tensor:
        """Compute H at one code by the paper's method, without a certificate."""
        generator, distance, codes = self._networks(precision)
        with arithmetic(self._plain(precision)):
            return backprop_metric(generator, distance, codes[index], self._class_of(index))

    def _strategy(self, method: str, precision: Precision, codes: int) -> Strategy:
        generator, distance, _ = self._networks(precision)
        setting = Setting("gauss_newton", precision)
        return decide(generator, distance, Request(method, self.components or self.latent_dim, codes, setting))

    def _networks(self, precision: Precision) -> tuple[nn.Module, Distance, Tensor]:
        require(precision, self.codes.device)
        if precision == "float64":
            return in_double(self.generator), in_double(self.distance), self.codes.double()
        return self.generator, self.distance, self.codes

    def _plain(self, precision: Precision) -> Precision:
        """Return the arithmetic of a baseline: the requested one, but for float32 the one that plain scripts use."""
        return self.plain if precision == "float32" else precision

    def _class_of(self, index: int) -> Tensor | None:
        return None if self.classes is None else self.classes[index : index + 1]

    def _release(self) -> None:
        """Free cached GPU memory, because the next timed process plans with the free memory."""
        if self.codes.device.type == "cuda":
            torch.cuda.empty_cache()

    def _seconds(self, work: Callable[[], object]) -> float:
        device = self.codes.device
        synchronize(device)
        began = time.perf_counter()
        work()
        synchronize(device)
        return time.perf_counter() - began


def _number(value: Tensor) -> float | None:
    """Return a number for JSON: None if it is not finite."""
    return float(value) if math.isfinite(float(value)) else None


def main() -> None:
    """Answer requests: first `load`, then measurements by name with their arguments."""
    loaded: list[Measurements] = []

    def load(path: list[str], **arguments: Any) -> dict[str, Any]:
        sys.path += [
            folder for folder in path if folder not in sys.path
        ]  # the parent's search path, so that the user's modules can be imported
        loaded.append(Measurements(**arguments))
        return loaded[0].facts()

    def measured(name: str) -> Callable[..., dict[str, Any]]:
        return lambda **arguments: getattr(loaded[0], name)(**arguments)

    serve({"load": load, **{name: measured(name) for name in REQUESTS}})


REQUESTS = ("warm_up", "run", "memory", "error", "find_floor", "floor")
"""Requests that are valid after `load`."""

if __name__ == "__main__":
    main()
