"""The longest kernels of an update, by part of the model: a stage of launch/gpu_check.sh."""

import collections
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gpu_cases import timed_experiment

UPDATES = 3
"""Number of traced updates."""

LONGEST = 20
"""Number of kernels that are listed."""

PARTS = {
    "dropout": ("dropout", "Dropout_"),
    "LayerNorm": ("layer_norm",),
    "attention": ("attention",),
    "feed-forward": ("feed_forward",),
    "masked token head": ("masked_token_head",),
    "next sentence head": ("next_sentence_head", "pooler"),
    "embeddings": ("embeddings",),
    "loop over the layers": ("/while",),
    "losses": ("jvp(",),
    "optimizer": ("jit(train_step)", "state."),
}
"""Parts of an update, and what the name of an operation contains. The first match counts."""


def check_kernels(write: Callable[..., None], *, out: Path, small: bool, **_options: Any) -> None:
    """Traces updates of base with rows of 512 tokens. Writes seconds of one update."""
    import jax

    from bert_jax.benchmarking.ours import compile_update

    case = "tiny@512" if small else "base@512"
    made = compile_update(timed_experiment(case))
    state, folder = made.state, out / "work" / "trace"
    with jax.set_mesh(made.mesh):
        for _ in range(UPDATES):  # not traced
            state, metrics = made.update(state, made.batch)
        jax.block_until_ready(metrics)
        with jax.profiler.trace(str(folder)):
            start = time.perf_counter()
            for _ in range(UPDATES):
                state, metrics = made.update(state, made.batch)
            jax.block_until_ready(metrics)
            seconds = (time.perf_counter() - start) / UPDATES
    kernels = kernels_of_trace(folder, operation_places(made.program.as_text()))
    parts: dict[str, float] = collections.defaultdict(float)
    rows: list[dict[str, Any]] = []
    for (name, place), (total, calls) in kernels.items():
        row = {"seconds": total / UPDATES, "calls": calls / UPDATES, "name": name, "place": place}
        parts[part_of(place)] += row["seconds"]
        rows.append(row)
    write(
        case=case,
        seconds=seconds,
        seconds_of_kernels=sum(row["seconds"] for row in rows),
        parts=dict(sorted(parts.items(), key=lambda part: -part[1])),
        longest=sorted(rows, key=lambda row: -row["seconds"])[:LONGEST],
    )


def operation_places(program: str) -> dict[str, str]:
    """Returns the place in the model (op_name) of each operation of a program's text.

    A kernel may be called as its operation, with another separator.
    """
    found = dict(re.findall(r'%([\w.\-]+) = [^\n]*?op_name="([^"]*)"', program))
    return {re.sub(r"[.-]", "_", name): place for name, place in found.items()} | found


def kernels_of_trace(
    folder: Path, places: Mapping[str, str]
) -> dict[tuple[str, str], tuple[float, int]]:
    """Returns seconds and number of calls of each kernel, by its name and its place in the model.

    Raises:
      ValueError: the trace has no kernels.
    """
    import jax

    (file,) = folder.glob("**/*.xplane.pb")
    on_gpu, lines = jax.default_backend() == "gpu", []
    found: dict[tuple[str, str], tuple[float, int]] = {}
    for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
        for line in plane.lines:
            lines.append(f"{plane.name}: {line.name}")
            if on_gpu and not (plane.name.startswith("/device:GPU") and "Stream" in line.name):
                continue
            for event in line.events:
                operation = (
                    str(dict(event.stats).get("hlo_op", event.name)) if on_gpu else event.name
                )
                place = places.get(operation, places.get(event.name, ""))
                # On a CPU, a line also has events of other kinds, and loops that hold their bodies.
                if not on_gpu and (not place or event.name.startswith("while")):
                    continue
                seconds, calls = found.get((event.name, place), (0.0, 0))
                found[event.name, place] = (seconds + event.duration_ns / 1e9, calls + 1)
    if not found:
        raise ValueError(f"no kernels in the trace; its lines are {', '.join(lines)}")
    return found


def part_of(place: str) -> str:
    """Returns the part of the update that the name of an operation says."""
    for part, words in PARTS.items():
        if any(word in place for word in words):
            return f"{part}, backward" if "transpose(" in place else part
    return "unnamed"
