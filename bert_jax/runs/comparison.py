"""Compares two opened models: their sources, configs, metrics, curves and fillings of masks."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from bert_jax.config.paths import typed_failures
from bert_jax.config.stored import diff
from bert_jax.errors import CheckpointError, DataError, require
from bert_jax.faults.run_files import RunResult
from bert_jax.files import read_json_if_whole
from bert_jax.runs.description import chosen_experiment, describe
from bert_jax.runs.inference import as_texts
from bert_jax.runs.run import Run

Row = tuple[str, ...]
"""The label of a row, and a cell for each model."""

Table = tuple[str, list[Row]]
"""Title and rows."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two models side by side; `repr` and notebooks show `tables`."""

    names: tuple[str, str]
    config: dict[str, tuple[Any, Any]]
    """The fields in which the configs differ, with both values. A field that one lacks is None."""
    tables: list[Table]
    """Tables of the models, configs, last held-out metrics and fillings of masks."""
    curves: dict[str, tuple[list[dict[str, float]], dict[str, Any]]]
    """Rows of `metrics.jsonl` and content of `result.json` by name; empty for other weights."""

    def __repr__(self) -> str:
        return "\n\n".join(_as_text(title, ("", *self.names), rows) for title, rows in self.tables)

    def _repr_html_(self) -> str:
        return "".join(_as_html(title, ("", *self.names), rows) for title, rows in self.tables)

    def plot_curves(self) -> Any:
        """Draws the losses and accuracies of both runs, and returns matplotlib's axes.

        Raises:
          DataError: neither model is a run, so there are no curves.
        """
        names = ", ".join(self.names)
        require(self.curves, "compare", names, "a run with metrics.jsonl", error=DataError)
        import matplotlib.pyplot as plt

        from bert_jax.runs.curves import draw

        return draw(self.curves, plt.figure).axes


@typed_failures()
def compare(
    run_a: Run, run_b: Run, texts: str | Sequence[str] = (), *, top_k: int = 3
) -> Comparison:
    """Compares two opened models: configs, metrics, curves, and the masks of `texts`.

    Args:
      run_a: a `Run`.
      run_b: another `Run`, or another step of the same.
      texts: texts with [MASK], which both models fill.
      top_k: number of word pieces for each mask.

    Raises:
      DataError: a text has no [MASK], or is too long.
      CheckpointError: a model lacks the masked-token head, or is not opened.
    """
    runs, texts = (run_a, run_b), as_texts(texts)
    for name, run in zip(("run_a", "run_b"), runs, strict=True):
        require(isinstance(run, Run), name, run, "an opened run", error=CheckpointError)
    names = _names(runs)
    prefix = "" if run_a.config and run_b.config else "model."
    configs = [run.model.config if prefix else run.config for run in runs]
    differing = {prefix + name: values for name, values in diff(*configs).items()}
    of_config = [(name, *map(_shown, values)) for name, values in differing.items()]
    about = [describe(run) | {"experiment": chosen_experiment(run)} for run in runs]
    metrics = [_held_out(run) for run in runs]
    answers = [run.fill_mask(texts, top_k) if texts else [] for run in runs]
    tables: list[Table] = [
        ("models", [(n, *(one.get(n, "-") for one in about)) for n in about[0] | about[1]]),
        ("config", of_config or [("no difference", "", "")]),
        ("held out", [(n, *(_shown(m.get(n)) for m in metrics)) for n in metrics[0] | metrics[1]]),
        *((text, list(_fillings(*both))) for text, *both in zip(texts, *answers, strict=True)),
    ]
    curves = {
        name: (run.metrics(), read_json_if_whole(run.path / "result.json", RunResult))
        for name, run in zip(names, runs, strict=True)
        if run.config and (run.path / "metrics.jsonl").exists()
    }
    return Comparison(names=names, config=differing, tables=tables, curves=curves)


def _names(runs: Sequence[Run]) -> tuple[str, str]:
    """Returns the shortest of three names that tells the runs apart."""
    for name in ("{0.path.name}", "{0.path}", "{0.path}, step {0.step}"):
        first, second = map(name.format, runs)
        if first != second:
            return first, second
    return f"{first} (1)", f"{second} (2)"


def _held_out(run: Run) -> dict[str, float]:
    """Returns the last held-out metrics of a run up to its step, without `eval/`."""
    rows = run.metrics() if (run.path / "metrics.jsonl").exists() else []
    found: dict[str, float] = {}
    for row in (row for row in rows if row["step"] <= run.step):
        found |= {n.removeprefix("eval/"): v for n, v in row.items() if n.startswith("eval/")}
    return found


def _fillings(first: list[list[Any]], second: list[list[Any]]) -> Iterator[Row]:
    """Yields a row for each mask and rank. Both models fill the same masks."""
    for mask, both in enumerate(zip(first, second, strict=True), 1):
        # A vocabulary may have fewer pieces than `top_k`.
        for rank, pieces in enumerate(zip(*both, strict=False), 1):
            label = f"mask {mask}, {rank}." if len(first) > 1 else f"{rank}."
            yield (label, *(f"{one.piece} {one.probability:.3f}" for one in pieces))


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _as_text(title: str, header: Row, rows: list[Row]) -> str:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in (header, *rows))
    return "\n".join([title, *lines])


def _as_html(title: str, header: Row, rows: list[Row]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    cells = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows)
    body = "".join(f"<tr>{row}</tr>" for row in cells)
    return f"<table><caption>{escape(title)}</caption><tr>{head}</tr>{body}</table>"
