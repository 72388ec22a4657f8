"""The experiments that launch/gpu_check.sh trains and times.

python benchmarks/gpu_cases.py     prints the experiment whose data `--prepare` makes
"""

import json
from collections.abc import Mapping
from typing import Any

from bert_jax import command, config


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


if __name__ == "__main__":
    print(json.dumps(config.to_json(prepared_experiment({}))))
