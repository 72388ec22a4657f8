"""Which parameters are trained or start at random, and how a text is represented."""

from dataclasses import replace
from functools import partial
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.errors import ConfigError
from bert_jax.models.bert import Bert
from bert_jax.models.config import BertConfig, ModernConfig, Pooling, TaskHeadConfig
from bert_jax.models.pooling import pool, token_vectors
from bert_jax.models.task import BertForTask, example_ids
from bert_jax.sharding import MeshConfig, make_mesh
from bert_jax.tasks.config import (
    FineTuningConfig,
    TaskConfig,
    TaskTrainingConfig,
    TokenRepresentation,
)
from bert_jax.tasks.families.classification import CLASSIFICATION
from bert_jax.tasks.families.family import TaskBatch
from bert_jax.tasks.state import (
    make_model,
    make_task_optimizer,
    state_maker,
    task_logits,
)
from bert_jax.training.initial import flatten_params
from bert_jax.training.state import unboxed_params

ENCODER = BertConfig(
    vocab_size=20,
    hidden_size=16,
    num_layers=5,
    num_heads=2,
    max_positions=16,
    initializer_stddev=0.2,
    scan_layers=True,
)


def config(**training):
    task = TaskConfig(family="classification", train="tsv:a", dev="tsv:b", max_length=16)
    training = TaskTrainingConfig(**training)
    return FineTuningConfig(task=task, training=training, mesh=MeshConfig(data=1))


def model_of(configuration):
    return make_model(configuration, ENCODER, CLASSIFICATION, ("no", "yes"))


def test_a_task_of_pairs_needs_a_model_with_two_segments():
    one = replace(ENCODER, num_segments=1)
    make_model(config(), one, CLASSIFICATION, ("no", "yes"))
    pairs = replace(config(), task=replace(config().task, text_pair="b"))
    with pytest.raises(
        ConfigError, match="task.text_pair is 'b'; accepted: .*model.num_segments 1"
    ):
        make_model(pairs, one, CLASSIFICATION, ("no", "yes"))


def test_a_model_without_a_pooler_has_no_pooled_vector():
    modern = ModernConfig(vocab_size=20, hidden_size=16, num_layers=2, num_heads=2)
    pooled = replace(config(), task=replace(config().task, representation="pooled"))
    with pytest.raises(ConfigError, match="task.representation is 'pooled'; accepted: cls, mean"):
        make_model(pooled, modern, CLASSIFICATION, ("no", "yes"))


def test_a_second_text_is_named_where_the_family_needs_it():
    for family, representation in (("question_answering", "last"), ("multiple_choice", "cls")):
        files = {"train": "tsv:a", "dev": "tsv:b", "representation": representation}
        with pytest.raises(ConfigError, match=f"task.text_pair is ''; accepted: .* for {family}"):
            TaskConfig(family=family, **files).check_fields_are_read()


@pytest.mark.parametrize(
    ("field", "value", "family", "reader"),
    [
        ("text_pair", "b", "tagging", "classification"),
        ("choice_start", "b", "classification", "multiple_choice"),
        ("labels", ("a", "b"), "regression", "classification"),
        ("stride", 64, "regression", "question_answering"),
        ("no_answer", True, "tagging", "question_answering"),
    ],
)
def test_a_field_that_the_family_does_not_read_keeps_its_default(field, value, family, reader):
    def task(of):
        token = of in ("tagging", "question_answering")
        representation = "last" if token else "cls"
        files = {"train": "tsv:a", "dev": "tsv:b"}
        fields = {"text_pair": "b"} if of in ("question_answering", "multiple_choice") else {}
        return TaskConfig(
            family=of, representation=representation, **files, **fields | {field: value}
        )

    task(reader).check_fields_are_read()
    ignored = task(family)  # as a run of an earlier version has it
    with pytest.raises(ConfigError, match=f"task.{field} is .*; accepted: .* for {family}"):
        ignored.check_fields_are_read()


