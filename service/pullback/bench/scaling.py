"""Measure how the rate of a sweep grows with its workers: the same work per worker, with one, two and more workers.

Every worker has the same number of threads, however many workers there are, so that the rates are comparable. Counting
begins after the first shard of every worker, and ends when a worker has no shard left. The start and the end of a sweep
are not counted, because they occur once per sweep.
"""

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from pullback.cluster.pool import ray_pool
from pullback.driving.control import events_path
from pullback.driving.pool_protocol import Pool
from pullback.driving.run import SweepProgress, run_sweep
from pullback.errors import SpecError, SweepError
from pullback.spec import JobSpec
from pullback.sweep.plan import Plan, make_plan, threads_of
from pullback.sweep.worker import WorkOrder

_SHARDS_A_WORKER = 12
_SHARD_SECONDS = 2.0
_MOST_A_SHARD = 64


@dataclass(frozen=True)
class Rate:
    """Rate of a number of workers while all of them are computing.

    Attributes:
        workers: number of workers.
        samples: number of counted samples.
        seconds: time from the first to the last counted shard of a worker; mean over workers.
        samples_per_second: rate of all workers together.
        efficiency: rate per worker, relative to the run with the fewest workers.
        computing_share: share of the workers' time spent computing, including certificates.
        seconds_a_sample: time of a worker by activity: `compute`, `verify` (the certificate), `write`; and time of the
            driver: `commit`.
    """

    workers: int
    samples: int
    seconds: float
    samples_per_second: float
    efficiency: float
    computing_share: float
    seconds_a_sample: dict[str, float]


def bench_scaling(
    generator: str,
    distance: str,
    workers: Sequence[int],
    device: str = "auto",
    samples: int | None = None,
    say: Callable[[str], None] = lambda line: None,
    watching: Callable[[], AbstractContextManager[Callable[[SweepProgress], None]]] = lambda: nullcontext(
        lambda _: None
    ),
) -> dict[str, Any]:
    """Run one sweep for each number of workers, in a temporary folder, and compare their rates.

    Args:
        generator: a registered name, the path of a checkpoint, or module:factory.
        distance: the name of a distance, or module:function.
        workers: numbers of workers, ascending.
        device: `auto`, `cpu` or `cuda`.
        samples: samples per worker; by default as many as take about 25 seconds.
        say: called with a status message.
        watching: context manager that yields the progress callback of one sweep.

    Returns:
        JSON values: `device`, `generator`, `distance`, `threads` of each worker on a CPU, `shard_size`, and `runs`, a
        list of `Rate`.

    Raises:
        SpecError: invalid numbers of workers, or an invalid job.
        SweepError: a sweep failed.
    """
    if not workers or min(workers) < 1 or list(workers) != sorted(set(workers)):
        raise SpecError([f"workers: must be ascending numbers of at least 1, not {list(workers)}"], "bench scaling")
    resources = {"device": device, "shard_size": 1, "workers": max(workers)}
    content = {"name": "scaling", "generator": generator, "distance": distance, "samples": {"count": 1}}
    with tempfile.TemporaryDirectory(prefix="pullback-scaling-") as folder:
        # The plan measures with the number of threads that each worker will have.
        job = JobSpec.model_validate({**content, "resources": resources, "store": f"{folder}/plan"})
        plan = make_plan(job, measure=True, source="bench scaling")
        threads = threads_of(max(workers))
        seconds = max(plan.seconds_per_code or 0.0, 1e-3)
        size = max(1, min(_MOST_A_SHARD, round(_SHARD_SECONDS / seconds)))
        many = samples or size * _SHARDS_A_WORKER
        size = max(1, min(size, many // _SHARDS_A_WORKER))
        rates: list[Rate] = []
        for number in workers:
            count = many * number
            say(f"{count} samples in shards of {size} by {number} {'worker' if number == 1 else 'workers'}")
            sized = {**resources, "workers": number, "shard_size": size}
            job = JobSpec.model_validate(
                {**content, "samples": {"count": count}, "resources": sized, "store": f"{folder}/{number}"}
            )
            with watching() as report:
                outcome = run_sweep(make_plan(job, source="bench scaling"), _with_threads(threads), report)
            if outcome.interrupted:
                raise KeyboardInterrupt
            if outcome.status.pending or outcome.broken:
                raise SweepError(f"the sweep with {number} workers failed: {outcome.broken or outcome.failed}")
            rates.append(rate_of(events_path(job.store_path), number, rates[0] if rates else None))
    return {
        "device": plan.device,
        "generator": generator,
        "distance": distance,
        "threads": threads,
        "shard_size": size,
        "runs": [asdict(rate) for rate in rates],
    }


def rate_of(journal: Path, workers: int, first: Rate | None) -> Rate:
    """Compute a rate from the event journal of a finished sweep.

    Args:
        journal: path of the sweep's journal.
        workers: number of workers of the sweep.
        first: the rate to compare with; None for the first run.

    Raises:
        SweepError: the sweep has too few shards.
    """
    events = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
    shards = [event for event in events if event["event"] == "shard"]
    seen: set[str] = set()
    begin = next((at for at, shard in enumerate(shards) if len(seen := seen | {shard["worker"]}) == workers), None)
    end = len(shards) - workers  # after this shard, a worker may have no shard left
    of_worker: dict[str, list[dict[str, Any]]] = {}
    for shard in shards[begin : end + 1] if begin is not None else []:
        of_worker.setdefault(shard["worker"], []).append(shard)
    # Each worker has its own window, from shard to shard. A common window would cut shards of all but one worker.
    spans = {name: _time(its[-1]) - _time(its[0]) for name, its in of_worker.items() if len(its) > 2}
    if len(spans) < workers:
        raise SweepError(
            f"{len(shards)} shards are too few to measure the rate of {workers} workers; ask for more samples"
        )
    counted = {name: of_worker[name][1:] for name in spans}
    every = [shard for its in counted.values() for shard in its]
    samples = sum(map(_samples, every))
    rate = sum(sum(map(_samples, its)) / spans[name] for name, its in counted.items())
    times = {name: sum(shard[name] for shard in every) for name in ("computing", "verifying", "writing")}
    commits = [event["seconds"] for event in events if event["event"] == "commit"]
    return Rate(
        workers=workers,
        samples=samples,
        seconds=sum(spans.values()) / len(spans),
        samples_per_second=rate,
        efficiency=1.0 if first is None else (rate / workers) / (first.samples_per_second / first.workers),
        computing_share=times["computing"] / sum(spans.values()),
        seconds_a_sample={
            "compute": (times["computing"] - times["verifying"]) / samples,
            "verify": times["verifying"] / samples,
            "write": times["writing"] / samples,
            "commit": sum(commits) / sum(map(_samples, shards)),
        },
    )


def _time(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["time"]).timestamp()


def _samples(shard: dict[str, Any]) -> int:
    return int(shard["good"] + shard["quarantined"])


def _with_threads(threads: int) -> Callable[[WorkOrder, Plan], Any]:
    @contextmanager
    def pool(order: WorkOrder, plan: Plan) -> Iterator[Pool]:
        with ray_pool(replace(order, threads=threads), plan) as inner:
            yield inner

    return pool
