"""A command that is killed at random times ends with the same files as an undisturbed command."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from same_run import UNTIMED, assert_same_run

import bert_jax
from bert_jax.config import override, to_json
from bert_jax.sharding import MeshConfig
from bert_jax.tasks.config import FineTuningConfig, TaskConfig, TaskTrainingConfig
from bert_jax.training.optim import OptimizerConfig
from bert_jax.training.train import train

pytestmark = pytest.mark.slow
ROOT = Path(bert_jax.__file__).parents[1]


def start(module, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", f"bert_jax.{module}", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@dataclasses.dataclass(frozen=True)
class Undisturbed:
    """The seconds until an undisturbed command did its first work, and the seconds of the rest."""

    startup: float
    work: float


def finish(process):
    errors = process.communicate(timeout=600)[1]
    assert process.returncode == 0, errors


def run_undisturbed(process, *, began: Callable[[], object]) -> Undisturbed:
    started = time.monotonic()
    while not began():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    startup = time.monotonic() - started
    finish(process)
    return Undisturbed(startup, time.monotonic() - started - startup)


def kill_and_restart(
    command: Callable[[], subprocess.Popen], kills: int, takes: Undisturbed, rng: random.Random
) -> list[float]:
    """Kills a command `kills` times and then lets it finish. Returns the seconds before each kill.

    A quarter of the kills come while the command starts. The others leave it so little time for its
    work that it has not finished before the last kill.
    """
    delays = []
    for number in range(kills):
        delay = rng.uniform(0, takes.startup)
        if number % 4:
            delay = takes.startup + rng.uniform(0, takes.work / (1.5 * kills))
        delays.append(round(delay, 3))
        process = command()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(delay)
        os.killpg(process.pid, signal.SIGKILL)  # workers of the command, too
        process.communicate()
    finish(command())
    print("killed after", delays, "seconds")
    return delays


@pytest.fixture
def kills(request, faults):
    faults[0] = request.config.getoption("--kills")
    return faults[0]


def test_pretraining_in_two_phases(two_phases, kills, rng, tmp_path):
    """Parameters, moments, metrics and TensorBoard are those of an undisturbed run."""
    steps = 100 * max(kills, 6)
    phase = replace(two_phases.phases[0], steps=steps // 3)
    every = {"log_every": 7, "eval_every": 90, "checkpoint_every": 40, "keep_checkpoints": 2}
    changes = {f"training.{name}": value for name, value in every.items()}
    experiment = override(replace(two_phases, phases=(phase,)), changes | {"training.steps": steps})
    config = tmp_path / "config.json"
    config.write_text(json.dumps(to_json(experiment)))

    def pretrain(name):
        return start("pretrain", f"--experiment={config}", f"--workdir={tmp_path / name}")

    alone, killed = tmp_path / "alone", tmp_path / "killed"
    takes = run_undisturbed(pretrain("alone"), began=(alone / "metrics.jsonl").exists)
    kill_and_restart(lambda: pretrain("killed"), kills, takes, rng)
    assert_same_run(killed, alone, step=steps)
    results = [json.loads((run / "result.json").read_text()) for run in (killed, alone)]
    assert results[0] | UNTIMED == results[1] | UNTIMED
    assert results[0]["goodput"]["seconds"]["lost"] > 0 == results[1]["goodput"]["seconds"]["lost"]


def files_of(directory, *patterns):
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for pattern in patterns
        for path in directory.rglob(pattern)
    }


def test_preparation(experiment, kills, rng, tmp_path):
    changes = {"data.corpus": "embedded:sotu", "data.train_shards": 24, "data.dupe_factor": 8}
    config = tmp_path / "config.json"
    config.write_text(json.dumps(to_json(override(experiment, changes))))

    def prepare(name):
        return start(
            "prepare", f"--experiment={config}", f"--output={tmp_path / name}", "--workers=2"
        )

    alone, killed = tmp_path / "alone", tmp_path / "killed"
    began = run_undisturbed(prepare("alone"), began=lambda: list(alone.glob("train-*.json")))
    kill_and_restart(lambda: prepare("killed"), kills, began, rng)
    everything = files_of(alone, "*")
    assert len(everything) > 48 and files_of(killed, "*") == everything


@pytest.fixture
def fine_tuning(tmp_path):
    """The file of a fine-tuning whose two classes differ in one word."""
    words = [("good film", "yes"), ("bad film", "no"), ("very good", "yes"), ("very bad", "no")]
    rows = [{"text": text, "label": label} for text, label in words * 12]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    files = dict.fromkeys(("train", "dev"), f"jsonl:{tmp_path}/rows.jsonl")
    config = FineTuningConfig(
        task=TaskConfig(family="classification", **files, labels=("no", "yes"), max_length=16),
        training=TaskTrainingConfig(epochs=20, batch_size=16, evaluation_batch_size=16),
        optimizer=OptimizerConfig(learning_rate=3e-3, warmup_steps=0),
        mesh=MeshConfig(data=1),
    )
    file = tmp_path / "task.json"
    file.write_text(json.dumps(to_json(config)))
    return file


def test_fine_tuning(fine_tuning, experiment, kills, rng, tmp_path):
    pretrained = tmp_path / "pretrained"
    train(experiment, pretrained)

    def finetune(name):
        arguments = (f"--checkpoint={pretrained}", f"--workdir={tmp_path / name}", "--seeds=4")
        return start("finetune", f"--experiment={fine_tuning}", *arguments)

    def results(run):
        result = json.loads((run / "result.json").read_text())
        return [one | {"seconds": 0} for one in result["seeds"]], result["summary"]

    alone, killed = tmp_path / "alone", tmp_path / "killed"
    takes = run_undisturbed(finetune("alone"), began=(alone / "identity.json").exists)
    kill_and_restart(lambda: finetune("killed"), kills, takes, rng)
    assert results(killed) == results(alone)


def test_sweep(experiment, kills, rng, tmp_path):
    file = tmp_path / "three.py"
    file.write_text(
        "import json\n\nfrom bert_jax.config import from_json\n"
        "from bert_jax.training.experiment import Experiment\n\n\ndef get_config() -> Experiment:\n"
        f"    return from_json(Experiment, json.loads({json.dumps(to_json(experiment))!r}))\n\n\n"
        "def sweep():\n    yield from ({'seed': seed} for seed in range(3))\n"
    )

    def sweep(name):
        return start("sweep", f"--experiment={file}", f"--workdir={tmp_path / name}")

    alone, killed = tmp_path / "alone", tmp_path / "killed"
    takes = run_undisturbed(sweep("alone"), began=lambda: list(alone.glob("*/metrics.jsonl")))
    kill_and_restart(lambda: sweep("killed"), kills, takes, rng)
    runs = sorted(path.parent.name for path in alone.glob("*/result.json"))
    assert len(runs) == 3
    for name in runs:
        assert_same_run(killed / name, alone / name, step=experiment.training.steps)
