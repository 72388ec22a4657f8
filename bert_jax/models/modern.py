"""A modern encoder: rotary positions, gated feed-forward blocks, local attention, no biases.

The residual stream is normalized before each block, and once after the last layer. Everything that
is not here (dense layers, attention, heads, losses, the update) is BERT's.

References:
  Warner et al. 2024 (ModernBERT), https://arxiv.org/abs/2412.13663
  Su et al. 2021 (rotary positions), https://arxiv.org/abs/2104.09864
  Shazeer 2020 (GeGLU), https://arxiv.org/abs/2002.05202
"""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from bert_jax.models.attention import SelfAttention
from bert_jax.models.bert import Bert
from bert_jax.models.config import ModernConfig
from bert_jax.models.dropout import Dropout
from bert_jax.models.embeddings import Embeddings
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

    def project(self, x: Array, places: Array) -> tuple[Array, ...]:
        query, key, value = super().project(x, places)
        return rotate(query, places), rotate(key, places), value


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
        x = x + Dropout(c.attention_dropout, c.dropout_bits)(attended, train=train)
        normal = LayerNorm(c, name="feed_forward_norm")(x)
        x = x + GatedFeedForward(c, name="feed_forward")(normal, train=train)
        x = constrain(x, ("batch", "length", "activation_embed"), self.rules)
        return x, (x if keep_hidden_states else None, attentions)


class ModernEmbeddings(Embeddings):
    """Token embeddings, LayerNorm and dropout."""

    added = ()


class Modern(Bert):
    """The encoder. `segment_ids` do not matter, and `pooled_output` is the [CLS] vector itself.

    `hidden_states` are the outputs of the layers before the last normalization.
    """

    config: ModernConfig

    embeddings_class, layer_class = ModernEmbeddings, ModernLayer
    input_axes = (0, nn.broadcast, nn.broadcast)

    def setup(self):
        super().setup()
        self.final_norm = LayerNorm(self.config)

    def layer_inputs(
        self, mask: Array, pack_ids: Array, positions: Array | None
    ) -> tuple[Array, ...]:
        positions = jnp.arange(pack_ids.shape[1])[None] if positions is None else positions
        return jnp.arange(self.config.num_layers), mask, positions

    def finish(self, x: Array) -> Array:
        return self.final_norm(x)
