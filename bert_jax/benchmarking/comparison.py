"""Times the update of an experiment beside Hugging Face's BERT in torch, on one device.

Every side has its own process in every round, and the sides take turns. A slow moment of the
machine then hits all sides. Before the first and after the last round, the fastest matrix product
of each library is measured: its ceiling.
"""

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bert_jax import config
from bert_jax.benchmarking.batches import model_flops, random_batch
from bert_jax.benchmarking.peer import FORMS
from bert_jax.config import parts
from bert_jax.errors import BertJaxError, ConfigError
from bert_jax.interop.source import config_json
from bert_jax.training.experiment import Experiment, phases

FORMAT_VERSION = 1
OURS = "bert_jax"
NEEDED = ("torch", "transformers")

ONE_DEVICE = {"mesh.data": 1, "mesh.fsdp": 1, "mesh.tensor": 1}

SAME_WORK = {
    "data.pairs_per_row": 1,
    "model.remat": "none",
    "objective.mlm_reduction": "mean",
    "objective.next_sentence": True,
    "optimizer.name": "adamw",
    "training.microbatches": 1,
}
"""Fields whose other values Hugging Face's BERT does not have."""

ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(2**33), "MALLOC_TRIM_THRESHOLD_": str(2**34)}
"""Makes glibc keep freed memory. An update of torch on a CPU is otherwise up to eight times as
slow. `cpu.keep_freed_memory` does this for our side."""

MOVED = 0.05
"""A ceiling that changes by more than this share makes the comparison doubtful."""

Report = Callable[[str], None]


