#!/usr/bin/env bash
# Everything that a GPU can show of this project, in one command; see README.md beside this file.
#
#   bash tests/gpu/check.sh [--cpu] [--only PART,...] [--skip PART,...] [--out FOLDER] [--limit SECONDS]
#
#   PYTHON            interpreter (default: .venv/bin/python where it is there, else python3)
#   SHARDTOWER_DATA   folder of MovieLens data; without it, made-up data of the same sizes stand in
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python=${PYTHON:-}
if [[ -z $python ]]; then if [[ -x .venv/bin/python ]]; then python=.venv/bin/python; else python=python3; fi; fi

# FBGEMM's CUDA library needs the driver's libnvidia-ml.so.1, which may lie where the loader does not look.
if ! ldconfig -p 2>/dev/null | grep -q libnvidia-ml.so.1; then
    driver=$(find /usr/local/nvidia /usr/lib /usr/lib64 -name libnvidia-ml.so.1 2>/dev/null | head -1 || true)
    if [[ -n $driver ]]; then
        LD_LIBRARY_PATH=$(dirname "$driver")${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
        export LD_LIBRARY_PATH
    fi
fi
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
exec "$python" -m tests.gpu.check "$@"
