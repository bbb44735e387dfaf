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
# torchrun says much about a process that ended: its line of error, or of how to go on, is repeated
# last.
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# A signal to this script, or from its terminal, becomes one SIGTERM to torchrun, which passes it on
# and waits. torchrun has a session of its own, so that a terminal's does not reach it as well, and
# ignores SIGUSR1, which would end it and leave its processes alone.
signalled=
interrupts=0
launcher=
stop() { # SIGNAL; `return 0` where nothing is left to do: a trap's status can end the script
    [ "$1" != INT ] || interrupts=$((interrupts + 1))
    if [ "$interrupts" = 2 ]; then # torchrun ends by itself when its processes have
        pkill -KILL -P "$launcher" 2>/dev/null || true
    fi
    [ -z "$signalled" ] || return 0
    signalled=$1
    [ -z "$launcher" ] || kill -TERM "$launcher" 2>/dev/null || true
    [ "$1" != INT ] || tell 'Ctrl-C: stops after this iteration (or validation) with a checkpoint; again: at once'
}
tell() {
    (trap '' PIPE; echo "$1" >&2) || true # nobody may listen any more: Ctrl-C ends a `| tee`, too
}
for name in INT TERM USR1 HUP QUIT; do trap "stop $name" $name; done
# The seconds between torchrun's SIGTERM and its SIGKILL: 30 would cut off a validation.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT="${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-3600}"
(
    trap '' USR1
    # shellcheck disable=SC2046 (it may be missing)
    exec $(command -v setsid) "${PYTHON:-python}" -m torch.distributed.run \
        --nnodes "${NNODES:-1}" --node_rank "${NODE_RANK:-0}" \
        --master_addr "${MASTER_ADDR:-127.0.0.1}" --master_port "${PORT:-29500}" \
        --nproc_per_node "$2" \
        "$(dirname "$0")/train.py" "$1" --launcher pytorch "${@:3}"
) 2> >(trap '' INT TERM USR1 HUP QUIT; tee "$log" >&2) &
launcher=$!
[ -z "$signalled" ] || kill -TERM "$launcher" 2>/dev/null || true
status=0
wait "$launcher" || status=$?
while kill -0 "$launcher" 2>/dev/null; do  # a signal ends `wait`, not torchrun
    status=0
    wait "$launcher" || status=$?
done
[ "$status" = 0 ] && exit
if error=$(grep '^error: ' "$log"); then
    tell "$error"
    exit "$status"
fi
if said=$(grep -m 1 '^stopped by SIG' "$log"); then
    tell "$said"
fi
[ -z "$signalled" ] || status=$((128 + $(kill -l "$signalled")))
if [ "$signalled" = INT ]; then # a shell's loop ends where Ctrl-C's own signal ended the command
    rm -f "$log"
    trap - INT
    kill -INT $$
fi
exit "$status"
