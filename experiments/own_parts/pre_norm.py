"""A model of your own: BERT whose layers normalize their input instead of their output (pre-norm).

  python -m bert_jax.prepare --experiment=experiments/own_parts/pre_norm.py
  python -m bert_jax.pretrain --experiment=experiments/own_parts/pre_norm.py --workdir=runs/pre_norm

The sum of the residuals is never normalized between the layers, only once after the last. BERT
normalizes it after each block. experiments/ablations/norm_placement.py compares both.
docs/ablations.md explains what a model of your own needs.

References:
  Xiong et al. 2020, https://arxiv.org/abs/2002.04745
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flax import linen as nn

from bert_jax import Experiment
from bert_jax.config import load_experiment, override
from bert_jax.models.bert import Bert, EncoderLayer
from bert_jax.models.config import BertConfig
from bert_jax.models.dropout import Dropout
from bert_jax.models.layers import FeedForward, LayerNorm
from bert_jax.sharding import constrain


@dataclass(frozen=True, kw_only=True)
class PreNormConfig(BertConfig):
    """BERT with pre-norm layers."""

    def build(self, rules: Any = None) -> Bert:
        return PreNormBert(self, rules)


class PreNormLayer(EncoderLayer):
    """Adds self-attention and a feed-forward block, each of normalized input, to the input."""

    @nn.compact
    def __call__(self, x, mask, pack_ids, train, keep_hidden_states=False, keep_attentions=False):
        c = self.config
        normal = LayerNorm(c, name="attention_layer_norm")(x)
        attended, attentions = self.attention_class(c, self.rules, name="attention")(
            normal, mask, pack_ids, train=train, keep=keep_attentions
        )
        x = x + Dropout(c.dropout, c.dropout_bits)(attended, train=train)
        normal = LayerNorm(c, name="feed_forward_layer_norm")(x)
        fed = FeedForward(c, name="feed_forward")(normal)
        x = x + Dropout(c.dropout, c.dropout_bits)(fed, train=train)
        x = constrain(x, ("batch", "length", "activation_embed"), self.rules)
        return x, (x if keep_hidden_states else None, attentions)


class PreNormBert(Bert):
    """The encoder, with a LayerNorm after its last layer."""

    layer_class = PreNormLayer

    def setup(self):
        super().setup()
        self.final_norm = LayerNorm(self.config)

    def finish(self, x):
        return self.final_norm(x)


def get_config() -> Experiment:
    base = load_experiment(Path(__file__).parents[1] / "both_losses.py")
    return override(base, {"model": PreNormConfig(**vars(base.model))})
