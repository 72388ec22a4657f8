"""Builds the model, the optimizer and the jitted functions of one phase of a run, for a mesh."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from bert_jax.data.batch import Batch, Host
from bert_jax.errors import ConfigError, require
from bert_jax.faults import memory
from bert_jax.models.bert import BertForPretraining
from bert_jax.models.kernels import SPLASH_TOKENS
from bert_jax.sharding import num_parts, row_sharding
from bert_jax.training.experiment import Experiment, Phase
from bert_jax.training.optim import learning_rate_schedule, make_optimizer, restart_moments
from bert_jax.training.state import (
    TrainState,
    abstract_state,
    example_row,
    state_initializer,
    state_sharding,
)
from bert_jax.training.step import Metrics, eval_step, skip_update, train_step


class Assembly(NamedTuple):
    """The functions that train and evaluate one phase of a run (`experiment.Phase`) on a mesh."""

    experiment: Experiment
    """The experiment of the phase."""
    rows: NamedSharding
    """The sharding of a batch: its rows are split over the mesh."""
    host: Host
    """The rows of a batch that this process reads."""
    place: Callable[[Batch], Batch]
    """Puts this host's rows of a batch on its devices."""
    initialize: Callable[[], TrainState]
    """Returns the state before the first update; flax boxes hold the parameters (`init_params`)."""
    sharding: TrainState
    """The sharding of every array of the state."""
    update: Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
    """Makes one optimizer update (jitted). The given state is donated."""
    skip: Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
    """Makes a step without an update and without metrics (jitted). The given state is donated."""
    lower: Callable[[TrainState, Batch], jax.stages.Lowered]
    """Lowers `update` for the shapes of a state and a batch, so that it can be compiled early."""
    begin: Callable[[TrainState], TrainState]
    """Turns the previous phase's last state, which is donated, into this phase's first state."""
    score: Callable[[Any, Batch], Metrics]
    """Returns the metrics of the given parameters on a held-out batch (jitted)."""


def assemble(phase: Phase, mesh: Mesh) -> Assembly:
    """Builds the functions of a phase for a mesh. Nothing is compiled yet.

    Raises:
      ConfigError: the mesh does not divide a dimension of a parameter or the rows of a batch; or
        the kernel of `model.attention` does not suit the devices, the rules or the rows.
    """
    experiment = phase.experiment
    if experiment.model.attention != "einsum":
        _check_kernel(experiment, mesh)
    rows = batch_sharding(experiment, mesh)
    # `plan` compiles for the devices of the mesh, which this machine does not have.
    loop = experiment.model.layers_loop(mesh.devices.flat[0].platform)
    model = BertForPretraining(replace(experiment.model, scan_layers=loop), experiment.sharding)
    schedule = learning_rate_schedule(
        experiment.optimizer, steps=experiment.training.steps, start=phase.schedule_start
    )
    optimizer = make_optimizer(experiment.optimizer, schedule)
    initialize = state_initializer(model, optimizer, seed=experiment.seed)
    sharding = state_sharding(initialize, mesh=mesh, rules=experiment.sharding)
    step = partial(
        train_step,
        model=model,
        optimizer=optimizer,
        schedule=schedule,
        objective=experiment.objective,
        microbatches=experiment.training.microbatches,
        gradient_dtype=experiment.training.gradient_dtype,
    )

    whole = sharding.step  # each process reads the metrics
    update = jax.jit(step, out_shardings=(sharding, whole), donate_argnums=0)
    seed = np.uint32(experiment.seed)  # a traced argument: all seeds share a compilation

    def begin(state: TrainState) -> TrainState:
        fresh = optimizer.init(state.params)
        opt_state = restart_moments(state.opt_state, fresh, moments=phase.moments)
        return TrainState(state.step, state.params, opt_state)

    return Assembly(
        experiment=experiment,
        rows=rows,
        host=host_of(rows),
        place=partial(place_batch, sharding=rows),
        initialize=initialize,
        sharding=sharding,
        update=partial(update, seed=seed),
        skip=jax.jit(skip_update, out_shardings=(sharding, whole), donate_argnums=0),
        lower=partial(update.lower, seed=seed),
        begin=jax.jit(begin, out_shardings=sharding, donate_argnums=0),
        score=jax.jit(partial(eval_step, model=model, objective=experiment.objective)),
    )


