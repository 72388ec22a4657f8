"""Pretraining: `train` makes a run, from its first checks to its result."""

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax

from bert_jax.config import config_hash
from bert_jax.config.paths import open_path
from bert_jax.data.batch import Batch
from bert_jax.data.passport import join_passports, passport_fingerprint
from bert_jax.faults.activity import Activity
from bert_jax.faults.damage import move_damaged, newest_whole_step
from bert_jax.faults.heartbeat import end_if_stalled, wait_for_all
from bert_jax.faults.processes import check_processes_agree, report
from bert_jax.faults.run_files import RunResult
from bert_jax.faults.signals import Interrupted, Notice
from bert_jax.faults.workdir import open_workdir, write_result
from bert_jax.files import read_json_if_whole
from bert_jax.models.bert import num_parameters
from bert_jax.sharding import make_mesh
from bert_jax.training import checkpoint, initial
from bert_jax.training.branch import Trunk, open_trunk, restore_trunk
from bert_jax.training.build import Assembly, assemble, check_memory, compile_update
from bert_jax.training.config import TrainingConfig
from bert_jax.training.evaluation import baselines, evaluate
from bert_jax.training.experiment import Experiment, Phase, errors_of_phase, phases
from bert_jax.training.nonfinite import NonFiniteSteps, Rollback
from bert_jax.training.phases import (
    check_files_of_phases,
    first_batch,
    held_out_batches,
    load_data,
    training_batches,
)
from bert_jax.training.state import TrainState, abstract_state, make_state
from bert_jax.training.writer import RunWriter

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
    """Trains, from the last checkpoint if there is one. Returns the content of `result.json`.

    `probes` are called with the parameters at each evaluation. `weights` are the initial weights
    that `training.init_from` names; `runs.initial.open_initial_weights` opens them. The updates in
    `profile_steps` are traced for TensorBoard.

    Raises:
      ConfigError, DataError, CheckpointError: the run is not possible; raised before any compile.
      DivergenceError: a held-out metric or a step is not finite (see `training.on_nonfinite`).
    """
    training, plan, activity = experiment.training, phases(experiment), Activity()
    workdir = open_path(workdir, name="workdir")

    # ---- Checks: an error here leaves no file behind ----------------------------------------
    loaded, tokenizer = load_data(plan)
    passport = join_passports(loaded)
    checkpoint.check_workdir(workdir, experiment)
    if result := read_json_if_whole(workdir / "result.json", RunResult):
        report(f"{workdir} is complete")
        return result
    check_files_of_phases(plan, loaded)
    saved = newest_whole_step(workdir, on_damaged=training.on_damaged_checkpoint)
    trunk = None if saved else open_trunk(experiment, tokenizer, loaded)
    if not saved and not trunk:
        initial.check_initial_weights(weights, experiment, tokenizer)

    # ---- Mesh, models, optimizers -----------------------------------------------------------
    mesh, assemblies = make_mesh(experiment.mesh), {}
    for phase in plan:
        with errors_of_phase(phase.number, of=len(plan)):
            assemblies[phase.number] = check_memory(assemble(phase, mesh))
    nonfinite = NonFiniteSteps(workdir, experiment, assemblies[1].sharding.params)

    # ---- Run directory and state ------------------------------------------------------------
    activity.lost = open_workdir(workdir, experiment, saved)
    check_processes_agree(
        weights=weights and weights.sha256,
        experiment=config_hash(experiment),
        data=passport_fingerprint(passport)[:12],
        checkpoint=saved,
        left_out=sorted(nonfinite.left_out),
        workdir_shared=(workdir / "config.json").exists(),
    )
    move_damaged(workdir, newest_whole=saved)
    manager = checkpoint.open_checkpoints(workdir, training=training)
    if saved:
        checkpoint.check_run_of_step(manager, experiment, tokenizer, step=saved)
    start = partial(starting_state, assemblies[1], manager, workdir, passport, trunk or weights)
    begun = start(saved)
    activity.go_on(begun.spent)
    report_size(num_parameters(begun.state.params, experiment.model), experiment, mesh)

    save = partial(
        checkpoint.save,
        manager,
        activity=activity,
        experiment=experiment,
        tokenizer=tokenizer,
        passport=passport,
    )
    held_out: dict[str, float] = {}
    with jax.set_mesh(mesh), end_if_stalled(activity, seconds=training.stall_seconds):
        # ---- Compile the updates of all remaining phases: too little memory is an error now ---
        compile_updates(assemblies, plan, begun, activity)

        # ---- Phases -----------------------------------------------------------------------------
        with Notice() as notice, manager:
            while not held_out:  # after a rollback, the run goes on from its last checkpoint
                step, rows = begun.step, (begun.pending, begun.written)
                writer = RunWriter(workdir, training, step, profile_steps, *rows, nonfinite.add)
                with contextlib.suppress(Rollback), writer:
                    held_out = train_phases(
                        begun.state,
                        plan,
                        assemblies,
                        writer,
                        notice,
                        activity,
                        first_step=step,
                        left_out=nonfinite.left_out,
                        probes=probes,
                        save=save,
                        check_saved=manager.check_saved,
                    )
                activity.begin("saving")
                manager.wait_until_finished()
                if not held_out:
                    begun = roll_back(manager, workdir, training, start, activity)

    return write_result(workdir, experiment, held_out, activity)


