#!/usr/bin/env bash
# Compile mmcv's operators against the installed torch and show the progress.
# usage: requirements/install_mmcv.sh PYTHON LOG REQUIREMENT
# With a GPU and an nvcc of torch's CUDA version they are compiled for CUDA, else for the CPU. pip
# keeps the CPU's wheel, so that another environment of the same machine does not compile again.
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
        echo "There is a GPU, but torch needs nvcc of CUDA $wanted, and this one is of" \
            "CUDA ${found:-(none)}: the operators are compiled for the CPU, and training runs there."
        export CUDA_VISIBLE_DEVICES=
    fi
fi

# Most of the time goes into torch's headers, which each of mmcv's files includes, and into debug
# information. So the headers are compiled once, where the compiler is GCC and there is room for them.
precompile() {
    local cxx=${CXX:-c++} header=$1/torch_types.h
    export CFLAGS="${CFLAGS:-} -g0"
    if "$cxx" -dM -E -x c++ /dev/null | grep -q __clang__; then return; fi
    if [ "$(df -Pk "$1" | awk 'END { print $4 }')" -lt 1000000 ]; then return; fi
    echo '#include <torch/types.h>' >"$header"
    local flags
    flags=$("$python" -c 'import sysconfig as s, torch.utils.cpp_extension as e; print(
        s.get_config_var("CFLAGS"), s.get_config_var("CCSHARED"),
        *(f"-I{path}" for path in [*e.include_paths(), s.get_path("include")]))')
    # shellcheck disable=SC2086  # several flags
    if "$cxx" $flags $CFLAGS -std=c++17 -x c++-header "$header" -o "$header.gch" >>"$log" 2>&1; then
        export CFLAGS="$CFLAGS -include $header"
    fi
}

build() {
    "$python" -m pip install "${options[@]}" "$@" 2>&1 | tee -a "$log" |
        sed -unE 's/^ *\[([0-9]+)\/([0-9]+)\].*/  compiling mmcv: \1 of \2/p'
}

fail() {
    tail -n 30 "$log" >&2
    echo "error: $1; the whole log is $log. Fix what it names and run make again." >&2
    exit 1
}

kept() {
    local wheel tag
    wheel=$(sed -nE 's/^(onedl-)?mmcv==(.+)/\1mmcv-\2/p' "$mmcv")
    tag=$("$python" -c 'import sys; print("cp%d%d" % sys.version_info[:2])')
    [ -n "$("$python" -m pip cache list --format=abspath "${wheel/onedl-/onedl_}-$tag" 2>/dev/null)" ]
}

echo "mmcv: 4 minutes on 2 cores, seconds where pip has kept the wheel; log in $log"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
: >"$log"
kept || precompile "$folder"
build || fail 'mmcv did not compile'
bash "$here/fix_opencv.sh" "$python"
if ! "$python" -c 'import mmcv.ops' 2>>"$log"; then
    # A kept wheel that was compiled against another torch.
    tail -n 1 "$log" | grep -qE '_ext|undefined symbol' || fail 'mmcv does not import'
    precompile "$folder"
    build --no-cache-dir --force-reinstall --no-deps || fail 'mmcv did not compile'
    "$python" -c 'import mmcv.ops' 2>>"$log" || fail "mmcv's operators do not load"
fi
