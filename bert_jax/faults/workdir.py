"""Writes `config.json`, `environment.json` and `result.json` into the run directory."""

from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

from bert_jax import environment
from bert_jax.config import codes_of, config_hash, parts, to_json
from bert_jax.config.paths import make_directory
from bert_jax.faults.activity import Activity, lost_seconds
from bert_jax.faults.damage import best_step
from bert_jax.files import write_atomically, write_json

RESULT_FORMAT_VERSION = 1


def open_workdir(workdir: Path, experiment: Any, first_step: int) -> float:
    """Makes the run directory and writes `config.json` and `environment.json`.

    Process 0 returns the seconds of work that earlier starts of the run lost. Others return 0.
    """
    lost = 0.0
    if jax.process_index() == 0:
        make_directory(workdir)
        copy_code(experiment, workdir)
        write_json(workdir / "config.json", to_json(experiment))
        file = workdir / "environment.json"
        loop = experiment.model.layers_loop(jax.default_backend())
        seconds = lost_seconds(workdir, first_step)
        described = environment.describe_again(file, scan_layers=loop, lost_seconds=seconds)
        write_json(file, described)
        starts = [described, *described.get("earlier", [])]
        lost = sum(start.get("lost_seconds", 0.0) for start in starts)
    multihost_utils.sync_global_devices("workdir")  # other processes read the files later
    return lost


def copy_code(config: Any, directory: Path) -> None:
    """Copies the users' own files that define classes of a config into `directory/code`."""
    for code in codes_of(config):
        make_directory(directory / parts.DIRECTORY)
        write_atomically(directory / parts.DIRECTORY / code.path.name, code.content)


def write_result(
    workdir: Path, experiment: Any, held_out: dict[str, float], activity: Activity
) -> dict[str, Any]:
    """Writes `result.json` and returns its content.

    `best_step` is the step of the best checkpoint; see `faults.damage.best_step`.
    """
    result = {
        "format_version": RESULT_FORMAT_VERSION,
        "steps": experiment.training.steps,
        "seconds": round(sum(activity.spent().values()), 1),
        "goodput": activity.goodput(),
        "config_hash": config_hash(experiment),
        "best_step": best_step(workdir),
        **held_out,
    }
    if jax.process_index() == 0:
        write_json(workdir / "result.json", result)
    return result
