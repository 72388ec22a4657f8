"""A modern encoder: rotary positions, gated feed-forward blocks, local attention, no biases.

The residual stream is normalized before each block, and once after the last layer. Everything that
is not here (dense layers, attention, heads, losses, the update) is BERT's.

References:
  Warner et al. 2024 (ModernBERT), https://arxiv.org/abs/2412.13663
  Su et al. 2021 (rotary positions), https://arxiv.org/abs/2104.09864
  Shazeer 2020 (GeGLU), https://arxiv.org/abs/2002.05202
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from bert_jax.models.attention import SelfAttention, attention_mask
from bert_jax.models.bert import EncoderOutput, restarting_positions
from bert_jax.models.config import ModernConfig
from bert_jax.models.dropout import Dropout
from bert_jax.models.embeddings import Embeddings
from bert_jax.models.heads import gather_positions
from bert_jax.models.layers import Dense, LayerNorm, activation
from bert_jax.sharding import ShardingRules, constrain


def rotate(
    x: Float[Array, "batch heads length head_dim"], angles: Float[Array, "#batch length half"]
) -> Float[Array, "batch heads length head_dim"]:
    """Rotates each pair of elements (i, i + half) by its angle, in float32."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
    turned = [first * cos - second * sin, second * cos + first * sin]
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)


def wavenumbers(head_dim: int, theta: float) -> Float[Array, "half"]:
    """Returns the angle per position of each pair of elements: 1 down to about 1 / theta."""
    return theta ** -(jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)


class ModernAttention(SelfAttention):
    """Self-attention whose queries and keys are rotated by the angles of their positions."""

    config: ModernConfig

    @nn.compact
    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        x: Float[Array, "batch length embed"],
        mask: Bool[Array, "batch 1 length length"],
        angles: Float[Array, "#batch length half"],
        *,
        train: bool,
        keep: bool = False,
    ) -> tuple[
        Float[Array, "batch length embed"], Float[Array, "batch heads length length"] | None
    ]:
        """Returns the output, and if `keep` is True, the attention probabilities."""
        c = self.config
        embed, heads = {"embed": c.hidden_size}, {"heads": c.num_heads, "head_dim": c.head_dim}
        query, key, value = (
            Dense(c, embed, heads, name=name)(x).transpose(0, 2, 1, 3)  # [B, H, S, D]
            for name in ("query", "key", "value")
        )
        query, key = rotate(query, angles), rotate(key, angles)
        context = self.weigh(query, key, value, mask, mask, train=train)
        output = Dense(c.residual, heads, embed, name="output")(context.transpose(0, 2, 1, 3))
        output = Dropout(c.attention_dropout, c.dropout_bits)(output, train=train)
        return output, self.probabilities(query, key, mask) if keep else None


class GatedFeedForward(nn.Module):
    """GeGLU: the activation of one dense layer, times a second one, and a dense layer back."""

    config: ModernConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch length embed"], *, train: bool
    ) -> Float[Array, "batch length embed"]:
        c = self.config
        embed, mlp = {"embed": c.hidden_size}, {"mlp": c.feed_forward_size}
        gated = activation(Dense(c, embed, mlp, name="intermediate")(x), c.activation)
        gated = gated * Dense(c, embed, mlp, name="gate")(x)
        gated = Dropout(c.dropout, c.dropout_bits)(gated, train=train)
        return Dense(c.residual, mlp, embed, name="output")(gated)


class ModernLayer(nn.Module):
    """Adds attention and a gated feed-forward block, each of normalized input, to the input."""

    config: ModernConfig
    rules: ShardingRules | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        number: Int[Array, ""],
        mask: Bool[Array, "batch 1 length length"],
        positions: Int[Array, "#batch length"],
        train: bool,
        keep_hidden_states: bool = False,
        keep_attentions: bool = False,
    ) -> tuple[Float[Array, "batch length embed"], tuple[Array | None, Array | None]]:
        """Returns the output, and the kept output and attention probabilities or None.

        `number` counts the layers from 0.
        """
        c = self.config
        is_global = number % c.global_every == 0
        place = jnp.arange(x.shape[1])  # packed pairs are told apart by `mask`
        near = jnp.abs(place[:, None] - place) <= c.local_window // 2
        mask = mask & (is_global | near)
        thetas = (c.global_theta, c.local_theta)
        of_global, of_local = (wavenumbers(c.head_dim, theta) for theta in thetas)
        angles = positions[..., None] * jnp.where(is_global, of_global, of_local)
        # The embeddings are normalized already, so the first layer does not do it again.
        normal = jnp.where(number == 0, x, LayerNorm(c, name="attention_norm")(x))
        attended, attentions = ModernAttention(c, self.rules, name="attention")(
            normal, mask, angles, train=train, keep=keep_attentions
        )
        x = x + attended
        normal = LayerNorm(c, name="feed_forward_norm")(x)
        x = x + GatedFeedForward(c, name="feed_forward")(normal, train=train)
        x = constrain(x, ("batch", "length", "activation_embed"), self.rules)
        return x, (x if keep_hidden_states else None, attentions)


class ModernEmbeddings(Embeddings):
    """Token embeddings, LayerNorm and dropout."""

    added = ()


class Modern(nn.Module):
    """The encoder, with the inputs and outputs of `models.bert.Bert`.

    `segment_ids` do not matter. `pooled_output` is the [CLS] vector itself. `hidden_states` are the
    outputs of the layers before the last normalization.
    """

    config: ModernConfig
    rules: ShardingRules | None = None

    def setup(self):
        c = self.config
        self.embeddings = ModernEmbeddings(c, self.rules)
        layer, loop = ModernLayer, c.layers_loop(jax.default_backend())
        if c.remat == "full":  # arguments 5 to 7 are bools; 0 is the module
            layer = nn.remat(layer, prevent_cse=not loop, static_argnums=(5, 6, 7))
        self.layers = nn.scan(
            layer,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(0, *(nn.broadcast,) * 5),  # pyright: ignore[reportArgumentType]
            length=c.num_layers,
            unroll=1 if loop else c.num_layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(c, self.rules)
        self.final_norm = LayerNorm(c)

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
        x = self.embeddings(token_ids, segment_ids, train=train)
        x = constrain(x, ("batch", "length", "activation_embed"), self.rules)
        embedded = x if keep_hidden_states else None
        positions = restarting_positions(pack_ids, cls_positions)
        positions = jnp.arange(x.shape[1])[None] if positions is None else positions
        numbers, mask = jnp.arange(self.config.num_layers), attention_mask(pack_ids)
        x, (hidden_states, attentions) = self.layers(
            x, numbers, mask, positions, train, keep_hidden_states, keep_attentions
        )
        x = self.final_norm(x)
        first = constrain(gather_positions(x, cls_positions), ("batch", None, None), self.rules)
        return EncoderOutput(x, first, hidden_states, embedded, attentions)
