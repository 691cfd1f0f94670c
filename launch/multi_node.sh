#!/usr/bin/env bash
# Trains on several hosts: run it on each of them, with the same variables and options.
#
#   SHARDTOWER_NODES=2 SHARDTOWER_ENDPOINT=10.0.0.1:29400 \
#       bash launch/multi_node.sh --run.dir /shared/runs/NAME [options]     as of `python -m trainer train`
#
# What to change:
#   SHARDTOWER_NODES         number of hosts; or 2:4, to begin with 2 and take in up to 4 while training
#   SHARDTOWER_ENDPOINT      address and free port of the first host, which all hosts reach
#   --run.dir                folder that all hosts see, as each rank writes its share of a checkpoint there;
#                            the same command in the same folder resumes
# What may stay:
#   SHARDTOWER_RANKS         ranks of each host (default: one for each GPU, or 4 CPU ranks)
#   SHARDTOWER_RESTARTS      times that the ranks are started again when one, or its host, dies (default: 3)
#   SHARDTOWER_JOIN_SECONDS  how long hosts wait for each other, at the start and at each restart (default: 600)
#   SHARDTOWER_RUN_ID        name of this training, where two of them meet at one endpoint
#   SHARDTOWER_PYTHON        Python with all packages, as in an image (default: .venv, after set-up)
#   SHARDTOWER_STOPPED_CODE  exit code after SIGTERM, when all have saved and the training is to go on (default: 0)
#   OMP_NUM_THREADS          threads of each rank (default: the cores, divided among the ranks)
#
# Hosts meet by torchrun's c10d rendezvous, and ranks by the interface that leads to the endpoint. A rank notices
# a host that was cut off after --timeout seconds of silence: 60 to 300 suit hosts that may fail (default: 1800).
# Exit codes: those of the training; 1 if hosts did not meet in time; 2 for a wrong variable or option.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# The user's input is at fault: one line, exit code 2.
refuse() {
    printf 'multi_node: %s\n' "$*" >&2
    exit 2
}

is_count() { [[ $1 =~ ^[1-9][0-9]*$ ]]; }

check_variables() {
    # Kubeflow Trainer tells them by torchrun's own variables.
    nodes=${SHARDTOWER_NODES:-${PET_NNODES:-}}
    endpoint=${SHARDTOWER_ENDPOINT:-${PET_MASTER_ADDR:+$PET_MASTER_ADDR:${PET_MASTER_PORT:-29500}}}
    ranks=${SHARDTOWER_RANKS:-} restarts=${SHARDTOWER_RESTARTS:-3} seconds=${SHARDTOWER_JOIN_SECONDS:-600}
    if ! is_count "${nodes%%:*}" || ! is_count "${nodes##*:}" || ((${nodes%%:*} > ${nodes##*:})); then
        refuse "SHARDTOWER_NODES is '$nodes', expected a number of hosts, or MIN:MAX"
    fi
    if [[ ! $endpoint =~ ^.+:[0-9]+$ ]]; then
        refuse "SHARDTOWER_ENDPOINT is '$endpoint', expected HOST:PORT of the first host"
    fi
    if [[ -n $ranks ]] && ! is_count "$ranks"; then
        refuse "SHARDTOWER_RANKS is '$ranks', expected a number from 1"
    fi
    if [[ ! $restarts =~ ^[0-9]+$ ]]; then
        refuse "SHARDTOWER_RESTARTS is '$restarts', expected a number from 0"
    fi
    if ! is_count "$seconds"; then
        refuse "SHARDTOWER_JOIN_SECONDS is '$seconds', expected a number of seconds from 1"
    fi
}

choose_ranks() {
    if [[ -n $ranks ]]; then return; fi
    ranks=4
    if timeout 20 nvidia-smi -L >/dev/null 2>&1; then
        # What torch can use, which CUDA_VISIBLE_DEVICES and the build decide.
        ranks=$("$python" -c 'import torch; print(torch.cuda.device_count() or 4)')
    fi
}

check_variables
python=${SHARDTOWER_PYTHON:-}
if [[ -z $python ]]; then
    bash "$root/launch/setup.sh"
    python=$root/.venv/bin/python
fi
for option in "$@"; do
    if [[ $option =~ ^(--help|-h|--print_config)$ ]]; then exec "$python" -m trainer train "$@"; fi
done
choose_ranks
id=()
if [[ -n ${SHARDTOWER_RUN_ID:-} ]]; then id=(--rdzv-id "$SHARDTOWER_RUN_ID"); fi
# The launcher says in a line what its network code would say with stack traces. Ranks do not inherit this.
export TORCH_CPP_LOG_LEVEL=${TORCH_CPP_LOG_LEVEL:-FATAL}
# The first host answers once it is up: the others try for as long as they would wait for it.
exec "$python" "$root/launch/ranks.py" --nnodes "$nodes" --nproc-per-node "$ranks" --max-restarts "$restarts" \
    --rdzv-backend c10d --rdzv-endpoint "$endpoint" "${id[@]}" \
    --rdzv-conf "join_timeout=$seconds,read_timeout=$seconds" -m trainer train "$@"
