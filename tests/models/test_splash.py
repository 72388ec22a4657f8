"""The attention kernel for TPUs, interpreted on CPUs, gives the numbers of the matrix products."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from bert_jax.config import override
from bert_jax.errors import ConfigError
from bert_jax.models.attention import attend, attention_mask
from bert_jax.models.bert import BertForPretraining, apply
from bert_jax.models.config import BertConfig
from bert_jax.models.splash import splash_attention
from bert_jax.sharding import MeshConfig, ShardingRules, make_mesh
from bert_jax.training.build import assemble
from bert_jax.training.experiment import phases
from bert_jax.training.state import example_batch, init_params

SHAPE = (8, 4, 128, 64)
PACK_IDS = np.ones((8, 128), np.int32)
PACK_IDS[:, 50:] = 2
PACK_IDS[1:, 100:] = 0


@pytest.mark.parametrize("mesh", [None, MeshConfig(data=2, fsdp=2, tensor=2)])
def test_outputs_and_gradients_of_real_tokens_are_those_of_the_matrix_products(mesh):
    rng = np.random.default_rng(0)
    *given, gradient = (jnp.asarray(array, jnp.float32) for array in rng.normal(size=(4, *SHAPE)))
    ids = jnp.asarray(PACK_IDS)
    real = (PACK_IDS > 0)[:, None, :, None]

    def kernel(*arrays):
        return splash_attention(*arrays, ids, ShardingRules() if mesh else None)

    def products(*arrays):
        return attend(*arrays, attention_mask(ids), None, 1.0)

    def outputs(function):
        found, backward = jax.vjp(jax.jit(function), *given)
        return [found * real, *backward(gradient * real)]

    with jax.set_mesh(make_mesh(mesh or MeshConfig(data=1))):
        found = outputs(kernel)
    for result, expected in zip(found, outputs(products), strict=True):
        # Float32 sums of 128 terms in another order.
        np.testing.assert_allclose(result, expected, rtol=0, atol=5e-6)


def test_a_model_with_the_kernel_has_the_logits_of_one_without():
    config = BertConfig(
        **{"vocab_size": 100, "hidden_size": 32, "num_layers": 2, "num_heads": 2},
        **{"max_positions": 128, "attention_dropout": 0.0, "scan_layers": True},
    )
    rules = ShardingRules()
    batch = example_batch(batch_size=2, length=128, predictions=4)
    pack_ids = np.where(np.arange(128) < 90, 1, 0) * np.ones((2, 1), np.int32)
    batch = batch._replace(pack_ids=pack_ids.astype(np.int32))
    params = nn.unbox(init_params(BertForPretraining(config, rules), 0))
    logits = []
    for attention in ("einsum", "splash"):
        model = BertForPretraining(dataclasses.replace(config, attention=attention), rules)
        with jax.set_mesh(make_mesh(MeshConfig(data=2))):
            run = jax.jit(lambda params, model=model: apply(model, params, batch))
            logits.append(run(params))
    for plain, kernel in zip(*logits, strict=True):
        real = np.isfinite(plain)
        # Two layers of float32 operations in another order; logits are below 1.
        np.testing.assert_allclose(kernel[real], plain[real], rtol=0, atol=1e-5)


def test_the_kernel_has_no_attention_dropout():
    with pytest.raises(ConfigError, match=r"model.attention_dropout is 0.1; accepted .*splash: 0"):
        BertConfig(attention="splash")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, r"data.sequence_length is 32; accepted .* a multiple of 128"),
        ({"sharding.length": "tensor"}, r"sharding.length is 'tensor'; accepted .*: null"),
        ({"sharding.head_dim": "tensor"}, r"sharding.head_dim is 'tensor'; accepted .*: null"),
    ],
)
def test_what_the_kernel_cannot_do_is_refused_before_anything_is_compiled(
    changes, said, experiment
):
    kernel = {"model.attention": "splash", "model.attention_dropout": 0.0}
    (phase,) = phases(override(experiment, kernel | changes))
    with pytest.raises(ConfigError, match=said):
        assemble(phase, make_mesh(experiment.mesh))
