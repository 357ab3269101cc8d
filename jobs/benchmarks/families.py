"""Times the floor, and error against float64, of checkpoints of the known families; a table as in this folder's README.

    python jobs/benchmarks/families.py [NAME ...]
    python jobs/benchmarks/families.py FOLDER [PATTERN ...]

Without a folder, networks of the families at small but real sizes are measured (`sized_families`; all by default).
Their errors are ‖HV − H64 V‖ / ‖H64 V‖ for eight random directions V, because a whole matrix by double backpropagation
in float64 takes minutes.

With a folder, every file below it whose relative path matches a pattern (`rosinality*/*.pt`; all by default) is loaded,
in each of its spaces of a single block (z, w). Errors are ‖H − H64‖ / ‖H64‖ (Frobenius) at one code, against double
backpropagation in float64: of our metric in float64, of ours in float32, and of double backpropagation in float32.

Images smaller than 64 pixels are resized to 64 for LPIPS-alex. Times are measured as by `published.py`.
"""

import sys
from pathlib import Path

import sized_families
import torch
from published import measured

from pullback.distances import load_distance
from pullback.errors import PullbackError
from pullback.generators import any_condition, load_generator
from pullback.generators.base import generate
from pullback.generators.codes import trial_codes
from pullback.metric import metric_at
from pullback.metric.allocation import keep_freed_memory
from pullback.metric.backprop import backprop_metric
from pullback.metric.precision import in_double, relative_error
from pullback.metric.products import double_backward_product, squared_map

LARGEST = 256
"""Largest n for which double backpropagation takes seconds."""


def spaces_of(path):
    """The spaces z and w that a checkpoint has; None if the file is no checkpoint of a family."""
    try:
        generator = load_generator(str(path), check=False)
    except PullbackError:
        return None
    return [space for space in ("z", "w") if space in generator.spaces]


def errors_of(generator, distance):
    """The errors of ours in float64 and float32, and of double backpropagation in float32."""
    code = trial_codes(generator, 1, 3)
    classes = any_condition(generator, 1, code.device)
    condition = None if classes is None else classes.tolist()
    exact = backprop_metric(in_double(generator), in_double(distance), code[0].double(), classes)

    def error(matrix):
        return float(relative_error(matrix[None], exact[None])[0])

    ours = [
        metric_at(generator, distance, code, condition=condition, method="gauss_newton", precision=precision).matrix[0]
        for precision in ("float64", "float32")
    ]
    return [error(matrix) for matrix in (*ours, backprop_metric(generator, distance, code[0], classes))]


def row(path, space, label):
    """A line of the table; None if the metric is too large to compare."""
    generator = load_generator(str(path), space=space)
    if generator.latent_dim > LARGEST:
        return None
    code = trial_codes(generator, 1, 0)
    with torch.no_grad():
        side = generate(generator, code, any_condition(generator, 1, code.device)).shape[-1]
    distance = load_distance("lpips", **({"size": 64} if side < 64 else {}))
    found, errors = measured(generator, distance), errors_of(generator, distance)
    return (
        f"| {generator.family} | {label} | {space} | {generator.latent_dim} | {side} | {found['floor'] * 1000:.0f} | "
        f"{found['jacobian']:.2f} | {found['metric']:.2f} | {100 * found['share']:.0f} % | {found['how']} | "
        f"{'yes' if found['passed'] else 'NO'} | {' | '.join(f'{error:.0e}' for error in errors)} |"
    )


def sized_row(name):
    """A line of the table of `sized_families`, from one round."""
    generator = getattr(sized_families, name)()
    code = trial_codes(generator, 1, 0)
    classes = any_condition(generator, 1, code.device)
    condition = None if classes is None else classes.tolist()
    with torch.no_grad():
        side = generate(generator, code, classes).shape[-1]
    distance = load_distance("lpips", **({"size": 64} if side < 64 else {}))
    found = measured(generator, distance, 1)
    directions = torch.randn(8, generator.latent_dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    squared = squared_map(in_double(generator), in_double(distance), code[0].double(), classes)
    exact = double_backward_product(squared, code[0].double(), chunk=8)(directions)
    errors = []
    for precision in ("float64", "float32"):
        ours = metric_at(generator, distance, code, condition=condition, method="gauss_newton", precision=precision)
        errors.append(float(relative_error((directions @ ours.matrix[0].double())[None], exact[None])[0]))
    return (
        f"| {name} | {generator.latent_dim} | {side} | {found['floor'] * 1000:.0f} | {found['jacobian']:.2f} | "
        f"{found['metric']:.2f} | {100 * found['share']:.0f} % | {found['how']} | "
        f"{'yes' if found['passed'] else 'NO'} | {' | '.join(f'{error:.0e}' for error in errors)} |"
    )


def main():
    """Print the table."""
    torch.set_num_threads(1)
    keep_freed_memory()
    if not sys.argv[1:] or not Path(sys.argv[1]).is_dir():
        columns = ("network", "n", "pixels", "floor (ms)", "Jacobian", "metric", "certificate", "how", "certified")
        print("|", " | ".join((*columns, "ours 64", "ours 32")), "|")
        print("|---" * 11 + "|")
        for name in sys.argv[1:] or sized_families.NAMES:
            print(sized_row(name), flush=True)
        return
    folder, patterns = Path(sys.argv[1]), sys.argv[2:] or ["**/*"]
    files = sorted({path for pattern in patterns for path in folder.glob(pattern)})
    columns = ("family", "file", "space", "n", "pixels", "floor (ms)", "Jacobian", "metric", "certificate", "how")
    print("|", " | ".join((*columns, "certified", "ours 64", "ours 32", "backprop 32")), "|")
    print("|---" * 14 + "|")
    for path in files:
        for space in spaces_of(path) or ():
            line = row(path, space, path.relative_to(folder))
            if line is not None:
                print(line, flush=True)


if __name__ == "__main__":
    main()
