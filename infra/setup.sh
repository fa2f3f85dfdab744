#!/usr/bin/env bash
# Create .venv with all dependencies of Relearn. `make` runs this once, and again when the lock has changed.
#
#   infra/setup.sh [PYTHON]     # default: the first supported Python on the PATH
set -euo pipefail
cd "$(dirname "$0")/.."

SUPPORTED='(3, 11) <= sys.version_info[:2] <= (3, 14)'
usable() { "$1" -c "import sys, venv, ensurepip; sys.exit(not ($SUPPORTED))" 2>/dev/null; }
version() { "$1" -c 'import sys; print(*sys.version_info[:2], sep=".")'; }

if [ ! -d relearn/flows ]; then
    echo "relearn/flows has to be a symbolic link to ../flows, and is none in this copy of the repository." >&2
    echo "Clone it with git on a file system that has links (WSL2: below the home folder, not /mnt/c)." >&2
    exit 3
fi

python=
[ -n "${1-}" ] || set -- python3 python3.13 python3.12 python3.11 python3.14
for candidate; do
    usable "$candidate" && python=$candidate && break
done
if [ -z "$python" ]; then
    echo "Python 3.11 to 3.14 with its venv module is required; got $1, $("$1" --version 2>&1 || true)." >&2
    echo "Install one (Debian, Ubuntu: apt install python3-venv), or name one: make PYTHON=/path/to/python3.13" >&2
    exit 3
fi

# Of another Python, or of a folder that was moved or copied: its scripts name that folder.
[ "$(version .venv/bin/python 2>/dev/null)" = "$(version "$python")" ] &&
    grep -qsF "$(pwd -P)/.venv/bin/python" .venv/bin/pip || rm -rf .venv
echo "Setting up .venv with Python $(version "$python"): $(grep -c == requirements.lock) packages, once."
"$python" -m venv .venv

# The download cache is next to .venv, so that an interrupted setup can continue; it is removed at the end.
export PIP_CACHE_DIR=$PWD/.cache/pip PIP_DISABLE_PIP_VERSION_CHECK=1
.venv/bin/python -m pip install --no-compile --progress-bar off -r requirements.lock 2>&1 | awk '
    /^(Collecting|Requirement already)/ { if (++n % 20 == 0) { print "  " n ": " ($1 == "Collecting" ? $2 : $4); fflush() } }
    /^Installing collected/ { print "  all downloaded, installing"; fflush() }
    /^(ERROR|error|  *error)/ { print; fflush() }'
# On all cores this takes half as long as in pip. Failures are ignored: templates are not valid Python.
.venv/bin/python -m compileall -qq -j 0 .venv/lib || true
.venv/bin/python -m pip install --quiet --no-deps --no-build-isolation -e .
rm -rf .cache/pip
echo "Ready: .venv/bin/relearn, $(du -sh .venv | cut -f1)."
