"""Prints the fields of an experiment, or the fields in which several experiments differ.

  python -m bert_jax.config --experiment=experiments/quickstart.py --set seed=1
  python -m bert_jax.config --diff experiments/presets.py:devlin2018 experiments/presets.py:mlperf

The first command prints JSON like a run's config.json. The second prints a Markdown table.
"""

import json
from collections.abc import Sequence
from typing import Any

from absl import flags

from bert_jax import command, config
from bert_jax.errors import ConfigError


def main(*specs: str) -> None:
    if not flags.FLAGS.diff:
        if specs:
            accepted = f"--experiment={specs[0]}, or --diff with several experiments"
            raise ConfigError(f"unexpected argument {specs[0]!r}; accepted: {accepted}")
        print(json.dumps(config.to_json(command.experiment_from_flags()), indent=2))
        return
    if flags.FLAGS["experiment"].present or flags.FLAGS["set"].present:
        raise ConfigError("--experiment or --set is given with --diff; accepted: only --diff")
    if len(specs) < 2:
        raise ConfigError(f"--diff has {len(specs)} experiments; accepted: two or more")
    print(difference_table(specs, [command.load(spec) for spec in specs]))


def difference_table(specs: Sequence[str], experiments: Sequence[Any]) -> str:
    """Returns a Markdown table of the fields that differ, with a column for each experiment."""
    columns = [config.flatten(experiment) for experiment in experiments]
    variants = [spec.rpartition(":")[2] for spec in specs]
    rows = [["field", *(variants if len(set(variants)) == len(variants) else specs)]]
    for field in dict.fromkeys(field for column in columns for field in column):
        values = [json.dumps(column[field]) if field in column else "" for column in columns]
        cells = [value.strip('"') for value in values]
        if len(set(cells)) > 1:
            rows.append([f"`{field}`", *cells])
    if len(rows) == 1:
        return "no field differs"
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    lines = (map(str.ljust, row, widths) for row in rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    flags.adopt_module_key_flags(command)
    flags.DEFINE_bool(
        "diff", False, "Compares the experiments (files, or config.json of runs) in the arguments."
    )
    command.run(main, operands=True)
