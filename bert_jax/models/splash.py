"""Attention by a kernel for TPUs, which stores no array of probabilities."""

import math
from functools import partial
from typing import cast

import jax
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jaxtyping import Array, Float, Int

from bert_jax.sharding import ShardingRules, resolve

KERNEL_TOKENS = 128
"""The number of tokens of a row must be a multiple of this."""

MAX_BLOCK = 512
"""Largest number of queries or keys that the kernel processes at once."""


def splash_attention(
    query: Float[Array, "batch heads length head_dim"],
    key: Float[Array, "batch heads length head_dim"],
    value: Float[Array, "batch heads length head_dim"],
    pack_ids: Int[Array, "batch length"],
    rules: ShardingRules | None,
) -> Float[Array, "batch heads length head_dim"]:
    """Returns the mean of the values, weighted by the softmax of the scaled dot products.

    A query attends to the keys with its own pack id. Padding therefore attends to padding, unlike
    in `attend`; its outputs differ, but no output of a real token depends on them. On a CPU the
    kernel is interpreted, which is slow and meant for tests. Without `rules`, or without a mesh,
    one device computes the whole batch.

    References:
      jax.experimental.pallas.ops.tpu.splash_attention
    """

    def attend(query: Array, key: Array, value: Array, ids: Array, *, interpret: bool) -> Array:
        _, heads, length, _ = query.shape
        block = math.gcd(length, MAX_BLOCK)
        sizes = splash.BlockSizes(
            block_q=block,
            block_kv=block,
            block_kv_compute=block,
            block_q_dkv=block,
            block_kv_dkv=block,
            block_kv_dkv_compute=block,
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

    def by_platform(*arrays: Array) -> Array:
        return jax.lax.platform_dependent(
            *arrays,
            cpu=partial(attend, interpret=True),
            default=partial(attend, interpret=False),
        )

    query = query * query.shape[-1] ** -0.5  # the kernel does not scale
    mesh = jax.sharding.get_abstract_mesh()
    if rules is None or mesh.empty:
        return by_platform(query, key, value, pack_ids)
    heads = resolve(("batch", "heads", "length", "head_dim"), rules)
    rows = resolve(("batch", "length"), rules)
    # The kernel's outputs carry no record of the mesh axes along which they vary.
    sharded = jax.shard_map(
        by_platform, in_specs=(heads, heads, heads, rows), out_specs=heads, check_vma=False
    )
    return sharded(query, key, value, pack_ids)