def check_installed() -> None:
    """Raises ConfigError if the libraries of the peer are not installed."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"--against=huggingface needs {' and '.join(missing)}, not installed here; install "
            f"with: pip install {' '.join(missing)}"
        )


def comparable(experiment: Experiment) -> Experiment:
    """Returns the first phase of an experiment, on one device.

    Raises:
      ConfigError: Hugging Face's BERT cannot do the same work.
    """
    first = config.override(phases(experiment)[0].experiment, ONE_DEVICE)
    for path, accepted in SAME_WORK.items():
        if (value := config.flatten(first)[path]) != accepted:
            raise ConfigError(
                f"{path} is {value!r}; accepted with --against=huggingface: {accepted!r}"
            )
    own = [path for path in config.flatten(first) if path.endswith(f".{parts.CLASS}")]
    if own:
        raise ConfigError(f"{own[0]} is set; accepted with --against=huggingface: BERT's own parts")
    return first


def request_of(experiment: Experiment, directory: Path, *, weights: Path | None = None) -> Path:
    """Writes a random batch, and the request that `peer` reads. Returns the request's file.

    `weights` is a safetensors file of the initial weights, None for random weights.
    """
    batch = directory / "batch.npz"
    np.savez(batch, **random_batch(experiment)._asdict())
    request = {
        "model": config_json(experiment.model),
        "dtype": experiment.model.dtype,
        "optimizer": config.to_json(experiment)["optimizer"],
        "rate": experiment.optimizer.learning_rate,
        "seed": experiment.seed,
        "weights": str(weights) if weights else None,
        "batch": str(batch),
    }
    file = directory / "request.json"
    file.write_text(json.dumps(request))
    return file


def run_side(
    module: str, *arguments: Any, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Runs `ours` or `peer` in a new process. Returns the JSON that it prints.

    The process gets the variables of `environment` in addition.

    Raises:
      BertJaxError: the process fails, for instance because memory is too small.
    """
    command = [f"bert_jax.benchmarking.{module}", *map(str, arguments)]
    # The reuse of memory that this process may have been started with is for our side only.
    kept = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    result = subprocess.run(
        [sys.executable, "-m", *command],
        env=kept | (ALLOCATOR if module == "peer" else {}) | dict(environment or {}),
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        last = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise BertJaxError(f"{' '.join(command)} ended with status {result.returncode}: {last}")
    return json.loads(result.stdout.splitlines()[-1])


def run_rounds(
    sides: Mapping[str, Callable[[], dict[str, Any]]], *, rounds: int, report: Report
) -> dict[str, list[dict[str, Any]]]:
    """Runs the sides in turn, `rounds` times. Returns the results of each side by its name.

    A side is a function without arguments that calls `run_side`.
    """
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for number in range(1, rounds + 1):
        for name, side in sides.items():
            results[name].append(side())
        line = ", ".join(f"{name} {done[-1]['seconds']:.4f} s" for name, done in results.items())
        report(f"round {number} of {rounds}: {line}")
    return results


def ceilings(dtype: str) -> dict[str, float]:
    """Returns the FLOPs per second of the fastest matrix product of jax and of torch."""
    sides = {OURS: "ours", "torch": "peer"}
    return {
        name: run_side(module, "ceiling", dtype)["flops_per_second"]
        for name, module in sides.items()
    }


def compare(
    experiment: Experiment, *, rounds: int, seconds: float, report: Report
) -> dict[str, Any]:
    """Times an experiment and both forms of the peer. Returns plain JSON values.

    Raises:
      ConfigError: the peer is not installed, or cannot do the same work.
    """
    check_installed()
    experiment = comparable(experiment)
    dtype = experiment.model.dtype
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "config.json"
        file.write_text(json.dumps(config.to_json(experiment)))
        request = request_of(experiment, Path(directory))
        sides = {OURS: partial(run_side, "ours", "update", file, seconds)}
        for form in FORMS:
            sides[form] = partial(run_side, "peer", "update", request, form, seconds)
        report(f"measuring the matrix products of both libraries in {dtype}")
        before = ceilings(dtype)
        results = run_rounds(sides, rounds=rounds, report=report)
        after = ceilings(dtype)
    measured = {name: [before[name], after[name]] for name in before}
    for name, (first, last) in measured.items():
        if abs(last / first - 1) > MOVED:
            report(
                f"warning: the ceiling of {name} moved from {first / 1e9:.0f} to "
                f"{last / 1e9:.0f} GFLOP/s, so the machine was not quiet"
            )
    data = experiment.data
    return {
        "format_version": FORMAT_VERSION,
        "model": config.to_json(experiment)["model"],
        "rows": data.batch_size,
        "length": data.sequence_length,
        "predictions": data.masking.max_predictions,
        "model_flops": model_flops(experiment),
        "ceilings": measured,
        "sides": results,
        "ratios": {form: ratios(results[OURS], results[form], measured) for form in FORMS},
    }


def ratios(
    ours: Sequence[Mapping[str, Any]],
    theirs: Sequence[Mapping[str, Any]],
    measured: Mapping[str, Sequence[float]],
) -> dict[str, float]:
    """Returns our speed over the peer's.

    `ratio` is the median of their seconds over the median of ours. `min` and `max` are of the
    ratios of single rounds. `normalized` is `ratio` x their ceiling / our ceiling: the ratio of the
    shares of the ceiling that both reach.
    """
    of_rounds = [b["seconds"] / a["seconds"] for a, b in zip(ours, theirs, strict=True)]
    ratio = median(theirs, "seconds") / median(ours, "seconds")
    return {
        "ratio": ratio,
        "min": min(of_rounds),
        "max": max(of_rounds),
        "normalized": ratio * max(measured["torch"]) / max(measured[OURS]),
    }


def median(results: Sequence[Mapping[str, Any]], name: str) -> float:
    """Returns the median of a value over the rounds of a side."""
    return statistics.median(result[name] for result in results)


def share_of_ceiling(result: Mapping[str, Any], name: str) -> float:
    """Returns the model's FLOPs per second of a side, divided by the ceiling of its library."""
    ceiling = max(result["ceilings"][OURS if name == OURS else "torch"])
    return result["model_flops"] / median(result["sides"][name], "seconds") / ceiling


def table(result: Mapping[str, Any]) -> str:
    """Returns the figures as text, one line for each side, ratio and ceiling."""
    tokens = result["rows"] * result["length"]
    lines = [f"{'':16}{'update':>10}{'tokens/s':>12}{'of ceiling':>12}{'peak memory':>14}"]
    for name, rounds in result["sides"].items():
        seconds, peak = median(rounds, "seconds"), rounds[-1]["peak_bytes"]
        memory = "unknown" if peak is None else f"{peak / 2**20:,.0f} MiB"
        share = share_of_ceiling(result, name)
        compiled = "  with torch.compile" if rounds[-1].get("compiled") else ""
        line = f"{name:16}{seconds:>8.4f} s{tokens / seconds:>12,.0f}{share:>12.3f}{memory:>14}"
        lines.append(line + compiled)
    lines.append(f"{'':16}{'ratio':>10}{'min':>12}{'max':>12}{'normalized':>14}")
    for form, found in result["ratios"].items():
        line = f"{found['ratio']:>10.2f}{found['min']:>12.2f}{found['max']:>12.2f}"
        lines.append(f"{'over ' + form:16}{line}{found['normalized']:>14.2f}")
    for name, (first, last) in result["ceilings"].items():
        lines.append(f"ceiling of {name}: {first / 1e9:,.0f} GFLOP/s first, {last / 1e9:,.0f} last")
    return "\n".join(lines)
