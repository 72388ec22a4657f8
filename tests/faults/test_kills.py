"""A command that is killed at random times ends with the same files as an undisturbed command."""

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from commands import start_command
from event_files import assert_tensorboard_has_the_rows
from same_run import UNTIMED, assert_same_run

from bert_jax.config import override, to_json
from bert_jax.faults.damage import saved_steps
from bert_jax.training.train import train


def start(module, *arguments):
    return start_command(module, *arguments, stdout=subprocess.DEVNULL, start_new_session=True)


def finish(process):
    errors = process.communicate(timeout=600)[1]
    assert process.returncode == 0, errors


def wait_for_work(process, workdir: Path, work: str) -> None:
    """Waits until a file that matches `work` is written. The directory may have such files."""

    def newest() -> int:
        return max((path.stat().st_mtime_ns for path in workdir.glob(work)), default=0)

    before = newest()
    while newest() == before:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)


def kill_at_random_times(
    command: Callable[[str], subprocess.Popen],
    directory: Path,
    *,
    work: str,
    kills: int,
    rng: random.Random,
) -> tuple[Path, Path]:
    """Runs a command undisturbed, and again with `kills` kills. Returns both directories.

    A quarter of the kills come at a random time while the command starts. The others come after its
    first work, so soon that the command has not finished before the last kill.

    Args:
      command: starts the command with the name of its directory.
      directory: the place of the directories.
      work: pattern of the files that the command writes when it has started.
    """
    alone, killed, delays = directory / "alone", directory / "killed", []
    process, started = command("alone"), time.monotonic()
    wait_for_work(process, alone, work)
    startup = time.monotonic() - started
    finish(process)
    most = (time.monotonic() - started - startup) / (3 * kills)
    for number in range(kills):
        process, started = command("killed"), time.monotonic()
        if number % 4 == 0:
            time.sleep(rng.uniform(0, startup / 2))
        else:
            wait_for_work(process, killed, work)
            # A start that finds work done, such as a vocabulary, is faster.
            startup = min(startup, time.monotonic() - started)
            time.sleep(rng.uniform(0, most))
        assert process.poll() is None, "it ended before its last kill"
        os.killpg(process.pid, signal.SIGKILL)  # workers of the command, too
        delays.append(round(time.monotonic() - started, 3))
        process.communicate()
    finish(command("killed"))
    print("killed after", delays, "seconds")
    return alone, killed


@pytest.fixture
def kills(request, faults):
    faults[0] = request.config.getoption("--kills")
    return faults[0]


@pytest.mark.slow
def test_pretraining_in_two_phases(two_phases, kills, rng, tmp_path):
    """State, metrics, TensorBoard and kept checkpoints are those of an undisturbed run."""
    steps = 100 * max(kills, 4)
    training = replace(
        two_phases.training,
        steps=steps,
        log_every=7,
        eval_every=80,
        checkpoint_every=40,
        keep_checkpoints=2,
        keep_every=120,
    )
    phase = replace(two_phases.phases[0], steps=steps // 3)
    experiment = replace(two_phases, training=training, phases=(phase,))
    config = tmp_path / "config.json"
    config.write_text(json.dumps(to_json(experiment)))

    def pretrain(name):
        return start("pretrain", f"--experiment={config}", f"--workdir={tmp_path / name}")

    alone, killed = kill_at_random_times(
        pretrain, tmp_path, work="metrics.jsonl", kills=kills, rng=rng
    )
    assert_same_run(killed, alone, step=steps)
    assert_tensorboard_has_the_rows(killed)
    assert saved_steps(killed) == saved_steps(alone)
    results = [json.loads((run / "result.json").read_text()) for run in (killed, alone)]
    assert results[0] | UNTIMED == results[1] | UNTIMED
    assert results[0]["goodput"]["seconds"]["lost"] > 0 == results[1]["goodput"]["seconds"]["lost"]


def files_of(directory, *patterns):
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for pattern in patterns
        for path in directory.rglob(pattern)
    }


@pytest.mark.long
def test_preparation(experiment, kills, rng, tmp_path):
    # Each start finishes a few shards before it is killed.
    shards = {"data.train_shards": max(24, 6 * kills)}
    changes = {"data.corpus": "embedded:sotu", "data.dupe_factor": 8} | shards
    config = tmp_path / "config.json"
    config.write_text(json.dumps(to_json(override(experiment, changes))))

    def prepare(name):
        return start(
            "prepare", f"--experiment={config}", f"--output={tmp_path / name}", "--workers=2"
        )

    alone, killed = kill_at_random_times(
        prepare, tmp_path, work="train-*.json", kills=kills, rng=rng
    )
    everything = files_of(alone, "*")
    assert len(everything) > 48 and files_of(killed, "*") == everything


@pytest.mark.long
def test_fine_tuning(fine_tuning, experiment, kills, rng, tmp_path):
    pretrained = tmp_path / "pretrained"
    train(experiment, pretrained)

    def finetune(name):
        arguments = (f"--checkpoint={pretrained}", f"--workdir={tmp_path / name}", "--seeds=4")
        return start("finetune", f"--experiment={fine_tuning}", *arguments)

    def results(run):
        result = json.loads((run / "result.json").read_text())
        return [one | {"seconds": 0} for one in result["seeds"]], result["summary"]

    alone, killed = kill_at_random_times(
        finetune, tmp_path, work="environment.json", kills=kills, rng=rng
    )
    assert results(killed) == results(alone)


@pytest.mark.long
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

    alone, killed = kill_at_random_times(
        sweep, tmp_path, work="*/metrics.jsonl", kills=kills, rng=rng
    )
    runs = sorted(path.parent.name for path in alone.glob("*/result.json"))
    assert len(runs) == 3
    for name in runs:
        assert_same_run(killed / name, alone / name, step=experiment.training.steps)
