#!/usr/bin/env bash
# Everything that a fresh Debian machine needs: system packages, a virtual environment with pinned packages, FFCV.
# Does only what is missing, says what it does, and takes seconds when nothing is.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
stamp=.venv/.installed

say() { printf 'setup: %s\n' "$*"; }

# --- Debian packages: a compiler and the libraries that FFCV is compiled against; for tests a browser -------------
packages=(g++ pkg-config libopencv-core-dev libopencv-imgproc-dev libturbojpeg0-dev)
"$python" -c 'import ensurepip, venv' 2>/dev/null || packages+=(python3-venv python3-dev)
packages+=(chromium fonts-dejavu-core)
missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if ((${#missing[@]})); then
    if ! command -v apt-get >/dev/null; then
        say "not a Debian system: install the equivalents of ${missing[*]} and run again" >&2
        exit 1
    elif [ "$(id -u)" -ne 0 ]; then
        say "Debian packages are missing; install them as root and run again:" >&2
        say "  sudo apt-get install --no-install-recommends ${missing[*]}" >&2
        exit 1
    fi
    say "installing Debian packages: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

# --- Python packages, pinned -------------------------------------------------------------------------------------
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    say "Python 3.11 or newer is needed, $python is $("$python" -V 2>&1); set PYTHON=/path/to/python3.11" >&2
    exit 1
fi
wanted=$(cat pyproject.toml constraints.txt scripts/*.sh harness/__init__.py | sha256sum | cut -d' ' -f1)
if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    exit 0
fi
if [ ! -x .venv/bin/python ]; then
    say "creating .venv with $("$python" -V 2>&1)"
    "$python" -m venv .venv
fi
pip=(.venv/bin/python -m pip --quiet)
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_CONSTRAINT="$PWD/constraints.txt"
say "installing pinned Python packages (minutes the first time)"
# torch first: a package that asks for any torch must find the pinned one instead of choosing.
"${pip[@]}" install "$(grep '^torch==' constraints.txt)" setuptools hatchling editables
"${pip[@]}" install --no-build-isolation --editable '.[dev,events,ffcv]'

if .venv/bin/python -c 'import sys, torch; sys.exit(torch.version.cuda is not None)'; then
    # torch's CUDA builds bring the Triton that fits them. Here it only interprets our kernels, to test them.
    "${pip[@]}" install --no-deps triton==3.9.0
fi

# Our counts of operations are tested against NeuroBench's, whose own requirements would replace pinned packages.
"${pip[@]}" install --no-deps neurobench snntorch

say "compiling FFCV"
scripts/install_ffcv.sh .venv/bin/python

echo "$wanted" > "$stamp"
say "done; '.venv/bin/harness doctor' shows what there is"
