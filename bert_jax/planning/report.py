"""Writes an estimate as text."""

from collections.abc import Sequence
from typing import Any

GIB, MIB = 2**30, 2**20
LISTED = 5


def report(plan: dict[str, Any]) -> str:
    """Returns the result of `bert_jax.plan` as text."""
    first = plan["phases"][0]
    mesh = " x ".join(f"{axis}={size}" for axis, size in first["mesh"].items())
    scope = "" if plan["platform"] == "tpu" else " For a GPU, no times are estimated."
    lines = [
        f"{plan['topology']}: {plan['chips']} chips, mesh {mesh}",
        f"Every figure is an estimate from the program that XLA compiles at {plan['level']}; "
        f"nothing was run.{scope}",
    ]
    for phase in plan["phases"]:
        lines += ["", *_phase(phase, plan)]
    total = [phase for phase in plan["phases"] if "hours" in phase]
    if len(total) > 1:
        lines += ["", f"all phases        {_schedule(total)}"]
    return "\n".join(lines)


def _phase(phase: dict[str, Any], plan: dict[str, Any]) -> list[str]:
    parts = f" in {phase['microbatches']} parts" if phase["microbatches"] > 1 else ""
    lines = [
        f"phase {phase['phase']} of {plan['num_phases']}      {phase['updates']:,} updates of "
        f"{phase['rows']:,} rows{parts} x {phase['sequence_length']} tokens",
        *_memory(phase),
    ]
    if "seconds" in phase:
        lines += _times(phase)
    if "collectives" in phase:
        lines += _collectives(phase)
    if phase.get("not_counted"):
        lines.append(f"not counted       {_some(phase['not_counted'])}: figures are too low")
    lines += _whole(phase)
    if "largest" in phase:
        lines.append(f"largest           {_largest(phase['largest'])}")
    lines.append(f"recommendation    {phase['recommendation']}")
    return lines


def _memory(phase: dict[str, Any]) -> list[str]:
    memory = phase["memory_bytes"]
    needed, available = memory["needed"], memory["available"]
    if needed is None:
        return [f"memory            does not fit: a device has {available / GIB:.2f} GiB"]
    spare = abs(available - needed) / GIB
    fits = phase["fits"]
    verdict = f"{'fits' if fits else 'does not fit'}, {spare:.2f} GiB {'free' if fits else 'short'}"
    kinds = [
        f"{memory[kind] / GIB:.2f} {kind.replace('_', ' ')}"
        for kind in ("parameters", "optimizer", "activations_and_gradients", "batch")
    ]
    return [
        f"memory            {verdict}: needs {needed / GIB:.2f} of {available / GIB:.2f} GiB a "
        "device",
        f"                  = {' + '.join(kinds)}",
    ]


def _times(phase: dict[str, Any]) -> list[str]:
    seconds = {name: f"{1000 * value:.2f} ms" for name, value in phase["seconds"].items()}
    step = _range([1000 * value for value in phase["step_seconds"]], "{:.1f}")
    slow = phase["seconds"]["between_slices"]
    between = f", {seconds['between_slices']} of it between slices" if slow else ""
    mfu = _range(phase["model_flops_utilization"][::-1], "{:.3f}")
    return [
        f"FLOPs             {phase['flops']:.4g} a device, {phase['flops_over_formula']:.3f} of "
        "the formula",
        f"roofline          {seconds['roofline']}: matrix products {seconds['matrix']}, memory "
        f"{seconds['memory']} for {phase['memory_traffic_bytes'] / 1e9:.1f} GB",
        f"communication     {seconds['communication']}{between}",
        f"step              {step} ms, MFU {mfu} (communication hidden or not)",
        f"schedule          {_schedule([phase])}",
    ]


def _schedule(phases: list[dict[str, Any]]) -> str:
    hours = [sum(phase["hours"][end] for phase in phases) for end in (0, 1)]
    chip_hours = [sum(phase["chip_hours"][end] for phase in phases) for end in (0, 1)]
    updates = sum(phase["updates"] for phase in phases)
    return (
        f"{_range(hours, '{:,.1f}')} hours, {_range(chip_hours, '{:,.0f}')} chip-hours for "
        f"{updates:,} updates"
    )


def _collectives(phase: dict[str, Any]) -> list[str]:
    theory = phase["wire_bytes_in_theory"]
    expected = sum(theory.values())
    axes = ", ".join(f"{axis} {size / MIB:,.1f}" for axis, size in theory.items())
    ratio = f", {phase['wire_bytes'] / expected:.2f} of theory" if expected else ""
    lines = [
        f"collectives       {phase['wire_bytes'] / MIB:,.1f} MiB sent by a device{ratio}"
        + (f" ({axes} MiB)" if axes else "")
    ]
    shown = [one for one in phase["collectives"] if one["payload_bytes"] >= MIB / 100]
    for one in shown:
        group = f"over {one['group']}" if one["group"] > 1 else ""
        group = f"{one['group']} slices" if one["between_slices"] else group
        lines.append(
            f"                  {one['kind']:19}{one['dtype']:9}{group:9}{one['count']:6,.0f} x  "
            f"payload {one['payload_bytes'] / MIB:9,.2f} MiB  wire {one['wire_bytes'] / MIB:9,.2f}"
        )
    return lines


def _whole(phase: dict[str, Any]) -> list[str]:
    whole, mesh = phase["whole_parameters"], phase["mesh"]
    if not whole:
        return []
    size = f"{sum(leaf['bytes'] for leaf in whole) / MIB:,.1f} MiB"
    if mesh["fsdp"] == mesh["tensor"] == 1:
        return [
            f"replicated        all parameters, {size}, because mesh.fsdp and mesh.tensor are 1"
        ]
    return [f"replicated        {size} of parameters: {_some([leaf['path'] for leaf in whole])}"]


def _some(names: list[str]) -> str:
    """Returns the first names and the number of the others."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _largest(largest: dict[str, Any]) -> str:
    if not largest["rows"]:
        tried = largest["too_large"]
        return "no number of rows that was tried fits" + (f", down to {tried}" if tried else "")
    failed = f"{largest['too_large']} do not fit" if largest["too_large"] else "more: not tried"
    needed = largest["needed"] / GIB
    return f"{largest['rows']} rows per device and microbatch need {needed:.2f} GiB; {failed}"


def _range(values: Sequence[float], form: str) -> str:
    low, high = (form.format(value) for value in values)
    return low if low == high else f"{low} to {high}"
