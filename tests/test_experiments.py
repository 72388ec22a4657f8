"""Every experiment and variant builds and can be evaluated abstractly at full size."""

import json
import typing
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from bert_jax.config import config_hash, from_json, load_experiment, load_module, override, to_json
from bert_jax.models.bert import BertForPretraining, num_parameters
from bert_jax.sharding import make_mesh
from bert_jax.training.experiment import Experiment, phases
from bert_jax.training.optim import learning_rate_schedule, make_optimizer
from bert_jax.training.state import abstract_state, example_batch, state_initializer, state_sharding
from bert_jax.training.step import train_step

ROOT = Path(__file__).parents[1]


def specs():
    """FILE of every pretraining, and FILE:VARIANT of those that have variants.

    Those of fine-tuning have tests in tests/tasks/test_task_experiments.py.
    """
    for path in sorted((ROOT / "experiments").rglob("*.py")):
        if path.parent.name == "finetune":
            continue
        name = str(path.relative_to(ROOT))
        annotation = typing.get_type_hints(load_module(path).get_config).get("variant")
        yield name
        yield from (f"{name}:{variant}" for variant in typing.get_args(annotation))


SPECS = list(specs())

# Encoder and pooler, without the two heads: google-research/bert and Turc et al. 2019, counted in
# the released checkpoints (bert-base-uncased and google/bert_uncased_L-*).
PUBLISHED_PARAMETERS = {
    "tiny": 4_385_920,
    "mini": 11_170_560,
    "small": 28_763_648,
    "medium": 41_373_184,
    "base": 109_482_240,
    "large": 335_141_888,
}


def test_files_and_variants_are_found():
    assert "experiments/quickstart.py" in SPECS and "experiments/bert.py:large" in SPECS


@pytest.mark.parametrize("spec", SPECS)
def test_an_experiment_builds_and_comes_back_from_json(spec):
    experiment = load_experiment(str(ROOT / spec))
    assert isinstance(experiment, Experiment)
    stored = json.loads(json.dumps(to_json(experiment)))
    again = from_json(Experiment, stored)
    assert again == experiment and config_hash(again) == config_hash(experiment)


def test_no_two_variants_of_a_file_are_the_same_run():
    for path in {spec.split(":")[0] for spec in SPECS}:
        variants = [spec for spec in SPECS if spec.startswith(f"{path}:")]
        hashes = {config_hash(load_experiment(str(ROOT / spec))) for spec in variants}
        assert len(hashes) == len(variants)


def sweep_values(path):
    """Overrides of each sweep of a file by itself; their product multiplies the same values."""
    module = load_module(path)
    for name in sorted(vars(module)):
        if name == "sweep" or name.startswith("sweep_"):
            yield from getattr(module, name)()


def points():
    """Every experiment, variant and sweep value; seeds change nothing here."""
    for spec in SPECS:
        if not any(other.startswith(f"{spec}:") for other in SPECS):  # else its variants say it
            yield spec, {}
        for overrides in sweep_values(ROOT / spec) if ":" not in spec else ():
            if overrides.keys() != {"seed"}:
                yield spec, overrides


@pytest.mark.parametrize(("spec", "overrides"), list(points()))
def test_one_update_of_each_phase_evaluates_abstractly_at_full_size(spec, overrides):
    """Also every dimension divides on a mesh of (data, fsdp, tensor) = (2, 2, 2)."""
    states = [
        abstract_update(phase.experiment)
        for phase in phases(override(load_experiment(str(ROOT / spec)), overrides))
    ]
    # The state of one phase is that of the other.
    assert len({str(state) for state in states}) == 1


def test_the_published_run_and_those_that_follow_it_have_two_phases():
    found = [spec for spec in SPECS if len(phases(load_experiment(str(ROOT / spec)))) == 2]
    assert {"experiments/bert.py:base", "experiments/presets.py:nvidia_lamb"} <= set(found)
    assert "experiments/quickstart.py" not in found


def abstract_update(experiment):
    """Evaluates one update without computing it and returns the state's shapes."""
    model = BertForPretraining(experiment.model, experiment.sharding)
    schedule = learning_rate_schedule(experiment.optimizer, steps=experiment.training.steps)
    optimizer = make_optimizer(experiment.optimizer, schedule)
    initialize = state_initializer(model, optimizer, seed=experiment.seed)
    mesh = make_mesh(type(experiment.mesh)(data=2, fsdp=2, tensor=2))
    sharding = state_sharding(initialize, mesh=mesh, rules=experiment.sharding)
    state = abstract_state(initialize, sharding)
    data = experiment.data
    batch = example_batch(
        batch_size=data.batch_size,
        length=data.sequence_length,
        predictions=data.masking.max_predictions,
    )
    update = partial(
        train_step,
        model=model,
        optimizer=optimizer,
        schedule=schedule,
        objective=experiment.objective,
        seed=experiment.seed,
        microbatches=experiment.training.microbatches,
    )
    after, metrics = jax.eval_shape(update, state, batch)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    for before, now in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
        assert (before.shape, before.dtype) == (now.shape, now.dtype)
    assert all(
        (leaf.shape, leaf.dtype) in (((), jnp.float32), ((), jnp.int32))
        for leaf in jax.tree.leaves(metrics)
    )
    return after


@pytest.mark.parametrize("variant", PUBLISHED_PARAMETERS)
def test_the_published_sizes_have_the_published_number_of_parameters(variant):
    experiment = load_experiment(f"{ROOT / 'experiments/bert.py'}:{variant}")
    model = BertForPretraining(experiment.model)
    batch = example_batch(batch_size=1, length=8, predictions=1)
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), batch))["params"]["bert"]
    count = num_parameters(params, experiment.model)
    assert count == PUBLISHED_PARAMETERS[variant]
