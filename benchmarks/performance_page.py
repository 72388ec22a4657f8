"""Writes the tables and figures of docs/performance.md from its records.

  python benchmarks/performance_page.py

The records are docs/runs/performance.json, which `bash launch/bench.sh` makes,
docs/runs/time_to_quality.json, which benchmarks/time_to_quality.py makes, and
docs/runs/use_speed.json, which benchmarks/use_speed.py makes. A table stands between
the lines `<!-- NAME -->` and `<!-- end -->` of the page. Everything else is written by hand.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from bert_jax import command
from bert_jax.benchmarking.comparison import OURS, median, share_of_ceiling
from bert_jax.errors import DataError
from bert_jax.files import write_atomically

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "performance.md"
RECORD = DOCS / "runs" / "performance.json"
QUALITY = DOCS / "runs" / "time_to_quality.json"
USE = DOCS / "runs" / "use_speed.json"
GROWTH_FIGURE = DOCS / "runs" / "performance_growth.png"
PARTS_FIGURE = DOCS / "runs" / "performance_parts.png"

Record = Mapping[str, Any]

FIELDS = {
    "model.num_layers": "layers",
    "model.hidden_size": "width",
    "data.sequence_length": "tokens in a row",
    "data.batch_size": "rows",
}
"""The fields of `growth`, and their labels in the figure."""

UNCHANGED = {
    "model.num_layers": 4,
    "model.hidden_size": 256,
    "data.sequence_length": 128,
    "data.batch_size": 8,
}
"""Their values in the measurement `growth/unchanged`."""


def of_kind(record: Record, kind: str) -> dict[str, Any]:
    """Returns the measurements whose names begin with `kind/`, by the rest of their names."""
    start, named = f"{kind}/", record["results"].items()
    return {name.removeprefix(start): one for name, one in named if name.startswith(start)}


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Returns a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def image(file: Path, said: str) -> str:
    return f"![{said}]({file.relative_to(DOCS)})\n\n"


def machine_table(record: Record) -> str:
    machine = record["machine"]
    versions = dict(machine["versions"])
    for peers in of_kind(record, "peers").values():
        versions |= peers["sides"]["stock"][0]["versions"]
    shown = ("jax", "torch", "transformers")
    rows = [
        ("processor", f"{machine['processor']}, {machine['cores']} cores"),
        ("instructions", ", ".join(machine["features"])),
        ("memory", f"{machine['memory_gib']:.0f} GiB"),
        ("commit", machine["commit"][:7] + (" + changes" * bool(machine["uncommitted_changes"]))),
        ("date", machine["date"]),
        ("versions", ", ".join(f"{name} {versions[name]}" for name in shown if name in versions)),
    ]
    return table(("", ""), rows)


def peers_table(record: Record) -> str:
    head = ("model, rows x tokens", "form", "seconds", "tokens/s", "of ceiling", "peak memory, MiB")
    head += ("ratio (min to max)", "normalized")
    rows = []
    for name, result in of_kind(record, "peers").items():
        for form, rounds in result["sides"].items():
            seconds = median(rounds, "seconds")
            row = [name.replace("-", " ").replace("x", " x ") if form == OURS else "", form]
            row += [f"{seconds:.3f}", f"{result['rows'] * result['length'] / seconds:,.0f}"]
            row += [f"{share_of_ceiling(result, form):.2f}"]
            row += [f"{max(one['peak_bytes'] for one in rounds) / 2**20:,.0f}"]
            if found := result["ratios"].get(form):
                row += [f"{found['ratio']:.2f} ({found['min']:.2f} to {found['max']:.2f})"]
                row += [f"{found['normalized']:.2f}"]
            else:
                row += ["", ""]
            rows.append(row)
    return table(head, rows)


def ceilings_table(record: Record) -> str:
    head = ("model, rows x tokens", "jax, first and last", "torch, first and last")
    rows = []
    for name, result in of_kind(record, "peers").items():
        rates = [result["ceilings"][library] for library in (OURS, "torch")]
        shown = [f"{first / 1e9:,.0f}, {last / 1e9:,.0f}" for first, last in rates]
        rows.append([name.replace("-", " ").replace("x", " x "), *shown])
    return table(head, rows)


def parts_table(record: Record) -> str:
    parts = of_kind(record, "parts")
    names = {part for one in parts.values() for part in one["parts"]}
    longest = max(parts.values(), key=lambda one: one["seconds"])["parts"]
    rows = []
    for part in sorted(names, key=lambda part: -longest.get(part, 0)):
        row = [part]
        for one in parts.values():
            share = one["parts"].get(part, 0)
            row += [f"{1e3 * one['seconds'] * share:.1f}", f"{share:.1%}"]
        rows.append(row)
    rows.append(["whole update"])
    for one in parts.values():
        rows[-1] += [f"{1e3 * one['seconds']:.1f}", ""]
    head = ["part"]
    for dropout in parts:
        head += [f"ms, dropout {dropout}", "share"]
    return image(PARTS_FIGURE, "Milliseconds of each part of an update") + table(head, rows)


def growth_of(record: Record, field: str) -> dict[int, Any]:
    """Returns the measurements with different values of a field, in the order of the values."""
    found = {int(value): one for value, one in of_kind(record, f"growth/{field}").items()}
    found[UNCHANGED[field]] = record["results"]["growth/unchanged"]
    return dict(sorted(found.items()))


def growth_table(record: Record) -> str:
    head = ("changed field", "value", "ms an update", "tokens/s", "of ceiling", "memory, MiB")
    head += ("compile, s",)
    rows = []
    for field in FIELDS:
        for value, one in growth_of(record, field).items():
            row = [f"`{field}`", value, f"{1e3 * one['step_seconds']['median']:.1f}"]
            row += [f"{one['tokens_per_second']:,.0f}", f"{one['model_flops_utilization']:.2f}"]
            row += [f"{one['memory_bytes']['peak'] / 2**20:,.0f}", f"{one['compile_seconds']:.1f}"]
            rows.append(row)
    return image(GROWTH_FIGURE, "Milliseconds of an update") + table(head, rows)


def variants_table(record: Record, name: str) -> str:
    """Returns a table of variants, which compares each with the first."""
    sides = record["results"][name]["sides"]
    first, *_ = sides
    head = ("variant", "ms an update", f"time / {first} (min to max)", "memory of the update, MiB")
    rows = []
    for variant, rounds in sides.items():
        pairs = zip(rounds, sides[first], strict=True)
        ratios = [one["seconds"] / plain["seconds"] for one, plain in pairs]
        ratio = median(rounds, "seconds") / median(sides[first], "seconds")
        shown = f"{ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        row = [variant, f"{1e3 * median(rounds, 'seconds'):.1f}", "" if variant == first else shown]
        rows.append([*row, f"{median(rounds, 'program_bytes') / 2**20:,.0f}"])
    return table(head, rows)


def quality_table(quality: Record) -> str:
    head = ("", "seconds", "of it compilation", "updates", "held-out masked loss", "ratio")
    rows = []
    for side, one in quality["sides"].items():
        row = [side, f"{one['seconds']:.1f}", f"{one['compile_seconds']:.1f}", one["updates"]]
        row += [f"{one['held_out_mlm_loss']:.3f}"]
        rows.append([*row, "" if side == OURS else f"{quality['ratio']:.2f}"])
    return table(head, rows)


def use_table(record: Record) -> str:
    """Returns the table of benchmarks/use_speed.py. Its last line describes the machine."""
    head = (
        "work",
        "side",
        "ms (min to max)",
        "slots / token",
        "ratio (min to max)",
        "ratio of the fastest rounds",
    )
    rows = []
    for name, result in record["results"].items():
        sides = result["rounds"]
        tokens = sides[OURS][0]["tokens"]
        for side, rounds in sides.items():
            found = [1e3 * one["seconds"] for one in rounds]
            row = [name if side == OURS else "", side]
            row += [
                f"{median(rounds, 'seconds') * 1e3:,.0f} ({min(found):,.0f} to {max(found):,.0f})"
            ]
            row += [f"{rounds[0]['slots'] / tokens:.2f}"]
            if side == OURS:
                row += ["", ""]
            else:
                ratio = result["ratio"]
                row += [f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})"]
                row += [f"{ratio['fastest']:.2f}"]
            rows.append(row)
    machine = record["machine"]
    text = f"{machine['processor']}, {machine['cores']} cores, commit {machine['commit'][:7]}"
    cosines = [one["smallest_cosine"] for one in record["results"].values()]
    smallest = min(filter(None, cosines))
    text += f", {machine['date']}. The smallest cosine of a text's two vectors is {smallest:.7f}."
    return f"{table(head, rows)}\n\n{text}"


TABLES: dict[str, tuple[Path, Callable[[Record], str]]] = {
    "machine": (RECORD, machine_table),
    "peers": (RECORD, peers_table),
    "ceilings": (RECORD, ceilings_table),
    "parts": (RECORD, parts_table),
    "growth": (RECORD, growth_table),
    "dropout": (RECORD, lambda record: variants_table(record, "dropout")),
    "variants": (RECORD, lambda record: variants_table(record, "variants")),
    "quality": (QUALITY, quality_table),
    "use": (USE, use_table),
}
"""The record and the function of each table. Without its record, a table stays as it is."""


def filled(page: str, tables: Mapping[str, tuple[Path, Callable[[Record], str]]]) -> str:
    """Returns the text of the page with the tables of the records that exist."""
    for name, (file, make) in tables.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        if len(re.findall(pattern, page, flags=re.S)) != 1:
            raise DataError(f"the page has no table {name}; accepted: one, `<!-- {name} -->`")
        if file.exists():
            text = make(json.loads(file.read_text(encoding="utf-8")))
            page = re.sub(
                pattern, lambda found, text=text: f"{found[1]}{text}\n{found[2]}", page, flags=re.S
            )
    return page


def growth_figure(record: Record) -> Figure:
    """Returns a figure of the time of an update, with a panel for each field that grows."""
    figure = Figure(figsize=(11, 3), layout="constrained")
    panels = figure.subplots(1, len(FIELDS))
    for axes, (field, label) in zip(panels, FIELDS.items(), strict=True):
        found = growth_of(record, field)
        seconds = [1e3 * one["step_seconds"]["median"] for one in found.values()]
        axes.plot(list(found), seconds, marker="o")
        axes.set(xlabel=label, xticks=list(found), xlim=(0, 1.05 * max(found)))
        axes.set_ylim(0, 1.1 * max(seconds))
        axes.grid(color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("ms an update")
    return figure


def parts_figure(record: Record) -> Figure:
    """Returns a figure with the milliseconds of each part of an update with dropout."""
    one = of_kind(record, "parts")["0.1"]
    parts = dict(sorted(one["parts"].items(), key=lambda item: item[1]))
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(list(parts), [1e3 * one["seconds"] * share for share in parts.values()])
    axes.bar_label(bars, fmt="%.0f", padding=3)
    axes.set(xlabel="ms an update")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def write() -> None:
    """Writes the tables into the page, and the figures beside the record."""
    write_atomically(PAGE, filled(PAGE.read_text(encoding="utf-8"), TABLES))
    if RECORD.exists():
        record = json.loads(RECORD.read_text(encoding="utf-8"))
        growth_figure(record).savefig(GROWTH_FIGURE, dpi=110)
        parts_figure(record).savefig(PARTS_FIGURE, dpi=110)
    print(f"{PAGE} has the figures of {RECORD.name}, {QUALITY.name} and {USE.name}")


if __name__ == "__main__":
    command.run(write)
