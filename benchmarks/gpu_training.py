"""Pretrains for two minutes as a stage of launch/gpu_check.sh: with a kill and a resume."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpu_cases import prepared_experiment

from bert_jax import config


def check_training(write: Callable[..., None], *, out: Path, small: bool, **_options: Any) -> None:
    """Pretrains BERT-base for two minutes: evaluations, checkpoints, kill -9, the same command."""
    seconds, limit, rows, every = (4, 200, 8, 8) if small else (120, 90, 256, 250)
    fields = {
        **{"data.batch_size": rows, "evaluation.batch_size": rows, "model.dtype": "bfloat16"},
        **{"evaluation.max_examples": 16 if small else 2048, "training.steps": 1_000_000},
        **{"training.log_every": every // 4, "training.checkpoint_every": every},
        **{"training.eval_every": every, "optimizer.warmup_steps": every},
    }
    if small:
        fields |= {"model.num_layers": 2, "model.hidden_size": 128, "model.num_heads": 2}
    workdir, file = out / "work" / "run", out / "work" / "training.json"
    file.write_text(json.dumps(config.to_json(prepared_experiment(fields))))
    command_line = [sys.executable, "-m", "bert_jax.pretrain", f"--experiment={file}"]
    command_line.append(f"--workdir={workdir}")
    start = time.monotonic()

    def has_rows_to_repeat() -> bool:
        done, saved = last_step(metrics_rows(workdir)), saved_steps(workdir)
        return time.monotonic() > start + seconds / 2 and bool(saved) and done > max(saved)

    run_until(command_line, has_rows_to_repeat, signal.SIGKILL, limit=limit)
    killed, saved = metrics_rows(workdir), max(saved_steps(workdir))

    def has_gone_on() -> bool:
        later = last_step(metrics_rows(workdir)) > last_step(killed)
        return time.monotonic() > start + seconds and later

    run_until(command_line, has_gone_on, signal.SIGTERM, limit=limit)
    rows_of_both = metrics_rows(workdir)
    again = {row["step"]: row["train/loss"] for row in rows_of_both}
    shutil.rmtree(workdir)
    write(
        seconds=time.monotonic() - start,
        killed_after=last_step(killed),
        resumed_from=saved,
        last_step=last_step(rows_of_both),
        repeated_losses_differ_by=max(
            abs(row["train/loss"] - again[row["step"]]) for row in killed if row["step"] > saved
        ),
        rows=rows_of_both,
    )


def run_until(
    command_line: list[str], done: Callable[[], bool], sent: signal.Signals, *, limit: float
) -> None:
    """Runs a command until `done()`, and then sends it a signal.

    Raises:
      RuntimeError: the command ends by itself, or `done()` is still False after `limit` seconds.
    """
    start = time.monotonic()
    process = subprocess.Popen(command_line)
    try:
        while not done():
            if process.poll() is not None:
                raise RuntimeError(f"the command ended with status {process.returncode}")
            if time.monotonic() > start + limit:
                raise RuntimeError(f"the command did not get far enough in {limit:.0f} s")
            time.sleep(0.1)
        process.send_signal(sent)
        process.wait(timeout=20)
    finally:
        process.kill()
        process.wait()


def metrics_rows(workdir: Path) -> list[dict[str, float]]:
    """Returns the complete rows of a run's metrics.jsonl."""
    file = workdir / "metrics.jsonl"
    text = file.read_text() if file.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def last_step(rows: list[dict[str, float]]) -> int:
    """Returns the step of the last row, 0 if there is none."""
    return int(rows[-1]["step"]) if rows else 0


def saved_steps(workdir: Path) -> list[int]:
    """Returns the steps of the complete checkpoints."""
    return [int(path.name) for path in workdir.glob("checkpoints/*") if path.name.isdigit()]
