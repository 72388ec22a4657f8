"""Pretrains BERT: masked language model and next sentence.

  python -m bert_jax.pretrain --experiment=experiments/quickstart.py --workdir=runs/mine
  python -m bert_jax.pretrain --experiment=experiments/bert.py:mini --workdir=DIR
      --set optimizer.learning_rate=2e-4 --set model.num_layers=6

The data must have been prepared (python -m bert_jax.prepare). The same command on an existing
workdir goes on from its last checkpoint. A run directory holds config.json, environment.json,
metrics.jsonl, result.json, checkpoints/ and tensorboard/.
"""

from pathlib import Path

from absl import flags

from bert_jax import command, environment
from bert_jax.errors import ConfigError

_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run, made if it is not there.")


def main() -> None:
    """Runs the command."""
    environment.configure_jax()
    experiment = command.experiment_from_flags()
    if not _WORKDIR.value:
        raise ConfigError("--workdir is missing; accepted: a directory for the run")
    from bert_jax.training.train import train

    result = train(experiment, Path(_WORKDIR.value))
    print(
        f"held-out mlm loss {result['mlm_loss']:.3f} (unigram {result['unigram_loss']:.3f}), "
        f"mlm accuracy {result['mlm_accuracy']:.3f} "
        f"(most frequent token {result['majority_token_accuracy']:.3f}), "
        f"nsp accuracy {result['nsp_accuracy']:.3f} "
        f"(majority {result['nsp_majority_accuracy']:.3f})"
    )


if __name__ == "__main__":
    command.define_experiment_flags()
    command.run(main)
