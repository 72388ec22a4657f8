"""Evaluates a run on held-out examples of data that were prepared with the run's vocabulary.

  python -m bert_jax.evaluate --run=runs/base --data=data/wikibooks-512
  python -m bert_jax.evaluate --run=runs/base --step=900000 --data=data/mine --json

Examples and masks are fixed, so on the run's own data the metrics equal the run's eval/ metrics.
Rows have the length in the data's passport.json. The run's `data.evaluation_masking` decides the
masks, with `max_predictions` scaled to the length of the rows. The metrics include nsp_loss and
nsp_accuracy only if the run was trained on pairs of the same kind (`data.pairs`).
"""

import json

from absl import flags

from bert_jax import command, environment
from bert_jax.files import naming


def main() -> None:
    environment.configure_jax()
    path, data = command.required("run"), command.required("data")
    from bert_jax.runs.evaluation import evaluate_run
    from bert_jax.runs.load import load_run

    run = load_run(path, command.step(flags.FLAGS.step))
    with environment.progress() as report:
        result = evaluate_run(run, data, report=report)
    lines = [
        f"{name:24} {f'{value:.4f}' if isinstance(value, float) else value}"
        for name, value in result.items()
        if name != "format_version"
    ]
    with naming(command.STDOUT):
        print(json.dumps(result) if flags.FLAGS.json else "\n".join(lines))


if __name__ == "__main__":
    flags.DEFINE_string("run", None, "Directory of the run.")
    flags.DEFINE_string("step", None, command.STEP_HELP)
    flags.DEFINE_string("data", None, "Directory of prepared data.")
    flags.DEFINE_bool("json", False, "Prints one JSON object instead of a table.")
    command.run(main)
