#!/bin/sh
# Compile the three lock files from pyproject.toml, for every platform and for Python 3.11 to 3.13. Versions that are locked stay;
# with --upgrade everything moves to its newest.
#
# requirements.lock      what runs; a dependency of every stage
# requirements-dev.lock  the same versions and the tools
# requirements-gpu.lock  the CUDA libraries that PyTorch's Linux wheels need beside requirements.lock
#
# Locks name no index and no local version (torch 2.13.0, never 2.13.0+cpu), so that one file serves a laptop and a GPU node:
# find-links would put the +cpu wheel's metadata, which has no CUDA packages, in the place of the published one.
set -eu
cd "$(dirname "$0")/.."
uv=.venv/bin/uv
unset UV_FIND_LINKS PIP_FIND_LINKS || true
compile() { "$uv" pip compile --quiet --universal --python-version 3.11 --no-annotate --no-header pyproject.toml "$@"; }
cuda='^(nvidia-|cuda-|triton)'

all=$(mktemp)
trap 'rm -f "$all"' EXIT
[ "${1:-}" = --upgrade ] || cat requirements.lock requirements-gpu.lock >"$all"
compile -o "$all" >/dev/null
grep -vE "$cuda" "$all" >requirements.lock
grep -E "$cuda" "$all" >requirements-gpu.lock
compile --extra dev -c requirements.lock | grep -vE "$cuda" >requirements-dev.lock
