#!/usr/bin/env bash
# Train with several processes, one per GPU, or on the CPU if there is no GPU.
# usage:   tools/dist_train.sh CONFIG GPUS [options of tools/train.py]
# example: tools/dist_train.sh configs/faster_rcnn_r50_cbam.py 8
# several machines: NNODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 PORT=29500 tools/dist_train.sh ...
set -euo pipefail
if [ $# -lt 2 ] || [ "$1" = --help ] || ! [[ $2 =~ ^[0-9]+$ ]]; then
    sed -n '2,5s/^# //p' "$0"
    exit $([ "${1-}" = --help ] && echo 0 || echo 2)
fi
# Processes of one machine meet at any free port, so that several runs can share the machine.
if [ -z "${PORT-}" ]; then
    PORT=29500
    [ "${NNODES:-1}" != 1 ] || PORT=$("${PYTHON:-python}" -c \
        'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
fi
# torchrun prints a long report when a process stops, so the error line, or the line about how to
# continue, is repeated at the end.
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# A signal to this script or from its terminal is sent to torchrun as one SIGTERM; torchrun forwards
# it and waits. torchrun runs in its own session, so that it does not get the terminal's signal as
# well, and ignores SIGUSR1, which would stop it without its processes.
signalled=
interrupts=0
launcher=
stop() { # SIGNAL; always returns 0, because the status of a trap can end the script
    [ "$1" != INT ] || interrupts=$((interrupts + 1))
    if [ "$interrupts" = 2 ]; then # torchrun ends after its processes
        pkill -KILL -P "$launcher" 2>/dev/null || true
    fi
    [ -z "$signalled" ] || return 0
    signalled=$1
    [ -z "$launcher" ] || kill -TERM "$launcher" 2>/dev/null || true
    [ "$1" != INT ] || print_line 'Ctrl-C: stops after this iteration (or validation) with a checkpoint; again: stops at once'
}
print_line() {
    (trap '' PIPE; echo "$1" >&2) || true # stderr may be closed: Ctrl-C also ends a `| tee`
}
for name in INT TERM USR1 HUP QUIT; do trap "stop $name" $name; done
# Seconds between torchrun's SIGTERM and SIGKILL; the default of 30 is too short for a validation.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT="${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-3600}"
exec {errors}> >(trap '' INT TERM USR1 HUP QUIT; tee "$log" >&2)
tee=$!
(
    trap '' USR1
    # shellcheck disable=SC2046 (it may be missing)
    exec $(command -v setsid) "${PYTHON:-python}" -m torch.distributed.run \
        --nnodes "${NNODES:-1}" --node_rank "${NODE_RANK:-0}" \
        --master_addr "${MASTER_ADDR:-127.0.0.1}" --master_port "$PORT" \
        --nproc_per_node "$2" \
        "$(dirname "$0")/train.py" "$1" --launcher pytorch "${@:3}"
) 2>&"$errors" &
launcher=$!
[ -z "$signalled" ] || kill -TERM "$launcher" 2>/dev/null || true
status=0
wait "$launcher" || status=$?
while kill -0 "$launcher" 2>/dev/null; do  # a signal interrupts `wait`, but not torchrun
    status=0
    wait "$launcher" || status=$?
done
[ "$status" = 0 ] && exit
exec {errors}>&-
for _ in {1..10}; do # until the log is complete
    kill -0 "$tee" 2>/dev/null || break
    sleep 0.1
done
if error=$(grep '^error: ' "$log" | awk '!seen[$0]++'); then # all processes may print it
    print_line "$error"
    exit "$status"
fi
if message=$(grep -m 1 '^stopped by SIG' "$log"); then
    print_line "$message"
fi
[ -z "$signalled" ] || status=$((128 + $(kill -l "$signalled")))
if [ "$signalled" = INT ]; then # so that a loop in the calling shell ends too
    rm -f "$log"
    trap - INT
    kill -INT $$
fi
exit "$status"
