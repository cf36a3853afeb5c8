#!/usr/bin/env bash
# Compile FFCV's one C++ file against Debian's OpenCV and libjpeg-turbo and install it into a virtual environment.
# usage: scripts/install_ffcv.sh PYTHON
#
# FFCV asks pkg-config for the whole of OpenCV (640 MB of packages) and includes its umbrella header, but calls only
# cv::resize. So it is shown a package description and a header that hold just the two modules it needs (10 MB).
set -euo pipefail
python=$1
version=1.0.2

if "$python" -c "import importlib.metadata as m; assert m.version('ffcv') == '$version'" 2>/dev/null; then
    exit 0
fi

build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
mkdir -p "$build/include/opencv2"
printf '#pragma once\n#include <opencv2/core.hpp>\n#include <opencv2/imgproc.hpp>\n' > "$build/include/opencv2/opencv.hpp"
cat > "$build/opencv4.pc" <<PC
Name: OpenCV
Description: core and imgproc only
Version: 4
Libs: -lopencv_imgproc -lopencv_core
Cflags: -I$build/include -I/usr/include/opencv4
PC
# The declared dependencies would add the OpenCV wheel that needs an X server's libraries; ours are in pyproject.toml.
PKG_CONFIG_PATH="$build${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH}" \
    "$python" -m pip install --quiet --no-deps --no-cache-dir "ffcv==$version"
