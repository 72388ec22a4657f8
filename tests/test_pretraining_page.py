"""Every command of docs/pretraining.md runs, with --dry_run or with a tiny model on a few texts."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from commands import xla_flags

import bert_jax

ROOT = Path(bert_jax.__file__).parents[1]
PAGE = (ROOT / "docs" / "pretraining.md").read_text(encoding="utf-8")
COMMANDS = "".join(re.findall(r"^```bash\n(.*?)^```", PAGE, re.M | re.S))

PREDICTIONS = '"data.masking.max_predictions": 77, "data.evaluation_masking.max_predictions": 77'
PHASE = f'[{{"steps": 2, "changes": {{"data.sequence_length": 512, {PREDICTIONS}}}}}]'
TINY = f"""
tiny=(--set data.train_shards=2 --set data.held_out_fraction=0.2 --set model.vocab_size=200
  --set data.batch_size=8 --set model.num_layers=1 --set model.hidden_size=32
  --set model.num_heads=2 --set optimizer.warmup_steps=1 --set training.steps=4
  --set training.eval_every=4 --set evaluation.batch_size=8 --set 'phases={PHASE}')
"""

PYTHON = f"""
{TINY}
case "$*" in
  "-m venv "* | "-m uv "* | *--audit*) tiny=() ;;
  *bert_jax.prepare*) tiny+=(--workers=1) ;;
  *bert_jax.plan*) # its compiler may be missing
    tiny+=(--dry_run)
    set -- -m bert_jax.pretrain "$3" ;;
  *--cluster*) tiny+=(--nocluster --dry_run) ;;
  *bert_jax.pretrain*) ;;
  *) tiny=() ;;
esac
if [ "$2" != venv ] && [ "$2" != uv ]; then {sys.executable} "$@" "${{tiny[@]}}"; fi
"""

PROGRAMS = {
    "python": PYTHON,
    "python3": PYTHON,
    "sbatch": 'shift; python -m bert_jax.pretrain --cluster "$@"',
    "gcloud": """
for last; do :; done
case "$*" in
  *"tpu-vm ssh"*) cd .. && bash -c "${last#--command=}" ;;
  "storage rsync"*) mkdir -p "$last" && cp -r "${@:4:1}/." "$last" ;;
esac
""",
} | dict.fromkeys(("docker", "git", "hf", "kubectl", "pip"), ":")


@pytest.fixture
def clone(tmp_path) -> Path:
    """A directory with launch/ and experiments/, a few texts, and the programs in its `.venv`."""
    clone = tmp_path / "bert_jax"
    for name in ("launch", "experiments"):
        shutil.copytree(ROOT / name, clone / name)
    (clone / ".venv" / "bin").mkdir(parents=True)
    for name, code in PROGRAMS.items():
        (clone / ".venv" / "bin" / name).write_text(f"#!/usr/bin/env bash\n{code}\n")
        (clone / ".venv" / "bin" / name).chmod(0o755)
    (clone / ".venv" / "bin" / "activate").write_text(f"PATH={clone}/.venv/bin:$PATH\n")
    sentences = (
        "Der Hund lief schnell über die Straße. Das Kind sah den Zug, der z. B. hielt.\n" * 20
    )
    for name in ("wikipedia", "web"):
        table = pa.table({"text": [f"{name} {number}. {sentences}" for number in range(30)]})
        (clone / "corpora" / name / "train").mkdir(parents=True)
        pyarrow.parquet.write_table(table, clone / "corpora" / name / "train" / "0.parquet")
    return clone


def test_the_page_has_commands_for_each_place_to_train():
    for command in ("tpu_vm.sh", "gke-jobset.yaml", "gpu_node.sh", "sbatch", "bert_jax.plan"):
        assert command in COMMANDS


@pytest.mark.slow
def test_every_command_of_the_page_runs(clone):
    script = clone / "session.sh"
    script.write_text(COMMANDS.replace("gs://BUCKET", f"{clone}/bucket"))
    variables = {
        "PYTHONPATH": str(ROOT),
        "PATH": f"{clone}/.venv/bin:{os.environ['PATH']}",
        "XLA_FLAGS": xla_flags(devices=2),
    }
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    done = subprocess.run(
        ["bash", "-e", "-x", str(script)],
        env=environment | variables,
        cwd=clone.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("share of all FLOPs") == 5  # dry_run, plan twice, tpu_vm.sh, sbatch
    assert (clone / "runs" / "de" / "result.json").exists()
    assert (clone / "models" / "de" / "model.safetensors").exists()
    assert (clone / "bucket" / "data" / "de-512" / "passport.json").exists()
