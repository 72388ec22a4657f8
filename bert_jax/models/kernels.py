"""Attention by jax's kernels for TPUs and GPUs, which store no array of probabilities."""

import math
from functools import partial
from typing import Literal, cast

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jaxtyping import Array, Float, Int

from bert_jax.sharding import ShardingRules, resolve

SPLASH_TOKENS = 128
"""Splash needs rows whose number of tokens is a multiple of this."""

SPLASH_MAX_BLOCK = 512
"""Largest number of queries or keys that splash processes at once."""


def kernel_attention(
    query: Float[Array, "batch heads length head_dim"],
    key: Float[Array, "batch heads length head_dim"],
    value: Float[Array, "batch heads length head_dim"],
    pack_ids: Int[Array, "batch length"],
    *,
    kernel: Literal["splash", "cudnn"],
    rules: ShardingRules | None,
) -> Float[Array, "batch heads length head_dim"]:
    """Returns the mean of the values, weighted by the softmax of the scaled dot products.

    Each device computes its own rows and heads. Without `rules`, or without a mesh, one device
    computes the whole batch.
    """
    function = splash_attention if kernel == "splash" else cudnn_attention
    if rules is None or jax.sharding.get_abstract_mesh().empty:
        return function(query, key, value, pack_ids)
    heads = resolve(("batch", "heads", "length", "head_dim"), rules)
    rows = resolve(("batch", "length"), rules)
    # The kernels' outputs carry no record of the mesh axes along which they vary.
    sharded = jax.shard_map(
        function, in_specs=(heads, heads, heads, rows), out_specs=heads, check_vma=False
    )
    return cast(Array, sharded(query, key, value, pack_ids))


def splash_attention(
    query: Float[Array, "batch heads length head_dim"],
    key: Float[Array, "batch heads length head_dim"],
    value: Float[Array, "batch heads length head_dim"],
    pack_ids: Int[Array, "batch length"],
) -> Float[Array, "batch heads length head_dim"]:
    """Computes attention by the kernel for TPUs.

    A query attends to the keys with its own pack id. Padding therefore attends to padding, unlike
    in `attend`; its outputs differ, but no output of a real token depends on them. On a CPU the
    kernel is interpreted, which is slow and meant for tests.

    References:
      jax.experimental.pallas.ops.tpu.splash_attention
    """

    def attend(query: Array, key: Array, value: Array, ids: Array, *, interpret: bool) -> Array:
        _, heads, length, _ = query.shape
        block = math.gcd(length, SPLASH_MAX_BLOCK)
        sizes = splash.BlockSizes(
            block_q=block,
            block_kv=block,
            block_q_dkv=block,
            block_kv_dkv=block,
            block_q_dq=block,
            block_kv_dq=block,
        )
        kernel = splash.make_splash_mha(
            masks.MultiHeadMask([masks.FullMask((length, length))] * heads),
            block_sizes=sizes,
            head_shards=1,
            q_seq_shards=1,
            interpret=interpret,
        )
        outputs = jax.vmap(kernel)(query, key, value, splash.SegmentIds(ids, ids))
        return cast(Array, outputs)

    query = query * query.shape[-1] ** -0.5  # the kernel does not scale
    outputs = jax.lax.platform_dependent(
        query,
        key,
        value,
        pack_ids,
        cpu=partial(attend, interpret=True),
        default=partial(attend, interpret=False),
    )
    return cast(Array, outputs)


def cudnn_attention(
    query: Float[Array, "batch heads length head_dim"],
    key: Float[Array, "batch heads length head_dim"],
    value: Float[Array, "batch heads length head_dim"],
    pack_ids: Int[Array, "batch length"],
    *,
    implementation: Literal["cudnn", "xla"] = "cudnn",
) -> Float[Array, "batch heads length head_dim"]:
    """Computes attention by the kernel of cuDNN, NVIDIA's library for GPUs.

    A row holds one pair and then padding, so the number of its real tokens determines the mask.
    Queries at padding attend to the real tokens, as in `attend`. In a row without a token they
    attend to its first key, because softmax over no key is not a number.

    Args:
      implementation: 'xla' computes the same without cuDNN, on every device, for tests.

    References:
      jax.nn.dot_product_attention
    """
    tokens = jnp.maximum((pack_ids > 0).sum(1, dtype=jnp.int32), 1)
    # cuDNN's documentation does not say that the gradient of masked keys and values is 0.
    real = (pack_ids > 0)[:, None, :, None]
    key, value = jnp.where(real, key, 0), jnp.where(real, value, 0)
    arrays = (array.swapaxes(1, 2) for array in (query, key, value))
    outputs = jax.nn.dot_product_attention(
        *arrays, key_value_seq_lengths=tokens, implementation=implementation
    )
    return outputs.swapaxes(1, 2)
