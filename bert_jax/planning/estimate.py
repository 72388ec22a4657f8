"""Estimates memory, time and communication of one phase of a run from its compiled update."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from bert_jax.models.flops import update_flops
from bert_jax.planning import hlo, roofline
from bert_jax.planning.timeline import phase_flops
from bert_jax.planning.topology import Topology
from bert_jax.training.experiment import Experiment, Phase

SMALL = 64 * 2**10
"""Bytes. A parameter of more bytes is reported if every device holds the whole parameter."""


def estimate(phase: Phase, topology: Topology, found: dict[str, Any], text: str) -> dict[str, Any]:
    """Returns the estimate as plain JSON values, in bytes, seconds and FLOPs of one device.

    `found` and `text` are the results of `compilation.compile_update`. If the program does not fit,
    only its memory is estimated. For a GPU, only memory and collectives are estimated, because the
    program calls libraries, and its text does not show their FLOPs and memory traffic.
    """
    experiment, mesh = phase.experiment, found["mesh"]
    memory = _memory(found, topology)
    result = {
        "phase": phase.number,
        "updates": phase.steps,
        "rows": experiment.data.batch_size,
        "microbatches": experiment.training.microbatches,
        "sequence_length": experiment.data.sequence_length,
        "mesh": mesh,
        "slices": topology.num_slices,
        "compile_seconds": found.get("compile_seconds"),
        "fits": memory["needed"] is not None and memory["needed"] <= memory["available"],
        "memory_bytes": memory,
        "whole_parameters": _whole_parameters(found, topology),
        "program": found.get("program"),
    }
    if text:
        totals = roofline.totals(hlo.parse(text), topology.chip)
        theory = wire_bytes(experiment, found["state"], mesh)
        result["collectives"] = [dataclasses.asdict(one) for one in totals.collectives]
        result["wire_bytes"] = totals.wire_bytes
        result["slice_bytes"] = totals.slice_bytes
        result["wire_bytes_in_theory"] = theory
        result["not_counted"] = totals.not_counted
        if topology.chip.platform == "tpu":
            result |= _times(phase, topology, totals)
    return result | {"recommendation": recommend(result, phase)}


def _times(phase: Phase, topology: Topology, totals: roofline.Totals) -> dict[str, Any]:
    """Returns FLOPs, times and MFU. A list has values with communication hidden and not hidden."""
    experiment, chip, chips = phase.experiment, topology.chip, topology.num_chips
    data = experiment.data
    computed = update_flops(
        experiment.model,
        pair_lengths=[data.sequence_length] * data.batch_size,
        predictions=data.batch_size * data.masking.max_predictions,
    )
    slow = totals.slice_bytes / chip.network_bandwidth if totals.slice_bytes else 0.0
    wire = (totals.wire_bytes - totals.slice_bytes) / chip.link_bandwidth + slow
    ideal = phase_flops(phase) / phase.steps / chips / chip.flops
    steps = [max(totals.roofline_seconds, wire), totals.roofline_seconds + wire]
    hours = [step * phase.steps / 3600 for step in steps]
    return {
        "flops": totals.flops,
        "flops_over_formula": totals.flops / (computed / chips),
        "memory_traffic_bytes": totals.memory_bytes,
        "seconds": {
            "matrix": totals.matrix_seconds,
            "memory": totals.memory_seconds,
            "roofline": totals.roofline_seconds,
            "communication": wire,
            "between_slices": slow,
        },
        "step_seconds": steps,
        "model_flops_utilization": [ideal / step for step in steps],
        "hours": hours,
        "chip_hours": [chips * one for one in hours],
    }


def _memory(found: dict[str, Any], topology: Topology) -> dict[str, Any]:
    """Returns a device's memory and the bytes of it that an update needs, in all and by kind."""
    kinds = {"parameters": 0, "optimizer": 0, "batch": found["batch_bytes"]}
    for leaf in found["state"]:
        kind = "parameters" if leaf["path"].startswith("params/") else "optimizer"
        kinds[kind] += leaf["device_bytes"]
    if message := found.get("out_of_memory"):
        needed = memory_in_message(message)
    else:
        # Not all of the arguments and temporaries live at once, so the peak is below their sum.
        needed = found["peak_bytes"]
    rest = None if needed is None else needed - sum(kinds.values())
    return {
        "needed": needed,
        "available": topology.chip.memory,
        **kinds,
        "activations_and_gradients": rest,
    }


def memory_in_message(message: str) -> float | None:
    """Returns the bytes that the compiler's out-of-memory message names; None if it names none."""
    found = re.search(r"(?:total memory required[^(]*\(|Used )([\d.]+)([MGT])", message)
    return float(found[1]) * {"M": 2**20, "G": 2**30, "T": 2**40}[found[2]] if found else None


