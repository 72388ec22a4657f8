r"""Makes every measurement of docs/performance.md, and writes its record, tables and figures.

    bash launch/bench.sh            everything: under 25 minutes on two cores
    bash launch/bench.sh --small    every measurement on tiny shapes, to test this program

Nothing else may run on the machine meanwhile. Each finished measurement is a file in --directory;
after an interruption, the same command of the same commit skips these files. At the end, the
program writes the record (JSON) and the page with benchmarks/performance_page.py.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from bert_jax import command, config, environment
from bert_jax.benchmarking import comparison
from bert_jax.errors import BertJaxError, ConfigError
from bert_jax.files import write_json
from bert_jax.training.experiment import Experiment

FLAGS = flags.FLAGS
ROOT = Path(__file__).parents[1]
FORMAT_VERSION = 1


class Shape(NamedTuple):
    """A model size of experiments/bert.py, and the shape of its batch."""

    size: str
    rows: int
    length: int
    predictions: int

    @property
    def name(self) -> str:
        return f"{self.size}-{self.rows}x{self.length}"


PEERS = (
    Shape("mini", 32, 128, 20),
    Shape("small", 16, 128, 20),
    Shape("mini", 8, 512, 80),
    Shape("base", 4, 128, 20),
)
LONG = Shape("mini", 8, 512, 80)
GROWTH = Shape("mini", 8, 128, 20)
WHOLE = Shape("mini", 32, 128, 20)
SMALL = Shape("tiny", 2, 32, 5)

GROWTH_FIELDS: dict[str, tuple[int, ...]] = {
    "model.num_layers": (2, 8),
    "model.hidden_size": (128, 512),
    "data.sequence_length": (256, 512),
    "data.batch_size": (16, 32),
}
"""Fields and their values. In each measurement, all other fields are those of GROWTH."""

HEAD_WIDTH = 64

FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
"""Instruction sets of a processor that decide how fast matrix products are."""

Variants = dict[str, tuple[dict[str, Any], dict[str, str]]]
"""Changed fields and environment variables, by the name of the variant."""

VARIANTS: Variants = {
    "default": ({}, {}),
    "layers in a loop": ({"model.scan_layers": True}, {}),
    "dropout by threefry": ({"model.dropout_bits": "threefry"}, {}),
    "vectors of 256 bits": ({}, {"XLA_FLAGS": "--xla_cpu_prefer_vector_width=256"}),
    "fast math": ({}, {"XLA_FLAGS": "--xla_cpu_enable_fast_math=true"}),
    "bfloat16": ({"model.dtype": "bfloat16"}, {}),
}
"""Variants of the update of WHOLE."""


class Plan(NamedTuple):
    """How long the measurements take."""

    small: bool
    rounds: int
    seconds: float
    steps: int


def experiment_of(shape: Shape, changes: Mapping[str, Any] | None = None) -> Experiment:
    """Returns the experiment of a shape on one device."""
    made = config.load_experiment(str(ROOT / f"experiments/bert.py:{shape.size}"))
    fields = {
        "phases": [],
        "mesh.data": 1,
        "data.batch_size": shape.rows,
        "data.sequence_length": shape.length,
        "data.masking.max_predictions": shape.predictions,
        "data.evaluation_masking.max_predictions": shape.predictions,
        "data.masking.rate": shape.predictions / shape.length,
    }
    return config.override(made, fields | dict(changes or {}))


def measure_peers(plan: Plan, shape: Shape) -> dict[str, Any]:
    """Times bert_jax and both forms of Hugging Face's BERT."""
    experiment = experiment_of(shape)
    return comparison.compare(experiment, rounds=plan.rounds, seconds=plan.seconds, report=progress)


def dropout_fields(rate: float) -> dict[str, Any]:
    return {"model.dropout": rate, "model.attention_dropout": rate}


def measure_variants(plan: Plan, shape: Shape, variants: Variants) -> dict[str, Any]:
    """Times the update of a shape with each variant, in rounds."""
    with tempfile.TemporaryDirectory() as directory:
        sides = {}
        for name, (fields, variables) in variants.items():
            file = Path(directory) / f"{name}.json"
            file.write_text(json.dumps(config.to_json(experiment_of(shape, fields))))
            sides[name] = partial(
                comparison.run_side, "ours", "update", file, plan.seconds, environment=variables
            )
        results = comparison.run_rounds(sides, rounds=plan.rounds, report=progress)
    return {"shape": shape.name, "sides": results}


