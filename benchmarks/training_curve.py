"""Draws losses and accuracies of a pretraining run, beside what needs no model.

  python benchmarks/training_curve.py --run=runs/mix --output=docs/runs/mix/curve.png

The run's `metrics.jsonl` and `result.json` are read.
"""

import json
from pathlib import Path
from typing import Any

from absl import flags
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bert_jax import command
from bert_jax.errors import ConfigError, DataError

FLAGS = flags.FLAGS
PANELS = (
    ("mlm_loss", "masked language model loss, nats", "unigram_loss", "unigram"),
    ("mlm_accuracy", "masked language model accuracy", "majority_token_accuracy", "most frequent"),
    ("nsp_accuracy", "next sentence accuracy", "nsp_majority_accuracy", "majority"),
)
"""Metric, its title, and the field of result.json that has what is to beat."""


def draw(rows: list[dict[str, float]], result: dict[str, Any]) -> Figure:
    """Returns a figure with a panel for each metric that the rows have."""
    panels = [panel for panel in PANELS if any(f"train/{panel[0]}" in row for row in rows)]
    figure = Figure(figsize=(4.2 * len(panels), 3.2), layout="constrained")
    for axes, (metric, title, floor, told) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
    ):
        plot(axes, rows, metric)
        if floor in result:
            axes.axhline(result[floor], color="0.5", linestyle=":", label=told)
        axes.set(title=title, xlabel="step")
        axes.title.set_fontsize("medium")
        axes.legend(frameon=False)
        axes.grid(color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def plot(axes: Axes, rows: list[dict[str, float]], metric: str) -> None:
    """Draws a metric of the training batches, thin, and of the held-out examples."""
    styles: dict[str, dict[str, Any]] = {
        "train": {"label": "training", "linewidth": 0.8, "alpha": 0.6},
        "eval": {"label": "held out", "marker": ".", "markersize": 4},
    }
    for split, style in styles.items():
        points = [(row["step"], row[name]) for row in rows if (name := f"{split}/{metric}") in row]
        axes.plot(*zip(*points, strict=True), **style)


def main() -> None:
    """Runs the command."""
    for name in ("run", "output"):
        if not FLAGS[name].value:
            raise ConfigError(f"--{name} is missing; accepted: a path")
    files = [Path(FLAGS.run) / name for name in ("metrics.jsonl", "result.json")]
    for file in files:
        if not file.is_file():
            raise DataError(f"{file} is missing; accepted: the workdir of a finished pretraining")
    rows = [json.loads(line) for line in files[0].open()]
    draw(rows, json.loads(files[1].read_text())).savefig(FLAGS.output, dpi=110)


if __name__ == "__main__":
    flags.DEFINE_string("run", None, "Workdir of a finished pretraining.")
    flags.DEFINE_string("output", None, "PNG or SVG to write.")
    command.run(main)