def _whole_parameters(found: dict[str, Any], topology: Topology) -> list[dict[str, Any]]:
    """Returns the parameters of more than `SMALL` bytes that every device holds whole."""
    whole = [
        {"path": leaf["path"].removeprefix("params/"), "bytes": leaf["bytes"]}
        for leaf in found["state"]
        if leaf["path"].startswith("params/")
        and leaf["device_bytes"] == leaf["bytes"] > SMALL
        and topology.num_chips > 1
    ]
    return sorted(whole, key=lambda leaf: -leaf["bytes"])


def wire_bytes(
    experiment: Experiment, state: Sequence[Mapping[str, Any]], mesh: Mapping[str, int]
) -> dict[str, float]:
    """Returns the bytes that a device sends in an update along each mesh axis, in ring collectives.

    Axes with one device are left out. `state` describes the arrays of the training state;
    `compile_update` returns it as `state`.

    Gradients are summed in float32. With `fsdp`, each microbatch gathers the parameters once for
    the forward and once for the backward pass, in the type of the activations. With `tensor`, each
    layer sums activations over devices twice in the forward and twice in the backward pass. Sums of
    scalars and of activations outside the layers are not counted.
    """
    data, fsdp, tensor = mesh["data"], mesh["fsdp"], mesh["tensor"]
    activation_size = {"float32": 4, "bfloat16": 2}[experiment.model.dtype]
    microbatches = experiment.training.microbatches
    sent = dict.fromkeys(mesh, 0.0)
    for leaf in state:
        if not leaf["path"].startswith("params/"):
            continue
        gradient = leaf["bytes"] / (tensor if "tensor" in leaf["mesh_axes"] else 1)
        if "fsdp" in leaf["mesh_axes"]:
            gathers = 2 * microbatches * gradient * activation_size / 4
            sent["fsdp"] += (gathers + gradient) * (fsdp - 1) / fsdp
            sent["data"] += 2 * gradient / fsdp * (data - 1) / data
        else:  # every device along data and fsdp has the whole gradient
            total = 2 * gradient * (data * fsdp - 1) / (data * fsdp)
            sent["fsdp" if data == 1 else "data"] += total
    rows = experiment.data.batch_size / (data * fsdp)
    activations = rows * experiment.data.sequence_length * experiment.model.hidden_size
    sums = 4 * experiment.model.num_layers * activations * activation_size
    sent["tensor"] += 2 * sums * (tensor - 1) / tensor
    return {axis: sent[axis] for axis in mesh if mesh[axis] > 1}


def recommend(result: dict[str, Any], phase: Phase) -> str:
    """Returns the most promising change of the experiment as a sentence.

    The thresholds, which are fractions of the memory or of the time, are rules of thumb.
    """
    memory, mesh, model = result["memory_bytes"], result["mesh"], phase.experiment.model
    available = memory["available"]
    state, parts = memory["parameters"] + memory["optimizer"], result["microbatches"]
    if not result["fits"]:
        return "use more chips or a shorter data.sequence_length: no update that was tried fits"
    slices = result["slices"]
    if state > 0.3 * available and mesh["data"] > slices:
        share, fsdp = state / available, mesh["data"] * mesh["fsdp"] // slices
        chosen = f"mesh.fsdp={fsdp} and mesh.data={slices}"
        return f"set {chosen}: the state takes {share:.0%} of the memory"
    whole = state * mesh["fsdp"]
    if whole > state and whole < 0.2 * available and memory["needed"] + whole - state < available:
        share = whole / available
        return f"set mesh.data=-1 and mesh.fsdp=1: the whole state takes {share:.0%} of the memory"
    seconds, free = result.get("seconds"), 1 - memory["needed"] / available
    if seconds and seconds["communication"] > seconds["roofline"]:
        return "use more rows per device, or fewer chips: communication takes most of the time"
    if seconds and model.dtype == "float32":
        return "set model.dtype=bfloat16: it halves the memory traffic of the activations"
    if parts > 1 and free > 0.5:
        return f"use fewer than {parts} training.microbatches: {free:.0%} of the memory is free"
    if seconds and seconds["communication"] > 0.2 * seconds["roofline"]:
        return "use more rows per device if the recipe allows it: an update sends no more for them"
    if seconds and seconds["memory"] > 2 * seconds["matrix"]:
        ratio = seconds["memory"] / seconds["matrix"]
        return (
            f"none: memory traffic limits the step ({ratio:.1f} x the matrix time), and only "
            "another model or less dropout reduces it"
        )
    return "none: the update fits" + (" and no part dominates its time" if seconds else "")
