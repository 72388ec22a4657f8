"""benchmarks/time_to_quality.py trains the same model on the same batches in both libraries."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
FIELDS = {
    "data.dupe_factor": 1,
    "data.train_shards": 1,
    "data.batch_size": 8,
    "model.hidden_size": 32,
    "model.num_heads": 2,
    "model.vocab_size": 100,
    "optimizer.warmup_steps": 2,
    "optimizer.learning_rate": 1e-3,
    "training.steps": 20,
    "evaluation.max_examples": 64,
}


def run(*command):
    result = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_both_sides_have_the_same_losses(tmp_path):
    text = [f"Sentence {i} of text {j} is here.\n" for j in range(40) for i in range(20)]
    (tmp_path / "text.txt").write_text("".join(text[i] + "\n" * (i % 20 == 19) for i in range(800)))
    fields = FIELDS | {"data.corpus": f"text:{tmp_path}/text.txt"}
    fields |= {"data.directory": str(tmp_path / "data"), "data.held_out_fraction": 0.2}
    flags = ["--experiment=experiments/quickstart.py"]
    flags += [f"--set={path}={value}" for path, value in fields.items()]
    run("-m", "bert_jax.prepare", *flags)
    output = tmp_path / "quality.json"
    run("benchmarks/time_to_quality.py", *flags, "--nats=100", "--every=5", f"--output={output}")
    result = json.loads(output.read_text())
    losses = [
        [row["held_out_mlm_loss"] for row in side["evaluations"]]
        for side in result["sides"].values()
    ]
    assert len(losses[0]) == 4 and losses[0][-1] < losses[0][0] - 0.1
    np.testing.assert_allclose(*losses, rtol=1e-4)
    assert not any(side["reached"] for side in result["sides"].values())
