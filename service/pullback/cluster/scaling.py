"""How the rate of a sweep grows with its workers: the same work by one, two and more, in one run on this machine.

Every worker has the same share of the cores, whatever their number, so that two are compared with one of their kind.
What is counted begins once every worker has delivered its first shard, and ends when the first has none left: starting
up and the last minute are paid once a sweep, and of a long one they are nothing.
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
from pullback.errors import SpecError, SweepError
from pullback.spec import JobSpec
from pullback.sweep.control import events_path
from pullback.sweep.plan import Plan, make_plan, threads_of
from pullback.sweep.pools import Pool
from pullback.sweep.run import Progress, run_sweep
from pullback.sweep.worker import WorkOrder

_SHARDS_A_WORKER = 12
_SHARD_SECONDS = 2.0
_MOST_A_SHARD = 64


@dataclass(frozen=True)
class Rate:
    """What a number of workers did once all of them were at work.

    Attributes:
        workers: how many.
        samples: that were counted.
        seconds: in which they came, from the first to the last shard of a worker that counts; the mean of the workers.
        samples_per_second: of all workers.
        efficiency: that rate by worker, relative to the run with the fewest.
        computing_share: of the workers' time, what they computed in, certificates included.
        seconds_a_sample: of a worker, by what it did: `compute`, `verify` (the certificate), `write`; of the driver:
            `commit`.
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
    watching: Callable[[], AbstractContextManager[Callable[[Progress], None]]] = lambda: nullcontext(lambda _: None),
) -> dict[str, Any]:
    """Run one sweep for each number of workers, in a temporary folder, and compare their rates.

    Args:
        generator: a registered name, a checkpoint's path, or module:factory.
        distance: a distance's name, or module:function.
        workers: how many; in ascending order.
        device: `auto`, `cpu` or `cuda`.
        samples: of each sweep; by default as many as take a worker some 20 seconds.
        say: told what is done.
        watching: gives what is told the progress of one sweep, for as long as that runs.

    Returns:
        Ready for JSON: `device`, `generator`, `distance`, `threads` of each worker on a CPU, `shard_size`, and
        `runs`, a `Rate` each.

    Raises:
        SpecError: the numbers of workers are none, or the job cannot be done.
        SweepError: a sweep did not end well.
    """
    if not workers or min(workers) < 1 or list(workers) != sorted(set(workers)):
        raise SpecError([f"workers: must be numbers from 1 on, ascending, not {list(workers)}"], "bench scaling")
    asked = {"device": device, "shard_size": 1, "workers": max(workers)}
    content = {"name": "scaling", "generator": generator, "distance": distance, "samples": {"count": 1}}
    with tempfile.TemporaryDirectory(prefix="pullback-scaling-") as folder:
        # measured with the share of the cores that each worker will have
        job = JobSpec.model_validate({**content, "resources": asked, "store": f"{folder}/plan"})
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
            resources = {**asked, "workers": number, "shard_size": size}
            job = JobSpec.model_validate(
                {**content, "samples": {"count": count}, "resources": resources, "store": f"{folder}/{number}"}
            )
            with watching() as report:
                outcome = run_sweep(make_plan(job, source="bench scaling"), _with_threads(threads), report)
            if outcome.interrupted:
                raise KeyboardInterrupt
            if outcome.status.pending or outcome.broken:
                raise SweepError(f"the sweep by {number} workers did not end: {outcome.broken or outcome.failed}")
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
    """What a sweep's journal says of the time in which all of its workers were at work.

    Args:
        journal: of a sweep that is done.
        workers: how many it had.
        first: what the others are compared with; None if this is it.

    Raises:
        SweepError: the sweep is too short for it.
    """
    events = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
    shards = [event for event in events if event["event"] == "shard"]
    seen: set[str] = set()
    begin = next((at for at, shard in enumerate(shards) if len(seen := seen | {shard["worker"]}) == workers), None)
    end = len(shards) - workers  # after it, the first of them has nothing left to do
    of_worker: dict[str, list[dict[str, Any]]] = {}
    for shard in shards[begin : end + 1] if begin is not None else []:
        of_worker.setdefault(shard["worker"], []).append(shard)
    # From shard to shard of each worker: a window common to all would cut the shards of all but one of them.
    spans = {name: _time(its[-1]) - _time(its[0]) for name, its in of_worker.items() if len(its) > 2}
    if len(spans) < workers:
        raise SweepError(
            f"{len(shards)} shards are too few to tell the rate of {workers} workers; ask for more samples"
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
