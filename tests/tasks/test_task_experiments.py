"""Every fine-tuning builds, comes back from JSON, and its update can be evaluated abstractly."""

import json
import typing
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

import bert_jax
from bert_jax.config import config_hash, from_json, load_experiment, load_module, to_json
from bert_jax.models.config import BertConfig
from bert_jax.tasks.config import FineTuningConfig
from bert_jax.tasks.families import FAMILIES
from bert_jax.tasks.family import TaskBatch
from bert_jax.tasks.model import example_ids
from bert_jax.tasks.state import make_model, make_task_optimizer, state_maker, task_step
from bert_jax.training.sharding import make_mesh

DIRECTORY = Path(bert_jax.__file__).parents[1] / "experiments" / "finetune"


def specs():
    for path in sorted(DIRECTORY.glob("*.py")):
        annotation = typing.get_type_hints(load_module(path).get_config).get("variant")
        variants = typing.get_args(annotation)
        yield from (f"{path.name}:{variant}" for variant in variants) if variants else (path.name,)


def test_every_task_of_glue_and_both_squads_are_found():
    found = list(specs())
    assert len([spec for spec in found if spec.startswith("glue.py:")]) == 9
    assert {"squad.py:v1", "squad.py:v2", "conll2003.py", "movie_sentiment.py"} <= set(found)


@pytest.mark.parametrize("spec", list(specs()))
def test_a_fine_tuning_builds_and_one_update_evaluates_abstractly(spec):
    config = load_experiment(DIRECTORY / spec)
    assert isinstance(config, FineTuningConfig)
    again = from_json(FineTuningConfig, json.loads(json.dumps(to_json(config))))
    assert again == config and config_hash(again) == config_hash(config)
    task, family = config.task, FAMILIES[config.task.family]
    assert (task.metric or next(iter(family.metrics))) in family.metrics
    labels = task.labels or family.label_names([], task)
    model = make_model(config, BertConfig(scan_layers=True), family, labels)
    optimizer, schedule = make_task_optimizer(config, steps=100, num_layers=12)
    mesh = make_mesh(type(config.mesh)(data=1))
    _, make = state_maker(model, optimizer, config, mesh)
    rows = config.training.batch_size
    choices = len(labels) if task.family == "multiple_choice" else 1
    ids = jax.ShapeDtypeStruct((rows, choices, task.max_length), jnp.int32)
    per_token = (task.max_length,) if family.row_label == "token" else ()
    label_shape = (2,) if family.row_label == "span" else per_token
    batch = TaskBatch(
        ids,
        ids,
        ids,
        jax.ShapeDtypeStruct((rows, *label_shape), family.label_dtype),
        jax.ShapeDtypeStruct((rows, *per_token), jnp.float32),
    )
    rng = jax.eval_shape(lambda: jax.random.key(0))
    params = jax.eval_shape(lambda key: nn.unbox(model.init(key, *example_ids())["params"]), rng)
    state = jax.eval_shape(make, rng, params["bert"])
    update = partial(task_step, model=model, family=family, optimizer=optimizer, schedule=schedule)
    after, metrics = jax.eval_shape(update, state, batch, rng)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert metrics["loss"].total.shape == ()
