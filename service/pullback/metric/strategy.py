"""The strategy of a metric: its method, the route of its derivatives, its batch and chunk of tangents.

A generator or a distance may lack forward mode or a second derivative. Running a part of the method shows whether it
works. `auto` takes the first candidate that works. An explicitly requested method is kept, but may take another route.
The strategy is decided once. A plan passes it to its workers, which may only reduce the batch and the chunk.
Elsewhere: the memory of a candidate (`memory`), and its computation (`methods`).
"""

from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

from torch import nn

from pullback.distances import Distance, ResidualDistance
from pullback.errors import ArgumentError, MemoryPlanError, PullbackError, is_interrupt, with_message
from pullback.generators.base import reference_tensor
from pullback.generators.user_imports import replacing
from pullback.metric.allocation import is_out_of_memory, usable_bytes
from pullback.metric.memory import GIB, Fit, Footprint, Kind, fit, measure
from pullback.metric.methods import DENSE, Route, Setting, choose
from pullback.metric.reasons import one_line
from pullback.spec.metric import Method

_ROWS = 8
"""`auto` computes J row by row (one reverse pass per feature) for at most this many features per latent coordinate."""
_ROUTES: dict[Route, str] = {
    "forward": "forward mode",
    "reverse": "two reverse passes for each product",
    "rows": "one reverse pass for each feature",
    "second": "a second backward pass",
    "differences": "differences of gradients",
}


@dataclass(frozen=True)
class Strategy:
    """How metrics are computed.

    Attributes:
        method: one of `METHODS`, with `auto` resolved.
        route: how derivatives are computed.
        fit: batch, tangents, and whether the whole Jacobian is held.
        note: why the first choice was not taken, in one sentence; empty if it was.
    """

    method: Method
    route: Route
    fit: Fit
    note: str = ""


@dataclass(frozen=True)
class Request:
    """The input of a decision.

    Attributes:
        method: `auto` or one of `METHODS`.
        kept: number of wanted eigenpairs.
        codes: upper bound of a batch.
        setting: the arithmetic. Each candidate replaces its method and route.
        budget: bytes that may be used; by default most of the free memory of the generator's device.
        batch: fixed batch; by default chosen.
        tangents: fixed chunk of tangents; by default chosen.
        held: bytes that the caller needs in addition, for example for a shard's results.
    """

    method: str
    kept: int
    codes: int
    setting: Setting
    budget: int | None = None
    batch: int | None = None
    tangents: int | None = None
    held: int = 0


def decide(
    generator: nn.Module,
    distance: Distance,
    request: Request,
    copies_of: tuple[nn.Module, nn.Module] | None = None,
) -> Strategy:
    """The strategy for a generator and a distance, from what they support and what fits into memory.

    Args:
        generator: G as it computes. For precision float64 this is the float64 copy (`precision.in_double`).
        distance: the distance as it computes.
        request: the input of the decision.
        copies_of: the original generator and distance, if these two are short-lived copies.

    Raises:
        ArgumentError: there is no such method, or it cannot differentiate these networks. The message names one that
            can.
        MemoryPlanError: even the smallest batch and chunk, or the fixed ones, do not fit.
        PullbackError: no method can differentiate these networks.
    """
    return _Decision(generator, distance, request, copies_of or (generator, distance)).strategy()


