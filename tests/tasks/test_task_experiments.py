"""Every fine-tuning experiment builds, survives JSON, and its update has consistent shapes."""

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
from bert_jax.models.task import example_ids
from bert_jax.sharding import make_mesh
from bert_jax.tasks.config import FineTuningConfig
from bert_jax.tasks.families.family import TaskBatch
from bert_jax.tasks.families.registry import FAMILIES
from bert_jax.tasks.state import make_model, make_task_optimizer, state_maker, task_step

DIRECTORY = Path(bert_jax.__file__).parents[1] / "experiments" / "finetune"


def specs():
    for path in sorted(DIRECTORY.glob("*.py")):
        annotation = typing.get_type_hints(load_module(path).get_config).get("variant")
        variants = typing.get_args(annotation)
        yield from (f"{path.name}:{variant}" for variant in variants) if variants else (path.name,)


def glue_tasks():
    return [spec.removeprefix("glue.py:") for spec in specs() if spec.startswith("glue.py:")]


def test_every_task_of_glue_and_both_squads_are_found():
    found = list(specs())
    assert len([spec for spec in found if spec.startswith("glue.py:")]) == 9
    assert {"squad.py:v1", "squad.py:v2", "conll2003.py", "movie_sentiment.py"} <= set(found)


# Epochs, batch size, rate and row length. The sections are those of Devlin et al. 2018 (arXiv
# 1810.04805); the README is that of google-research/bert.
PUBLISHED = {
    # Section 4.1 has four rates; this rate and the length are those of MRPC in the README.
    **{f"glue.py:{task}": (3, 32, 2e-5, 128) for task in glue_tasks()},
    "squad.py:v1": (3, 32, 5e-5, 384),  # section 4.2; README
    "squad.py:v2": (2, 48, 5e-5, 384),  # section 4.3; README
    "swag.py": (3, 16, 2e-5, 80),  # section 4.4; the length is not published
}

OTHER_FOLDS = [f"_{fold}" for fold in range(1, 10)]


@pytest.mark.parametrize("spec", PUBLISHED)
def test_values_called_published_agree_with_the_paper(spec):
    config = load_experiment(DIRECTORY / spec)
    training, rate = config.training, config.optimizer.learning_rate
    assert (training.epochs, training.batch_size, rate, config.task.max_length) == PUBLISHED[spec]
    # run_classifier.py and run_squad.py; appendix A.3 keeps dropout and decay of pretraining.
    assert training.warmup_fraction == 0.1 and config.optimizer.power == 1
    assert config.optimizer.weight_decay == 0.01
    if spec.startswith("squad"):  # run_squad.py
        task = config.task
        assert (task.stride, task.max_question_length, task.max_answer_length) == (128, 64, 30)


def test_entities_are_within_the_grid_of_appendix_a3():
    config = load_experiment(DIRECTORY / "conll2003.py")
    assert config.training.batch_size in (16, 32) and config.training.epochs in (2, 3, 4)
    assert config.optimizer.learning_rate in (5e-5, 3e-5, 2e-5)


def test_glue_is_measured_as_in_table_1_and_labelled_as_its_submissions():
    tasks = {name: load_experiment(DIRECTORY / f"glue.py:{name}").task for name in glue_tasks()}
    metrics = {name: task.metric for name, task in tasks.items()}
    assert metrics == dict.fromkeys(tasks, "accuracy") | {
        "cola": "matthews",
        "mrpc": "f1",
        "qqp": "f1",
        "stsb": "spearman",
    }
    entails = ("entailment", "not_entailment")
    assert {name: task.labels for name, task in tasks.items()} == dict.fromkeys(
        tasks, ("0", "1")
    ) | {
        "mnli": ("entailment", "neutral", "contradiction"),
        "qnli": entails,
        "rte": entails,
        "stsb": (),
    }
    assert tasks["mnli"].dev == "tfds:glue/mnli:validation_matched"
    assert tasks["mnli"].test == "tfds:glue/mnli:validation_mismatched"
    # The other tasks have labels only in dev.
    assert {task.test for name, task in tasks.items() if name != "mnli"} == {""}


@pytest.mark.parametrize(
    "spec",
    # The folds of a set differ only in their files.
    [pytest.param(s, marks=[pytest.mark.slow] * (s[-2:] in OTHER_FOLDS)) for s in specs()],
)
def test_a_fine_tuning_builds_and_one_update_evaluates_abstractly(spec):
    config = load_experiment(DIRECTORY / spec)
    assert isinstance(config, FineTuningConfig)
    again = from_json(FineTuningConfig, json.loads(json.dumps(to_json(config))))
    assert again == config and config_hash(again) == config_hash(config)
    task, family = config.task, FAMILIES[config.task.family]
    assert (task.metric or next(iter(family.metrics))) in family.metrics
    labels = task.labels or family.label_names([], task)
    model = make_model(config, BertConfig(scan_layers=True), family, labels)
    optimizer, schedule = make_task_optimizer(config, steps=100)
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
