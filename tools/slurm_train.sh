#!/usr/bin/env bash
# Train on a Slurm cluster.
# usage:   tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [options of tools/train.py]
# example: GPUS=16 tools/slurm_train.sh gpu cbam configs/faster_rcnn_r50_cbam.py work_dirs/r50 --auto-scale-lr
# set GPUS (8), GPUS_PER_NODE (8), CPUS_PER_TASK (5) and SRUN_ARGS as needed
set -euo pipefail
if [ $# -lt 4 ] || [ "$1" = --help ]; then
    sed -n '2,5s/^# //p' "$0"
    exit $([ "${1-}" = --help ] && echo 0 || echo 2)
fi
# shellcheck disable=SC2086 (SRUN_ARGS are several words)
srun -p "$1" --job-name="$2" --gres=gpu:"${GPUS_PER_NODE:-8}" --ntasks="${GPUS:-8}" \
    --ntasks-per-node="${GPUS_PER_NODE:-8}" --cpus-per-task="${CPUS_PER_TASK:-5}" \
    --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    "${PYTHON:-python}" -u "$(dirname "$0")/train.py" "$3" --work-dir "$4" --launcher slurm "${@:5}"