def report_size(parameters: int, experiment: Experiment, mesh: jax.sharding.Mesh) -> None:
    """Prints the number of parameters and on which devices they are."""
    report(
        f"{parameters:,} parameters on mesh {dict(mesh.shape)} of {mesh.size} of "
        f"{jax.device_count()} devices ({jax.devices()[0].device_kind}), {experiment.model.dtype}"
    )


def compile_updates(
    assemblies: dict[int, Assembly],
    phases: Sequence[Phase],
    begun: checkpoint.Restored,
    activity: Activity,
) -> None:
    """Compiles the update of each phase that ends after the first state, in `assemblies`."""
    activity.begin("compilation")
    for phase in (phase for phase in phases if phase.last_step > begun.step):
        assembly = assemblies[phase.number]
        batch = first_batch(phase, begun.step, assembly.host)
        assemblies[phase.number] = compile_update(assembly, begun.state, batch)
    wait_for_all("compiled")  # a program of several CPUs waits for 30 seconds only
    activity.begin("start")
    report(f"compiled in {activity.seconds_of_last:.0f} s")


def starting_state(
    assembly: Assembly,
    manager: checkpoint.CheckpointManager,
    workdir: Path,
    passport: dict,
    origin: Trunk | initial.InitialWeights | None,
    step: int,
) -> checkpoint.Restored:
    """Returns the state that training starts from, and what the checkpoint holds beside it.

    It comes from the checkpoint of `step`. If `step` is 0, it is the trunk's state; or a new state
    with the given initial weights, or with random parameters if `origin` is None.

    Raises:
      CheckpointError: the checkpoint is of another model or of other data, or an earlier start of
        this run used other initial weights.
    """
    abstract = abstract_state(assembly.initialize, assembly.sharding)
    if step:
        report(f"{workdir}: going on from step {step}")
        restored = checkpoint.restore(manager, abstract, step=step, passport=passport)
        manager.delete_superseded()
        return restored
    if isinstance(origin, Trunk):
        report(f"{workdir}: a branch of {origin.path} from step {origin.step}")
        return restore_trunk(origin, abstract, workdir)
    if not origin:
        return checkpoint.Restored(make_state(assembly.initialize, assembly.sharding))
    initial.record(origin, workdir)
    report(origin.report)
    state = make_state(assembly.initialize, assembly.sharding)
    params = initial.place(origin.params, assembly.sharding.params)
    return checkpoint.Restored(TrainState(state.step, params, state.opt_state))


def roll_back(
    manager: checkpoint.CheckpointManager,
    workdir: Path,
    config: TrainingConfig,
    start: Callable[[int], checkpoint.Restored],
    activity: Activity,
) -> checkpoint.Restored:
    """Returns the content of the last whole checkpoint, or the first state if there is none."""
    step = newest_whole_step(workdir, on_damaged=config.on_damaged_checkpoint)
    move_damaged(workdir, newest_whole=step)
    manager.reload()
    begun = start(step)
    activity.lose_updates(begun.spent)
    return begun


