#!/usr/bin/env bash
# Compile mmcv's operators against the installed torch and show the progress.
# usage: requirements/install_mmcv.sh PYTHON LOG
# With a GPU and nvcc they are built for CUDA, else for the CPU. pip keeps the CPU's wheel, so that
# another environment of the same machine does not compile again.
set -euo pipefail
cd "$(dirname "$0")"
python=$1 log=$2
options=(-v --no-build-isolation -r mmcv.txt)
if "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    if command -v nvcc >/dev/null; then
        export FORCE_CUDA=1
        options+=(--no-cache-dir) # the kept wheel is the CPU's
    else
        echo 'A GPU, but no nvcc: the operators are built for the CPU, and training stays there.'
        export CUDA_VISIBLE_DEVICES=
    fi
fi

build() {
    "$python" -m pip install "${options[@]}" "$@" 2>&1 | tee "$log" |
        sed -unE 's/^ *\[([0-9]+)\/([0-9]+)\].*/  compiling mmcv: \1 of \2/p'
}

loads() {
    "$python" -c 'import mmcv.ops' 2>>"$log"
}

echo "mmcv: 15 minutes on 2 cores, seconds where pip has kept the wheel; log in $log"
if ! build; then
    tail -n 30 "$log" >&2
    echo "error: mmcv did not compile; the whole log is $log. Mend what it names and run make again." >&2
    exit 1
fi
if ! loads; then # a kept wheel that was compiled against another torch
    build --no-cache-dir --force-reinstall --no-deps && loads || {
        tail -n 30 "$log" >&2
        echo "error: mmcv's operators do not load; the whole log is $log" >&2
        exit 1
    }
fi
