"""The page that trains a model: data, mesh, model, state, compiled steps, loop, result."""

import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from rich.console import Console

from bert_jax import config as configs
from bert_jax import environment
from bert_jax.data import passport as passports
from bert_jax.data.batch import Batch
from bert_jax.errors import ConfigError
from bert_jax.files import write_json
from bert_jax.models.bert import BertForPretraining, num_parameters
from bert_jax.sharding import make_mesh, named_sharding
from bert_jax.training import checkpoint, initial
from bert_jax.training.evaluation import baselines, evaluate
from bert_jax.training.experiment import Experiment, errors_of_phase, phases
from bert_jax.training.optim import learning_rate_schedule, make_optimizer, restart_moments
from bert_jax.training.phases import (
    check_files,
    first_batch,
    held_out_batches,
    load_common_tokenizer,
    load_passports,
    next_batch,
    training_batches,
)
from bert_jax.training.state import (
    TrainState,
    abstract_state,
    make_state,
    state_initializer,
    state_sharding,
)
from bert_jax.training.step import eval_step, train_step
from bert_jax.training.writer import RunWriter

RESULT_FORMAT_VERSION = 1

Probe = Callable[[Any], dict[str, float]]
"""Measures something of the parameters at each evaluation, e.g. {"eval/sentiment": 0.8}."""


