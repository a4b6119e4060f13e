#!/bin/sh
# Gather into .whl/ what a bare GPU machine with PyTorch lacks, so that `make test-gpu` needs no index there: wheels for CPython 3.12 on
# x86-64 Linux, of the versions in requirements.lock. Carry the folder along with the sources.
#
# Such a machine has PyTorch, transformers, accelerate, peft, numpy, pandas, pyarrow, scipy, scikit-learn, sacrebleu, requests, jinja2. The
# rest of what the packages below ask for is imported nowhere on our way.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
limit_mib=55
needed='annotated-types datasets dill gguf lm-eval multiprocess pydantic pydantic-core ruamel-yaml ruamel-yaml-clib trl typing-extensions typing-inspection'

pins=''
for name in $needed; do
    pin=$(sed -n "s/^\($name==[^ ;]*\).*/\1/p" requirements.lock)
    [ -n "$pin" ] || { echo "gpu-wheels: requirements.lock has no $name, must have it: change the list in infra/gpu-wheels.sh" >&2; exit 1; }
    pins="$pins $pin"
done
platforms=''
for glibc in 2_39 2_35 2_34 2_31 2_28 2_27 2_24 2_17; do platforms="$platforms --platform manylinux_${glibc}_x86_64"; done
rm -rf .whl
# pip takes each platform literally; --no-deps, since the list above is whole.
# shellcheck disable=SC2086
"$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
    $platforms --platform manylinux2014_x86_64 --dest .whl $pins
size_mib=$(du -sm .whl | cut -f1)
[ "$size_mib" -le "$limit_mib" ] || {
    echo "gpu-wheels: .whl has $size_mib MiB, must have at most $limit_mib: take something out of the list in infra/gpu-wheels.sh" >&2; exit 1; }
echo "gpu-wheels: $(ls .whl | wc -l) wheels, $size_mib MiB in .whl"
