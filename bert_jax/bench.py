"""Measures the time, memory and FLOPs of the update of an experiment.

The command makes a batch of random token ids, so it needs no prepared data. Its rows have no
padding. Each row holds `data.pairs_per_row` pairs of about equal lengths.

  python -m bert_jax.bench --experiment=experiments/bert.py:mini --set data.batch_size=32
  python -m bert_jax.bench --experiment=experiments/bert.py:base --steps=50 --json

model_flops_utilization (MFU) is the FLOPs per second of the model's matrix products, divided by the
peak of all devices of the mesh; docs/scaling.md has the formula. The peak of an accelerator is the
bfloat16 peak of its data sheet. The peak of a CPU is measured with several matrix products.

Peak memory of a device is arguments + outputs + temporaries - aliased memory of the compiled
update. Aliased memory holds an argument first and an output later, so the sum counts it twice.
"""

import json
import statistics
import time
from typing import Any

from absl import flags

from bert_jax import command, cpu, environment
from bert_jax.planning.topology import CHIPS

# Peak FLOPs per second of one chip for dense bfloat16, from the vendors' data sheets.
PEAK_FLOPS = {chip.device_kind: chip.flops for chip in CHIPS.values()}
PEAK_FLOPS |= {"NVIDIA A100": 312e12, "NVIDIA H200": 989e12}


