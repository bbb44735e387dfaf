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

# torch 2.14 and newer need C++20, while mmcv's setup asks for C++17: a script in place of the
# compiler changes that option. A user's own CXX or CC stays what it calls.
standard=17
use_cxx20() {
    standard=20
    local compiler
    for compiler in CXX CC; do
        printf '#!/usr/bin/env bash\nexec %s "${@/-std=c++17/-std=c++20}"\n' \
            "${!compiler:-$([ $compiler = CXX ] && echo c++ || echo cc)}" >"$1/$compiler"
        chmod +x "$1/$compiler"
        export "$compiler=$1/$compiler"
    done
}

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
    if "$cxx" $flags $CFLAGS "-std=c++$standard" -x c++-header "$header" -o "$header.gch" >>"$log" 2>&1; then
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

# A wheel that was compiled against another torch may import, but not run.
operators_work() {
    "$python" -c 'import torch; from mmcv.ops import nms
nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)' >>"$log" 2>&1
}

echo "mmcv: 4 minutes on 2 cores, seconds where pip has kept the wheel; log in $log"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
: >"$log"
if "$python" -c 'import sys, torch; v = torch.__version__.split(".")
sys.exit((int(v[0]), int(v[1])) < (2, 14))'; then
    use_cxx20 "$folder"
fi
from_cache=false
if kept; then from_cache=true; else precompile "$folder"; fi
build || fail 'mmcv did not compile'
bash "$here/fix_opencv.sh" "$python"
if ! operators_work; then
    $from_cache || fail "mmcv's operators do not run"
    echo "mmcv: the wheel that pip kept was compiled against another torch; compiling it again"
    precompile "$folder"
    build --no-cache-dir --force-reinstall --no-deps || fail 'mmcv did not compile'
    operators_work || fail "mmcv's operators do not run"
fi
