#!/bin/sh
# Make .venv from the lock files; do nothing when it already matches them.
#
# Packages come from wherever pip is configured to find them (index, extra indexes, find-links): uv does not read pip's
# configuration, so it is translated here. The CUDA libraries are added on Linux unless a CPU build of torch is what pip's configuration offers.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
want=$(cat requirements-dev.lock requirements-gpu.lock pyproject.toml infra/setup.sh infra/sluice.py | cksum)
[ "$(cat .venv/.locked 2>/dev/null)" = "$want" ] && exit 0

"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || {
    echo "setup: $("$python" --version) found, Python 3.11 to 3.13 needed: name one, as in 'make setup PYTHON=python3.12'" >&2; exit 2; }
[ -x .venv/bin/python ] || "$python" -m venv .venv
configured() {  # key -> pip's value, whichever file or variable sets it
    .venv/bin/python -m pip config list | sed -n "s/^\(global\|install\|:env:\)\.$1='\(.*\)'$/\2/p" | tail -n 1
}
[ -x .venv/bin/uv ] || .venv/bin/python -m pip install --quiet --disable-pip-version-check uv
comma() { echo "$1" | tr -s ' \n' ','; }
for pair in index-url:UV_DEFAULT_INDEX extra-index-url:UV_INDEX find-links:UV_FIND_LINKS cert:SSL_CERT_FILE; do
    value=$(configured "${pair%%:*}")
    [ -z "$value" ] || export "${pair#*:}=$(comma "$value" | sed 's/,$//')"
done
export UV_INDEX_STRATEGY=unsafe-best-match  # as pip does: the best version over all configured indexes
uv() { .venv/bin/uv pip "$@" --python .venv/bin/python; }

locks=requirements-dev.lock
if [ "$(uname -s)" = Linux ] && ! uv install --dry-run --no-deps --reinstall torch -c requirements.lock 2>&1 | grep -q 'torch==.*+cpu'; then
    locks="$locks requirements-gpu.lock"
fi
set --
for lock in $locks; do set -- "$@" -r "$lock"; done
uv install --quiet --no-deps "$@"
uv install --quiet --no-deps --reinstall-package sluice --editable .
# Until our first line, some 20 ms, Python answers Ctrl-C with a trace: where env can, it is held back until the program hears it.
if env --block-signal=INT true 2>/dev/null; then
    sed -i '1s|^#!\(/[^ ]*/python\)$|#!/usr/bin/env -S --block-signal=INT \1|' .venv/bin/sluice
fi
# Python compiles a module when it is first imported and keeps nothing where PYTHONDONTWRITEBYTECODE is set, as containers do: compiled
# here is what the stages import (7,000 of 40,000 files), on two cores, or every process would spend 15 s on it again.
compile() {
    PYTHONDONTWRITEBYTECODE='' .venv/bin/python - "$@" <<'EOF'
import sys
from flows.cli import warm_server
light = (*warm_server.REPRO, *(module for task in ("validate", "prepare") for module in warm_server.loads(task)))
for module in (*(light if sys.argv[1:] == ["light"] else warm_server.HEAVY), "flows.run.retrain"):
    __import__(module)
EOF
}
compile light & compile heavy
wait
printf '%s\n' "$want" >.venv/.locked
echo "setup: .venv is ready ($("$python" --version), $(uname -sm))"