def train(
    experiment: Experiment,
    workdir: Path,
    *,
    probes: Sequence[Probe] = (),
    weights: initial.InitialWeights | None = None,
) -> dict[str, Any]:
    """Trains to the end, or on from the last checkpoint in `workdir`; returns `result.json`.

    Args:
      experiment: what to train.
      workdir: the run's directory, made if it is not there.
      probes: called with the parameters at each evaluation.
      weights: those of `training.init_from`, opened by `runs.run.open_initial_weights`.

    Raises:
      ConfigError, DataError, CheckpointError: what cannot be run, before any compile.
      DivergenceError: the loss is no longer finite.
    """
    console = Console(stderr=True, quiet=jax.process_index() != 0, highlight=False)
    say = partial(console.print, soft_wrap=True)
    training, plan = experiment.training, phases(experiment)

    # ---- Data and run directory ---------------------------------------------------------------
    loaded = load_passports(plan)
    tokenizer = load_common_tokenizer(plan)
    for phase, passport in zip(plan, loaded, strict=True):
        data, made_of = phase.experiment.data, passport["corpus"]["spec"]
        if made_of != data.corpus:
            say(f"{data.directory} was made of {made_of}; data.corpus, {data.corpus}, is not read")
    joined = passports.join_passports(loaded)
    fingerprint = passports.passport_fingerprint(joined)
    checkpoint.check_workdir(workdir, experiment)
    if (workdir / "result.json").exists():
        say(f"{workdir} is complete")
        return json.loads((workdir / "result.json").read_text())
    check_files(plan, loaded)
    if training.init_from and not weights and not checkpoint.has_checkpoint(workdir):
        raise ConfigError(
            f"training.init_from is {training.init_from!r}, but train() got no weights; accepted: "
            "weights=open_initial_weights(experiment, workdir)"
        )
    if weights:
        initial.check_initial_weights(weights, experiment, tokenizer)

    # ---- Mesh, model, optimizer ---------------------------------------------------------------
    mesh = make_mesh(experiment.mesh)
    for phase in plan:
        with errors_of_phase(phase.number, of=len(plan)):
            place = partial(place_batch, sharding=batch_sharding(phase.experiment, mesh))
    assemblies = [
        assemble(phase.experiment, mesh, schedule_start=phase.schedule_start, moments=phase.moments)
        for phase in plan
    ]
    initialize, sharding = assemblies[0].initialize, assemblies[0].sharding

    # ---- State: new, or from the last checkpoint ----------------------------------------------
    open_workdir(workdir, experiment)
    manager = checkpoint.open_checkpoints(workdir, keep=training.keep_checkpoints)
    first_step, seconds = manager.latest_step() or 0, 0.0
    weights_hash = initial.fingerprint_params(weights.params) if weights else None
    environment.check_processes_agree(
        weights=weights_hash,
        experiment=configs.config_hash(experiment),
        data=fingerprint[:12],
        checkpoint=first_step,
        workdir_shared=(workdir / "config.json").exists(),
    )
    if first_step:
        state, position = checkpoint.restore(
            manager,
            abstract_state(initialize, sharding),
            step=first_step,
            data_fingerprint=fingerprint,
        )
        seconds = position["seconds"]
        say(f"{workdir}: going on from step {first_step}")
    else:
        if weights and weights_hash:
            initial.record(weights, workdir, weights_hash)
        state = make_state(initialize, sharding)
        if weights:
            say(weights.report)
            params = initial.place(weights.params, sharding.params)
            state = TrainState(state.step, params, state.opt_state)
    say(
        f"{num_parameters(state.params, experiment.model):,} parameters on mesh "
        f"{dict(mesh.shape)} of {mesh.size} of {jax.device_count()} devices "
        f"({jax.devices()[0].device_kind}), {experiment.model.dtype}"
    )

    # ---- Compiled updates: of all phases to come, as one that does not fit should fail now ------
    started = time.monotonic() - seconds
    to_come = [phase for phase in plan if phase.last_step > first_step]
    updates = {}
    with jax.set_mesh(mesh):
        for phase in to_come:
            batch = place(first_batch(phase, first_step))
            update = assemblies[phase.number - 1].update
            updates[phase.number] = update.lower(state, batch).compile()
    say(f"compiled in {time.monotonic() - started - seconds:.0f} s")

    final: dict[str, float] = {}
    with jax.set_mesh(mesh), manager, RunWriter(workdir, training, first_step) as writer:
        for phase in to_come or plan[-1:]:  # the last, where only the result is missing
            # ---- Phase: its batches, its held-out examples, its optimizer ---------------------
            assembly, passport = assemblies[phase.number - 1], loaded[phase.number - 1]
            batches = map(place, training_batches(phase, first_step))
            if len(plan) > 1:
                data = phase.experiment.data
                say(f"phase {phase.number}: {data.sequence_length} tokens, {data.directory}")
                writer.phase = phase.number
            if phase.number > 1 and first_step <= phase.first_step:
                state = assembly.begin(state)

            # ---- Baselines: what needs no model, at the same held-out positions ---------------
            floor = baselines(
                map(place, held_out_batches(phase)),
                token_counts=passports.load_token_counts(phase.experiment.data.directory),
                majority_label=passports.majority_pair_label(passport),
            )
            pair_floor = floor.get("nsp_majority_accuracy")  # of single texts there is none
            say(
                f"to beat on held-out text: unigram loss {floor['unigram_loss']:.3f}, most "
                f"frequent token {floor['majority_token_accuracy']:.3f}"
                + (f", majority pair label {pair_floor:.3f}" if pair_floor is not None else "")
            )

            # ---- Loop -------------------------------------------------------------------------
            batch = next(batches, None)
            writer.restart_clock()
            for step in range(max(first_step, phase.first_step) + 1, phase.last_step + 1):
                state, metrics = updates[phase.number](state, batch)
                writer.add(metrics)
                batch = next(batches, None)  # read and placed while the devices are busy
                last = step == phase.last_step
                evaluating = last or step % training.eval_every == 0
                saving = last or step % training.checkpoint_every == 0
                if not (evaluating or saving):
                    if step % training.log_every == 0:
                        writer.end_row(step)
                    continue
                row = writer.read_row()
                if evaluating:
                    held_out = map(place, held_out_batches(phase))
                    final = evaluate(assembly.score, state.params, held_out)
                    row |= {f"eval/{name}": value for name, value in final.items()}
                    for probe in probes:
                        row |= probe(state.params)
                writer.write(step, row)
                if saving:
                    seconds = time.monotonic() - started
                    checkpoint.save(
                        manager,
                        state,
                        step=step,
                        position={
                            **next_batch(plan, step),
                            "data_fingerprint": fingerprint,
                            "seconds": seconds,
                        },
                        experiment=experiment,
                        tokenizer=tokenizer.to_json(),
                        passport=joined,
                    )
                writer.restart_clock()

        # ---- Result ---------------------------------------------------------------------------
        if not final:  # the last checkpoint is that of the last step
            held_out = map(place, held_out_batches(phase))
            final = evaluate(assembly.score, state.params, held_out)
        result = {
            "format_version": RESULT_FORMAT_VERSION,
            "steps": training.steps,
            "seconds": round(seconds, 1),
            "config_hash": configs.config_hash(experiment),
            **final,
            **floor,
        }
        manager.wait_until_finished()
    if jax.process_index() == 0:
        write_json(workdir / "result.json", result)
    return result


