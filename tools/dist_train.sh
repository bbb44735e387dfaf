#!/usr/bin/env bash
# Train with several processes: a GPU each, or CPU processes where there is no GPU.
# usage:   tools/dist_train.sh CONFIG GPUS [options of tools/train.py]
# example: tools/dist_train.sh configs/faster_rcnn_r50_cbam.py 8
# several machines: NNODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 PORT=29500 tools/dist_train.sh ...
set -euo pipefail
if [ $# -lt 2 ] || [ "$1" = --help ] || ! [[ $2 =~ ^[0-9]+$ ]]; then
    sed -n '2,5s/^# //p' "$0"
    exit $([ "${1-}" = --help ] && echo 0 || echo 2)
fi
# torchrun says much about a process that ended: its one line of error is repeated last.
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# A scheduler signals this script and tee too, and the training still has to save and to say so.
trap : TERM USR1
"${PYTHON:-python}" -m torch.distributed.run \
    --nnodes "${NNODES:-1}" --node_rank "${NODE_RANK:-0}" \
    --master_addr "${MASTER_ADDR:-127.0.0.1}" --master_port "${PORT:-29500}" \
    --nproc_per_node "$2" \
    "$(dirname "$0")/train.py" "$1" --launcher pytorch "${@:3}" 2> >(trap '' TERM USR1; tee "$log" >&2) || {
    status=$?
    grep '^error: ' "$log" >&2 || true
    exit $status
}
