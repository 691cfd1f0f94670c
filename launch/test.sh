#!/usr/bin/env bash
# Runs the tests side by side, after set-up where that is needed.
#
#   bash launch/test.sh [pytest options]       e.g. -k losses, -m "not distributed"; -n 0: in one process
#
#   OMP_NUM_THREADS   threads of each process (default: 1, as there is a process for each core)
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bash "$root/launch/setup.sh" --test
cd "$root"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# A file's tests stay in one process, which makes their common worlds once. One process more than cores, as many tests
# wait; more than four, each with ranks of its own, would take 16 GB.
processes=$(($(nproc) + 1))
processes=$((processes < 4 ? processes : 4))
# In the order of the folders: by default files of few tests come last, which are the long ones, of several ranks.
exec .venv/bin/python -m pytest --numprocesses "$processes" --dist loadfile --no-loadscope-reorder "$@"