def measure_growth(
    plan: Plan, shape: Shape, changes: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Times the update with changed fields, and compiles it without the cache."""
    changes = dict(changes or {})
    if length := changes.get("data.sequence_length"):
        shape = shape._replace(length=length, predictions=round(0.15625 * length))
    if width := changes.get("model.hidden_size"):
        changes["model.num_heads"] = width // HEAD_WIDTH
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "config.json"
        file.write_text(json.dumps(config.to_json(experiment_of(shape, changes))))
        # XLA compiles anew, so compile_seconds is the time of a first run.
        variables = {"JAX_COMPILATION_CACHE_DIR": str(Path(directory) / "cache")}
        arguments = ["-m", "bert_jax.bench", f"--experiment={file}", "--json"]
        return run_json([*arguments, f"--steps={plan.steps}"], variables)


def measure_parts(plan: Plan, shape: Shape, rate: float) -> dict[str, Any]:
    """Profiles an update with benchmarks/step_profile.py."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "config.json"
        file.write_text(json.dumps(config.to_json(experiment_of(shape, dropout_fields(rate)))))
        script = str(ROOT / "benchmarks" / "step_profile.py")
        arguments = [script, f"--experiment={file}", f"--updates={plan.steps}", "--json"]
        return run_json(arguments, {})


def run_json(arguments: list[str], variables: Mapping[str, str]) -> dict[str, Any]:
    """Runs Python and returns the JSON on its last line of output.

    Raises:
      BertJaxError: Python ends with an error.
    """
    result = subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | dict(variables),
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        raise BertJaxError(f"{' '.join(arguments)} ended with:\n{result.stderr}")
    return json.loads(result.stdout.splitlines()[-1])


def jobs(plan: Plan) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Yields the name of each measurement and the function that makes it."""
    peers = (SMALL,) if plan.small else PEERS
    long, growth, whole = (SMALL,) * 3 if plan.small else (LONG, GROWTH, WHOLE)
    for shape in peers:
        yield f"peers/{shape.name}", partial(measure_peers, plan, shape)
    dropout: Variants = {f"dropout {rate}": (dropout_fields(rate), {}) for rate in (0.0, 0.1)}
    yield "dropout", partial(measure_variants, plan, long, dropout)
    for rate in (0.1, 0.0):
        yield f"parts/{rate}", partial(measure_parts, plan, whole, rate)
    yield "growth/unchanged", partial(measure_growth, plan, growth)
    for field, values in GROWTH_FIELDS.items():
        for value in values[:1] if plan.small else values:
            run = partial(measure_growth, plan, growth, {field: value})
            yield f"growth/{field}/{value}", run
    fewer = plan._replace(rounds=min(plan.rounds, 2))
    yield "variants", partial(measure_variants, fewer, whole, VARIANTS)


def describe_machine() -> dict[str, Any]:
    """Returns the processor, its cores and memory, the software and the commit."""
    described = environment.describe()
    processor = fields_of("/proc/cpuinfo")
    features = processor.get("flags", "").split()
    return {
        "processor": processor.get("model name") or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(int(fields_of("/proc/meminfo")["MemTotal"].split()[0]) / 2**20, 1),
        "features": [name for name in FEATURES if name in features],
        "commit": described["commit"],
        "uncommitted_changes": described["uncommitted_changes"],
        "python": described["python"],
        "versions": described["versions"],
        "date": described["time"][:10],
    }


def fields_of(file: str) -> dict[str, str]:
    """Returns the lines `name: value` of a file as a dict; the last line of a name counts."""
    lines = Path(file).read_text().splitlines()
    pairs = [line.split(":", 1) for line in lines if ":" in line]
    return {name.strip(): value.strip() for name, value in pairs}


def progress(line: str) -> None:
    print(f"  {line}", file=sys.stderr, flush=True)


def measure(plan: Plan, directory: Path, only: list[str]) -> dict[str, Any]:
    """Makes the measurements that are not in the directory. Returns all by name."""
    chosen = [(name, run) for name, run in jobs(plan) if not only or name.split("/")[0] in only]
    results, started = {}, time.monotonic()
    for number, (name, run) in enumerate(chosen, 1):
        file = directory / f"{name.replace('/', ' ')}.json"
        known = " (already measured)" if file.exists() else ""
        minutes = (time.monotonic() - started) / 60
        print(f"{minutes:5.1f} min  {number}/{len(chosen)} {name}{known}", file=sys.stderr)
        if not known:
            write_json(file, run())
        results[name] = json.loads(file.read_text())
    print(f"{(time.monotonic() - started) / 60:5.1f} min  done", file=sys.stderr)
    return results


def main() -> None:
    """Runs the command."""
    kinds = sorted({name.split("/")[0] for name, _ in jobs(Plan(True, 1, 0, 1))})
    for kind in FLAGS.only:
        if kind not in kinds:
            raise ConfigError(f"--only={kind}; accepted: {', '.join(kinds)}")
    small = FLAGS.small
    plan = Plan(small, 1, 0.0, 1) if small else Plan(small, FLAGS.rounds, FLAGS.seconds, 5)
    if not FLAGS.only or "peers" in FLAGS.only:
        comparison.check_installed()
    machine = describe_machine()
    state = (machine["commit"] or "unknown")[:12]
    if machine["uncommitted_changes"]:
        state += f"-{machine['uncommitted_changes'][:8]}"
    directory = Path(FLAGS.directory) / ("small" if small else "full") / state
    directory.mkdir(parents=True, exist_ok=True)
    results = measure(plan, directory, FLAGS.only)
    record = {"format_version": FORMAT_VERSION, "machine": machine, "results": results}
    write_json(directory / "record.json", record)
    if small or FLAGS.only:
        print(f"{directory / 'record.json'} has {len(results)} measurements")
        return
    import performance_page

    write_json(performance_page.RECORD, record)
    performance_page.write()


if __name__ == "__main__":
    flags.DEFINE_bool("small", False, "Measures tiny shapes, and writes no page.")
    flags.DEFINE_list("only", [], "Kinds of measurements, such as growth,variants; no page.")
    flags.DEFINE_string("directory", "runs/performance", "Where each measurement is kept.")
    flags.DEFINE_integer("rounds", 5, "Number of rounds of a comparison.", lower_bound=1)
    flags.DEFINE_float("seconds", 3.0, "Least seconds of updates in a round.", lower_bound=0.0)
    command.run(main)
