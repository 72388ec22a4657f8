"""Draws the losses and accuracies of runs beside baselines that need no model."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bert_jax.errors import CheckpointError

PANELS = (
    ("mlm_loss", "masked language model loss, nats", "unigram_loss", "unigram"),
    ("mlm_accuracy", "masked language model accuracy", "majority_token_accuracy", "most frequent"),
    ("nsp_accuracy", "next sentence accuracy", "nsp_majority_accuracy", "majority"),
)
"""Metric, title of its panel, field of result.json with the baseline, and the baseline's label."""


Rows = Sequence[dict[str, float]]


def draw(
    runs: Mapping[str, tuple[Rows, dict[str, Any]]], make_figure: Callable[[], Figure] = Figure
) -> Figure:
    """Returns a figure with a panel for each metric in the rows.

    `runs` maps a name to the rows of a run and to the content of `result.json` with the baselines.
    Each of several runs has its own colour. A baseline that they share is drawn once.

    Raises:
      CheckpointError: the rows have no metric of `PANELS`, as those of a fine-tuning.
    """
    logged = {name for rows, _ in runs.values() for row in rows for name in row}
    panels = [panel for panel in PANELS if f"train/{panel[0]}" in logged]
    if not panels:
        names = ", ".join(runs)
        accepted = "a run of pretrain that has logged a row"
        raise CheckpointError(f"{names} logged no losses of words; accepted: {accepted}")
    figure = make_figure()
    figure.set_size_inches(4.2 * len(panels), 3.2)
    figure.set_layout_engine("constrained")
    for axes, (metric, title, baseline, label) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
    ):
        known = {result[baseline] for _, result in runs.values() if baseline in result}
        for number, (name, (rows, result)) in enumerate(runs.items()):
            color, prefix = (f"C{number}", f"{name}, ") if len(runs) > 1 else (None, "")
            plot(axes, rows, metric, prefix=prefix, color=color)
            if len(known) > 1 and baseline in result:
                axes.axhline(result[baseline], color=color, linestyle=":", label=prefix + label)
        if len(known) == 1:
            axes.axhline(known.pop(), color="0.5", linestyle=":", label=label)
        axes.set(title=title, xlabel="step")
        axes.title.set_fontsize("medium")
        axes.legend(frameon=False, fontsize="small" if len(runs) > 1 else None)
        axes.grid(color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def plot(
    axes: Axes, rows: Rows, metric: str, *, prefix: str = "", color: str | None = None
) -> None:
    """Draws a metric of the training batches (thin line) and of the held-out examples."""
    styles: dict[str, dict[str, Any]] = {
        "train": {"label": "training", "linewidth": 0.8, "alpha": 0.6},
        "eval": {"label": "held out", "marker": ".", "markersize": 4},
    }
    for split, style in styles.items():
        points = [(row["step"], row[name]) for row in rows if (name := f"{split}/{metric}") in row]
        if points:
            style["label"] = prefix + style["label"]
            axes.plot(*zip(*points, strict=True), color=color, **style)
