"""Shows where the time of an update goes: seconds by part of the model, and the longest operations.

  python benchmarks/step_profile.py --experiment=experiments/bert.py:mini --set data.batch_size=32

jax's profiler records when each operation of the compiled program begins and ends. If several
operations run at the same moment, each gets an equal part of this moment. XLA fuses operations; a
fusion counts as its last operation. Dropout is therefore often inside other parts. The shares are
of the profiled updates; the seconds are these shares of the median update without the profiler.
"""

import collections
import itertools
import json
import re
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from bert_jax import command, cpu, environment

FLAGS = flags.FLAGS
SHOWN = 8
"""Number of longest operations in the result."""

NOTHING = "no operation"

PARTS = (
    ("masked-token head, its loss and accuracy", r"masked_token_head|jvp\(\)|take_along_axis"),
    ("next-sentence head and pooler", r"next_sentence_head|pooler"),
    ("embeddings", r"embeddings"),
    ("LayerNorm", r"layer_norm"),
    ("dropout on its own", r"[Dd]ropout"),
    ("attention, without matrix products", r"layers/attention"),
    ("feed-forward block, without matrix products", r"layers/feed_forward"),
    ("residual sums and other work of the layers", r"jvp\(BertForPretraining\)"),
    ("clipping and optimizer", r"^jit\(train_step\)/"),
)
"""Parts by name, with a pattern of `op_name` in the program. The first that matches counts."""

PRODUCTS = "matrix products of the layers"
OTHER = "other"


class Span(NamedTuple):
    """A time during which an operation ran, in nanoseconds."""

    start: float
    end: float
    name: str


def shares(spans: Iterable[Span], total: float) -> dict[str, float]:
    """Returns the share of `total` of each name. Spans at the same moment divide it equally."""
    edges = [(span.start, 1, span.name) for span in spans]
    edges += [(span.end, -1, span.name) for span in spans]
    running: collections.Counter[str] = collections.Counter()
    found: dict[str, float] = collections.defaultdict(float)
    before = 0.0
    for moment, change, name in sorted(edges):
        active = sum(running.values())
        for one, count in running.items():
            found[one] += (moment - before) * count / active / total if active else 0
        running[name] += change
        running += collections.Counter()  # removes names whose count is 0
        before = moment
    found[NOTHING] = 1 - sum(found.values())
    return dict(found)


def read_spans(file: Path, names: set[str]) -> list[Span]:
    """Returns the spans of a program's operations in a trace of jax's profiler.

    An operation that continues in other threads has a second event, `end: NAME`, when it is done.
    """
    import jax

    begun: dict[tuple, Span] = {}
    done: dict[tuple, float] = {}
    events = [
        (event, dict(event.stats))
        for plane in jax.profiler.ProfileData.from_file(str(file)).planes
        for line in plane.lines
        for event in line.events
        if event.name.removeprefix("end: ") in names
    ]
    for event, stats in events:
        key = (event.name.removeprefix("end: "), stats.get("run_id"))
        end = event.start_ns + event.duration_ns
        if event.name in names:
            begun[key] = Span(event.start_ns, end, event.name)
        else:
            done[key] = end
    return [
        span._replace(end=max(span.end, done.get(key, span.end))) for key, span in begun.items()
    ]


def instructions_of(program: Any, name: str) -> list[Any]:
    """Returns an instruction of the program's entry, and the instructions of its fusion."""
    instruction = program.computations[program.entry][name]
    inner = [program.computations.get(called, {}).values() for called in instruction.called]
    return [instruction, *itertools.chain(*inner)]


def path_of(program: Any, name: str) -> str:
    """Returns the place of an operation in the model, such as `.../layers/attention/...`."""
    paths = (one.attribute('op_name="([^"]*)"') for one in instructions_of(program, name))
    return next(filter(None, paths), "")


def part_of(program: Any, name: str) -> str:
    """Returns the part of the model to which an operation of the program's entry belongs."""
    path = path_of(program, name)
    product = any(one.op == "dot" for one in instructions_of(program, name))
    if product and "/layers/" in path:
        return PRODUCTS
    return next((part for part, pattern in PARTS if re.search(pattern, path)), OTHER)


def profile(experiment: Any, updates: int) -> dict[str, Any]:
    """Returns the seconds of an update, and the share of each part and of the longest operations.

    Raises:
      ConfigError: the mesh has other than one device.
    """
    import jax

    from bert_jax.benchmarking import ours
    from bert_jax.benchmarking.comparison import comparable
    from bert_jax.planning import hlo

    made = ours.compile_update(comparable(experiment))
    program = hlo.parse(made.program.as_text())
    state, times = made.state, []
    with jax.set_mesh(made.mesh), tempfile.TemporaryDirectory() as directory:
        for number in range(2 * updates + 2):
            if number == updates + 2:
                options = jax.profiler.ProfileOptions()
                options.python_tracer_level = 0
                jax.profiler.start_trace(directory, profiler_options=options)
            start = time.perf_counter()
            state, metrics = made.update(state, made.batch)
            jax.block_until_ready(metrics)
            times.append(time.perf_counter() - start)
        jax.profiler.stop_trace()
        (file,) = Path(directory).rglob("*.xplane.pb")
        spans = read_spans(file, set(program.computations[program.entry]))
    profiled = sum(times[updates + 2 :])
    of_operations = shares(spans, profiled * 1e9)
    parts: dict[str, float] = collections.defaultdict(float)
    for name, share in of_operations.items():
        parts[name if name == NOTHING else part_of(program, name)] += share
    longest = sorted(of_operations.items(), key=lambda item: -item[1])
    return {
        "seconds": statistics.median(times[2 : updates + 2]),
        "profiled_seconds": profiled / updates,
        "parts": dict(sorted(parts.items(), key=lambda item: -item[1])),
        "longest": {
            name: {
                "share": share,
                "part": part_of(program, name),
                "path": path_of(program, name),
            }
            for name, share in longest[: SHOWN + 1]
            if name != NOTHING
        },
    }


def main() -> None:
    """Runs the command."""
    environment.configure_jax()
    cpu.keep_freed_memory()
    result = profile(command.experiment_from_flags(), FLAGS.updates)
    if FLAGS.json:
        print(json.dumps(result))
        return
    seconds = result["seconds"]
    print(f"{seconds:.4f} s an update, {result['profiled_seconds']:.4f} with the profiler")
    for part, share in result["parts"].items():
        print(f"{seconds * share * 1e3:8.1f} ms {share:6.1%}  {part}")
    print("longest operations")
    for name, one in result["longest"].items():
        print(f"{seconds * one['share'] * 1e3:8.1f} ms {one['share']:6.1%}  {name}: {one['path']}")


if __name__ == "__main__":
    flags.adopt_module_key_flags(command)
    flags.DEFINE_integer("updates", 5, "Number of profiled updates.", lower_bound=1)
    flags.DEFINE_bool("json", False, "Prints one JSON object instead of text.")
    command.run(main)
