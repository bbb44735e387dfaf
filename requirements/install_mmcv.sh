#!/usr/bin/env bash
# Compile mmcv's operators against the installed torch and show the progress.
# usage: requirements/install_mmcv.sh PYTHON LOG REQUIREMENT
# With a GPU and an nvcc of torch's CUDA version they are built for CUDA, else for the CPU. pip keeps
# the CPU's wheel, so that another environment of the same machine does not compile again.
set -euo pipefail
here=$(dirname "$0")
python=$1 log=$2 mmcv=$3
options=(-v --no-build-isolation -r "$mmcv")

if "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    wanted=$("$python" -c 'import torch; print(torch.version.cuda.split(".")[0])')
    found=$(nvcc --version 2>/dev/null | sed -nE 's/.*release ([0-9]+)\..*/\1/p' || true)
    if [ "$found" = "$wanted" ]; then
        export FORCE_CUDA=1
        options+=(--no-cache-dir) # the kept wheel is the CPU's
    else
        echo "A GPU, but nvcc of CUDA ${found:-(none)} where torch needs CUDA $wanted:" \
            'the operators are built for the CPU, and training stays there.'
        export CUDA_VISIBLE_DEVICES=
    fi
fi

build() {
    "$python" -m pip install "${options[@]}" "$@" 2>&1 | tee "$log" |
        sed -unE 's/^ *\[([0-9]+)\/([0-9]+)\].*/  compiling mmcv: \1 of \2/p'
}

fail() {
    tail -n 30 "$log" >&2
    echo "error: $1; the whole log is $log. Mend what it names and run make again." >&2
    exit 1
}

echo "mmcv: 15 minutes on 2 cores, seconds where pip has kept the wheel; log in $log"
build || fail 'mmcv did not compile'
bash "$here/mend_opencv.sh" "$python"
if ! "$python" -c 'import mmcv.ops' 2>>"$log"; then
    # A kept wheel that was compiled against another torch.
    tail -n 1 "$log" | grep -qE '_ext|undefined symbol' || fail 'mmcv does not import'
    build --no-cache-dir --force-reinstall --no-deps || fail 'mmcv did not compile'
    "$python" -c 'import mmcv.ops' 2>>"$log" || fail "mmcv's operators do not load"
fi
