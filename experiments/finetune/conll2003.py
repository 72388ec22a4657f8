r"""Named entity recognition on CoNLL-2003, as in Devlin et al. 2018.

    python -m bert_jax.finetune --experiment=experiments/finetune/conll2003.py \
      --checkpoint=bert-base-cased --workdir=runs/conll2003 --seeds=5 \
      --set task.train=conll:eng.train --set task.dev=conll:eng.testa \
      --set task.test=conll:eng.testb

The paper chose the hyper-parameters of its table 7 on dev and does not publish them. Appendix A.3
says that these values work well on all tasks: batches of 16 or 32, learning rates of 5e-5, 3e-5 or
2e-5, and 2, 3 or 4 epochs. This file uses batches of 32, a learning rate of 5e-5 and 3 epochs.

In table 7, fine-tuned BERT-base has an F1 of 96.4 on dev and 92.4 on test (means of 5 seeds). The
paper adds the rest of the document to each sentence (section 5.3); this file does not.

With `--set training.frozen=true --set task.representation=last4` only a linear output layer is
trained. On such frozen representations, table 7 trains two LSTM layers instead.

Reference: https://arxiv.org/abs/1810.04805
"""

from bert_jax.tasks.config import FineTuningConfig, TaskConfig, TaskTrainingConfig
from bert_jax.training.optim import OptimizerConfig


def get_config() -> FineTuningConfig:
    """Returns the fine-tuning."""
    types = ("LOC", "MISC", "ORG", "PER")
    return FineTuningConfig(
        task=TaskConfig(
            family="tagging",
            train="conll:data/conll2003/eng.train",
            dev="conll:data/conll2003/eng.testa",
            test="conll:data/conll2003/eng.testb",
            columns=("token", "pos", "chunk", "entity"),
            text="token",
            label="entity",
            labels=("O", *(f"{letter}-{kind}" for kind in types for letter in "BI")),
            metric="entity_f1",
            max_length=128,
            representation="last",
        ),
        training=TaskTrainingConfig(epochs=3, batch_size=32),
        optimizer=OptimizerConfig(
            learning_rate=5e-5, warmup_steps=0, decay_from="warmup_end", bias_correction=True
        ),
    )
