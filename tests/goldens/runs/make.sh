#!/usr/bin/env bash
# Writes runs.tar.xz: a one-phase run, a two-phase run and a fine-tuned run in config format 1, with
# their outputs. Run it in the root of a checkout of commit 80e621b:
#   bash make.sh OUTPUT_DIRECTORY
# tests/test_earlier_runs.py checks that today's code opens and resumes these runs.
set -euo pipefail
output=$1
export JAX_PLATFORMS=cpu
python - "$output" <<'PYTHON'
import sys
from pathlib import Path

from bert_jax.data.corpora import read_documents

output = Path(sys.argv[1])
output.mkdir(parents=True, exist_ok=True)
documents = list(read_documents("embedded:sotu"))[:16]
text = "\n\n".join(document.text[:1500] for document in documents)
(output / "corpus.txt").write_text(text, encoding="utf-8")
rows = [f"{sentence}\t{'peace' if 'peace' in sentence else 'other'}"
        for sentence in text.replace("\n", " ").split(".") if len(sentence.split()) > 4]
(output / "train.tsv").write_text("text\tlabel\n" + "\n".join(rows[:40]) + "\n")
(output / "dev.tsv").write_text("text\tlabel\n" + "\n".join(rows[40:60]) + "\n")
PYTHON
cat > "$output/experiment.py" <<'PYTHON'
"""The experiment of both runs; the second has `--set second_phase...`."""
from bert_jax.data.config import DataConfig, MaskingConfig
from bert_jax.experiment import Experiment
from bert_jax.models.config import BertConfig
from bert_jax.training.config import EvaluationConfig, TrainingConfig
from bert_jax.training.optim import OptimizerConfig
from bert_jax.training.sharding import MeshConfig


def get_config() -> Experiment:
    masking = MaskingConfig(max_predictions=5)
    return Experiment(
        seed=3,
        data=DataConfig(corpus="text:corpus.txt", directory="data", batch_size=8, sequence_length=32,
            dupe_factor=1, held_out_fraction=0.15, train_shards=2, masking=masking,
            evaluation_masking=masking),
        model=BertConfig(vocab_size=250, hidden_size=16, num_layers=2, num_heads=2,
            max_positions=48),
        optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=2),
        training=TrainingConfig(steps=8, log_every=1, eval_every=4, checkpoint_every=4,
            keep_checkpoints=9),
        evaluation=EvaluationConfig(batch_size=8),
        mesh=MeshConfig(data=1),
    )
PYTHON
cat > "$output/finetune.py" <<'PYTHON'
from bert_jax.tasks.config import FineTuningConfig, TaskConfig, TuningConfig
from bert_jax.training.optim import OptimizerConfig
from bert_jax.training.sharding import MeshConfig


def get_config() -> FineTuningConfig:
    return FineTuningConfig(
        task=TaskConfig(family="classification", train="tsv:train.tsv", dev="tsv:dev.tsv",
            text="text", label="label", max_length=32),
        training=TuningConfig(epochs=2, batch_size=8),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=0, decay_from="warmup_end",
            bias_correction=True),
        mesh=MeshConfig(data=1),
    )
PYTHON
source=$PWD
cd "$output"
export PYTHONPATH=$source
second="--set second_phase.steps=3 --set second_phase.sequence_length=48 --set second_phase.batch_size=4 --set second_phase.max_predictions=8 --set second_phase.learning_rate=1e-3 --set second_phase.warmup_steps=1 --set second_phase.moments=zeroed"
python -m bert_jax.prepare --experiment=experiment.py $second
python -m bert_jax.pretrain --experiment=experiment.py --workdir=one_phase
python -m bert_jax.pretrain --experiment=experiment.py --workdir=two_phases $second
python -m bert_jax.finetune --experiment=finetune.py --checkpoint=one_phase --workdir=finetuned

python - <<'PYTHON'
import numpy as np

from bert_jax import load_run

TEXTS = ["the senate and the house of representatives", "peace with all nations"]
outputs = {}
for name in ("one_phase", "two_phases"):
    run = load_run(name)
    outputs[f"{name}/embed"] = run.embed(TEXTS, pooling="mean")
    outputs[f"{name}/pooled"] = run.embed(TEXTS, pooling="pooled")
    outputs[f"{name}/next_sentence"] = np.asarray(run.next_sentence(*TEXTS))
    best = run.fill_mask("the house of [MASK].", top_k=5)[0]
    outputs[f"{name}/fill_mask_pieces"] = np.asarray([piece for piece, _ in best])
    outputs[f"{name}/fill_mask"] = np.asarray([probability for _, probability in best])
outputs["finetuned/embed"] = load_run("finetuned/seed-0").embed(TEXTS, pooling="cls")
np.savez("outputs.npz", **outputs)
PYTHON
sed -i "s|\"[^\"]*/bert_jax/|\"bert_jax/|" */environment.json
tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=2026-11-28 -cJf runs.tar.xz \
  --exclude=__pycache__ corpus.txt train.tsv dev.tsv experiment.py finetune.py outputs.npz data data-48 \
  one_phase two_phases finetuned
ls -l runs.tar.xz
