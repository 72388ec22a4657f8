"""Draws the losses and accuracies of a pretraining run beside baselines that need no model.

  python benchmarks/training_curve.py --run=runs/mix --output=curve.png
  python benchmarks/training_curve.py --run=docs/runs/mix.jsonl --output=docs/runs/mix.png

--run is a workdir or a record (benchmarks/record.py).
"""

from typing import Any

from absl import flags
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from record import load_runs

from bert_jax import command
from bert_jax.errors import ConfigError, DataError

FLAGS = flags.FLAGS
PANELS = (
    ("mlm_loss", "masked language model loss, nats", "unigram_loss", "unigram"),
    ("mlm_accuracy", "masked language model accuracy", "majority_token_accuracy", "most frequent"),
    ("nsp_accuracy", "next sentence accuracy", "nsp_majority_accuracy", "majority"),
)
"""Metric, title of its panel, field of result.json with the baseline, and the baseline's label."""


def draw(rows: list[dict[str, float]], result: dict[str, Any]) -> Figure:
    """Returns a figure with a panel for each metric in the rows."""
    panels = [panel for panel in PANELS if any(f"train/{panel[0]}" in row for row in rows)]
    figure = Figure(figsize=(4.2 * len(panels), 3.2), layout="constrained")
    for axes, (metric, title, baseline, label) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
    ):
        plot(axes, rows, metric)
        if baseline in result:
            axes.axhline(result[baseline], color="0.5", linestyle=":", label=label)
        axes.set(title=title, xlabel="step")
        axes.title.set_fontsize("medium")
        axes.legend(frameon=False)
        axes.grid(color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def plot(axes: Axes, rows: list[dict[str, float]], metric: str) -> None:
    """Draws a metric of the training batches (thin line) and of the held-out examples."""
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
    runs = load_runs(FLAGS.run)
    if len(runs) > 1:
        raise DataError(f"--run={FLAGS.run} holds {len(runs)} runs; accepted: one run")
    ((place, run),) = runs.items()
    if not any("train/mlm_loss" in row for row in run["metrics"]):
        raise DataError(f"{place} is not a pretraining run; accepted: a run of `pretrain`")
    draw(run["metrics"], run["result"]).savefig(FLAGS.output, dpi=110)


if __name__ == "__main__":
    flags.DEFINE_string("run", None, "Workdir of a finished pretraining run, or a record of it.")
    flags.DEFINE_string("output", None, "PNG or SVG to write.")
    command.run(main)
