r"""Fine-tunes a pretrained BERT on a task, with several seeds.

  python -m bert_jax.finetune --experiment=experiments/finetune/movie_sentiment.py \
    --checkpoint=RUN_OR_HF_DIR --workdir=DIR --seeds=3
  python -m bert_jax.finetune --experiment=... --checkpoint=... --workdir=DIR \
    --set task.representation=mean --set optimizer.learning_rate=3e-5

CHECKPOINT is a run, a directory of Hugging Face's BERT or ModernBERT, or Google's bert_model.ckpt.

WORKDIR/result.json has the metrics of every seed, their mean, standard deviation and confidence
interval, and baselines that need no model. WORKDIR/seed-N has the checkpoint that is best on dev,
metrics.jsonl and predictions. Repeating the command trains missing seeds.

load_run opens WORKDIR, the seed that is best on dev, or WORKDIR/seed-N. Its predictions for texts:

  python -m bert_jax.predict --run=WORKDIR --task=task < texts.txt
"""

from absl import flags

from bert_jax import command, cpu, environment
from bert_jax.errors import require
from bert_jax.faults.memory import explain_lack_of_memory


def main() -> None:
    environment.configure_jax()
    cpu.keep_freed_memory()
    from bert_jax.tasks.config import FineTuningConfig

    config = command.experiment_from_flags(FineTuningConfig)
    source = command.required_path("checkpoint", "a run, or weights of Hugging Face or Google")
    workdir = command.required_path("workdir", local=True)
    seeds, most = flags.FLAGS.seeds, 2**31 - config.seed
    require(1 <= seeds <= most, "--seeds", seeds, f"1 to {most}")
    from bert_jax.finetuning.finetune import finetune

    with command.exclusive(workdir), explain_lack_of_memory(config):
        finetune(config, source, workdir, seeds=seeds)


if __name__ == "__main__":
    flags.adopt_module_key_flags(command)
    flags.DEFINE_string("checkpoint", None, "Pretrained weights: see CHECKPOINT above.")
    flags.DEFINE_string("workdir", None, "Directory for the seeds and their result.")
    flags.DEFINE_integer("seeds", 1, "Number of seeds: `seed`, `seed` + 1 and so on.")
    command.run(main, resumes=True)
