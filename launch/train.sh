#!/usr/bin/env bash
# Trains on all GPUs of this machine, or on 4 CPU ranks where it has none, after set-up where that is needed.
#
#   bash launch/train.sh [options]       the options of `python -m trainer train`; --help lists them
#
#   SHARDTOWER_RANKS         number of ranks
#   SHARDTOWER_RESTARTS      times that the ranks are started again when one dies (default: 0)
#   OMP_NUM_THREADS          threads of each rank (default: the cores, divided among the ranks)
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$root/.venv/bin/python

choose_ranks() {
    ranks=${SHARDTOWER_RANKS:-}
    if [[ -z $ranks ]] && timeout 20 nvidia-smi -L >/dev/null 2>&1; then
        # What torch can use, which CUDA_VISIBLE_DEVICES and the build decide.
        ranks=$("$python" -c 'import torch; print(torch.cuda.device_count() or "")')
    fi
    ranks=${ranks:-4}
    if [[ ! $ranks =~ ^[1-9][0-9]*$ ]]; then
        echo "train: SHARDTOWER_RANKS is '$ranks', expected a number from 1" >&2
        exit 2
    fi
    restarts=${SHARDTOWER_RESTARTS:-0}
    if [[ ! $restarts =~ ^[0-9]+$ ]]; then
        echo "train: SHARDTOWER_RESTARTS is '$restarts', expected a number from 0" >&2
        exit 2
    fi
}

bash "$root/launch/setup.sh"

for option in "$@"; do
    if [[ $option =~ ^(--help|-h|--print_config)$ ]]; then exec "$python" -m trainer train "$@"; fi
done
# A misspelt option, missing data or a broken line is reported once, before any rank starts.
"$python" -m trainer prepare "$@"

choose_ranks
# --standalone takes a free port, so that trainings on one machine do not meet on the default one.
exec "$python" "$root/launch/ranks.py" --standalone --nproc_per_node="$ranks" \
    --max-restarts="$restarts" -m trainer train "$@"
