"""The experiments that launch/gpu_check.sh trains and times.

python benchmarks/gpu_cases.py     prints the experiment whose data `--prepare` makes
"""

import json
from collections.abc import Mapping
from typing import Any

from bert_jax import command, config

CASES = {
    "base@128": (256, 20),
    "base@512": (64, 77),
    "large@512": (32, 77),
    "tiny@128": (4, 20),
    "tiny@512": (2, 77),
}
"""Rows of a batch and predictions of a row, by size and number of tokens of a row."""


def prepared_experiment(fields: Mapping[str, Any]) -> Any:
    """Returns BERT-base on the data in .gpu/data. The learning rate is constant."""
    masking = {f"data.{name}.max_predictions": 20 for name in ("masking", "evaluation_masking")}
    return config.override(
        command.load("experiments/bert.py:base"),
        {
            **{"phases": (), "data.corpus": "embedded:sotu", "data.directory": ".gpu/data"},
            **{"data.train_shards": 4, "data.dupe_factor": 3, "model.vocab_size": 8192},
            **{"optimizer.schedule": "constant", "optimizer.warmup_steps": 10},
            **masking,
            **fields,
        },
    )


def timed_experiment(case: str, fields: Mapping[str, Any] | None = None) -> Any:
    """Returns the experiment of a case, such as base@512, in bfloat16 and without phases."""
    size, length = case.split("@")
    rows, predictions = CASES[case]
    masking = {
        f"data.{name}.max_predictions": predictions for name in ("masking", "evaluation_masking")
    }
    return config.override(
        command.load(f"experiments/bert.py:{size}"),
        {
            **{"phases": (), "model.dtype": "bfloat16", "data.sequence_length": int(length)},
            **{"data.batch_size": rows, "evaluation.batch_size": rows},
            **masking,
            **(fields or {}),
        },
    )


if __name__ == "__main__":
    print(json.dumps(config.to_json(prepared_experiment({}))))
