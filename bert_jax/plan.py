r"""Estimates the memory and time of an update on TPUs or GPUs that this machine does not have.

  python -m bert_jax.plan --experiment=experiments/bert.py:base --topology=v5e:2x4 \
    --set model.dtype=bfloat16
  python -m bert_jax.plan --experiment=experiments/bert.py:base --topology=v5e:16x16 --phases --json

The command compiles the update of the first phase (with --phases: of every phase) in a new process,
at XLA's optimization level O1. Training compiles at the default level, which takes several times
longer. Such an update needs about the same memory, but moves and sends fewer bytes.

A TPU topology is a chip (v4, v5e, v5p or v6e) and a shape, such as v5e:2x4. 2xv5e:16x16 is two such
slices (v5e, v5p, v6e), which a slower network connects. Estimates for TPUs need
pip install -e '.[plan]'. h100:8 is one host with 8 GPUs, and h100:4x8 is four such hosts.
Estimates for GPUs need pip install -e '.[plan-gpu]'.

If the update does not fit, the command searches for fields with which it fits, and still exits with
status 0. docs/scaling.md explains the output. ~/.cache/bert_jax/plan has the compiled updates.
"""

import json
import sys
from typing import TYPE_CHECKING, Any

from absl import flags

from bert_jax import command

if TYPE_CHECKING:  # importing it imports jax; a command does so in main()
    from bert_jax.planning.topology import Topology
    from bert_jax.training.experiment import Experiment, Phase

FORMAT_VERSION = 1


def plan_run(
    experiment: "Experiment", topology: "Topology", *, all_phases: bool, largest: bool
) -> dict[str, Any]:
    """Returns the estimates of the first phase, or of all phases, as plain JSON values."""
    from bert_jax.planning import cache, compilation
    from bert_jax.training.experiment import phases

    run = phases(experiment)
    chosen = run if all_phases else run[:1]
    return {
        "format_version": FORMAT_VERSION,
        "estimate": True,
        "topology": topology.name,
        "platform": topology.chip.platform,
        "chips": topology.num_chips,
        "level": compilation.OPTIMIZATION_LEVEL,
        "versions": cache.compiler_versions(topology),
        "num_phases": len(run),
        "phases": [_plan_phase(phase, topology, largest=largest) for phase in chosen],
    }


def _plan_phase(phase: "Phase", topology: "Topology", *, largest: bool) -> dict[str, Any]:
    from bert_jax.planning import cache, search
    from bert_jax.planning.estimate import estimate

    def compile_(experiment: "Experiment") -> tuple[dict[str, Any], str]:
        return cache.compile_update(experiment, topology, time_limit=flags.FLAGS.time_limit)

    _progress(f"phase {phase.number}: compiling the update for {topology.name}")
    result = estimate(phase, topology, *compile_(phase.experiment))
    if not result["fits"]:
        fitting = search.what_fits(phase, topology, result, compile_=compile_, report=_progress)
        result["fitting"] = fitting
        if fitting:
            fields, needed = search.assignments(fitting["fields"]), fitting["needed"] / 2**30
            result["recommendation"] = f"{fields} fits: it needs {needed:.2f} GiB a device"
    if largest:
        result["largest"] = search.largest_microbatch(
            phase, topology, result, compile_=compile_, report=_progress
        )
    return result


def _progress(message: str) -> None:
    print(message, file=sys.stderr)


def main() -> None:
    name = command.required("topology", "CHIP:SHAPE, such as v5e:2x4 or h100:8")
    from bert_jax.planning.report import report
    from bert_jax.planning.topology import parse_topology

    topology, experiment = parse_topology(name), command.experiment_from_flags()
    options = {"all_phases": flags.FLAGS.phases, "largest": flags.FLAGS.largest}
    plan = plan_run(experiment, topology, **options)
    print(json.dumps(plan) if flags.FLAGS.json else report(plan))


if __name__ == "__main__":
    flags.adopt_module_key_flags(command)
    flags.DEFINE_string(
        "topology", None, "CHIP:SHAPE, such as v5e:16x16, 2xv5e:16x16, v5p:2x2x2 or h100:4x8."
    )
    flags.DEFINE_bool("phases", False, "Plans every phase of the run, not only the first.")
    flags.DEFINE_bool("largest", False, "Searches for the largest microbatch that fits.")
    flags.DEFINE_bool("json", False, "Prints one JSON object instead of text.")
    flags.DEFINE_integer(
        "time_limit", 1200, "Seconds that the compiler may take for one update.", lower_bound=1
    )
    command.run(main)
