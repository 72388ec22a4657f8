"""The attention kernels for TPUs and GPUs give the numbers of the matrix products.

On a CPU, splash is interpreted, and cuDNN's masks are computed without cuDNN.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from bert_jax.config import override
from bert_jax.errors import ConfigError
from bert_jax.models import kernels
from bert_jax.models.attention import attend, attention_mask
from bert_jax.models.bert import BertForPretraining, apply
from bert_jax.models.config import BertConfig
from bert_jax.models.kernels import cudnn_attention, kernel_attention
from bert_jax.sharding import MeshConfig, ShardingRules, make_mesh
from bert_jax.training.build import assemble
from bert_jax.training.experiment import phases
from bert_jax.training.state import example_batch, init_params

MESH = MeshConfig(data=2, fsdp=2, tensor=2)
SHAPE = (8, 4, 128, 64)
PACKED_ROWS = np.ones((8, 128), np.int32)
PACKED_ROWS[:, 50:] = 2
PACKED_ROWS[1:, 100:] = 0
ROWS_OF_ONE_PAIR = np.where(np.arange(128) < 16 * np.arange(1, 9)[:, None], 1, 0).astype(np.int32)
KERNELS = {"splash": PACKED_ROWS, "cudnn": ROWS_OF_ONE_PAIR}


@pytest.fixture
def without_cudnn(monkeypatch):
    """Computes cuDNN's attention by XLA, in float32."""
    replaced = partial(cudnn_attention, implementation="xla")
    monkeypatch.setattr(kernels, "cudnn_attention", replaced)


@pytest.mark.usefixtures("without_cudnn")
@pytest.mark.parametrize(("kernel", "mesh"), [("splash", None), ("splash", MESH), ("cudnn", MESH)])
def test_outputs_and_gradients_of_real_tokens_are_those_of_the_matrix_products(kernel, mesh):
    rng = np.random.default_rng(0)
    *given, gradient = (jnp.asarray(array, jnp.float32) for array in rng.normal(size=(4, *SHAPE)))
    ids = jnp.asarray(KERNELS[kernel])
    real = (ids > 0)[:, None, :, None]

    rules = ShardingRules() if mesh else None

    def by_kernel(query, key, value):
        return kernel_attention(query, key, value, ids, kernel=kernel, rules=rules)

    def by_products(*arrays):
        return attend(*arrays, attention_mask(ids), None, 1.0)

    def outputs(function):
        found, backward = jax.vjp(jax.jit(function), *given)
        return [found * real, *backward(gradient * real)]

    with jax.set_mesh(make_mesh(mesh or MeshConfig(data=1))):
        found = outputs(by_kernel)
    for result, expected in zip(found, outputs(by_products), strict=True):
        # Float32 sums of 128 terms in another order.
        np.testing.assert_allclose(result, expected, rtol=0, atol=5e-6)


def test_queries_at_padding_attend_to_the_text_in_cudnn_and_rows_without_text_are_finite():
    query, key, value = np.random.default_rng(0).normal(size=(3, *SHAPE)).astype(np.float32)
    ids = ROWS_OF_ONE_PAIR.copy()
    ids[0] = 0
    found = jax.jit(partial(cudnn_attention, implementation="xla"))(query, key, value, ids)
    mask = attention_mask(jnp.asarray(ids))
    expected = jax.jit(attend, static_argnums=(5,))(query, key, value, mask, None, 1.0)
    np.testing.assert_allclose(found[1:], expected[1:], rtol=0, atol=5e-6)
    assert np.isfinite(found[0]).all()


@pytest.mark.parametrize("mesh", [None, MESH])
def test_a_program_for_nvidia_gpus_calls_cudnn_forward_and_backward(mesh, monkeypatch):
    # A CPU lowers the program, and nothing runs it. jax asks for the version of cuDNN before that.
    monkeypatch.setattr(
        "jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version", lambda: 91000
    )
    arrays = [jax.ShapeDtypeStruct(SHAPE, jnp.bfloat16)] * 3

    rules, ids = ShardingRules() if mesh else None, jnp.asarray(ROWS_OF_ONE_PAIR)

    def loss(query, key, value):
        return kernel_attention(query, key, value, ids, kernel="cudnn", rules=rules).sum()

    with jax.set_mesh(make_mesh(mesh or MeshConfig(data=1))):
        traced = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).trace(*arrays)
        program = traced.lower(lowering_platforms=("cuda",)).as_text()
    rows, heads = (2, 2) if mesh else (8, 4)
    assert program.count("@__cudnn$fmhaSoftmax(") == 1
    assert program.count("@__cudnn$fmhaSoftmaxBackward(") == 1
    assert program.count(r"\22mask_type\22: \22PADDING\22") == 2
    assert f"tensor<{rows}x128x{heads}x64xbf16>" in program  # the part of a device
    assert "128x128x" not in program  # no array of probabilities


def test_a_model_with_the_kernel_has_the_logits_of_one_without():
    config = BertConfig(
        **{"vocab_size": 100, "hidden_size": 32, "num_layers": 2, "num_heads": 2},
        **{"max_positions": 128, "attention_dropout": 0.0, "scan_layers": True},
    )
    rules = ShardingRules()
    batch = example_batch(batch_size=2, length=128, predictions=4)
    pack_ids = np.where(np.arange(128) < 90, 1, 0) * np.ones((2, 1), np.int32)
    batch = batch._replace(pack_ids=pack_ids.astype(np.int32))
    params = jax.jit(lambda: nn.unbox(init_params(BertForPretraining(config, rules), 0)))()
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


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"attention": "splash"}, r"model.attention_dropout is 0.1; accepted: 0 with .*splash"),
        ({"attention": "cudnn"}, r"model.attention_dropout is 0.1; accepted: 0 with .*cudnn"),
        (
            {"attention": "cudnn", "attention_dropout": 0.0},
            r"model.dtype is 'float32'; accepted: bfloat16 with .*cudnn",
        ),
        (
            {"attention": "cudnn", "attention_dropout": 0.0, "dtype": "bfloat16", "num_heads": 2},
            r"model.hidden_size / model.num_heads is 384; accepted: a multiple of 8 up to 128",
        ),
    ],
)
def test_a_config_refuses_what_the_kernel_cannot_do(fields, said):
    with pytest.raises(ConfigError, match=said):
        BertConfig(**fields)


SPLASH = {"model.attention": "splash", "model.attention_dropout": 0.0}
CUDNN = SPLASH | {"model.attention": "cudnn", "model.dtype": "bfloat16"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (SPLASH, r"data.sequence_length is 32; accepted .* a multiple of 128"),
        (SPLASH | {"sharding.length": "tensor"}, r"sharding.length is 'tensor'; accepted .*: null"),
        (
            SPLASH | {"sharding.head_dim": "tensor"},
            r"sharding.head_dim is 'tensor'; accepted .*: null",
        ),
        (CUDNN, r"model.attention is 'cudnn', .* but this process runs on cpu; accepted: einsum"),
    ],
)
def test_what_the_kernel_cannot_do_is_refused_before_anything_is_compiled(
    changes, said, experiment
):
    (phase,) = phases(override(experiment, changes))
    with pytest.raises(ConfigError, match=said):
        assemble(phase, make_mesh(experiment.mesh))


def test_cudnn_is_refused_for_packed_rows(experiment, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    (phase,) = phases(override(experiment, CUDNN | {"data.pairs_per_row": 4}))
    with pytest.raises(ConfigError, match=r"data.pairs_per_row is 4; accepted .*cudnn: 1"):
        assemble(phase, make_mesh(experiment.mesh))
