"""The table that launch/gpu_check.sh prints, made from gpu.json.

python benchmarks/gpu_table.py runs/gpu_check/gpu.json
"""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]


def table(result: Row) -> str:
    """Returns the text: a section for each stage, and at the end how each stage ended."""
    lines = []
    for name, section in SECTIONS.items():
        rows = [row for row in result["rows"] if row["stage"] == name]
        if rows:
            lines += [f"== {name}", *section(rows), ""]
    lines.append("== stages")
    for stage in result["stages"]:
        lines.append(f"{stage['name']:12} {stage['seconds']:6.1f} s  {stage.get('error', 'done')}")
    return "\n".join(lines)


def of_environment(rows: list[Row]) -> Iterator[str]:
    """Yields the lines of the stage `environment`."""
    for row in rows:
        changes = "with uncommitted changes" if row["uncommitted_changes"] else ""
        versions = ", ".join(f"{name} {version}" for name, version in row["versions"].items())
        yield f"card        {row['card'] or row['device_kind']}"
        yield f"commit      {row['commit']} {changes}"
        yield f"versions    python {row['python']}, {versions}"
        yield f"XLA flags   {row['xla_flags'] or 'none'}"
        yield f"product     {row['product_flops'] / 1e12:.4g} TFLOP/s, bfloat16"
        yield f"memory      {row['memory_bytes_per_second'] / 1e9:.4g} GB/s, read and written"


def of_losses(rows: list[Row]) -> Iterator[str]:
    """Yields the lines of the stage `losses`."""
    expected = next((row["losses"] for row in rows if row["on_the_cpu"]), None)
    for row in rows:
        difference = "the CPU's losses are absent"
        if expected:
            pairs = zip(row["losses"], expected, strict=True)
            difference = f"largest difference {max(abs(a - b) for a, b in pairs):.1e}"
        device = "on the CPU" if row["on_the_cpu"] else row["device"]
        first, last = row["losses"][0], row["losses"][-1]
        yield f"{device:11} {row['setting']:18} {first:.5f} ... {last:.5f}  {difference}"
    stops = next((row["guard_stops_copies"] for row in rows if not row["on_the_cpu"]), None)
    yield f"the guard stops copies to the host on this device: {stops}"


def of_attention(rows: list[Row]) -> Iterator[str]:
    """Yields the lines of the stage `attention`."""
    names = ("output", "query", "key", "value")
    yield f"{'':14}{'ms':>8}" + "".join(f"{name:>10}" for name in names) + "  finite everywhere"
    for row in rows:
        if "error" in row:
            yield f"{row['path']:14} {row['error']}"
            continue
        found = "".join(f"{difference:10.1e}" for difference in row["differences"])
        yield f"{row['path']:14}{row['seconds'] * 1e3:8.2f}{found}  {row['finite']}"


def of_training(rows: list[Row]) -> Iterator[str]:
    """Yields the lines of the stage `training`."""
    for row in rows:
        yield (
            f"{row['seconds']:.0f} s: killed after step {row['killed_after']}, resumed from step "
            f"{row['resumed_from']}, ended after step {row['last_step']}"
        )
        yield f"repeated losses differ by at most {row['repeated_losses_differ_by']:.1e}"
        yield f"{'step':>8}{'loss':>8}{'held out':>10}{'tokens/s':>12}"
        for one in row["rows"]:
            held_out = one.get("eval/mlm_loss")
            yield (
                f"{one['step']:8}{one['train/loss']:8.3f}"
                f"{'' if held_out is None else f'{held_out:.3f}':>10}"
                f"{one.get('perf/tokens_per_second', 0):12,.0f}"
            )


def of_times(rows: list[Row]) -> Iterator[str]:
    """Yields the lines of the stage `times`."""
    yield (
        f"{'':31}{'rows':>5}{'ms':>9}{'tokens/s':>11}{'MFU':>7}{'memory, GiB':>13}"
        f"{'compile, s':>12}{'ratio':>7}"
    )
    for row in rows:
        name = f"{row['case']:10} {row['side']:20}"
        if "error" in row:
            yield f"{name} {row['error']}"
            continue
        utilization = row["model_flops_utilization"]
        # Our seconds in the same case; the ratio of our own row is left out.
        ours = [a for a in rows if (a["case"], a["side"]) == (row["case"], "bert_jax")]
        ratio = row["seconds"] / ours[0]["seconds"] if ours and "seconds" in ours[0] else None
        yield (
            f"{name}{row['rows']:5}{row['seconds'] * 1e3:9.2f}{row['tokens_per_second']:11,.0f}"
            f"{'' if utilization is None else f'{utilization:.3f}':>7}"
            f"{row['peak_bytes'] / 2**30:13.2f}{row['compile_seconds']:12.1f}"
            f"{'' if ratio is None else f'{ratio:.2f}':>7}"
        )


def of_kernels(rows: list[Row]) -> Iterator[str]:
    """Yields the lines of the stage `kernels`."""
    for row in rows:
        busy = row["seconds_of_kernels"]
        yield (
            f"{row['case']}: {busy * 1e3:.2f} ms of kernels in an update of "
            f"{row['seconds'] * 1e3:.2f} ms"
        )
        for part, seconds in row["parts"].items():
            yield f"{seconds * 1e3:9.3f} ms{seconds / busy:7.1%}  {part}"
        yield "the longest kernels, with their calls in an update"
        for one in row["longest"]:
            yield (
                f"{one['seconds'] * 1e3:9.3f} ms{one['seconds'] / busy:7.1%}{one['calls']:6.0f}  "
                f"{one['name'][:40]:40}  {one['place'][-70:]}"
            )


SECTIONS = {
    "environment": of_environment,
    "losses": of_losses,
    "attention": of_attention,
    "times": of_times,
    "kernels": of_kernels,
    "training": of_training,
}


if __name__ == "__main__":
    print(table(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
