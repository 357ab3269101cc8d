"""Times the floor of generators in the style of published code; a table as in this folder's README.

    python jobs/benchmarks/published.py [NAME ...]

A name is `module:factory` of tests/generators/published (all by default), a registered name, or a factory of your own.
The floor is n forward passes of the generator and LPIPS-alex, at the best of several batch sizes. A metric is whole,
with its certificate, one of four codes that are computed together as by `pullback bench metric`. Both are CPU time of
this one process on one thread, which another load on the machine changes little.
"""

import os
import sys
import time
from pathlib import Path
from statistics import median
from types import SimpleNamespace

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "generators" / "published"))

import torch

from pullback.distances import load_distance
from pullback.generators import any_condition, load_generator
from pullback.generators.codes import trial_codes
from pullback.metric import check_timing, metric_at
from pullback.metric.allocation import keep_freed_memory
from pullback.metric.forward.linearize import Linearization
from pullback.metric.jacobian import derivative_at, feature_map, jacobian

check_timing.time = SimpleNamespace(perf_counter=time.process_time)  # CPU time here too

ROUNDS = 3
POINTS = 4
BATCHES = (1, 4, 16)
ENOUGH = 0.5
"""Seconds of forward passes from which the floor is extrapolated."""


def seconds(work):
    """CPU seconds of this process."""
    began = time.process_time()
    work()
    return time.process_time() - began


def floor_of(generator, distance):
    """CPU seconds of n forward passes, at the best batch size."""
    n, best = generator.latent_dim, None
    codes = trial_codes(generator, max(BATCHES), 1)
    classes = any_condition(generator, len(codes), codes.device)
    with torch.no_grad():
        for batch in BATCHES:
            own = None if classes is None else classes[:batch]

            def run(count, part=codes[:batch], own=own):
                for _ in range(count):
                    distance.residual_at(generator, part, own)

            run(1)
            once = seconds(lambda run=run: run(1))
            count = max(2, min(n // batch, int(ENOUGH / max(once, 1e-4))))
            each = seconds(lambda run=run, count=count: run(count)) / count / batch
            best = each if best is None else min(best, each)
    return n * best


def measured(generator, distance, count=ROUNDS):
    """Medians over `count` rounds: `floor` in seconds, `jacobian` and `metric` in floors, `share` of the certificate.

    `how` says whether the derivative is on the tape, and `passed` whether all certificates passed.
    """
    codes = trial_codes(generator, POINTS, 2)
    classes = any_condition(generator, POINTS, codes.device)
    condition = None if classes is None else classes.tolist()
    features = feature_map(generator, distance, classes)
    try:
        how = "; ".join(("tape", *Linearization(features, codes).fallbacks))
    except Exception as error:
        how = f"{type(error).__name__}: {str(error)[:60]}"

    def metrics():
        return metric_at(generator, distance, codes, condition=condition)

    metric = metrics()  # what is kept for later codes is made
    batch, tangents = metric.batch, metric.tangents

    def jacobians():
        for start in range(0, POINTS, batch):
            part = slice(start, start + batch)
            own = feature_map(generator, distance, None if classes is None else classes[part])
            jacobian(derivative_at(own, codes[part]), codes[part], tangents)

    rounds = []
    for _ in range(count):
        floor = floor_of(generator, distance)
        before = check_timing.seconds_verifying()
        whole = seconds(metrics)
        share = (check_timing.seconds_verifying() - before) / whole
        rounds.append((floor, seconds(jacobians) / POINTS / floor, whole / POINTS / floor, share))
    middles = (median(values) for values in zip(*rounds, strict=True))
    found = dict(zip(("floor", "jacobian", "metric", "share"), middles, strict=True))
    return {**found, "how": how, "passed": bool(metric.certificate.passed.all())}


def row(name, distance):
    """A line of the table."""
    generator = load_generator(name)
    found = measured(generator, distance)
    return (
        f"| {name.partition(':')[2] or name} | {generator.latent_dim} | {found['floor']:.2f} | "
        f"{found['jacobian']:.2f} | {found['metric']:.2f} | {100 * found['share']:.0f} % | {found['how']} | "
        f"{'yes' if found['passed'] else 'NO'} |"
    )


def main():
    """Print the table."""
    torch.set_num_threads(1)
    keep_freed_memory()
    names = sys.argv[1:]
    if not names:
        from published_names import NAMES

        names = NAMES
    distance = load_distance("lpips")
    columns = ("generator", "n", "floor (s)", "Jacobian, times the floor", "metric, times the floor", "certificate")
    print("|", " | ".join((*columns, "how", "certified")), "|")
    print("|---" * 8 + "|")
    for name in names:
        print(row(name, distance), flush=True)


if __name__ == "__main__":
    main()
