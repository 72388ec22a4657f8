"""The stages of launch/gpu_check.sh, which `gpu_check.py` runs. docs/gpu.md describes them.

  python benchmarks/gpu_stages.py STAGE --out=DIRECTORY [--small]

A stage appends its results to rows.jsonl in the folder `work` of DIRECTORY, one JSON object a line.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from gpu_cases import prepared_experiment
from gpu_kernels import check_kernels
from gpu_times import check_times
from gpu_training import check_training

from bert_jax import config, environment

SETTINGS = ("float32/highest", "float32/default", "bfloat16/default")
"""Dtypes of the model and precisions of jax's matrix products, for the losses."""

UPDATES = 20
"""Number of losses that are compared with the CPU's."""

Write = Callable[..., None]
"""Appends a row to rows.jsonl; the arguments are its values."""


# ---- The device ----------------------------------------------------------------------------------


def check_environment(write: Write, *, small: bool, **_options: Any) -> None:
    """Measures the speed of matrix products in bfloat16 and of memory. Records the card."""
    import jax
    import jax.numpy as jnp

    from bert_jax.benchmarking.ours import product_rate

    array = jnp.ones(2**20 if small else 2**30, jnp.float32)
    seconds = seconds_of(jax.jit(jnp.negative), array)  # reads and writes each element once
    write(
        **environment.describe(),
        card=_card(),
        product_flops=product_rate("bfloat16"),
        memory_bytes_per_second=2 * array.nbytes / seconds,
    )


def seconds_of(function: Callable, *arguments: Any, rounds: int = 5, calls: int = 10) -> float:
    """Returns the seconds of a call: the median of `rounds` times of `calls` calls."""
    import jax

    jax.block_until_ready(function(*arguments))
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(calls):
            result = function(*arguments)
        jax.block_until_ready(result)
        times.append((time.perf_counter() - start) / calls)
    return statistics.median(times)


def _card() -> str | None:
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return None
    query = "--query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit"
    with contextlib.suppress(FileNotFoundError):
        return subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader"], capture_output=True, text=True
        ).stdout.strip()
    return None


# ---- Losses --------------------------------------------------------------------------------------


