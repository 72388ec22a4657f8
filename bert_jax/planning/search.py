"""Compiles the update with several field values, to find values with which it fits the memory."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from bert_jax.config import override
from bert_jax.errors import ConfigError
from bert_jax.planning.estimate import estimate
from bert_jax.planning.topology import Topology
from bert_jax.training.experiment import Experiment, Phase

MAX_COMPILES = 4

Compile = Callable[[Experiment], tuple[dict[str, Any], str]]
Report = Callable[[str], None]


def what_fits(
    phase: Phase, topology: Topology, result: dict[str, Any], *, compile_: Compile, report: Report
) -> dict[str, Any] | None:
    """Returns {"fields": overrides, "needed": bytes} for an update that fits the memory, or None.

    First, more microbatches are tried. Then the state is also sharded over the mesh axis `data`.
    """
    for fields in itertools.islice(_candidates(result), MAX_COMPILES):
        tried = _estimate(phase, topology, fields, compile_, report)
        if tried and tried["fits"]:
            return {"fields": fields, "needed": tried["memory_bytes"]["needed"]}
    return None


def _candidates(result: dict[str, Any]) -> Iterator[dict[str, int]]:
    """Yields overrides that should make the update fit. Activation memory is scaled with rows."""
    memory, mesh = result["memory_bytes"], result["mesh"]
    ways, slices = mesh["data"] * mesh["fsdp"], result["slices"]
    state = memory["parameters"] + memory["optimizer"]
    rows, microbatches = result["rows"] // ways, result["microbatches"]
    activations = memory["activations_and_gradients"] or 0.0
    for fsdp in dict.fromkeys((mesh["fsdp"], ways // slices)):
        unchanged = fsdp == mesh["fsdp"]
        cut = mesh["fsdp"] / fsdp
        # Accumulated gradients are as large as the parameters.
        free = memory["available"] - (state + memory["parameters"]) * cut - memory["batch"]
        if free <= 0:
            continue
        for parts in range(microbatches + unchanged, rows + 1):
            if rows % parts == 0 and activations * microbatches / parts <= free:
                cuts = {} if unchanged else {"mesh.data": slices, "mesh.fsdp": fsdp}
                yield cuts | {"training.microbatches": parts}


def largest_microbatch(
    phase: Phase, topology: Topology, result: dict[str, Any], *, compile_: Compile, report: Report
) -> dict[str, Any]:
    """Returns `rows`: the largest number of rows per device and microbatch that was found to fit.

    `needed` is the memory of an update with one microbatch of `rows`, in bytes. `too_large` is the
    smallest number of rows that did not fit, or None. The next number of rows to try is computed as
    if activation memory were linear in the rows.
    """
    ways = result["mesh"]["data"] * result["mesh"]["fsdp"]
    rows = result["rows"] // ways // result["microbatches"]
    largest, needed, too_large, known = 0, None, None, set()
    while len(known) < MAX_COMPILES and rows not in known and rows > 0:
        known.add(rows)
        fields = {"training.microbatches": 1, "data.batch_size": rows * ways}
        tried = _estimate(phase, topology, fields, compile_, report)
        if not tried:
            break
        memory = tried["memory_bytes"]
        if tried["fits"]:
            largest, needed = rows, memory["needed"]
        else:
            too_large = rows
        rows = _next_rows(rows, memory, largest, too_large)
    return {"rows": largest, "needed": needed, "too_large": too_large}


def _next_rows(rows: int, memory: dict[str, Any], largest: int, too_large: int | None) -> int:
    """Returns the number of rows to try next: at least `largest`, and less than `too_large`."""
    activations = memory["activations_and_gradients"]
    if activations is None:
        guess = rows // 2
    else:
        state = memory["needed"] - activations
        guess = int(rows * (memory["available"] - state) / activations)
    if guess > 8:
        guess -= guess % 8
    if too_large is not None and guess >= too_large:
        guess = (largest + too_large) // 2
    return max(guess, largest)


def _estimate(
    phase: Phase, topology: Topology, fields: dict[str, int], compile_: Compile, report: Report
) -> dict[str, Any] | None:
    """Returns the estimate with other values of `fields`; None if the update is not compiled."""
    report(f"trying {assignments(fields)}")
    try:
        changed = replace(phase, experiment=override(phase.experiment, fields))
        return estimate(changed, topology, *compile_(changed.experiment))
    except ConfigError as error:  # such as a mesh that does not divide a parameter
        report(f"not compiled: {error}")
        return None


def assignments(fields: dict[str, int]) -> str:
    """Returns the flags that set these fields."""
    return " ".join(f"--set {path}={value}" for path, value in fields.items())
