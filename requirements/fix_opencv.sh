#!/usr/bin/env bash
# mmcv asks for opencv-python, which needs the system's libGL; where that is missing, put the build
# without windows in its place.
# usage: requirements/fix_opencv.sh PYTHON
set -euo pipefail
python=$1
"$python" -c 'import cv2' 2>/dev/null && exit 0
version=$("$python" -c 'from importlib.metadata import version; print(version("opencv-python"))')
echo "OpenCV's windows need libGL, which is missing: installing opencv-python-headless $version"
"$python" -m pip install -q --force-reinstall --no-deps "opencv-python-headless==$version"
"$python" -c 'import cv2' || {
    echo 'error: OpenCV does not import: apt-get install libgl1 libglib2.0-0' >&2
    exit 1
}
