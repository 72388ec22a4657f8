"""The update of an experiment, compiled as training compiles it, and the memory that it needs.

As a program, the module is our side of `benchmarking.comparison`; it prints one line of JSON:

  python -m bert_jax.benchmarking.ours update CONFIG.json SECONDS
  python -m bert_jax.benchmarking.ours ceiling DTYPE
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from bert_jax import config, cpu, environment
from bert_jax.benchmarking import timing
from bert_jax.benchmarking.batches import random_batch
from bert_jax.faults.memory import program_memory


class CompiledUpdate(NamedTuple):
    """A compiled update, with the state and the batch that it takes."""

    update: Any
    """`training.build.Assembly.update`, compiled. It is given the state and the batch."""
    program: Any
    """The compiled program of `update`."""
    state: Any
    """The first state. `update` reuses its memory."""
    batch: Any
    """A random batch on the devices of the mesh."""
    mesh: Any
    compile_seconds: float
    programs: int
    """Number of programs that XLA compiled for the update."""


def compile_update(
    experiment: Any, *, report: Callable[[str], None] = lambda line: None
) -> CompiledUpdate:
    """Compiles the update of the experiment's first phase. `report` is called after its checks."""
    import jax

    from bert_jax.sharding import make_mesh
    from bert_jax.training.build import assemble, check_memory, check_program, with_seed
    from bert_jax.training.experiment import phases
    from bert_jax.training.state import make_state

    compiles = []

    def count(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if "backend_compile" in event:
            compiles.append(duration_secs)

    mesh = make_mesh(experiment.mesh)
    assembly = check_memory(assemble(phases(experiment)[0], mesh))
    report("compiling the update")
    batch = assembly.place(random_batch(experiment, host=assembly.host))
    state = make_state(assembly.initialize, assembly.sharding)
    jax.block_until_ready(state)
    jax.monitoring.register_event_duration_secs_listener(count)
    with jax.set_mesh(mesh):
        start = time.perf_counter()
        program = assembly.lower(state, batch).compile()
        seconds = time.perf_counter() - start
    check_program(program, assembly)
    update = with_seed(program, assembly)
    return CompiledUpdate(update, program, state, batch, mesh, seconds, len(compiles))


def product_rate(dtype: str) -> float:
    """Returns the FLOPs per second of the fastest matrix product on one device."""
    import jax
    import jax.numpy as jnp

    multiply = jax.jit(lambda a, b: jnp.matmul(a, b, preferred_element_type=jnp.float32))

    def make_product(size: int) -> Callable[[], Any]:
        x = jnp.ones((size, size), dtype)
        return lambda: multiply(x, x).block_until_ready()

    return timing.product_rate(jax.default_backend(), make_product)


def time_experiment(experiment: Any, seconds: float) -> dict[str, Any]:
    """Times the update of an experiment; see `timing.time_updates` for the result."""
    import jax

    made = compile_update(experiment)
    state = made.state

    def update() -> Any:
        nonlocal state
        state, metrics = made.update(state, made.batch)
        return metrics

    with jax.set_mesh(made.mesh):
        timed = timing.time_updates(update, jax.block_until_ready, seconds=seconds)
    accelerated = jax.default_backend() != "cpu"
    program = program_memory(made.program.memory_analysis())["peak"]
    return timed | {
        "compile_seconds": made.compile_seconds,
        "peak_bytes": program if accelerated else timed["resident_bytes"],
        "program_bytes": program,
    }


def main(what: str, *arguments: str) -> dict[str, Any]:
    """Returns what the program prints."""
    environment.configure_jax()
    cpu.keep_freed_memory()
    if what == "ceiling":
        return {"flops_per_second": product_rate(*arguments)}
    from bert_jax.training.experiment import Experiment

    file, seconds = arguments
    experiment = config.from_json(Experiment, json.loads(Path(file).read_text(encoding="utf-8")))
    described = environment.describe()
    kept = ("commit", "uncommitted_changes", "versions", "device_kind", "xla_flags", "malloc")
    return time_experiment(experiment, float(seconds)) | {name: described[name] for name in kept}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
