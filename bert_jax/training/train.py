"""Trains a model: data, mesh, state, compiled updates, phases, result, in the order of a run."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from rich.console import Console

from bert_jax import config as configs
from bert_jax import environment
from bert_jax.data.batch import Batch
from bert_jax.data.passport import join_passports, passport_fingerprint
from bert_jax.errors import ConfigError
from bert_jax.files import write_json
from bert_jax.models.bert import num_parameters
from bert_jax.sharding import make_mesh
from bert_jax.training import checkpoint, initial
from bert_jax.training.build import Assembly, assemble
from bert_jax.training.evaluation import baselines, describe_baselines, evaluate
from bert_jax.training.experiment import Experiment, Phase, errors_of_phase, phases
from bert_jax.training.phases import (
    check_files,
    first_batch,
    held_out_batches,
    load_common_tokenizer,
    load_passports,
    next_batch,
    notes_on_corpora,
    training_batches,
)
from bert_jax.training.state import TrainState, abstract_state, make_state
from bert_jax.training.writer import RunWriter

RESULT_FORMAT_VERSION = 1

Probe = Callable[[Any], dict[str, float]]
"""Returns measurements of the parameters, e.g. {"eval/sentiment": 0.8}."""


def train(
    experiment: Experiment,
    workdir: Path,
    *,
    probes: Sequence[Probe] = (),
    weights: initial.InitialWeights | None = None,
    profile_steps: range = range(0),
) -> dict[str, Any]:
    """Trains to the last step, from the last checkpoint in `workdir` if there is one.

    Args:
      experiment: the run's configuration.
      workdir: the run's directory. It is made if it does not exist.
      probes: functions of the parameters, called at each evaluation.
      weights: the weights of `training.init_from`; see `runs.run.open_initial_weights`.
      profile_steps: the steps of the run that a trace for TensorBoard records.

    Returns:
      The contents of `result.json`.

    Raises:
      ConfigError, DataError, CheckpointError: the run is not possible; raised before any compile.
      DivergenceError: a loss or another metric is not finite.
    """
    training, plan = experiment.training, phases(experiment)

    # ---- Checks: an error here leaves nothing behind ----------------------------------------
    loaded = load_passports(plan)
    for note in notes_on_corpora(plan, loaded):
        _report(note)
    tokenizer, passport = load_common_tokenizer(plan), join_passports(loaded)
    fingerprint = passport_fingerprint(passport)
    checkpoint.check_workdir(workdir, experiment)
    if (workdir / "result.json").exists():
        _report(f"{workdir} is complete")
        return json.loads((workdir / "result.json").read_text())
    check_files(plan, loaded)
    first_step = checkpoint.latest_step(workdir)
    if not first_step:
        initial.check_initial_weights(weights, experiment, tokenizer)
    if profile_steps and not first_step < profile_steps[0] <= profile_steps[-1] <= training.steps:
        raise ConfigError(
            f"--profile_steps is {profile_steps[0]}:{profile_steps[-1]}; accepted: FIRST:LAST "
            f"within the steps that remain, {first_step + 1}:{training.steps}"
        )

    # ---- Mesh, models, optimizers -----------------------------------------------------------
    mesh, assemblies = make_mesh(experiment.mesh), {}
    for phase in plan:
        with errors_of_phase(phase.number, of=len(plan)):
            assemblies[phase.number] = assemble(
                phase.experiment, mesh, schedule_start=phase.schedule_start, moments=phase.moments
            )

    # ---- Run directory and state ------------------------------------------------------------
    checkpoint.open_workdir(workdir, experiment)
    environment.check_processes_agree(
        weights=weights and weights.sha256,
        experiment=configs.config_hash(experiment),
        data=fingerprint[:12],
        checkpoint=first_step,
        workdir_shared=(workdir / "config.json").exists(),
    )
    manager = checkpoint.open_checkpoints(workdir, keep=training.keep_checkpoints)
    state, seconds_before = starting_state(
        workdir, assemblies[1], manager, weights=weights, data_fingerprint=fingerprint
    )
    _report(
        f"{num_parameters(state.params, experiment.model):,} parameters on mesh "
        f"{dict(mesh.shape)} of {mesh.size} of {jax.device_count()} devices "
        f"({jax.devices()[0].device_kind}), {experiment.model.dtype}"
    )

    # ---- Compile the updates of all remaining phases: too little memory shows now, not later --
    started = time.monotonic()
    to_come = [phase for phase in plan if phase.last_step > first_step]
    with jax.set_mesh(mesh):
        for phase in to_come:
            assembly = assemblies[phase.number]
            batch = assembly.place(first_batch(phase, first_step))
            compiled = assembly.update.lower(state, batch).compile()
            assemblies[phase.number] = assembly._replace(update=compiled)
    _report(f"compiled in {time.monotonic() - started:.0f} s")

    def save(step: int, state: TrainState) -> None:
        """Saves a checkpoint of step s with the position of the batch of step s + 1."""
        position = {
            **next_batch(plan, step),
            "data_fingerprint": fingerprint,
            "seconds": seconds_before + time.monotonic() - started,
        }
        checkpoint.save(
            manager,
            state,
            step=step,
            position=position,
            experiment=experiment,
            tokenizer=tokenizer.to_json(),
            passport=passport,
        )

    # ---- Phases: a run that only lacks its result enters the last phase, which has no step left
    held_out: dict[str, float] = {}
    with (
        jax.set_mesh(mesh),
        manager,
        RunWriter(workdir, training, first_step, profile_steps) as writer,
    ):
        for phase in to_come or plan[-1:]:
            if len(plan) > 1:
                data = phase.experiment.data
                _report(f"phase {phase.number}: {data.sequence_length} tokens, {data.directory}")
                writer.phase = phase.number
            state, held_out = train_phase(
                state,
                phase,
                first_step=first_step,
                assembly=assemblies[phase.number],
                writer=writer,
                probes=probes,
                save=save,
            )
        manager.wait_until_finished()

    # ---- Result -------------------------------------------------------------------------------
    result = {
        "format_version": RESULT_FORMAT_VERSION,
        "steps": training.steps,
        "seconds": round(seconds_before + time.monotonic() - started, 1),
        "config_hash": configs.config_hash(experiment),
        **held_out,
    }
    if jax.process_index() == 0:
        write_json(workdir / "result.json", result)
    return result


def starting_state(
    workdir: Path,
    assembly: Assembly,
    manager: ocp.CheckpointManager,
    *,
    weights: initial.InitialWeights | None,
    data_fingerprint: str,
) -> tuple[TrainState, float]:
    """Returns the state that training starts from, and the seconds of training before it.

    The state comes from the first of these that exists: the last checkpoint in `workdir`, the
    initial weights (with step 0 and a new optimizer state), random parameters.

    Raises:
      CheckpointError: the checkpoint does not fit the model, or the data have changed since.
    """
    step = manager.latest_step()
    if step is not None:
        abstract = abstract_state(assembly.initialize, assembly.sharding)
        state, position = checkpoint.restore(
            manager, abstract, step=step, data_fingerprint=data_fingerprint
        )
        _report(f"{workdir}: going on from step {step}")
        return state, position["seconds"]
    state = make_state(assembly.initialize, assembly.sharding)
    if weights:
        initial.record(weights, workdir)
        _report(weights.report)
        params = initial.place(weights.params, assembly.sharding.params)
        state = TrainState(state.step, params, state.opt_state)
    return state, 0.0


def train_phase(
    state: TrainState,
    phase: Phase,
    *,
    first_step: int,
    assembly: Assembly,
    writer: RunWriter,
    probes: Sequence[Probe],
    save: Callable[[int, TrainState], None],
) -> tuple[TrainState, dict[str, float]]:
    """Trains the steps of a phase after `first_step`.

    Returns:
      The last state, and the metrics and baselines of its held-out examples.
    """
    config, data = phase.experiment.training, phase.experiment.data

    def held_out() -> Iterator[Batch]:
        return map(assembly.place, held_out_batches(phase))

    # ---- Baselines: they need no model, and score the positions that the model is scored on ---
    to_beat = baselines(held_out(), data.directory)
    _report(f"to beat on held-out text: {describe_baselines(to_beat)}")

    # ---- Loop: the batch of step s + 1 is read and placed while the devices run step s --------
    if phase.number > 1 and first_step <= phase.first_step:
        state = assembly.begin(state)
    batches = map(assembly.place, training_batches(phase, first_step))
    batch, evaluation = next(batches, None), {}
    writer.restart_clock()
    for step in range(max(first_step, phase.first_step) + 1, phase.last_step + 1):
        with writer.profile(step), jax.transfer_guard("disallow"):
            state, metrics = assembly.update(state, batch)
            writer.add(metrics)
            batch = next(batches, None)
        evaluating = step % config.eval_every == 0 or step == phase.last_step
        saving = step % config.checkpoint_every == 0 or step == phase.last_step
        if evaluating or saving:
            row = writer.read_row()  # ends before the evaluation, so it holds training time alone
            if evaluating:
                evaluation = evaluate(assembly.score, state.params, held_out())
                row |= {f"eval/{name}": value for name, value in evaluation.items()}
                for probe in probes:
                    row |= probe(state.params)
            writer.write(step, row)  # raises if a value is not finite: such a state is not saved
            if saving:
                save(step, state)
            writer.restart_clock()
        elif step % config.log_every == 0:
            writer.end_row(step)
    if not evaluation:  # no step was left: the run ended between its last checkpoint and its result
        evaluation = evaluate(assembly.score, state.params, held_out())
    return state, {**evaluation, **to_beat}


def _report(text: str) -> None:
    """Prints a line on stderr, on process 0 alone."""
    if jax.process_index() == 0:
        Console(stderr=True, highlight=False).print(text, soft_wrap=True)
