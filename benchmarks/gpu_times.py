"""Times updates beside Hugging Face's BERT in torch: a stage of launch/gpu_check.sh."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from gpu_cases import timed_experiment

from bert_jax import bench, config
from bert_jax.benchmarking import comparison
from bert_jax.benchmarking.batches import pair_lengths
from bert_jax.errors import BertJaxError
from bert_jax.models.flops import update_flops

SIDES = (
    *("base@512 bert_jax", "base@512 strongest", "large@512 bert_jax", "large@512 strongest"),
    *("base@128 bert_jax", "base@128 strongest"),
    *("base@512 cudnn", "base@512 no_attention_dropout", "large@512 cudnn"),
    *("base@512 stock", "base@128 stock", "large@512 stock"),
)
"""Cases and sides, the most important first: the time limit cuts off the last."""

FIELDS: dict[str, dict[str, Any]] = {
    "bert_jax": {},
    "no_attention_dropout": {"model.attention_dropout": 0.0},
    "cudnn": {"model.attention": "cudnn", "model.attention_dropout": 0.0},
}
"""Fields of the experiment that differ, for our sides."""

SMALL_SIDES = ("tiny@512 bert_jax", "tiny@512 strongest", "tiny@128 stock")


def check_times(write: Callable[..., None], *, small: bool, **_options: Any) -> None:
    """Times each side in a process of its own, for at least two seconds.

    The variable SIDES, separated by commas, replaces the constant.
    """
    named = os.environ.get("SIDES")
    for name in named.split(",") if named else SMALL_SIDES if small else SIDES:
        case, side = name.strip().split()
        experiment = timed_experiment(case, FIELDS.get(side, {}))
        try:
            found = time_side(experiment, side, seconds=0.5 if small else 2.0)
        except BertJaxError as error:
            write(case=case, side=side, error=str(error)[:300])
            continue
        data = experiment.data
        flops = update_flops(
            experiment.model,
            pair_lengths=pair_lengths(experiment) * data.batch_size,
            predictions=data.batch_size * data.masking.max_predictions,
        )
        peak = bench.known_peak(SimpleNamespace(device_kind=found["device_kind"]))
        write(
            case=case,
            side=side,
            rows=data.batch_size,
            tokens_per_second=data.batch_size * data.sequence_length / found["seconds"],
            model_flops_utilization=flops / found["seconds"] / peak if peak else None,
            **found,
        )


def time_side(experiment: Any, side: str, *, seconds: float) -> dict[str, Any]:
    """Returns the measurements of a side; `benchmarking.ours` and `benchmarking.peer` make them."""
    with tempfile.TemporaryDirectory() as directory:
        if side in FIELDS:
            file = Path(directory) / "config.json"
            file.write_text(json.dumps(config.to_json(experiment)))
            return comparison.run_side("ours", "update", file, seconds)
        comparison.check_installed()
        request = comparison.request_of(experiment, Path(directory))
        return comparison.run_side("peer", "update", request, side, seconds)
