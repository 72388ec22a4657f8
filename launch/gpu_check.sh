#!/usr/bin/env bash
# Checks and measures bert_jax on one GPU. docs/gpu.md says what is measured and how to read it.
#   bash launch/gpu_check.sh --prepare     on a machine with a network: makes .gpu/ (wheels, data)
#   bash launch/gpu_check.sh --small       every stage with small shapes, on a CPU
#   bash launch/gpu_check.sh               on the GPU, without a network, in at most 480 seconds
# Names of stages may follow, to run only these. Variables:
#   PYTHON     Python with jax, torch and transformers (default: python3)
#   OUT        directory for gpu.json, table.txt and log.txt (default: runs/gpu_check)
#   DEADLINE   seconds after which everything ends (default: 480; with --small 900)
set -euo pipefail

if [ "${1:-}" = --prepare ]; then
  source "$(dirname "$0")/environment.sh"
  rm -rf .gpu
  mkdir -p .gpu/wheels
  # What bert_jax imports, and what may be absent beside jax, flax, optax, orbax and torch.
  packages=$(grep -E '^(array_record|google-crc32c|grain|msgspec|portpicker|sentencex|tensorboardX)==' \
    requirements.txt)
  platforms=$(printf -- '--platform manylinux%s_x86_64 ' _2_28 _2_27 _2_17 2014 1)
  # shellcheck disable=SC2086
  python -m pip download --quiet --disable-pip-version-check --dest .gpu/wheels --no-deps \
    --only-binary=:all: --implementation cp --python-version 3.12 $platforms $packages
  python benchmarks/gpu_cases.py >.gpu/experiment.json
  python -m bert_jax.prepare --experiment=.gpu/experiment.json
  du -sh .gpu
  exit
fi

cd "$(dirname "$0")/.."
if [ ! -e .gpu/data/passport.json ]; then
  echo "error: .gpu/data is missing; accepted: after bash launch/gpu_check.sh --prepare" >&2
  exit 2
fi
python=${PYTHON:-python3}
export OUT=${OUT:-runs/gpu_check}
if [ -e "$OUT/gpu.json" ]; then
  echo "error: $OUT/gpu.json exists; accepted: another directory (set OUT=)" >&2
  exit 2
fi
work=$(mkdir -p "$OUT/work" && cd "$OUT/work" && pwd)
trap 'rm -rf "$work"' EXIT

export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 TF_CPP_MIN_LOG_LEVEL=2
if ! "$python" -c 'import array_record, google_crc32c, grain, msgspec, sentencex, tensorboardX' \
  2>"$work/missing"; then
  tail -n 1 "$work/missing"
  echo "installing the wheels of .gpu/wheels into $OUT/work"
  "$python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-compile \
    --target "$work/site" .gpu/wheels/*.whl
  export PYTHONPATH=$PYTHONPATH:$work/site
fi
deadline=480
if [[ " $* " == *" --small "* ]]; then deadline=900; fi
export DEADLINE=$((${DEADLINE:-$deadline} - SECONDS))
# Everything that is cached is in the output directory, too.
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$work/xla}
export TORCHINDUCTOR_CACHE_DIR=$work/inductor TRITON_CACHE_DIR=$work/triton
"$python" benchmarks/gpu_check.py "$@" 2>&1 | tee "$OUT/log.txt"