class _Decision:
    def __init__(
        self, generator: nn.Module, distance: Distance, request: Request, lasting: tuple[nn.Module, nn.Module]
    ) -> None:
        self._lasting = lasting
        self._generator, self._distance, self._request = generator, distance, request
        self._residual = isinstance(distance, ResidualDistance)
        self._n = int(generator.latent_dim)  # type: ignore[arg-type]
        self._device = reference_tensor(generator).device
        self._available = request.budget if request.budget is not None else usable_bytes(self._device)
        self._failures: dict[tuple[Method, Route], Exception] = {}
        self._first: tuple[Method, Route] | None = None

    def strategy(self) -> Strategy:
        method = self._request.method
        # Raises an error if there is no such method, or if the distance has no residual.
        preferred = choose(method, self._distance, self._n, self._request.kept, whole=True)
        if method != "auto":
            found = self._first_of(self._candidates(preferred))
            return found if found is not None else self._refuse(preferred)
        found, failure = None, None
        try:
            if preferred in DENSE:
                found = self._first_of(self._candidates(preferred), rows=_ROWS * self._n)
                whole = found is not None and found.fit.whole
                preferred = choose("auto", self._distance, self._n, self._request.kept, whole)
        except MemoryPlanError as error:
            failure, preferred = error, choose("auto", self._distance, self._n, self._request.kept, whole=False)
        if preferred == "block_krylov":
            found = self._first_of(self._candidates(preferred)) or found
        if failure is not None and (found is None):
            raise failure
        fallbacks: list[Method] = ["backprop", "finite_difference"] if preferred in DENSE else ["finite_difference"]
        for fallback in fallbacks:
            found = found or self._first_of(self._candidates(fallback))
        if found is None:
            raise self._hopeless()
        return found

    def _candidates(self, method: Method) -> list[tuple[Method, Route]]:
        if method == "finite_difference":
            return [(method, "differences")]
        if method == "backprop" or not self._residual:
            return [(method, "second")]
        if method == "gauss_newton":
            return [(method, "forward"), (method, "reverse"), (method, "rows")]
        return [(method, "forward"), (method, "reverse")]

    def _first_of(self, candidates: list[tuple[Method, Route]], rows: int | None = None) -> Strategy | None:
        """The first candidate whose derivatives exist, with its fit.

        Args:
            candidates: methods and routes, in order of preference.
            rows: largest number of features for which the route `rows` is acceptable.

        Raises:
            MemoryPlanError: the derivatives exist, but the candidate does not fit into memory.
        """
        for method, route in candidates:
            if self._first is None:
                self._first = method, route
            setting = replace(self._request.setting, method=method, route=route)
            if route != "forward" and setting.precision == "bfloat16":
                continue
            kinds: list[Kind] = ["jacobian"] if method == "gauss_newton" else ["rows"] if method in DENSE else ["pairs"]
            if method == "gauss_newton" and route != "rows" and (self._request.batch or 1) == 1:
                kinds.append("rows")  # H by products, one code at a time, if J does not fit
            least: Footprint | None = None
            for kind in kinds:
                try:
                    sizes = self._footprint(setting, kind)
                except Exception as error:  # a user's network may raise anything
                    if is_interrupt(error):
                        raise KeyboardInterrupt from error
                    if is_out_of_memory(error):
                        raise MemoryPlanError(
                            f"one metric of n = {self._n} does not fit into memory: one code with three tangents "
                            f"could not be tried ({one_line(error)}). Nothing was started. Use smaller images for the "
                            "distance (its size), fewer workers, or a machine or GPU with more memory."
                        ) from error
                    self._failures[method, route] = with_message(error)
                    least = None
                    break
                if route == "rows" and rows is not None and sizes.features > rows:
                    break
                request = self._request
                chosen = fit(
                    sizes,
                    self._device,
                    codes=request.codes,
                    available=self._available,
                    batch=request.batch,
                    tangents=request.tangents,
                    held=request.held,
                )
                if chosen is not None:
                    return Strategy(method, route, chosen, self._note(method, route))
                least = sizes
            if least is not None:
                raise self._too_large(least)
        return None

    def _footprint(self, setting: Setting, kind: Kind) -> Footprint:
        """The footprint, cached while the networks live. Failures are not cached, as a network may be repaired."""
        generator, distance = self._lasting
        known = _footprints.setdefault(generator, WeakKeyDictionary()).setdefault(distance, {})
        key = (setting.method, setting.route, setting.precision, kind, self._request.kept)
        if key not in known:
            known[key] = measure(self._generator, self._distance, setting, kind, self._request.kept)
        return known[key]

    def _note(self, method: Method, route: Route) -> str:
        if self._first is None or self._first == (method, route) or self._first not in self._failures:
            return ""
        return f"{method} by {_ROUTES[route]}, because {_ROUTES[self._first[1]]} fails: {self._reason()}"

    def _reason(self) -> str:
        return one_line(next(iter(self._failures.values())))

    def _refuse(self, method: Method) -> Strategy:
        """Raise an error that suggests a method that works."""
        if self._request.setting.precision == "bfloat16" and self._residual:
            raise self._hopeless()
        asked = self._reason()
        others: list[Method] = ["gauss_newton"] if self._residual else []
        for other in [*others, "backprop", "finite_difference"]:
            try:
                if other != method and self._first_of(self._candidates(other), rows=_ROWS * self._n):
                    raise ArgumentError(
                        "method",
                        f"{method} cannot differentiate this generator and distance ({asked}); use auto or {other}, "
                        "which can",
                    )
            except MemoryPlanError:
                continue
        raise self._hopeless()

    def _hopeless(self) -> PullbackError:
        if self._request.setting.precision == "bfloat16" and self._residual:
            return ArgumentError(
                "precision",
                "the tangents cannot be bfloat16, because this generator and distance cannot be differentiated in "
                f"forward mode ({self._reason()}). Nothing was computed; use float32",
            )
        if shadowed := replacing():
            return PullbackError(f"{shadowed}, and start again. Nothing was computed ({self._reason()})")
        return PullbackError(
            "no method can differentiate this generator and distance, not even by differences of gradients: "
            f"{self._reason()}. Nothing was computed. The images must depend on the latent code by operations that "
            "torch can differentiate"
        )

    def _too_large(self, sizes: Footprint) -> MemoryPlanError:
        batch, tangents = self._request.batch or 1, self._request.tangents or 1
        least = sizes.bytes(batch, tangents) + self._request.held
        return MemoryPlanError(
            f"one metric of n = {sizes.latent_dim} with {sizes.features} residual features needs about "
            f"{least / GIB:.3g} GiB with a batch of {batch} and {tangents} tangents at once; "
            f"{self._available / GIB:.3g} GiB may be used. Nothing was started. "
            "Use smaller images for the distance (its size), fewer workers, or a machine or GPU with more memory."
        )


_Key = tuple[str, str, str, str, int]
_footprints: WeakKeyDictionary[nn.Module, WeakKeyDictionary[nn.Module, dict[_Key, Footprint]]] = WeakKeyDictionary()
