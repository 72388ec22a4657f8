"""Plans BERT-base and BERT-large on several topologies, and writes the table of docs/scaling.md.

  python benchmarks/plan_table.py

The script needs the compilers of `bert_jax.plan`: pip install -e '.[plan,plan-gpu]'. After each
estimate it writes docs/runs/plan.json. It makes only the estimates that this file does not have
from the same commit. At the end it writes the table.

Every update has 524,288 tokens: 4,096 rows of 128, or 1,024 rows of 512. If an update does not fit,
the estimate is repeated with the fields that `plan` recommends.
"""

import itertools
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from performance_page import DOCS, filled, table

from bert_jax import command, environment
from bert_jax.errors import DataError
from bert_jax.files import read_json_if_whole, write_atomically, write_json

FORMAT_VERSION = 1
PAGE = DOCS / "scaling.md"
RECORD = DOCS / "runs" / "plan.json"
TOPOLOGIES = ("v5e:2x4", "v5e:8x8", "v5e:16x16", "v5p:4x4x4", "h100:8", "h100:8x8")
SIZES = ("base", "large")
LENGTHS = (128, 512)
TOKENS_OF_UPDATE = 524_288
UPDATES = 250_000
"""1.3e11 tokens, as many as a million updates of the published 256 rows of 512 tokens."""

SETTINGS = {
    "phases": "[]",
    "model.dtype": "bfloat16",
    "training.steps": UPDATES,
    "optimizer.warmup_steps": 2_500,
}


def settings(length: int) -> dict[str, Any]:
    """Returns the overrides of experiments/bert.py for rows of `length` tokens."""
    predictions = -(-length * 15 // 100)
    return SETTINGS | {
        "data.sequence_length": length,
        "data.batch_size": TOKENS_OF_UPDATE // length,
        "data.masking.max_predictions": predictions,
        "data.evaluation_masking.max_predictions": predictions,
    }


def plan(size: str, topology: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Returns the estimate of the only phase, as `bert_jax.plan --json` prints it."""
    arguments = [f"--experiment=experiments/bert.py:{size}", f"--topology={topology}", "--json"]
    for path, value in fields.items():
        arguments += ["--set", f"{path}={value}"]
    planned = subprocess.run(
        [sys.executable, "-m", "bert_jax.plan", *arguments], stdout=subprocess.PIPE, text=True
    )
    if planned.returncode:
        raise DataError(f"bert_jax.plan {' '.join(arguments)} ended with {planned.returncode}")
    result = json.loads(planned.stdout)
    return result["phases"][0] | {"versions": result["versions"]}


def estimates(record: dict[str, Any]) -> None:
    """Adds to the record the estimates that it does not have, and writes it after each."""
    for size, length, topology in itertools.product(SIZES, LENGTHS, TOPOLOGIES):
        name = f"{size}/{length}/{topology}"
        if name in record["results"]:
            continue
        fields = settings(length)
        result = plan(size, topology, fields)
        changed = (result.get("fitting") or {}).get("fields", {})
        if changed:
            result = plan(size, topology, fields | changed)
        del result["program"]  # a path of this machine
        record["results"][name] = result | {"changed": changed}
        write_json(RECORD, record)
        print(name, "fits" if result["fits"] else "does not fit", changed, flush=True)


def plans_table(record: Mapping[str, Any]) -> str:
    """Returns the Markdown table of all estimates."""
    head = ("model, rows x tokens", "topology", "mesh", "microbatches", "memory, GiB")
    head += ("step, ms", "MFU", "hours", "chip-hours", "sent by a device, MiB")
    rows = []
    for name, one in record["results"].items():
        size, length, topology = name.split("/")
        axes = [f"{axis}={devices}" for axis, devices in one["mesh"].items() if devices > 1]
        memory = f"{one['memory_bytes']['needed'] / 2**30:.2f}"
        row = [f"{size}, {one['rows']:,} x {length}", topology, " ".join(axes)]
        row += [one["microbatches"], memory if one["fits"] else f"does not fit: {memory}"]
        if one.get("step_seconds"):
            row += [spread([1e3 * second for second in one["step_seconds"]], ".0f")]
            row += [spread(one["model_flops_utilization"][::-1], ".2f")]
            row += [spread(one["hours"], ".1f"), spread(one["chip_hours"], ",.0f")]
        else:  # a GPU
            row += [""] * 4
        rows.append([*row, f"{one['wire_bytes'] / 2**20:,.0f}"])
    return table(head, rows)


def spread(values: Sequence[float], form: str) -> str:
    return " to ".join(dict.fromkeys(format(value, form) for value in values))


def main() -> None:
    """Makes the missing estimates, and writes the table."""
    commit = environment.describe()["commit"]
    record = read_json_if_whole(RECORD)
    if not record or record["commit"] != commit:
        record = {"format_version": FORMAT_VERSION, "commit": commit, "results": {}}
    estimates(record)
    write_atomically(PAGE, filled(PAGE.read_text(encoding="utf-8"), TABLES))


TABLES = {"plans": (RECORD, plans_table)}

if __name__ == "__main__":
    command.run(main)
