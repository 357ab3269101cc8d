#!/usr/bin/env bash
# The GPU check: how fast, how right, and what limits it. Under eight minutes, whatever fails in it.
#
#   make gpu                      on a machine with a CUDA device, Python 3.11 or later and torch 2.11 or later
#   jobs/benchmarks/gpu.sh --device cpu --quick      tries the check itself anywhere
#
# Results: gpu.md (the table), gpu.json and gpu.log in $OUT, by default jobs/benchmarks/results.
# A machine without a network gets packages and weights from build/gpu-carry, which `make gpu-carry` fills elsewhere.
# PYTHON chooses the Python, by default python3.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
out=${OUT:-jobs/benchmarks/results}
carried=build/gpu-carry
export PYTHONPATH="$PWD/service${PYTHONPATH:+:$PYTHONPATH}"
if [ -d "$carried" ]; then
  export PULLBACK_CARRIED="$PWD/$carried/site"
  export PULLBACK_WEIGHTS=${PULLBACK_WEIGHTS:-$PWD/$carried/weights}
fi
export HF_HUB_OFFLINE=1
# `timeout` ends what hangs in the check itself; each part has a limit of its own.
exec timeout --kill-after=5 475 "${PYTHON:-python3}" -P -m pullback.bench.gpu --out "$out" "$@"
