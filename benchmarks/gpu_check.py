"""Runs the stages of launch/gpu_check.sh, each in a process of its own with a time limit.

A stage that fails or is too slow stops no other stage; its error is in the table. The variable OUT
names the directory for gpu.json and table.txt. DEADLINE is the seconds after which everything ends.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from gpu_table import table

FORMAT_VERSION = 1

LEAST_SECONDS = 5
"""A stage does not start with less time."""


class Stage(NamedTuple):
    """A stage of the check."""

    seconds: int
    """Time limit on a GPU."""
    xla_flags: str = ""
    """Flags that are added to the user's."""


STAGES = {
    "environment": Stage(40),
    "losses": Stage(90),
    "attention": Stage(40),
    "training": Stage(140),
    # A trace may show a CUDA graph, which XLA calls a command buffer, as one kernel.
    "kernels": Stage(60, "--xla_gpu_enable_command_buffer="),
    "times": Stage(600),
}
"""In the order in which they run. `times` has the rest of the time."""


def main() -> None:
    """Runs the stages, writes gpu.json and table.txt, and prints the table.

    The status is 1 if a stage fails.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=", ".join(STAGES))
    parser.add_argument("--small", action="store_true", help="small shapes, on a CPU")
    given = parser.parse_args()
    if unknown := sorted(set(given.stages) - set(STAGES)):
        parser.error(f"there is no stage {unknown[0]}; accepted: {', '.join(STAGES)}")
    names = [name for name in STAGES if name in given.stages or not given.stages]
    out = Path(os.environ["OUT"])
    deadline = time.monotonic() + float(os.environ["DEADLINE"])
    options = ["--small"] if given.small else []
    if given.small:
        os.environ |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the stages, too
    with contextlib.ExitStack() as background:
        if "losses" in names:  # a CPU computes the losses, too, while the GPU works
            on_cpu = start("losses_on_the_cpu", out, *options, JAX_PLATFORMS="cpu")
            background.callback(end, on_cpu, seconds=LEAST_SECONDS)
        ends = []
        for name in names:
            limit = deadline - time.monotonic()
            if not given.small:
                limit = min(limit, STAGES[name].seconds)
            ends.append({"name": name, **run(name, out, *options, limit=limit)})
    file = out / "work" / "rows.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    result = {"format_version": FORMAT_VERSION, "small": given.small, "stages": ends, "rows": rows}
    (out / "gpu.json").write_text(json.dumps(result, indent=1) + "\n")
    (out / "table.txt").write_text(table(result) + "\n")
    print(table(result))
    if failed := [end["name"] for end in ends if "error" in end]:
        sys.exit(f"error: these stages failed: {', '.join(failed)}")


def run(name: str, out: Path, *options: str, limit: float) -> dict[str, Any]:
    """Runs a stage. Returns its seconds, and the error if it fails or reaches the limit."""
    if limit < LEAST_SECONDS:
        return {"seconds": 0, "error": "no time was left"}
    print(f"== {name}, at most {limit:.0f} s", flush=True)
    begin, process = time.monotonic(), start(name, out, *options)
    status = end(process, seconds=limit)
    log = (out / "work" / f"{name}.log").read_text(errors="replace")
    print(log, flush=True)
    seconds = {"seconds": round(time.monotonic() - begin, 1)}
    if status is None:
        return seconds | {"error": f"not done after {limit:.0f} s"}
    if status:
        last = (log.strip().splitlines() or ["no output"])[-1]
        return seconds | {"error": f"status {status}: {last[:300]}"}
    return seconds


def start(name: str, out: Path, *options: str, **variables: str) -> subprocess.Popen:
    """Starts the process of a stage. Its children are in its process group."""
    flags = STAGES[name].xla_flags if name in STAGES else ""
    flags = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
    script = Path(__file__).with_name("gpu_stages.py")
    with (out / "work" / f"{name}.log").open("w") as log:
        return subprocess.Popen(
            [sys.executable, script, name, f"--out={out}", *options],
            env=os.environ | {"XLA_FLAGS": flags} | variables,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def end(process: subprocess.Popen, *, seconds: float) -> int | None:
    """Waits for a process, and then ends what is left of its group.

    Returns:
      Its status, or None if it was not done in time.
    """
    try:
        return process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


if __name__ == "__main__":
    main()
