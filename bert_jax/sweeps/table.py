"""The table of a sweep as text, Markdown, LaTeX and CSV. No number is cut."""

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from bert_jax.sweeps.comparison import Row, statement
from bert_jax.sweeps.grid import Point

Columns = Mapping[str, Sequence[str]]
"""The cells of a table by column; the first column names the rows."""

NOTES = """Differences to point 0, the base, are paired by seed. low and high are the ends of 95 %
intervals by Student's t. The difference of a fine-tuning's metric has an interval for other
examples, too. p is corrected by Holm over all comparisons of the sweep, and the intervals are not.
A point is better or worse if p is below 0.05. The number of seeds that would tell follows from the
measured difference and deviation, as if they were the true ones.
"""


def as_text(columns: Columns, width: int = 80) -> str:
    """Returns tables of at most `width` characters, each with the first column of `columns`.

    A wider column gets a wider table of its own.
    """
    first, *rest = columns
    widths = {name: max(map(len, [name, *cells])) for name, cells in columns.items()}
    parts = [[first]]
    for name in rest:
        if len(parts[-1]) > 1 and sum(widths[n] + 2 for n in [*parts[-1], name]) > width + 2:
            parts.append([first])
        parts[-1].append(name)
    tables = []
    for part in parts:
        lines = [part, *zip(*(columns[name] for name in part), strict=True)]
        sizes = [widths[name] for name in part]
        tables.append("\n".join("  ".join(map(str.ljust, line, sizes)).rstrip() for line in lines))
    return "\n\n".join(tables)


def as_markdown(columns: Columns) -> str:
    """Returns a table in Markdown."""
    lines = [list(columns), ["---"] * len(columns), *zip(*columns.values(), strict=True)]
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def as_latex(columns: Columns) -> str:
    """Returns a table for LaTeX with the package booktabs."""

    def escape(cell: str) -> str:
        if re.fullmatch(r"[-+]?[\d.]+", cell):
            return f"${cell}$"
        named = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
        return re.sub(r"[&%$#_{}~^\\]", lambda found: named.get(found[0], f"\\{found[0]}"), cell)

    lines = [list(columns), *zip(*columns.values(), strict=True)]
    head, *body = (f"{' & '.join(map(escape, line))} \\\\" for line in lines)
    begin, end = f"\\begin{{tabular}}{{{'l' * len(columns)}}}", "\\end{tabular}"
    return "\n".join([begin, "\\toprule", head, "\\midrule", *body, "\\bottomrule", end])


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns CSV with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def point_columns(points: Sequence[Point]) -> dict[str, list[str]]:
    """Returns a column with the points' numbers, and one for each field that is not constant."""
    columns = {"point": [str(point.number) for point in points]}
    return columns | {path: [str(p.fields[path]) for p in points] for path in points[0].fields}


def metric_columns(rows: Sequence[Row], *, exact: bool = False) -> dict[str, list[str]]:
    """Returns the columns of a metric's table, without empty ones; with `exact`, every digit."""
    form = "" if exact else f".{decimals_of(rows)}f"

    def numbers(values: Sequence[Any], form: str) -> list[str]:
        return ["" if math.isnan(value) else f"{value:{form}}" for value in map(float, values)]

    columns = point_columns([row.point for row in rows])
    columns["seeds"] = [str(row.estimate.count) for row in rows]
    columns["failed"] = [str(row.failed or "") for row in rows]
    for name in ("mean", "deviation", "low", "high"):
        columns[name] = numbers([getattr(row.estimate, name) for row in rows], form)
    for name in ("mean", "low", "high"):
        values = numbers([getattr(row.difference, name) for row in rows], form and f"+{form}")
        columns["difference" if name == "mean" else f"difference {name}"] = values
    columns["p"] = numbers([row.p_value for row in rows], "" if exact else ".2g")
    columns["verdict"] = [row.verdict for row in rows]
    columns["seeds to tell"] = [str(row.seeds_to_tell or "") for row in rows]
    costs = [math.nan if math.isclose(row.cost, 1, rel_tol=0.005) else row.cost for row in rows]
    columns["relative FLOPs"] = numbers(costs, ".2f")
    tuned = [row.point.runs[0].tuning or {} for row in rows]
    for name, key, form in (("FLOPs", "flops", ".3g"), ("seconds", "seconds", ".0f")):
        spent = [choice.get(key, math.nan) for choice in tuned]
        columns[f"tuning {name}"] = numbers(spent, "" if exact else form)
    return {name: cells for name, cells in columns.items() if exact or any(cells)}


def decimals_of(rows: Sequence[Row]) -> int:
    """Returns how many decimals show two digits of the smallest standard deviation: 2 to 6."""
    deviations = [e.deviation for row in rows for e in (row.estimate, row.difference)]
    positive = [float(deviation) for deviation in deviations if deviation > 0]
    return min(max(1 - math.floor(math.log10(min(positive))), 2), 6) if positive else 4


def files_of(rows: Sequence[Row]) -> dict[str, str]:
    """Returns the contents of `table.md`, `table.tex` and `table.csv` by name."""
    groups = [list(group) for _, group in groupby(rows, key=lambda row: row.metric)]
    latex = [f"% {group[0].metric}\n{as_latex(metric_columns(group))}\n" for group in groups]
    records = [
        {"metric": group[0].metric} | dict(zip(columns, line, strict=True))
        for group in groups
        for columns in [metric_columns(group, exact=True)]
        for line in zip(*columns.values(), strict=True)
    ]
    notes = "".join(f"% {line}\n" for line in [*NOTES.splitlines(), "\\usepackage{booktabs}"])
    return {
        "table.md": report(rows, as_markdown),
        "table.tex": "\n".join([notes, *latex]),
        "table.csv": as_csv(records),
    }


def report(rows: Sequence[Row], render: Any) -> str:
    """Returns the tables of all metrics, and a statement for each comparison.

    `render` is `as_markdown` or `as_text`.
    """
    parts, statements = [], []
    for metric, group in groupby(rows, key=lambda row: row.metric):
        of_metric = list(group)
        parts.append(f"{metric}\n\n{render(metric_columns(of_metric))}\n")
        statements += [f"- {statement(r, decimals_of(of_metric))}\n" for r in of_metric[1:]]
    return "\n".join([*parts, *(["".join(statements), NOTES] if statements else [])])
