#!/usr/bin/env bash
# Test with several processes, one per GPU, or on the CPU if there is no GPU.
# usage:   tools/dist_test.sh CONFIG CHECKPOINT GPUS [options of tools/test.py]
# example: tools/dist_test.sh configs/faster_rcnn_r50_cbam.py work_dirs/faster_rcnn_r50_cbam/epoch_12.pth 8
# several machines: NNODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 PORT=29500 tools/dist_test.sh ...
set -euo pipefail
if [ $# -lt 3 ] || [ "$1" = --help ] || ! [[ $3 =~ ^[0-9]+$ ]]; then
    sed -n '2,5s/^# //p' "$0"
    exit $([ "${1-}" = --help ] && echo 0 || echo 2)
fi
# Processes of one machine meet at any free port, so that several runs can share the machine.
if [ -z "${PORT-}" ]; then
    PORT=29500
    [ "${NNODES:-1}" != 1 ] || PORT=$("${PYTHON:-python}" -c \
        'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
fi
# torchrun prints a long report when a process fails, so the error line is repeated at the end.
log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
{ "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes "${NNODES:-1}" --node_rank "${NODE_RANK:-0}" \
    --master_addr "${MASTER_ADDR:-127.0.0.1}" --master_port "$PORT" \
    --nproc_per_node "$3" \
    "$(dirname "$0")/test.py" "$1" "$2" --launcher pytorch "${@:4}" 2>&1 >&3 | tee "$log" >&2; } 3>&1 || status=$?
[ "$status" = 0 ] || grep '^error: ' "$log" | awk '!seen[$0]++' >&2 || true # all may print it
exit "$status"