@pytest.mark.slow
def test_the_fine_tuning_may_set_dropout_and_predictions_have_none():
    """`training.dropout` sets all three rates, even for an encoder without dropout."""
    bare = replace(ENCODER, dropout=0.0, attention_dropout=0.0)
    params = jax.jit(lambda: unboxed_params(model_of(config()), 0, *example_ids()))()
    ids = np.random.default_rng(0).integers(5, 20, (2, 1, 8)).astype(np.int32)
    batch = TaskBatch(ids, 0 * ids, np.ones_like(ids), None, None)
    found = {}
    for encoder, rate in ((bare, None), (bare, 0.5), (ENCODER, None), (ENCODER, 0.0)):
        model = make_model(config(dropout=rate), encoder, CLASSIFICATION, ("no", "yes"))
        logits = jax.jit(partial(task_logits, model))
        still = logits(params, batch)
        disturbed = logits(params, batch, dropout_rng=jax.random.key(0))
        found[encoder.dropout, rate] = bool((still != disturbed).any())
        rates = (model.config.dropout, model.config.attention_dropout)
        assert rates == (encoder.dropout if rate is None else rate,) * 2
    assert found == {(0.0, None): False, (0.0, 0.5): True, (0.1, None): True, (0.1, 0.0): False}
    with pytest.raises(ConfigError, match="training.dropout is 1.0; accepted: at least 0, below"):
        config(dropout=1.0)


def first_state(configuration):
    model = model_of(configuration)
    optimizer, _ = make_task_optimizer(configuration, steps=10)
    _, make = state_maker(model, optimizer, configuration, make_mesh(MeshConfig(data=1)))
    encoder = jax.jit(lambda: unboxed_params(model, 3, *example_ids())["bert"])()
    encoder = jax.tree.map(lambda leaf: np.asarray(leaf) + np.float32(7), encoder)
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


def test_the_pooler_can_start_at_random():
    state, encoder = first_state(config(reinitialize_pooler=True))
    before, after = flatten_params(encoder), flatten_params(state.params["bert"])
    for path, leaf in after.items():
        same = np.asarray(leaf == before[path])
        assert not same.any() if path.startswith("pooler/") else same.all(), path


@pytest.mark.parametrize("other", ["frozen", "reinitialize_pooler"])
def test_from_scratch_excludes_frozen_and_reinitialize_pooler(other):
    said = r"training\.from_scratch.* are true; accepted: at most one of them"
    with pytest.raises(ConfigError, match=said):
        config(from_scratch=True, **{other: True})


def test_from_scratch_keeps_no_parameter_of_the_checkpoint():
    state, encoder = first_state(config(from_scratch=True))
    before, after = flatten_params(encoder), flatten_params(state.params["bert"])
    assert not any((leaf == before[path]).any() for path, leaf in after.items())
    assert before.keys() == after.keys() and int(state.step) == 0


def test_a_frozen_encoder_has_no_moments():
    sizes = []
    for frozen in (False, True):
        state, _ = first_state(config(frozen=frozen))
        sizes.append(sum(leaf.size for leaf in jax.tree.leaves(state.opt_state)))
    output = 16 * 2 + 2
    assert sizes[1] <= 2 * output + 4 < sizes[0]  # two moments, and counts of steps


@pytest.fixture(scope="module")
def rows():
    """Parameters, inputs (a full row and a row with padding), and the encoder's output."""
    params = jax.jit(lambda: unboxed_params(model_of(config()), 0, *example_ids()))()
    real = (np.arange(12) < np.array([[12], [7]])).astype(np.int32)
    ids = np.random.default_rng(0).integers(5, 20, real.shape).astype(np.int32) * real
    encode = jax.jit(partial(Bert(ENCODER).apply, keep_hidden_states=True))
    inputs = (ids, 0 * ids, real)
    output = encode({"params": params["bert"]}, *inputs, np.zeros((2, 1), np.int32))
    return params, inputs, output


@pytest.mark.parametrize(
    ("unit", "representation"),
    [("text", pooling) for pooling in get_args(Pooling)]
    + [("token", layers) for layers in get_args(TokenRepresentation)],
)
def test_the_input_of_the_output_layer_is_the_pooled_vector(unit, representation, rows):
    params, inputs, output = rows
    head = TaskHeadConfig(
        family="regression", labels=(), outputs=2, unit=unit, representation=representation
    )
    model = BertForTask(ENCODER, head)
    features = jax.jit(partial(model.apply, method=BertForTask.features))
    found = features({"params": params}, *inputs)
    if unit == "text":
        expected = pool(output, jnp.asarray(inputs[2]) > 0, representation)[:, None]
    else:
        expected = token_vectors(output, representation)
    # Two programs add in different orders; values are of order 1.
    np.testing.assert_allclose(found, expected, atol=1e-5)
