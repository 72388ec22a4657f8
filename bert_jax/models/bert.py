"""The BERT encoder, alone and with its two pretraining heads.

References:
  Devlin et al. 2018, https://arxiv.org/abs/1810.04805
  https://github.com/google-research/bert
"""

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from bert_jax.data.batch import Batch
from bert_jax.models.attention import SelfAttention, attention_mask
from bert_jax.models.config import BertConfig
from bert_jax.models.dropout import Dropout
from bert_jax.models.embeddings import Embeddings
from bert_jax.models.heads import MaskedTokenHead, NextSentenceHead, Pooler, gather_positions
from bert_jax.models.layers import FeedForward, LayerNorm
from bert_jax.sharding import ShardingRules, constrain


class EncoderOutput(NamedTuple):
    """Outputs of the encoder for a batch."""

    sequence_output: Float[Array, "batch length embed"]
    pooled_output: Float[Array, "batch pairs embed"]
    """The [CLS] vector of each pair, after a dense layer and tanh if there is a pooler."""
    hidden_states: Float[Array, "layers batch length embed"] | None = None
    """Outputs of all layers; the last is `sequence_output`. None without `keep_hidden_states`."""
    embedding_output: Float[Array, "batch length embed"] | None = None
    """The input of the first layer. None without `keep_hidden_states`."""
    attentions: Float[Array, "layers batch heads queries keys"] | None = None
    """Attention probabilities of all layers, float32. None without `keep_attentions`."""


class PretrainingOutput(NamedTuple):
    """Float32 logits of both objectives. The pair logits are 0 without `pair_head`."""

    token_logits: Float[Array, "batch predictions vocab"]
    """Logits at the mask positions, over the padded vocabulary."""
    pair_logits: Float[Array, "batch pairs 2"]


