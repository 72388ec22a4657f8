"""Handles and records the steps of a run whose loss or gradient is not finite."""

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import jax
import numpy as np
from msgspec import Meta

from bert_jax.errors import CheckpointError, DivergenceError
from bert_jax.files import read_json, write_json
from bert_jax.training.experiment import Experiment, phases
from bert_jax.training.initial import flatten_params
from bert_jax.training.phases import files_of_step

RECORD_FILE = "nonfinite.json"

FORMAT_VERSION = 1

ADVICE = (
    "The checkpoints are kept. A lower optimizer.learning_rate or a longer optimizer.warmup_steps "
    "may help, in another --workdir"
)


class _Step(TypedDict):
    action: Literal["stop", "skip", "rollback"]


class _Record(TypedDict):
    format_version: Literal[1]
    steps: dict[Annotated[str, Meta(pattern=r"\A[0-9]{1,9}\Z")], _Step]


class Rollback(Exception):
    """Makes the run go back to its last checkpoint, because a later step is not finite."""


class NonFiniteSteps:
    """The steps of a run whose loss or gradient was not finite, and what the run did.

    `nonfinite.json` in the run directory records them. The update of such a step changes neither
    the parameters nor the moments (`train_step`). The state is therefore still good when the run
    reads the metrics of the step later. A resumed run leaves out the same updates again.
    """

    def __init__(self, workdir: Path, experiment: Experiment, params: Any):
        """`params` is any tree with the names of the parameters.

        Raises:
          CheckpointError: `nonfinite.json` is damaged.
        """
        self._file = workdir / RECORD_FILE
        self._plan, self._config = phases(experiment), experiment.training
        self._names = list(flatten_params(params))
        self._record: dict[int, Any] = {}
        if self._file.exists():
            advice = "; accepted: the file as the run wrote it, or none to count from 0 again"
            content = read_json(self._file, _Record, error=CheckpointError, advice=advice)
            self._record = {int(step): found for step, found in content["steps"].items()}
        self.left_out = {step for step, found in self._record.items() if found["action"] != "stop"}
        """Steps whose update the run leaves out."""

    def add(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Records a step that made no update. `metrics` are those of `train_step`, on the host.

        Raises:
          DivergenceError: `on_nonfinite` is 'stop', or `max_nonfinite` updates were left out.
          Rollback: the run must go back to its last checkpoint.
        """
        action, accepted = self._config.on_nonfinite, "finite values"
        if action != "stop" and len(self.left_out) >= self._config.max_nonfinite:
            action = "stop"
            accepted = f"at most {self._config.max_nonfinite} such steps (training.max_nonfinite)"
        values = {name: float(metrics[name].total) for name in ("loss", "grad_norm")}
        finite = np.asarray(metrics["finite"].total)[len(values) :]
        names = [name for name, good in zip(self._names, finite, strict=True) if not good]
        files = files_of_step(self._plan, step)
        self._record[step] = {
            "action": action,
            **{name: str(value) for name, value in values.items()},  # JSON has no NaN
            "parameters": names,
            "files": files,
        }
        if jax.process_index() == 0:
            steps = {str(number): self._record[number] for number in sorted(self._record)}
            write_json(self._file, {"format_version": FORMAT_VERSION, "steps": steps})
        wrong = next(name for name in values if not math.isfinite(values[name]))
        found = f"train/{wrong} is {values[wrong]} at step {step}"
        if action == "stop":
            records = [f"{file} record {record}" for file in files for record in files[file]]
            raise DivergenceError(
                f"{self._file.parent}: {found}; accepted: {accepted}. Parameters whose gradient is "
                f"not finite: {_first(names)}. Examples: {_first(records)}. {self._file} lists "
                f"all. {ADVICE}; training.on_nonfinite=skip leaves such updates out, in this one"
            )
        self.left_out.add(step)
        if jax.process_index() == 0:
            count = f"{len(self.left_out)} of at most {self._config.max_nonfinite}"
            print(f"{found}: its update is left out ({count}; {self._file})", file=sys.stderr)
        if action == "rollback":
            raise Rollback


def _first(names: Sequence[str], count: int = 3) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return (", ".join(names[:count]) or "none") + more
