"""Run the parts of the GPU check, each in its own process.

Invariants: the check ends within its budget plus a few seconds. A part that fails, hangs or dies loses only its own
rows. Results are written after each part.
"""

import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import torch

import pullback
from pullback.bench.gpu.parts import PARTS, Part
from pullback.bench.gpu.rows import Row, markdown, plain_table, read_rows
from pullback.bench.machine import device_name
from pullback.bench.metric import RETURN_FREED_MEMORY
from pullback.errors import SpecError

BUDGET = 460.0
"""Seconds for all parts together: eight minutes minus the time to start and to write."""
_PATIENCE = 5.0
"""Seconds that a part may take to end after a termination signal."""


def check_gpu(
    out: Path,
    *,
    device: str = "cuda",
    quick: bool = False,
    only: Sequence[str] = (),
    budget: float = BUDGET,
    report: Callable[[str], None] = lambda line: None,
) -> list[Row]:
    """Measure a GPU, and write `gpu.json`, `gpu.md` and `gpu.log` into a folder.

    Args:
        out: the folder; created if it does not exist.
        device: `cuda`, or `cpu` to try the check itself.
        quick: whether to use small sizes, for tests. The rows are the same.
        only: names of the parts to run; all by default.
        budget: seconds for all parts together. A part without enough time is reported as left out.
        report: called with each line of progress.

    Returns:
        The rows of the table, including rows of failed parts.

    Raises:
        SpecError: there is no such device or part.
    """
    unknown = [name for name in only if name not in {part.name for part in PARTS}]
    problems = [f"parts: there is no part {name!r}; there are {', '.join(p.name for p in PARTS)}" for name in unknown]
    if device == "cuda" and not torch.cuda.is_available():
        problems.append("device: this machine has no CUDA device; `--device cpu --quick` tries the check itself")
    elif device not in ("cpu", "cuda"):
        problems.append(f"device: must be cuda or cpu, not {device!r}")
    if problems:
        raise SpecError(problems, "pullback bench gpu")
    out.mkdir(parents=True, exist_ok=True)
    facts = _facts(torch.device(device), quick)
    began = time.monotonic()
    rows: list[Row] = []
    with (out / "gpu.log").open("w", encoding="utf-8") as log, tempfile.TemporaryDirectory() as scratch:
        for part in (part for part in PARTS if not only or part.name in only):
            left = budget - (time.monotonic() - began)
            report(f"{part.name}: {part.what} ({left:.0f} s left)")
            if left < part.least:
                rows.append(Row(part.name, "left out", None, note=f"{left:.0f} s were left, it needs {part.least:g}"))
            else:
                rows += _run(part, device, quick, min(part.limit, left), Path(scratch), log)
            facts["seconds"] = round(time.monotonic() - began, 1)
            _write(out, facts, rows)
        log.write(plain_table(rows) + "\n")
    return rows


def _run(part: Part, device: str, quick: bool, limit: float, scratch: Path, log: IO[str]) -> list[Row]:
    """Run one part in its own process. Return its rows; after a failure, add a row with the reason."""
    written = scratch / f"{part.name}.rows"
    command = [sys.executable, "-P", "-m", "pullback.bench.gpu.parts", part.name, device, str(written)]
    log.write(f"== {part.name}\n")
    log.flush()
    began = time.monotonic()
    process = subprocess.Popen(
        [*command, "quick"] if quick else command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,  # its child processes can then be killed with it
        env={**os.environ, "PYTHONUNBUFFERED": "1", **(RETURN_FREED_MEMORY if part.name == "memory" else {})},
    )
    ended = ""
    try:
        code = process.wait(timeout=limit)
        if code:
            name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            ended = f"its process ended with {name}; gpu.log has its output"
    except subprocess.TimeoutExpired:
        ended = f"it was killed after its limit of {limit:.0f} s"
    finally:
        _end(process)
    rows = read_rows(written)
    if ended:
        rows.append(Row(part.name, "not finished", None, note=ended))
    rows.append(Row(part.name, "seconds of this part", round(time.monotonic() - began, 1), "s"))
    return rows


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a process and all its children."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def _facts(device: torch.device, quick: bool) -> dict[str, Any]:
    facts = {
        "device": device_name(device),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pullback": pullback.__version__,
        "sizes": "small, for tests: the figures of this run say nothing about the device" if quick else "full",
    }
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        facts |= {
            "cuda": torch.version.cuda,
            "compute capability": f"{major}.{minor}",
            "memory": f"{torch.cuda.mem_get_info(device)[1] / 2**30:.1f} GiB",
        }
    return facts


def _write(out: Path, facts: dict[str, Any], rows: Sequence[Row]) -> None:
    text = json.dumps({"facts": facts, "rows": [{**asdict(row), "goal": row.goal} for row in rows]}, indent=1)
    (out / "gpu.json").write_text(text + "\n", encoding="utf-8")
    (out / "gpu.md").write_text(markdown(rows, facts), encoding="utf-8")
