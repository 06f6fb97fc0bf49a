#!/usr/bin/env bash
# Make or complete a Python environment: torch for this machine first, then exactly requirements.lock.
#   scripts/environment.sh FOLDER STAMP      (make env calls it; TORCH_INDEX, PYTHON: see below)
set -euo pipefail
cd "$(dirname "$0")/.."
environment=$1 stamp=$2
torch=2.13.0
setuptools=81.0.0

fail() { echo "error: $*" >&2; exit 1; }
good() { command -v "$1" >/dev/null && "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

if [ ! -x "$environment/bin/python" ]; then
    for python in ${PYTHON:-python3.11 python3.12 python3.13 python3}; do good "$python" && break || python=; done
    [ -n "$python" ] || fail "no Python 3.11 or newer on PATH; install one, or name it: make env PYTHON=/path/to/python3"
    echo "Creating $environment with $("$python" --version)"
    "$python" -m venv "$environment" || fail "$python cannot make environments; on Debian or Ubuntu: apt install python3-venv"
fi
python=$environment/bin/python
good "$python" || fail "$environment holds $("$python" --version), Python 3.11 or newer is needed; deactivate it or remove it"
pip() { "$python" -m pip --disable-pip-version-check "$@"; }

# The lock leaves torch out, since the right build depends on the machine. One that is there already is kept.
if ! "$python" -c 'import importlib.metadata as m; assert tuple(map(int, m.version("torch").split(".")[:2])) >= (2, 6)' 2>/dev/null; then
    if [ -n "${TORCH_INDEX:-}" ]; then
        echo "Installing torch $torch from TORCH_INDEX"
        pip install -qq "torch==$torch" --index-url "$TORCH_INDEX"
    elif [ "$(uname)" = Darwin ] || nvidia-smi >/dev/null 2>&1; then
        echo "Installing torch $torch"
        pip install -qq "torch==$torch"
    elif ! pip install -qq --no-deps "torch==$torch+cpu" 2>/dev/null; then
        echo "No CPU-only torch where pip looks. Installing the default build, about 3 GB with its CUDA libraries;"
        echo "to avoid that, stop and give PyTorch's CPU wheel index: make env TORCH_INDEX=<address>"
        pip install -qq "torch==$torch"
    fi
fi

echo "Installing requirements.lock"
pip install -qq --require-hashes --no-deps -r requirements.lock
# Not in the lock, since every environment brings one of its own; older ones cannot build the wheel.
pip install -qq --no-deps "setuptools==$setuptools"
# Notebooks and scripts find gateau_lib from anywhere; its source is used in place.
pwd > "$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/gateau_lib.pth"
"$python" -c 'import torch, transformers' || fail "$environment does not work; remove it and run make env again"
rm -f "$environment"/.gateau-*
touch "$stamp"
echo "Environment ready: $environment"
