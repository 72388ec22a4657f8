"""Draws the losses and accuracies of a run beside baselines that need no model."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

PANELS = (
    ("mlm_loss", "masked language model loss, nats", "unigram_loss", "unigram"),
    ("mlm_accuracy", "masked language model accuracy", "majority_token_accuracy", "most frequent"),
    ("nsp_accuracy", "next sentence accuracy", "nsp_majority_accuracy", "majority"),
)
"""Metric, title of its panel, field of result.json with the baseline, and the baseline's label."""


def draw(
    rows: Sequence[dict[str, float]], result: dict[str, Any], figure: Figure | None = None
) -> Figure:
    """Returns the figure, by default a new one, with a panel for each metric in the rows."""
    panels = [panel for panel in PANELS if any(f"train/{panel[0]}" in row for row in rows)]
    figure = figure or Figure()
    figure.set_size_inches(4.2 * len(panels), 3.2)
    figure.set_layout_engine("constrained")
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


def plot(axes: Axes, rows: Sequence[dict[str, float]], metric: str) -> None:
    """Draws a metric of the training batches (thin line) and of the held-out examples."""
    styles: dict[str, dict[str, Any]] = {
        "train": {"label": "training", "linewidth": 0.8, "alpha": 0.6},
        "eval": {"label": "held out", "marker": ".", "markersize": 4},
    }
    for split, style in styles.items():
        points = [(row["step"], row[name]) for row in rows if (name := f"{split}/{metric}") in row]
        axes.plot(*zip(*points, strict=True), **style)