def _check_kernel(experiment: Experiment, mesh: Mesh) -> None:
    kernel, data = experiment.model.attention, experiment.data
    platform = mesh.devices.flat[0].platform
    # A TPU that is only described compiles splash; cuDNN must be in this process.
    if kernel == "splash" and platform not in ("tpu", "cpu"):
        raise ConfigError(
            f"model.attention is 'splash', a kernel for TPUs, but the devices are {platform}; "
            "accepted: einsum"
        )
    if kernel == "cudnn" and jax.default_backend() != "gpu":
        raise ConfigError(
            "model.attention is 'cudnn', a kernel for NVIDIA GPUs, but this process runs on "
            f"{jax.default_backend()}; accepted: einsum"
        )
    for name in ("length", "head_dim"):
        if axes := getattr(experiment.sharding, name):
            raise ConfigError(
                f"sharding.{name} is {axes!r}; accepted with model.attention={kernel}: null, "
                "because the kernel needs whole rows and heads"
            )
    if kernel == "splash" and data.sequence_length % SPLASH_TOKENS:
        raise ConfigError(
            f"data.sequence_length is {data.sequence_length}; accepted with "
            f"model.attention=splash: a multiple of {SPLASH_TOKENS}"
        )
    if kernel == "cudnn" and data.pairs_per_row > 1:
        raise ConfigError(
            f"data.pairs_per_row is {data.pairs_per_row}; accepted with model.attention=cudnn: 1, "
            "because the kernel masks nothing but padding"
        )


def check_memory(assembly: Assembly) -> Assembly:
    """Returns the assembly, after a check that the devices have memory for the state and a batch.

    Raises:
      OutOfMemoryError: a device's part of the state and the batch is larger than its memory.
    """
    state = abstract_state(assembly.initialize, assembly.sharding)
    data = assembly.experiment.data
    (rows,) = assembly.rows.shard_shape((data.batch_size,))
    bytes_of = {
        "parameters": _bytes_on_a_device(state.params),
        "optimizer state": _bytes_on_a_device(state.opt_state),
        "a batch": rows * sum(array.nbytes for array in example_row(data)),
    }
    memory.check_fits(bytes_of, assembly.experiment, list(assembly.rows.device_set))
    return assembly


def _bytes_on_a_device(arrays: Any) -> int:
    leaves = jax.tree.leaves(arrays)
    parts = [math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in leaves]
    return sum(part * leaf.dtype.itemsize for part, leaf in zip(parts, leaves, strict=True))


def compile_update(assembly: Assembly, state: TrainState, batch: Batch) -> Assembly:
    """Returns the assembly with `update` compiled for the state and this host's rows of a batch.

    Raises:
      OutOfMemoryError: see `check_program`.
    """
    update = assembly.lower(state, assembly.place(batch)).compile()
    check_program(update, assembly)
    return assembly._replace(update=with_seed(update, assembly))


def with_seed(
    update: jax.stages.Compiled, assembly: Assembly
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Returns a compiled update as a function of state and batch. The seed is placed once."""
    whole, seed = assembly.sharding.step, np.asarray(assembly.experiment.seed, np.uint32)
    return partial(update, seed=jax.make_array_from_callback((), whole, lambda _: seed))


def check_program(update: jax.stages.Compiled, assembly: Assembly) -> None:
    """Checks that CPUs have memory for a compiled update.

    Without this check, the kernel would kill the process. An accelerator raises an error.

    Raises:
      OutOfMemoryError: the program needs more than the memory.
    """
    devices = list(assembly.rows.device_set)
    if devices[0].platform != "cpu":
        return
    kinds = memory.program_memory(update.memory_analysis())
    state_and_batch = kinds["peak"] - kinds["temporaries"]
    bytes_of = {"state and batch": state_and_batch, "activations": kinds["temporaries"]}
    memory.check_fits(bytes_of, assembly.experiment, devices)


def batch_sharding(experiment: Experiment, mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: its rows are split over the mesh.

    Raises:
      ConfigError: microbatches or devices cannot get equal numbers of rows.
    """
    microbatches, size = experiment.training.microbatches, experiment.data.batch_size
    multiple = f"a multiple of training.microbatches {microbatches}"
    require(size % microbatches == 0, "data.batch_size", size, multiple)
    rules = experiment.sharding
    return row_sharding(size, "data.batch_size", rules=rules, mesh=mesh, microbatches=microbatches)


@cache
def host_of(rows: NamedSharding) -> Host:
    """Returns the rows of a batch that this process reads: those that its devices hold.

    The devices of a process need not be neighbours in the mesh, so its rows need not be either.
    """
    count, process = num_parts(rows), jax.process_index()
    held = {
        range(count)[cut][0]
        for device, (cut,) in rows.devices_indices_map((count,)).items()
        if device.process_index == process
    }
    return Host(tuple(sorted(held)), count)


def place_batch(batch: Batch, *, sharding: NamedSharding) -> Batch:
    """Puts this host's rows on its devices and returns arrays of the global batch."""
    host = host_of(sharding)

    def place(rows: np.ndarray) -> jax.Array:
        size = len(rows) // len(host.parts)

        def part(index: Any) -> np.ndarray:
            number = host.parts.index((index[0].start or 0) // size)
            return rows[number * size : (number + 1) * size]

        shape = (size * host.count, *rows.shape[1:])
        return jax.make_array_from_callback(shape, sharding, part)

    return jax.tree.map(place, batch)
