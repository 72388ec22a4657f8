r"""Measures the time, memory and FLOPs of the update of an experiment.

The command makes a batch of random token ids, so it needs no prepared data. Its rows have no
padding. Each row holds `data.pairs_per_row` pairs of about equal lengths.

  python -m bert_jax.bench --experiment=experiments/bert.py:mini --set data.batch_size=32
  python -m bert_jax.bench --experiment=experiments/bert.py:base --steps=50 --json
  python -m bert_jax.bench --experiment=experiments/bert.py:mini --set data.batch_size=32 \
    --against=huggingface

model_flops_utilization (MFU) is the FLOPs per second of the model's matrix products, divided by the
peak of all devices of the mesh; docs/scaling.md has the formula. The peak of an accelerator is the
bfloat16 peak of its data sheet. The peak of a CPU is measured with several matrix products.

With --against=huggingface, the command trains Hugging Face's BertForPreTraining on the same batch,
in rounds in which bert_jax and two forms of the peer take turns, on one device. docs/performance.md
explains the output.

Peak memory of a device is arguments + outputs + temporaries - aliased memory of the compiled
update. Aliased memory holds an argument first and an output later, so the sum counts it twice.
"""

import json
import statistics
import sys
import time
from typing import Any

from absl import flags

from bert_jax import command, cpu, environment
from bert_jax.benchmarking.timing import UNTIMED
from bert_jax.faults.memory import explain_lack_of_memory, program_memory
from bert_jax.planning.topology import CHIPS

# Peak FLOPs per second of one chip for dense bfloat16, from the vendors' data sheets.
PEAK_FLOPS = {chip.device_kind: chip.flops for chip in CHIPS.values()}
PEAK_FLOPS |= {"NVIDIA A100": 312e12, "NVIDIA H200": 989e12}
# These run at lower clocks than the modules (SXM) of the same chip.
PEAK_FLOPS |= {"NVIDIA H100 PCIe": 756e12, "NVIDIA H100 NVL": 835e12, "NVIDIA H200 NVL": 835e12}


def measure(experiment: Any, steps: int) -> dict[str, Any]:
    """Times `steps` updates and returns the measurements as plain JSON values."""
    import jax

    from bert_jax.benchmarking import ours
    from bert_jax.benchmarking.batches import model_flops

    made = ours.compile_update(experiment, report=_say)
    _say(f"timing {steps} updates")
    state, times = made.state, []
    with jax.set_mesh(made.mesh):
        for step in range(steps + UNTIMED):
            start = time.perf_counter()
            state, metrics = made.update(state, made.batch)
            jax.block_until_ready(metrics)
            if step >= UNTIMED:
                times.append(time.perf_counter() - start)

    data, median = experiment.data, statistics.median(times)
    device, devices = made.mesh.devices.flat[0], made.mesh.size
    flops = model_flops(experiment)
    peak = known_peak(device)
    if peak is None and device.platform == "cpu":
        _say("measuring the fastest matrix product")
        # Simulated devices share the cores of one machine.
        peak = ours.product_rate(experiment.model.dtype) / devices
    return {
        "format_version": 2,
        "device": device.device_kind,
        "mesh": dict(made.mesh.shape),
        "step_seconds": {"median": median, "min": min(times), "max": max(times)},
        "tokens_per_second": data.batch_size * data.sequence_length / median,
        "model_flops": flops,
        "model_flops_utilization": flops / median / devices / peak if peak else None,
        "peak_flops_per_second": peak,
        "compile_seconds": made.compile_seconds,
        "compiles": made.programs,
        "memory_bytes": program_memory(made.program.memory_analysis()),
    }


def known_peak(device: Any) -> float | None:
    """Returns the peak FLOPs per second of a device, or None if the device is not in PEAK_FLOPS."""
    kinds = [kind for kind in PEAK_FLOPS if device.device_kind.startswith(kind)]
    return PEAK_FLOPS[max(kinds, key=len)] if kinds else None


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def compare() -> None:
    from bert_jax.benchmarking import comparison

    result = comparison.compare(
        command.experiment_from_flags(),
        rounds=flags.FLAGS.rounds,
        seconds=flags.FLAGS.seconds,
        report=_say,
    )
    print(json.dumps(result) if flags.FLAGS.json else comparison.table(result))


def main() -> None:
    if flags.FLAGS.against:
        compare()
        return
    environment.configure_jax()
    cpu.keep_freed_memory()
    experiment = command.experiment_from_flags()
    with explain_lack_of_memory(experiment):
        result = measure(experiment, flags.FLAGS.steps)
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
    flags.DEFINE_enum(
        "against",
        None,
        ["huggingface"],
        "Also times the same updates in another library: Hugging Face's BERT in torch.",
    )
    flags.DEFINE_integer("rounds", 5, "Number of rounds of --against.", lower_bound=1)
    flags.DEFINE_float("seconds", 3.0, "Least seconds of updates in a round.", lower_bound=0.0)
    command.run(main)
