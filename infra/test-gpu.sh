#!/bin/sh
# Run tests/gpu on this machine's CUDA GPU: with .venv where there is one, else with the PyTorch that python3 has and the wheels in .whl/,
# which infra/gpu-wheels.sh gathered elsewhere. No index is asked, and nothing that is installed is changed.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
[ ! -x .venv/bin/python ] || python=.venv/bin/python

"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null || {
    echo "test-gpu: $python has no PyTorch that sees a CUDA GPU, must have one: run it on a machine with one" >&2; exit 2; }
if [ "$python" != .venv/bin/python ] && ls .whl/*.whl >/dev/null 2>&1; then
    rm -rf .work/gpu-site
    "$python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --target .work/gpu-site .whl/*.whl
    export PYTHONPATH="$PWD/.work/gpu-site${PYTHONPATH:+:$PYTHONPATH}"
fi
exec "$python" -m tests.gpu "$@"
