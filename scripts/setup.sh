#!/usr/bin/env bash
# Build the virtual environment with the pinned packages, or repair it after an interruption. Set-ups
# that start at once take turns: the first builds, the others wait.
#
# Usage: scripts/setup.sh [--cluster] PYTHON [SCRATCH]   (called by the Makefile)
#   without --cluster   .venv is a folder here; nothing is done if .venv/.ready is newer than
#                       pyproject.toml and constraints.txt
#   --cluster           builds SCRATCH/venv-<digest of the requirements>, and .venv is a link to it;
#                       caches go to SCRATCH/cache. SCRATCH defaults to ~/scratch/fastdllm. Where
#                       .venv is a link already, this is done without the option.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { echo "make setup: $*" >&2; exit 2; }

on_cluster=
if [ "${1:-}" = --cluster ]; then
    on_cluster=1
    shift
fi
python=${1:-python3}
scratch=${2:-${FASTDLLM_SCRATCH:-}}
if [ -L .venv ]; then
    on_cluster=1
    scratch=${scratch:-$(dirname "$(readlink .venv)")}
    # The Python that made it, even if `python3` is another one by now.
    if [ "$python" = python3 ] && [ -x .venv/bin/python ]; then
        python=$(.venv/bin/python -c 'import sys; print(sys._base_executable)')
    fi
elif [ -n "$on_cluster" ] && [ -e .venv ]; then
    fail "there is a .venv folder already, which this would replace by a link; remove it first: rm -rf .venv"
fi
if [ -n "$on_cluster" ] && [ -z "$scratch" ]; then
    [ -d "$HOME/scratch" ] ||
        fail "there is no ~/scratch here; choose where the packages go: make setup-cluster SCRATCH=/big/disk/you"
    scratch=$HOME/scratch/fastdllm
fi
case $scratch in "" | /*) ;; *) scratch=$PWD/$scratch ;; esac

command -v "$python" >/dev/null 2>&1 ||
    fail "no '$python' here; install Python 3.11 or newer, or name one: make setup PYTHON=python3.12"
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') ||
    fail "'$python' does not start; name another one: make setup PYTHON=python3.12"
"$python" -c 'import sys; raise SystemExit(sys.version_info < (3, 11))' ||
    fail "$python is Python $version; 3.11 or newer is needed: make setup PYTHON=python3.12"
"$python" -c 'import venv, ensurepip' 2>/dev/null ||
    fail "$python cannot make a virtual environment; on Debian or Ubuntu: apt install python$version-venv"

exec 9<>.setup.lock
"$python" -m fastdllm.cluster.build lock 9

is_ready() { [ -f "$1/.ready" ] && [ "$1/.ready" -nt pyproject.toml ] && [ "$1/.ready" -nt constraints.txt ]; }

if [ -n "$on_cluster" ]; then
    "$python" -m fastdllm.cluster.build place "$scratch"
    venv=$scratch/$("$python" -m fastdllm.cluster.build name "$version")
    # Its name is a digest of the requirements; dates only tell when the files were checked out.
    if [ -f "$venv/.ready" ] && [ ! -e "$venv/.unfinished" ]; then
        touch "$venv/.ready"
        ln -sfn "$venv" .venv
        echo "make setup: .venv is $venv"
        exit 0
    fi
else
    venv=.venv
    if is_ready "$venv"; then
        exit 0
    fi
fi

rm -f "$venv/.ready"
# To pip, packages that a killed pip left half-written look installed.
if [ -e "$venv/.unfinished" ] || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    echo "make setup: creating $venv with $python ($version)"
    "$python" -m venv --clear "$venv" ||
        fail "could not create $venv; is there space (2 GB, 7 GB with CUDA), and is the folder writable?"
fi
if [ -n "$on_cluster" ]; then
    "$python" -m fastdllm.cluster.build caches "$venv" "$scratch"
    # shellcheck disable=SC1091
    . "$venv/fastdllm-env.sh"
fi
echo "make setup: installing the pinned packages (some minutes the first time)"
touch "$venv/.unfinished"
"$venv/bin/python" -m pip install --disable-pip-version-check --quiet --no-warn-script-location \
    --no-compile --constraint constraints.txt --editable '.[chat,dev,tasks]' || {
    rm -f "$venv/.unfinished"
    fail "pip failed (see its message above); run the same command again to continue"
}
# pip would compile 20,000 files one after the other, which takes most of a minute. A few are meant for
# other versions of Python, and fail.
"$venv/bin/python" -m compileall -qq -j 4 "$venv/lib" || true
"$python" -m fastdllm.cluster.build record "$venv"
if [ -n "$on_cluster" ]; then
    ln -sfn "$venv" .venv
    echo "make setup: .venv is $venv; before you work: source $PWD/.venv/bin/activate"
fi
echo "make setup: done"