def restarting_positions(
    pack_ids: Int[Array, "batch length"], cls_positions: Int[Array, "batch pairs"]
) -> Int[Array, "batch length"] | None:
    """Returns each token's position in its pair, from 0 at [CLS]; None if rows hold a single pair.

    The positions of padding tokens count from the first [CLS] of the row.
    """
    if cls_positions.shape[1] == 1:  # None avoids a lookup, whose gradient is a scatter
        return None
    starts = jnp.take_along_axis(cls_positions, jnp.maximum(pack_ids - 1, 0), axis=1)
    return jnp.arange(pack_ids.shape[1]) - starts


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward block, each followed by a residual sum and LayerNorm."""

    config: BertConfig
    rules: ShardingRules | None = None

    attention_class = SelfAttention

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        mask: Bool[Array, "batch 1 length length"],
        pack_ids: Int[Array, "batch length"],
        train: bool,
        keep_hidden_states: bool = False,
        keep_attentions: bool = False,
    ) -> tuple[Float[Array, "batch length embed"], tuple[Array | None, Array | None]]:
        """Returns the output, and the kept output and attention probabilities or None."""
        c = self.config
        attended, attentions = self.attention_class(c, self.rules, name="attention")(
            x, mask, pack_ids, train=train, keep=keep_attentions
        )
        attended = Dropout(c.dropout, c.dropout_bits)(attended, train=train)
        x = LayerNorm(c, name="attention_layer_norm")(x + attended)
        fed = FeedForward(c, name="feed_forward")(x)
        fed = Dropout(c.dropout, c.dropout_bits)(fed, train=train)
        x = LayerNorm(c, name="feed_forward_layer_norm")(x + fed)
        x = constrain(x, ("batch", "length", "activation_embed"), self.rules)
        return x, (x if keep_hidden_states else None, attentions)


class Bert(nn.Module):
    """The encoder: embeddings, layers and pooler.

    The parameters of all layers are stacked along a first dimension `layers`. Another encoder is a
    subclass with other classes of layers or embeddings.
    """

    config: BertConfig
    rules: ShardingRules | None = None

    embeddings_class, layer_class = Embeddings, EncoderLayer
    input_axes = (nn.broadcast, nn.broadcast)
    """For each of `layer_inputs`: broadcast, or 0 if its first dimension is the layer."""

    def setup(self):
        c = self.config
        self.embeddings = self.embeddings_class(c, self.rules)
        layer, loop = self.layer_class, c.layers_loop(jax.default_backend())
        if c.remat == "full":  # 0 is the module and 1 is x; three bools follow the inputs
            first = 2 + len(self.input_axes)
            bools = tuple(range(first, first + 3))
            layer = nn.remat(layer, prevent_cse=not loop, static_argnums=bools)
        self.layers = nn.scan(
            layer,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(*self.input_axes, *(nn.broadcast,) * 3),  # pyright: ignore[reportArgumentType]
            length=c.num_layers,
            unroll=1 if loop else c.num_layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(c, self.rules)
        if c.pair_head:
            self.pooler = Pooler(c)

    def __call__(
        self,
        token_ids: Int[Array, "batch length"],
        segment_ids: Int[Array, "batch length"],
        pack_ids: Int[Array, "batch length"],
        cls_positions: Int[Array, "batch pairs"],
        *,
        train: bool = False,
        keep_hidden_states: bool = False,
        keep_attentions: bool = False,
    ) -> EncoderOutput:
        positions = restarting_positions(pack_ids, cls_positions)
        x = self.embeddings(token_ids, segment_ids, positions, train=train)
        x = constrain(x, ("batch", "length", "activation_embed"), self.rules)
        inputs = self.layer_inputs(attention_mask(pack_ids), pack_ids, positions)
        embedded = x if keep_hidden_states else None
        flags = (train, keep_hidden_states, keep_attentions)
        x, (hidden_states, attentions) = self.layers(x, *inputs, *flags)  # pyright: ignore
        x = self.finish(x)
        first = constrain(gather_positions(x, cls_positions), ("batch", None, None), self.rules)
        if self.config.pair_head:
            first = constrain(self.pooler(first), ("batch", None, None), self.rules)
        return EncoderOutput(x, first, hidden_states, embedded, attentions)

    def layer_inputs(
        self, mask: Array, pack_ids: Array, positions: Array | None
    ) -> tuple[Array, ...]:
        """Returns what every layer gets beside its input. None means positions 0, 1, 2, ..."""
        return mask, pack_ids

    def finish(self, x: Array) -> Array:
        """Returns `sequence_output`, given the output of the last layer."""
        return x


class BertForPretraining(nn.Module):
    """BERT with both pretraining heads. The masked-token head shares the encoder's token table."""

    config: BertConfig
    rules: ShardingRules | None = None

    def setup(self):
        self.bert = self.config.build(self.rules)
        self.masked_token_head = MaskedTokenHead(self.config, self.rules)
        if self.config.pair_head:
            self.next_sentence_head = NextSentenceHead(self.config)

    def __call__(self, batch: Batch, *, train: bool = False) -> PretrainingOutput:
        encoded = self.bert(
            batch.token_ids, batch.segment_ids, batch.pack_ids, batch.cls_positions, train=train
        )
        picked = gather_positions(encoded.sequence_output, batch.mask_positions)
        token_logits = self.masked_token_head(picked, self.bert.embeddings.token_table)
        if not self.config.pair_head:
            return PretrainingOutput(token_logits, jnp.zeros((*batch.cls_positions.shape, 2)))
        return PretrainingOutput(token_logits, self.next_sentence_head(encoded.pooled_output))


def apply(
    model: BertForPretraining, params: Any, batch: Batch, *, dropout_rng: Array | None = None
) -> PretrainingOutput:
    """Runs the model. Dropout is off without `dropout_rng`."""
    rngs = None if dropout_rng is None else {"dropout": dropout_rng}
    output = model.apply({"params": params}, batch, train=dropout_rng is not None, rngs=rngs)
    return cast(PretrainingOutput, output)


def num_parameters(params: dict, config: BertConfig) -> int:
    """Counts the parameters, without idle ones and padding of the vocabulary."""
    padding = config.padded_vocab_size - config.vocab_size
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    count -= padding * config.hidden_size + config.idle_parameters
    return count - (padding if "masked_token_head" in params else 0)