class Assembly(NamedTuple):
    """What an experiment is on a mesh, before anything is computed."""

    initialize: Callable[[], TrainState]
    """Makes the first state, boxed; see `state.make_state`."""
    sharding: TrainState
    update: Any
    """jit of (state, batch) -> (state, metrics); the state is donated."""
    begin: Any
    """jit of the state at the end of the phase before; the state is donated."""
    score: Any
    """jit of (params, batch) -> metrics of a held-out batch."""


def assemble(
    experiment: Experiment,
    mesh: Mesh,
    *,
    schedule_start: int = 0,
    moments: Literal["kept", "recounted", "zeroed"] = "kept",
) -> Assembly:
    """Builds model and optimizer and lays them out; compiles nothing.

    Args:
      experiment: of one phase.
      mesh: of devices.
      schedule_start: the step that the schedule counts as 0.
      moments: what `begin` makes of them.

    Raises:
      ConfigError: the mesh does not divide a dimension.
    """
    model = BertForPretraining(experiment.model, experiment.sharding)
    schedule = learning_rate_schedule(
        experiment.optimizer, steps=experiment.training.steps, start=schedule_start
    )
    optimizer = make_optimizer(experiment.optimizer, schedule)
    initialize = state_initializer(model, optimizer, seed=experiment.seed)
    sharding = state_sharding(initialize, mesh=mesh, rules=experiment.sharding)
    update = partial(
        train_step,
        model=model,
        optimizer=optimizer,
        schedule=schedule,
        objective=experiment.objective,
        seed=experiment.seed,
        microbatches=experiment.training.microbatches,
    )

    def begin(state: TrainState) -> TrainState:
        fresh = optimizer.init(state.params)
        opt_state = restart_moments(state.opt_state, fresh, moments=moments)
        return TrainState(state.step, state.params, opt_state)

    return Assembly(
        initialize=initialize,
        sharding=sharding,
        update=jax.jit(update, out_shardings=(sharding, None), donate_argnums=0),
        begin=jax.jit(begin, out_shardings=sharding, donate_argnums=0),
        score=jax.jit(partial(eval_step, model=model, objective=experiment.objective)),
    )


def batch_sharding(experiment: Experiment, mesh: Mesh) -> NamedSharding:
    """Returns how the rows of a batch lie on the mesh.

    Raises:
      ConfigError: the mesh does not divide the rows of a training or a held-out batch.
    """
    microbatches = experiment.training.microbatches
    if experiment.data.batch_size % microbatches:
        raise ConfigError(
            f"data.batch_size {experiment.data.batch_size} is not a multiple of "
            f"training.microbatches {microbatches}"
        )
    for what, size in (
        ("evaluation.batch_size", experiment.evaluation.batch_size),
        ("data.batch_size / training.microbatches", experiment.data.batch_size // microbatches),
    ):
        sharding = named_sharding(
            ("batch",), rules=experiment.sharding, mesh=mesh, shape=(size,), what=what
        )
        rows = sharding.addressable_devices_indices_map((size,)).values()
        here = len({i for index in rows for i in range(size)[(index or (slice(None),))[0]]})
        if here * jax.process_count() != size:
            raise ConfigError(
                f"mesh: process {jax.process_index()} holds {here} of {size} rows, which is not "
                f"one of {jax.process_count()} equal parts; accepted: a mesh.tensor that divides "
                f"the {jax.local_device_count()} devices of a process"
            )
    return sharding


def place_batch(batch: Batch, *, sharding: NamedSharding) -> Batch:
    """Lays this host's rows over its devices; the arrays returned are global."""
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, rows), batch)


def open_workdir(workdir: Path, experiment: Experiment) -> None:
    """Writes `config.json` and `environment.json`."""
    if jax.process_index() == 0:
        workdir.mkdir(parents=True, exist_ok=True)
        write_json(workdir / "config.json", configs.to_json(experiment))
        file = workdir / "environment.json"
        write_json(file, environment.describe_again(file))
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("workdir")  # so that the others see what it holds