def check_losses(write: Write, *, small: bool, on_the_cpu: bool = False, **_options: Any) -> None:
    """Makes updates of a small model with dropout, in each of `SETTINGS`.

    The CPU, whose losses the others are compared with, uses the first setting only. The updates run
    under jax's transfer guard, so a hidden copy to the host is an error.
    """
    import jax

    from bert_jax.sharding import make_mesh
    from bert_jax.training.build import assemble, compile_update
    from bert_jax.training.experiment import phases
    from bert_jax.training.phases import first_batch
    from bert_jax.training.state import make_state

    rows, width = (8, 128) if small else (32, 256)
    fields = {"model.num_layers": 2, "model.hidden_size": width, "model.num_heads": width // 64}
    base = prepared_experiment(fields | {"data.batch_size": rows, "training.steps": UPDATES})
    batches = [first_batch(phases(base)[0], step) for step in range(UPDATES)]
    for setting in SETTINGS[:1] if on_the_cpu else SETTINGS:
        dtype, precision = setting.split("/")
        (phase,) = phases(config.override(base, {"model.dtype": dtype}))
        mesh = make_mesh(base.mesh)
        assembly, losses = assemble(phase, mesh), []
        with jax.set_mesh(mesh), jax.default_matmul_precision(precision):
            state = make_state(assembly.initialize, assembly.sharding)
            assembly = compile_update(assembly, state, batches[0])
            for batch in map(assembly.place, batches):
                with jax.transfer_guard("disallow"):
                    state, metrics = assembly.update(state, batch)
                losses.append(metrics["loss"])
        write(
            device=jax.default_backend(),
            on_the_cpu=on_the_cpu,
            setting=setting,
            losses=[float(loss.total / loss.weight) for loss in losses],
            guard_stops_copies=_guard_stops_copies(losses[0].total),
        )


def _guard_stops_copies(array: Any) -> bool:
    import jax

    try:
        with jax.transfer_guard_device_to_host("disallow"):
            float(array + 1)
    except jax.errors.JaxRuntimeError:
        return True
    return False


# ---- Attention -----------------------------------------------------------------------------------


def check_attention(write: Write, *, small: bool, **_options: Any) -> None:
    """Compares each path of attention with the matrix products in float32: outputs, gradients.

    Rows have 0 to all positions filled. `differences` are of the output, at real tokens, and of the
    gradients of query, key and value, at all positions.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    shape = (4, 2, 128, 64) if small else (16, 12, 512, 64)
    rng = np.random.default_rng(0)
    *inputs, gradient = jnp.asarray(rng.normal(size=(4, *shape)), jnp.bfloat16)
    lengths = np.linspace(0, shape[2], shape[0]).astype(int)
    ids = jnp.asarray(np.arange(shape[2]) < lengths[:, None], jnp.int32)
    gradient *= ids[:, None, :, None]

    def outputs(function: Callable, *arrays: Any) -> tuple[Any, ...]:
        found, backward = jax.vjp(lambda *arrays: function(*arrays, ids), *arrays)
        return found, found * ids[:, None, :, None], *backward(gradient.astype(found.dtype))

    paths = attention_paths()
    with jax.default_matmul_precision("highest"):
        exact = [array.astype(jnp.float32) for array in inputs]
        expected = jax.jit(partial(outputs, paths["einsum"]))(*exact)
    for name, path in paths.items():
        try:
            run = jax.jit(partial(outputs, path))
            found = run(*inputs)
        except Exception as error:  # of any library; the other paths are still compared
            write(path=name, error=" ".join(str(error).split())[:300])
            continue
        compared = zip(found[1:], expected[1:], strict=True)
        write(
            path=name,
            finite=all(bool(jnp.isfinite(array).all()) for array in found),
            seconds=seconds_of(run, *inputs, rounds=3),
            differences=[largest_difference(a, b) for a, b in compared],
        )


def attention_paths() -> dict[str, Callable]:
    """Returns the paths of attention that this device has, as functions of q, k, v and pack ids."""
    import jax

    from bert_jax.models.attention import attend, attention_mask
    from bert_jax.models.kernels import cudnn_attention, splash_attention

    def einsum(query: Any, key: Any, value: Any, ids: Any) -> Any:
        return attend(query, key, value, attention_mask(ids), None, 1.0)

    by_xla = partial(cudnn_attention, implementation="xla")
    others: dict[str, dict[str, Callable]] = {
        "gpu": {"cudnn": cudnn_attention, "cudnn by XLA": by_xla},
        "tpu": {"splash": splash_attention},
        "cpu": {"splash": splash_attention, "cudnn by XLA": by_xla},
    }
    return {"einsum": einsum, **others[jax.default_backend()]}


def largest_difference(found: Any, expected: Any) -> float:
    """Returns the largest difference, as a share of the largest expected magnitude."""
    import jax.numpy as jnp

    difference = jnp.abs(found.astype(jnp.float32) - expected).max()
    return float(difference / jnp.abs(expected).max())


# ---- Main ----------------------------------------------------------------------------------------

STAGES: dict[str, Callable[..., None]] = {
    "environment": check_environment,
    "losses": check_losses,
    "losses_on_the_cpu": partial(check_losses, on_the_cpu=True),
    "attention": check_attention,
    "training": check_training,
    "kernels": check_kernels,
    "times": check_times,
}


def main() -> None:
    """Runs one stage. The last line of its output says what went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--small", action="store_true")
    given = parser.parse_args()
    environment.configure_jax()
    section = given.stage.removesuffix("_on_the_cpu")

    def write(**row: Any) -> None:
        line = json.dumps({"stage": section, **row})
        print(line)
        with (given.out / "work" / "rows.jsonl").open("a") as file:
            file.write(line + "\n")

    try:
        STAGES[given.stage](write, out=given.out, small=given.small)
    except Exception as error:  # jax ends a traceback with advice instead of the message
        traceback.print_exc()
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())}")


if __name__ == "__main__":
    main()
