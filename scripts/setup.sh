#!/usr/bin/env bash
# Build .venv with the pinned packages; run again, it repairs whatever an interruption left behind.
# Usage: scripts/setup.sh PYTHON   (called by the Makefile; nothing to do when .venv/.ready is newer
# than pyproject.toml and constraints.txt)
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3}

fail() { echo "make setup: $*" >&2; exit 2; }

command -v "$python" >/dev/null 2>&1 ||
    fail "no '$python' here; install Python 3.11 or newer, or name it: make setup PYTHON=python3.12"
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') ||
    fail "'$python' does not start; name another one: make setup PYTHON=python3.12"
"$python" -c 'import sys; raise SystemExit(sys.version_info < (3, 11))' ||
    fail "$python is Python $version; 3.11 or newer is needed: make setup PYTHON=python3.12"
"$python" -c 'import venv, ensurepip' 2>/dev/null ||
    fail "$python cannot make a virtual environment; on Debian or Ubuntu: apt install python$version-venv"

# Two set-ups at once (two terminals, CI beside a person) take turns.
if command -v flock >/dev/null 2>&1; then
    exec 9>.setup.lock
    flock 9
    if [ -f .venv/.ready ] && [ .venv/.ready -nt pyproject.toml ] && [ .venv/.ready -nt constraints.txt ]; then
        exit 0
    fi
fi

rm -f .venv/.ready
if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    echo "make setup: creating .venv with $python ($version)"
    "$python" -m venv --clear .venv ||
        fail "could not create .venv; is there space (about 2 GB) and may you write here?"
fi
echo "make setup: installing the pinned packages (some minutes the first time)"
.venv/bin/python -m pip install --disable-pip-version-check --quiet --no-warn-script-location \
    --constraint constraints.txt --editable '.[dev]' ||
    fail "pip did not finish (its message stands above); run the same command again to go on"
touch .venv/.ready
echo "make setup: done"
