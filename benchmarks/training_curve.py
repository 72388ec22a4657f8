"""Draws the losses and accuracies of a pretraining run beside baselines that need no model.

  python benchmarks/training_curve.py --run=runs/mix --output=curve.png
  python benchmarks/training_curve.py --run=docs/runs/mix.jsonl --output=docs/runs/mix.png

--run is a workdir or a record (benchmarks/record.py).
"""

from absl import flags
from record import load_runs

from bert_jax import command
from bert_jax.errors import ConfigError, DataError
from bert_jax.runs.curves import draw

FLAGS = flags.FLAGS


def main() -> None:
    """Runs the command."""
    for name in ("run", "output"):
        if not FLAGS[name].value:
            raise ConfigError(f"--{name} is missing; accepted: a path")
    runs = load_runs(FLAGS.run)
    if len(runs) > 1:
        raise DataError(f"--run={FLAGS.run} holds {len(runs)} runs; accepted: one run")
    ((place, run),) = runs.items()
    if not any("train/mlm_loss" in row for row in run["metrics"]):
        raise DataError(f"{place} is not a pretraining run; accepted: a run of `pretrain`")
    draw({FLAGS.run: (run["metrics"], run["result"])}).savefig(FLAGS.output, dpi=110)


if __name__ == "__main__":
    flags.DEFINE_string("run", None, "Workdir of a finished pretraining run, or a record of it.")
    flags.DEFINE_string("output", None, "PNG or SVG to write.")
    command.run(main)
