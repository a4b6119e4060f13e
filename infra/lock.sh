#!/bin/sh
# Compile the three lock files from pyproject.toml, for every platform and for Python 3.11 to 3.13. Versions that are locked stay;
# with --upgrade everything moves to its newest.
#
# requirements.lock      what runs, and under each pin which packages need it; `make wire` cuts it into requirements/TASK.lock, of which
#                        each stage depends on its own
# requirements-dev.lock  the same versions, a team's servers, and the tools
# requirements-gpu.lock  the CUDA libraries that PyTorch's Linux wheels need beside requirements.lock
#
# Locks name no index and no local version (torch 2.13.0, never 2.13.0+cpu), so that one file serves a laptop and a GPU node:
# find-links would put the +cpu wheel's metadata, which has no CUDA packages, in the place of the published one.
set -eu
cd "$(dirname "$0")/.."
uv=.venv/bin/uv
unset UV_FIND_LINKS PIP_FIND_LINKS || true
compile() { "$uv" pip compile --quiet --universal --python-version 3.11 --no-header pyproject.toml "$@"; }
cuda='^(nvidia-|cuda-|triton)'

all=$(mktemp)
trap 'rm -f "$all"' EXIT
[ "${1:-}" = --upgrade ] || cat requirements.lock requirements-gpu.lock >"$all"
compile -o "$all" >/dev/null
awk -v cuda="$cuda" '/^[^ ]/ { keep = $0 !~ cuda } keep' "$all" >requirements.lock  # a pin with the lines under it
grep -E "$cuda" "$all" >requirements-gpu.lock
compile --no-annotate --extra team --extra dev -c requirements.lock | grep -vE "$cuda" >requirements-dev.lock