def measure(experiment: Any, steps: int) -> dict[str, Any]:
    """Times `steps` updates and returns the measurements as plain JSON values."""
    import jax

    from bert_jax.sharding import make_mesh
    from bert_jax.training.build import assemble
    from bert_jax.training.experiment import phases
    from bert_jax.training.flops import update_flops
    from bert_jax.training.state import make_state

    compiles = []

    def count(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if "backend_compile" in event:
            compiles.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(count)
    mesh = make_mesh(experiment.mesh)
    assembly = assemble(phases(experiment)[0], mesh)
    batch = assembly.place(random_batch(experiment))
    state = make_state(assembly.initialize, assembly.sharding)
    jax.block_until_ready(state)
    compiles.clear()
    times = []
    with jax.set_mesh(mesh):
        start = time.perf_counter()
        update = assembly.lower(state, batch).compile()
        compile_seconds = time.perf_counter() - start
        for step in range(steps + 2):
            start = time.perf_counter()
            state, metrics = update(state, batch)
            jax.block_until_ready(metrics)
            if step >= 2:
                times.append(time.perf_counter() - start)

    programs = len(compiles)

    data, device, median = experiment.data, mesh.devices.flat[0], statistics.median(times)
    tokens = data.batch_size * data.sequence_length
    model_flops = update_flops(
        experiment.model,
        pair_lengths=pair_lengths(experiment) * data.batch_size,
        predictions=int(batch.mask_weights.sum()),
    )
    peak = known_peak(device)
    if peak is None and device.platform == "cpu":
        # Simulated devices share the cores of one machine.
        peak = measured_peak(dtype=experiment.model.dtype) / mesh.size
    return {
        "format_version": 2,
        "device": device.device_kind,
        "mesh": dict(mesh.shape),
        "step_seconds": {"median": median, "min": min(times), "max": max(times)},
        "tokens_per_second": tokens / median,
        "model_flops": model_flops,
        "model_flops_utilization": model_flops / median / mesh.size / peak if peak else None,
        "peak_flops_per_second": peak,
        "compile_seconds": compile_seconds,
        "compiles": programs,
        "memory_bytes": update_memory(update.memory_analysis()),
    }


def update_memory(analysis: Any) -> dict[str, int]:
    """Returns the memory of a compiled program on a device in bytes: the peak, and each kind.

    XLA's own `peak_memory_in_bytes` leaves out the temporaries on a CPU. For BERT-mini with 32 rows
    of 128 tokens, this field is 135 MB, but the temporaries alone are 845 MB.
    """
    kinds = {
        "arguments": analysis.argument_size_in_bytes,
        "outputs": analysis.output_size_in_bytes,
        "temporaries": analysis.temp_size_in_bytes,
        "aliased": analysis.alias_size_in_bytes,
    }
    return {"peak": sum(kinds.values()) - 2 * kinds["aliased"], **kinds}


def pair_lengths(experiment: Any) -> list[int]:
    """Returns the lengths in tokens of the pairs that fill a row."""
    length, pairs = experiment.data.sequence_length, experiment.data.pairs_per_row
    return [length * (n + 1) // pairs - length * n // pairs for n in range(pairs)]


def random_batch(experiment: Any) -> Any:
    """Returns this host's rows of a random batch. `data.masking` decides the number of masks."""
    import jax
    import numpy as np

    from bert_jax.data.batch import Batch

    data, vocab_size = experiment.data, experiment.model.vocab_size
    rows, length = data.batch_size // jax.process_count(), data.sequence_length
    width = data.masking.max_predictions
    count = min(width, round(length * data.masking.rate))
    rng = np.random.default_rng(jax.process_index())
    lengths = pair_lengths(experiment)
    starts = np.cumsum([0, *lengths[:-1]])
    within = np.arange(length) - np.repeat(starts, lengths)

    def each_row(values: np.ndarray) -> np.ndarray:
        return np.tile(values.astype(np.int32), (rows, 1))

    positions = np.zeros((rows, width), np.int32)
    positions[:, :count] = np.sort(rng.random((rows, length - 1)).argsort(1)[:, :count] + 1)
    weights = (np.arange(width) < count).astype(np.float32)
    return Batch(
        token_ids=rng.integers(0, vocab_size, (rows, length), np.int32),
        segment_ids=each_row(within >= np.repeat(lengths, lengths) // 2),
        pack_ids=each_row(np.repeat(np.arange(len(lengths)), lengths) + 1),
        mask_positions=positions,
        mask_labels=rng.integers(0, vocab_size, (rows, width), np.int32),
        mask_weights=np.tile(weights, (rows, 1)),
        cls_positions=each_row(starts),
        pair_labels=rng.integers(0, 2, (rows, len(lengths)), np.int32),
        pair_weights=np.ones((rows, len(lengths)), np.float32),
    )


def known_peak(device: Any) -> float | None:
    """Returns the peak FLOPs per second of a device, or None if the device is not in PEAK_FLOPS."""
    kinds = [kind for kind in PEAK_FLOPS if device.device_kind.startswith(kind)]
    return PEAK_FLOPS[max(kinds, key=len)] if kinds else None


def measured_peak(*, dtype: str, size: int = 1024, rounds: int = 10) -> float:
    """Returns the FLOPs per second of the fastest of `rounds` matrix products on one device."""
    import jax
    import jax.numpy as jnp

    x = jnp.ones((size, size), dtype)
    multiply = jax.jit(lambda a, b: jnp.matmul(a, b, preferred_element_type=jnp.float32))
    multiply(x, x).block_until_ready()
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        multiply(x, x).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def main() -> None:
    """Runs the command."""
    environment.configure_jax()
    cpu.keep_freed_memory()
    result = measure(command.experiment_from_flags(), flags.FLAGS.steps)
    if flags.FLAGS.json:
        print(json.dumps(result))
        return
    times = result["step_seconds"]
    utilization = result["model_flops_utilization"]
    print(f"device              {result['device']}, mesh {result['mesh']}")
    print(
        f"step                {times['median']:.4f} s median, "
        f"{times['min']:.4f} min, {times['max']:.4f} max of {flags.FLAGS.steps}"
    )
    print(f"tokens per second   {result['tokens_per_second']:,.0f}")
    print(f"model FLOPs         {result['model_flops']:.4g} per step")
    print(f"MFU                 {'unknown peak' if utilization is None else f'{utilization:.3f}'}")
    print(f"compile             {result['compile_seconds']:.1f} s, {result['compiles']} programs")
    sizes = {kind: f"{size / 2**20:,.0f}" for kind, size in result["memory_bytes"].items()}
    print(
        f"peak memory         {sizes['peak']} MiB per device = {sizes['arguments']} arguments + "
        f"{sizes['outputs']} outputs + {sizes['temporaries']} temporaries - "
        f"{sizes['aliased']} aliased"
    )


if __name__ == "__main__":
    flags.adopt_module_key_flags(command)
    flags.DEFINE_integer(
        "steps", 20, "Number of timed updates, after two updates without timing.", lower_bound=1
    )
    flags.DEFINE_bool("json", False, "Prints one JSON object instead of a table.")
    command.run(main)
