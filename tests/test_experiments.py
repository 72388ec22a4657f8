"""Every experiment and variant builds and can be evaluated abstractly at full size."""

import ast
import json
import typing
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from bert_jax.config import config_hash, from_json, load_experiment, load_module, override, to_json
from bert_jax.models.bert import BertForPretraining, num_parameters
from bert_jax.sharding import make_mesh
from bert_jax.sweeps.budget import load_budget, spend
from bert_jax.sweeps.evaluations import load_evaluations
from bert_jax.sweeps.grid import expand, load_sweeps, points_of
from bert_jax.sweeps.tuning import load_candidates
from bert_jax.training.experiment import Experiment, phases
from bert_jax.training.optim import learning_rate_schedule, make_optimizer
from bert_jax.training.state import abstract_state, example_batch, state_initializer, state_sharding
from bert_jax.training.step import train_step

ROOT = Path(__file__).parents[1]


def read(path):
    """Returns the names of the variants and sweeps of an experiment file without running the file.

    Loading every experiment would take seconds in each process that collects these tests.
    """
    functions = {
        node.name: node
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }
    variants = [
        ast.literal_eval(name)
        for argument in functions["get_config"].args.args
        if argument.arg == "variant" and isinstance(argument.annotation, ast.Subscript)
        for name in getattr(argument.annotation.slice, "elts", [])
    ]
    sweeps = [name for name in functions if name == "sweep" or name.startswith("sweep_")]
    return variants, sorted(sweeps)


FILES = {  # tests/tasks/test_task_experiments.py has the fine-tuning files
    str(path.relative_to(ROOT)): read(path)
    for path in sorted((ROOT / "experiments").rglob("*.py"))
    if path.parent.name != "finetune"
}
SPECS = [
    spec
    for file, (variants, _) in FILES.items()
    for spec in (file, *(f"{file}:{variant}" for variant in variants))
]
SWEEPS = [(file, name) for file, (_, sweeps) in FILES.items() for name in sweeps]


@cache
def load(spec):
    return load_experiment(str(ROOT / spec))


# Encoder and pooler without the two heads, counted in the released checkpoints of
# google-research/bert and Turc et al. 2019 (bert-base-uncased and google/bert_uncased_L-*).
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
def test_an_experiment_builds_and_round_trips_through_json(spec):
    experiment = load(spec)
    assert isinstance(experiment, Experiment)
    stored = json.loads(json.dumps(to_json(experiment)))
    again = from_json(Experiment, stored)
    assert again == experiment and config_hash(again) == config_hash(experiment)


@pytest.mark.parametrize("file", FILES)
def test_read_finds_all_variants_and_sweeps(file):
    """`read` finds every variant and every sweep."""
    module, (variants, sweeps) = load_module(ROOT / file), FILES[file]
    annotation = typing.get_type_hints(module.get_config).get("variant")
    assert variants == list(typing.get_args(annotation))
    assert sweeps == sorted(n for n in vars(module) if n == "sweep" or n.startswith("sweep_"))


def test_no_two_variants_of_a_file_are_the_same_run():
    for file, (variants, _) in FILES.items():
        hashes = {config_hash(load(f"{file}:{variant}")) for variant in variants}
        assert len(hashes) == len(variants)


# A file with variants is left out, because it is the same as its default variant.
@pytest.mark.parametrize("spec", [spec for spec in SPECS if not FILES.get(spec, ([],))[0]])
def test_one_update_of_each_phase_evaluates_abstractly_at_full_size(spec):
    """Every dimension must also be divisible on a mesh of (data, fsdp, tensor) = (2, 2, 2)."""
    check_updates(load(spec))


# The files in own_parts/ show how to define a class. They ask no question.
@pytest.mark.parametrize("file", sorted({file for file, _ in SWEEPS if "own_parts" not in file}))
def test_every_point_of_a_sweep_is_valid(file):
    runs = expand(load(file), load_sweeps(str(ROOT / file)))
    if budget := load_budget(str(ROOT / file)):
        runs = spend(runs, budget, lambda _: 1.0)
    points = points_of(runs)
    (seeds,) = {len(point.runs) for point in points}
    assert len(points) > 1 and seeds >= 3
    if budget:
        costs = [getattr(point, budget.unit) for point in points]
        assert max(costs) / min(costs) < 1.001
    load_evaluations(str(ROOT / file))
    candidates = load_candidates(str(ROOT / file), runs)
    trials = [trial for p in points for trial in expand(p.runs[0].experiment, [candidates])]
    documented = load_module(ROOT / file).__doc__ or ""
    for part in ("Question: ", f"bert_jax.sweep --experiment={file}", "\nCost: ", "\nPublished: "):
        assert part in documented, part
    assert f"Cost: {len(runs)} runs" in documented
    assert not trials or f"{len(trials)} trials" in documented


NO_SHAPES = {
    "seed": 0,
    "optimizer.learning_rate": 1e-3,
    "optimizer.warmup_steps": 1,
    "data.directory": "data",
    "data.tokenizer": "wordpiece",
    "data.pairs": "next_sentence",
    "data.masking.unit": "token",
    "data.masking.rate": 0.15,
    "data.masking.rate_points": (),
}
"""Fields on which no shape of an update depends, and the values that the next test gives them."""


@pytest.mark.slow  # some thirty updates are traced
def test_one_update_of_each_sweep_value_evaluates_abstractly_at_full_size():
    """Tests each sweep function separately, because a product of sweeps has the same values."""
    checked = set()
    for file, name in SWEEPS:
        for overrides in getattr(load_module(ROOT / file), name)():
            experiment = override(override(load(file), overrides), NO_SHAPES)
            if config_hash(experiment) not in checked:
                checked.add(config_hash(experiment))
                check_updates(experiment)
    assert len(checked) > 20


def check_updates(experiment):
    """Evaluates an update of each phase and checks that all phases have the same state."""
    states = [abstract_update(phase.experiment) for phase in phases(experiment)]
    assert len({str(state) for state in states}) == 1


def test_the_published_run_and_its_variants_have_two_phases():
    found = [spec for spec in SPECS if len(phases(load(spec))) == 2]
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
    finite = metrics.pop("finite").total
    assert finite.shape == (2 + len(jax.tree.leaves(state.params)),)
    assert all(
        (leaf.shape, leaf.dtype) in (((), jnp.float32), ((), jnp.int32))
        for leaf in jax.tree.leaves(metrics)
    )
    return after


@pytest.mark.parametrize("variant", PUBLISHED_PARAMETERS)
def test_the_published_sizes_have_the_published_number_of_parameters(variant):
    experiment = load(f"experiments/bert.py:{variant}")
    model = BertForPretraining(experiment.model)
    batch = example_batch(batch_size=1, length=8, predictions=1)
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), batch))["params"]["bert"]
    count = num_parameters(params, experiment.model)
    assert count == PUBLISHED_PARAMETERS[variant]
