"""The modern encoder against BERT.

Question: does the modern encoder learn more than BERT from the same data at the same FLOPs?

    python -m bert_jax.prepare --experiment=experiments/ablations/modern.py
    python -m bert_jax.sweep --experiment=experiments/ablations/modern.py --workdir=DIR

Cost: 12 runs of about 2e13 FLOPs each. A run has half of the updates of both_losses.py: 1,500 with
short rows and 1,000 with long rows.

Data, layers and width are those of both_losses.py, without the pair loss, which the modern encoder
does not have. A gated block has three matrices in place of two, so it is narrower: the FLOPs of a
run agree within 1 %. Half of the layers have local attention, and the FLOPs of keys outside of the
window are not counted, though they are computed. Both encoders are trained at two learning rates,
because a pre-norm encoder may need another rate than BERT.

Result of these runs (docs/results.md): at both rates, the modern encoder is better than BERT at
1.2e-3. The difference of the held-out masked loss is -0.53 and -0.69 nats.

Published: Warner et al. (2024, https://arxiv.org/abs/2412.13663) report higher GLUE scores than
BERT-base, but with more data, too.
"""

from collections.abc import Iterator
from pathlib import Path

from bert_jax import Experiment
from bert_jax.config import load_experiment, override
from bert_jax.models.config import ModernConfig


def get_config() -> Experiment:
    """Returns BERT without the pair loss, with half of the updates of both_losses.py."""
    base = load_experiment(Path(__file__).parents[1] / "both_losses.py")
    steps = {"training.steps": 2500, "phases.0.steps": 1000}
    return override(base, steps | {"objective.next_sentence": False})


def sweep_model() -> Iterator[dict]:
    """Yields BERT, and the modern encoder with as many layers of the same width."""
    bert = get_config().model
    yield {"model": bert}
    yield {
        "model": ModernConfig(
            vocab_size=bert.vocab_size,
            hidden_size=bert.hidden_size,
            num_layers=bert.num_layers,
            num_heads=bert.num_heads,
            intermediate_size=368,  # a multiple of 8 with which the FLOPs agree
            max_positions=bert.max_positions,
            local_window=32,
            global_every=2,
            initializer_stddev=bert.initializer_stddev,
        )
    }


def sweep_rate() -> Iterator[dict]:
    """Yields BERT's rate in both_losses.py, and its double."""
    for rate in (1.2e-3, 2.4e-3):
        yield {"optimizer.learning_rate": rate}


def sweep_seed() -> Iterator[dict]:
    """Yields three seeds."""
    for seed in range(3):
        yield {"seed": seed}
