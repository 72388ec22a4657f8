"""Draws the plots of the audit page as SVG, in the colours of the page's style sheet."""

import io
import re
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from bert_jax.audit.shortcut import Shortcut

# Placeholder colours. In the SVG, each is replaced by a colour of the page's style sheet.
_INK, _FAINT, _FIRST, _SECOND, _PAPER = "#010101", "#020202", "#030303", "#040404", "#050505"
_ON_THE_PAGE = {
    _INK: "currentColor",
    _FAINT: "var(--line)",
    _FIRST: "var(--first)",
    _SECOND: "var(--second)",
    _PAPER: "var(--paper)",
}
_STYLE = {
    "font.family": "sans-serif",
    "font.size": 10,
    "svg.fonttype": "none",  # text stays text, in the font of the page
    "svg.hashsalt": "bert_jax",  # makes the ids in the SVG reproducible
    **{name: _INK for name in ("text.color", "axes.labelcolor", "xtick.color", "ytick.color")},
    "axes.edgecolor": _FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _FAINT,
    "grid.linewidth": 0.6,
    **{f"{axis}tick.{kind}.size": 0 for axis in "xy" for kind in ("major", "minor")},
    "legend.frameon": False,
}
_WIDTH = 7.2  # inches of 72 SVG units; CSS stretches the plot to the width of the column
_PERCENT = PercentFormatter(1, decimals=0)
_STYLED = mpl.rc_context(_STYLE)  # pyright: ignore[reportArgumentType]


@_STYLED
def plot_lengths(counts: Mapping[str, Sequence[int]], *, sequence_length: int) -> Markup:
    """Plots the row lengths of each split: split `name` has `counts[name][n]` rows of n tokens."""
    width = -(-(sequence_length + 1) // 64)
    edges = np.arange(0, sequence_length + width + 1, width) - 0.5
    figure = Figure(figsize=(_WIDTH, 0.6 + 1.6 * len(counts)), layout="constrained")
    panels = figure.subplots(len(counts), sharex=True, sharey=True, squeeze=False)[:, 0]
    for axes, (name, rows), colour in zip(panels, counts.items(), (_FIRST, _SECOND), strict=False):
        shares, _ = np.histogram(np.arange(len(rows)), bins=edges, weights=rows)
        axes.stairs(shares / max(1, sum(rows)), edges, color=colour, fill=True)
        axes.set_yscale("log")
        axes.set_title(name, loc="left", fontsize=10)
        axes.yaxis.set_major_formatter(lambda share, _: f"{share * 100:g}%")
    panels[0].set_xlim(0, edges[-1])
    panels[-1].set_xlabel("tokens in a row, [CLS] and [SEP] counted")
    unit = f", per {width} tokens" if width > 1 else ""
    figure.supylabel(f"share of rows{unit}", fontsize=10)
    return _svg(figure)


@_STYLED
def plot_frequencies(token_counts: np.ndarray) -> Markup:
    """Plots the training count of each vocabulary piece against its rank, on logarithmic axes."""
    counts = np.sort(token_counts[token_counts > 0])[::-1]
    # 300 points look like the line through all points.
    ranks = np.unique(np.geomspace(1, max(1, len(counts)), 300).astype(int))
    shown = counts[ranks - 1] if len(counts) else np.ones(1)
    figure = Figure(figsize=(_WIDTH, 2.9), layout="constrained")
    axes = figure.add_subplot()
    zipf = {"color": _INK, "alpha": 0.5, "linewidth": 1, "linestyle": (0, (4, 3))}
    axes.loglog(ranks, shown[0] / ranks, label="Zipf: highest count / rank", **zipf)
    axes.loglog(ranks, shown, color=_FIRST, linewidth=2, label="these data")
    axes.set_ylim(bottom=max(0.5, shown[-1] / 2))
    axes.set_xlabel("rank of the piece")
    axes.set_ylabel("occurrences")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:,.0f}")
    axes.legend(loc="lower left")
    return _svg(figure)


@_STYLED
def plot_shares(
    bars: Mapping[str, Sequence[float]], *, names: Sequence[str], aim: float | None = None
) -> Markup:
    """Plots each entry of `bars` as a stacked bar. `names` label its shares; a line marks `aim`."""
    figure = Figure(figsize=(_WIDTH, 0.95 + 0.42 * len(bars)), layout="constrained")
    axes = figure.add_subplot()
    labels = list(bars)
    left = np.zeros(len(bars))
    shades = ((_FIRST, 1.0), (_SECOND, 1.0), (_INK, 0.55))
    for i, (name, (colour, alpha)) in enumerate(zip(names, shades, strict=False)):
        shares = np.array([bars[label][i] for label in labels])
        drawn = axes.barh(
            labels, shares, left=left, color=colour, alpha=alpha, height=0.62, label=name
        )
        texts = [f"{share:.1%}" if share >= 0.08 else "" for share in shares]
        axes.bar_label(drawn, texts, label_type="center", color=_PAPER)
        left += shares
    if aim is not None:
        axes.axvline(aim, color=_INK, linewidth=1, linestyle=(0, (3, 3)))
    axes.invert_yaxis()
    axes.grid(False)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(_PERCENT)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(names), borderaxespad=0.2)
    return _svg(figure)


@_STYLED
def plot_shortcut(shortcut: Shortcut) -> Markup:
    """Plots each classifier's held-out accuracy and interval, and the majority label's accuracy."""
    figure = Figure(figsize=(_WIDTH, 2.2), layout="constrained")
    axes = figure.add_subplot()
    names = [one.name for one in shortcut.classifiers]
    values = np.array([one.accuracy for one in shortcut.classifiers])
    errors = np.abs(values[:, 1:] - values[:, :1]).T
    axes.errorbar(
        *(values[:, 0], names),
        xerr=errors,
        fmt="o",
        color=_FIRST,
        markersize=6,
        elinewidth=2.2,
        label="accuracy, 95% interval",
    )
    line = {"color": _SECOND, "linewidth": 1.6, "linestyle": (0, (4, 3))}
    axes.axvline(shortcut.majority, label="majority label", **line)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(max(0, min(0.45, values.min() - 0.02)), 1)
    axes.xaxis.set_major_formatter(_PERCENT)
    axes.set_xlabel("held-out pair accuracy")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)
    return _svg(figure)


def _svg(figure: Figure) -> Markup:
    stream = io.StringIO()
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(stream, format="svg", transparent=True, metadata=metadata)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    for stand_in, colour in _ON_THE_PAGE.items():
        text = text.replace(stand_in, colour)
    # Nothing refers to these ids, and the other figures of the page have the same ids.
    text = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", text)
    return Markup(text)
