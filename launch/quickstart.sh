#!/usr/bin/env bash
# Pretrains a small BERT on the embedded corpus, on one machine with two CPU cores, in five minutes
# after the install: vocabulary, shards, training, evaluation, masks filled in three sentences.
# A second call reuses the files of the first. Arguments are passed to bert_jax.pretrain, e.g. --set seed=1.
set -euo pipefail
source "$(dirname "$0")/environment.sh"

run=${RUN:-runs/quickstart}
experiment=experiments/quickstart.py

python -m bert_jax.prepare --experiment="$experiment"
python -m bert_jax.pretrain --experiment="$experiment" --workdir="$run" "$@"

RUN="$run" python - <<'PYTHON'
import os

from bert_jax import load_run

run = load_run(os.environ["RUN"])
for text in (
    "The president of the United [MASK] spoke to the congress.",
    "We must protect the rights of the american [MASK].",
    "The [MASK] of the treasury will report to the house of representatives.",
):
    best = run.fill_mask(text, top_k=3)[0]
    print(text, "->", ", ".join(f"{piece} {probability:.2f}" for piece, probability in best))
PYTHON

cat <<EOF

The run is in $run. Its curves:
  .venv/bin/tensorboard --logdir $run/tensorboard
In a notebook:
  from bert_jax import load_run
  run = load_run("$run"); run.fill_mask("The president of the United [MASK] spoke to the congress.")
EOF