def train_phases(
    state: TrainState,
    plan: Sequence[Phase],
    assemblies: Mapping[int, Assembly],
    writer: RunWriter,
    *arguments: Any,
    first_step: int,
    **options: Any,
) -> dict[str, float]:
    """Trains the phases that end after `first_step`.

    Returns the metrics and baselines on the held-out examples of the last phase. The other
    arguments are those of `train_phase`.
    """
    held_out: dict[str, float] = {}
    remaining = [phase for phase in plan if phase.last_step > first_step]
    for phase in remaining or plan[-1:]:  # the last phase if only the result is missing
        if len(plan) > 1:
            report(f"phase {phase.number}: {phase.experiment.data.directory}")
            writer.phase = phase.number
        assembly = assemblies[phase.number]
        if phase.number > 1 and first_step <= phase.first_step:
            state = assembly.begin(state)
        state, held_out = train_phase(
            state, phase, assembly, writer, *arguments, first_step=first_step, **options
        )
    return held_out


def train_phase(
    state: TrainState,
    phase: Phase,
    assembly: Assembly,
    writer: RunWriter,
    notice: Notice,
    activity: Activity,
    *,
    first_step: int,
    left_out: Collection[int],
    probes: Sequence[Probe],
    save: Callable[..., None],
    check_saved: Callable[[], None],
) -> tuple[TrainState, dict[str, float]]:
    """Trains a phase. Skips steps up to `first_step`, which were made before a restart of the run.

    The steps in `left_out` make no update.

    Returns:
      The last state, and the metrics and baselines on the phase's held-out examples.

    Raises:
      Interrupted: a signal came to a process of the run. The state is saved.
      DivergenceError, Rollback: a value is not finite. No step after the last row is saved.
      CheckpointError: a checkpoint could not be written.
    """
    config, data = phase.experiment.training, phase.experiment.data
    held_out = partial(held_out_on_devices, phase, assembly, activity)

    # ---- Baselines: they need no model, and use the masked positions of the evaluation --------
    activity.begin("evaluation")
    to_beat = baselines(held_out(), data.directory)
    found = ", ".join(f"{name} {value:.3f}" for name, value in to_beat.items())
    report(f"baselines on held-out text: {found}")

    # ---- Loop: an update returns early, so batch s + 1 is read while the devices run step s ---
    batches = map(assembly.place, training_batches(phase, first_step, assembly.host))
    evaluation = {}
    activity.begin("updates")
    writer.restart_clock()
    steps = range(max(first_step, phase.first_step) + 1, phase.last_step + 1)
    for step, batch in zip(steps, batches, strict=True):
        activity.progress(step)
        with writer.profile(step), jax.transfer_guard("disallow"):
            update = assembly.skip if step in left_out else assembly.update
            state, metrics = update(state, batch)
            writer.add(metrics)
        evaluating = step % config.eval_every == 0 or step == phase.last_step
        saving = step % config.checkpoint_every == 0 or step == phase.last_step
        if evaluating or saving:
            row = writer.read_row()  # before the evaluation, so tokens/s count training only
            if evaluating:
                activity.begin("evaluation")
                evaluation = evaluate(assembly.score, state.params, held_out())
                row |= {f"eval/{name}": value for name, value in evaluation.items()}
                for probe in probes:
                    row |= probe(state.params)
            writer.write(step, row)  # raises before the save if a value is not finite
            if saving:
                save(step, state, written=writer.synchronize(), held_out_loss=row.get("eval/loss"))
            activity.begin("updates")
            writer.restart_clock()
        elif step % config.log_every == 0:
            writer.end_row(step)
        check_saved()
        if notice.reached() and step < phase.run_steps:
            if not saving:
                save(step, state, pending=writer.pending(), written=writer.synchronize())
            raise Interrupted(f"interrupted by {notice.signal or 'SIGTERM'}: step {step} is saved")
    if not evaluation:  # no step was left: the run stopped after its last checkpoint
        evaluation = evaluate(assembly.score, state.params, held_out())
    return state, {**evaluation, **to_beat}


def held_out_on_devices(phase: Phase, assembly: Assembly, activity: Activity) -> Iterator[Batch]:
    """Returns the phase's held-out batches on the devices. Each is progress of the run."""
    return activity.each(map(assembly.place, held_out_batches(phase, assembly.host)))
