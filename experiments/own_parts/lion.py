"""An optimizer of your own: Lion, as optax has it, in place of BERT's AdamW.

  python -m bert_jax.prepare --experiment=experiments/own_parts/lion.py
  python -m bert_jax.sweep --experiment=experiments/own_parts/lion.py --workdir=runs/lion

Lion takes the sign of a moving mean of the gradients. Its authors use a rate that is 3 to 10 times
lower than that of AdamW. docs/ablations.md explains what an optimizer of your own needs.

References:
  Chen et al. 2023, https://arxiv.org/abs/2302.06675
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optax

from bert_jax import Experiment
from bert_jax.config import load_experiment, override
from bert_jax.training.optim import OptimizerConfig, decay_mask


@dataclass(frozen=True, kw_only=True)
class LionConfig(OptimizerConfig):
    """Lion with clipping and with weight decay on the parameters that BERT decays."""

    beta2: float = 0.99

    def build(self, schedule: optax.Schedule) -> optax.GradientTransformation:
        lion = optax.lion(
            schedule, self.beta1, self.beta2, weight_decay=self.weight_decay, mask=decay_mask
        )
        return optax.chain(optax.clip_by_global_norm(self.max_grad_norm), lion)


def get_config() -> Experiment:
    base = load_experiment(Path(__file__).parents[1] / "quickstart.py")
    settings = vars(base.optimizer) | {"beta2": 0.99}
    rate = base.optimizer.learning_rate / 5
    return override(base, {"optimizer": LionConfig(**settings | {"learning_rate": rate})})


def sweep_optimizer() -> Iterator[dict[str, Any]]:
    lion = get_config().optimizer
    yield {"optimizer": load_experiment(Path(__file__).parents[1] / "quickstart.py").optimizer}
    for rate in (lion.learning_rate, 2 * lion.learning_rate):
        yield {"optimizer": replace(lion, learning_rate=rate)}
