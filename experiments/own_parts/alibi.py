"""A model of your own: BERT with linear biases in place of position embeddings (ALiBi).

  python -m bert_jax.prepare --experiment=experiments/own_parts/alibi.py
  python -m bert_jax.sweep --experiment=experiments/own_parts/alibi.py --workdir=runs/alibi

A query attends less to a distant key: each head subtracts its slope times the distance from the
scores. docs/ablations.md explains what a model of your own needs.

References:
  Press, Smith and Lewis 2021, https://arxiv.org/abs/2108.12409
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from bert_jax import Experiment
from bert_jax.config import PositiveFloat, load_experiment, override
from bert_jax.models.attention import SelfAttention
from bert_jax.models.bert import Bert, EncoderLayer
from bert_jax.models.config import BertConfig
from bert_jax.models.dropout import Dropout
from bert_jax.models.embeddings import Embeddings


@dataclass(frozen=True, kw_only=True)
class AlibiConfig(BertConfig):
    """BERT with ALiBi."""

    slope_range: PositiveFloat = 8.0
    """Minus the binary logarithm of the smallest slope. Slopes fall geometrically over heads."""

    def build(self, rules: Any = None) -> Bert:
        return AlibiBert(self, rules)


class AlibiAttention(SelfAttention):
    """Self-attention with a bias for the distance between query and key."""

    config: AlibiConfig

    def probabilities(self, query, key, mask):
        heads, length = query.shape[1:3]
        slopes = 2.0 ** (-self.config.slope_range * jnp.arange(1, heads + 1) / heads)
        places = jnp.arange(length)
        distance = jnp.abs(places[:, None] - places)  # also right for packed pairs
        scores = jnp.einsum("bhqd,bhkd->bhqk", query, key, preferred_element_type=jnp.float32)
        scores = scores * query.shape[-1] ** -0.5 - slopes[:, None, None] * distance
        return jax.nn.softmax(jnp.where(mask, scores, jnp.finfo(jnp.float32).min))

    def weigh(self, query, key, value, mask, places, *, train):
        c, probabilities = self.config, self.probabilities(query, key, mask)
        kept = Dropout(c.attention_dropout, c.dropout_bits)(probabilities, train=train)
        return jnp.einsum("bhqk,bhkd->bhqd", kept.astype(value.dtype), value)


class AlibiLayer(EncoderLayer):
    attention_class = AlibiAttention


class AlibiEmbeddings(Embeddings):
    added = ("segment",)


class AlibiBert(Bert):
    embeddings_class, layer_class = AlibiEmbeddings, AlibiLayer


def get_config() -> Experiment:
    base = load_experiment(Path(__file__).parents[1] / "quickstart.py")
    return override(base, {"model": AlibiConfig(**vars(base.model))})


def sweep_model() -> Iterator[dict[str, Any]]:
    yield {"model": load_experiment(Path(__file__).parents[1] / "quickstart.py").model}
    yield {"model": get_config().model}
