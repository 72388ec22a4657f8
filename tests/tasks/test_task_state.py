"""What is trained, how fast each layer is, what begins anew, and how a text is represented."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.models.bert import EncoderOutput
from bert_jax.models.config import BertConfig
from bert_jax.runs import flatten_params
from bert_jax.tasks.classification import CLASSIFICATION
from bert_jax.tasks.config import FineTuningConfig, TaskConfig, TuningConfig
from bert_jax.tasks.model import BertForTask, example_ids, represent_text
from bert_jax.tasks.state import make_model, make_task_optimizer, scale_by_depth, state_maker
from bert_jax.training.sharding import MeshConfig, make_mesh
from bert_jax.training.state import unboxed_params

ENCODER = BertConfig(vocab_size=20, hidden_size=16, num_layers=5, num_heads=2, max_positions=16)


def config(**training):
    task = TaskConfig(family="classification", train="tsv:a", dev="tsv:b", max_length=16)
    return FineTuningConfig(task=task, training=TuningConfig(**training), mesh=MeshConfig(data=1))


def model_of(configuration):
    return make_model(configuration, ENCODER, CLASSIFICATION, ("no", "yes"))


def test_rates_fall_with_the_depth_of_a_layer():
    params = unboxed_params(model_of(config()), 0, *example_ids())
    ones = jax.tree.map(jnp.ones_like, params)
    transform = scale_by_depth(0.5, num_layers=5)
    scaled, _ = transform.update(ones, transform.init(params), params)
    scales = flatten_params(scaled)
    assert set(np.unique(scales["output/kernel"])) == {1.0}
    assert set(np.unique(scales["bert/pooler/dense/kernel"])) == {1.0}
    assert set(np.unique(scales["bert/embeddings/token"])) == {0.5**6}
    for leaf in ("bert/layers/attention/query/kernel", "bert/layers/attention_layer_norm/scale"):
        of_layer = np.asarray(scales[leaf]).reshape(5, -1)
        np.testing.assert_array_equal(of_layer[:, 0], [0.5**5, 0.5**4, 0.5**3, 0.5**2, 0.5])
        assert (of_layer == of_layer[:, :1]).all()


def first_state(configuration):
    model = model_of(configuration)
    optimizer, _ = make_task_optimizer(configuration, steps=10, num_layers=5)
    _, make = state_maker(model, optimizer, configuration, make_mesh(MeshConfig(data=1)))
    encoder = jax.tree.map(
        lambda leaf: leaf + 7.0, unboxed_params(model, 3, *example_ids())["bert"]
    )
    return make(jax.random.key(0), encoder), encoder


def test_the_first_state_is_the_encoder_with_step_and_moments_of_zero():
    state, encoder = first_state(config())
    assert int(state.step) == 0
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(state.opt_state))
    for before, after in zip(
        jax.tree.leaves(encoder), jax.tree.leaves(state.params["bert"]), strict=True
    ):
        np.testing.assert_array_equal(before, after)
    assert float(np.abs(state.params["output"]["kernel"]).max()) > 0


def test_the_last_layers_and_the_pooler_can_begin_anew():
    state, encoder = first_state(config(reinitialize_layers=2, reinitialize_pooler=True))
    before, after = flatten_params(encoder), flatten_params(state.params["bert"])
    for path, leaf in after.items():
        same = np.asarray(leaf == before[path])
        if path.startswith("layers/"):
            assert same[:3].all() and not same[3:].any(), path
        else:
            assert not same.any() if path.startswith("pooler/") else same.all(), path


def test_a_frozen_encoder_has_no_moments():
    sizes = []
    for frozen in (False, True):
        state, _ = first_state(config(frozen=frozen))
        sizes.append(sum(leaf.size for leaf in jax.tree.leaves(state.opt_state)))
    output = 16 * 2 + 2
    assert sizes[1] <= 2 * output + 4 < sizes[0]  # two moments, and counts of steps


@pytest.mark.parametrize("representation", ["cls", "pooled", "mean", "max", "last4"])
def test_padding_changes_no_representation(representation):
    """To 1e-5: sums over more positions, of which the further ones are 0, in another order."""
    task = TaskConfig(
        family="classification", train="a", dev="b", max_length=16, representation=representation
    )
    model = model_of(FineTuningConfig(task=task))
    params = jax.jit(lambda: unboxed_params(model, 0, *example_ids()))()
    params = jax.tree.map(lambda leaf: leaf * 5, params)
    ids = np.arange(5, 13)[None].astype(np.int32)
    padded = np.pad(ids, ((0, 0), (0, 4)))
    alone = model.apply({"params": params}, ids, 0 * ids, 0 * ids + 1)
    with_padding = model.apply(
        {"params": params}, padded, 0 * padded, (padded > 0).astype(np.int32)
    )
    np.testing.assert_allclose(alone, with_padding, rtol=1e-5, atol=1e-5)
    width = 64 if representation == "last4" else 16
    assert params["output"]["kernel"].shape == (width, 2)


def test_mean_and_maximum_are_over_real_positions():
    x = jnp.array([[[1.0, -5.0], [3.0, -7.0], [100.0, 100.0]]])
    output = EncoderOutput(x, jnp.zeros((1, 1, 2)))
    real = jnp.array([[True, True, False]])
    assert represent_text(output, real, "mean").tolist() == [[2.0, -6.0]]
    assert represent_text(output, real, "max").tolist() == [[3.0, -5.0]]
    assert represent_text(output, real, "cls").tolist() == [[1.0, -5.0]]


def test_last4_begins_with_the_last_layer():
    """Its first quarter is what `cls` sees."""
    params = jax.jit(lambda: unboxed_params(model_of(config()), 0, *example_ids()))()
    features = {}
    for representation in ("cls", "last4"):
        task = TaskConfig(
            family="classification",
            train="a",
            dev="b",
            max_length=16,
            representation=representation,
        )
        model = model_of(FineTuningConfig(task=task))
        ids = np.arange(5, 13)[None].astype(np.int32)
        features[representation] = model.apply(
            {"params": params}, ids, 0 * ids, 0 * ids + 1, method=BertForTask.features
        )
    np.testing.assert_array_equal(features["last4"][..., :16], features["cls"])
    assert (features["last4"][..., 16:32] != features["cls"]).any()
