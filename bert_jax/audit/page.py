"""Writes `audit.html`, a self-contained page that describes prepared data and their problems."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bert_jax.audit import figures
from bert_jax.audit.findings import SPLIT_NAMES, Finding, find, label_one, row_fill
from bert_jax.audit.shortcut import Shortcut, measure_data
from bert_jax.audit.template import open_templates
from bert_jax.data.passport import load_passport, load_token_counts, passport_fingerprint
from bert_jax.data.tokenizers.files import Tokenizer, load_tokenizer
from bert_jax.files import write_atomically

_FREQUENT_PIECES = 24
_RARE = 10
"""A piece with fewer occurrences than this is hardly trained."""


@dataclass(frozen=True, kw_only=True)
class Audit:
    """The content of the page: the passport, the results of `shortcut.py` and the findings."""

    path: Path
    passport: dict
    shortcut: Shortcut | None
    findings: list[Finding]


def write_page(directory: str | Path) -> Audit:
    """Writes the page into the directory. The same data give the same bytes.

    Raises:
      DataError: the directory holds no prepared data, or lacks a file that the passport names.
    """
    directory = Path(directory)
    passport = load_passport(directory)
    tokens = _describe_tokens(load_token_counts(directory), load_tokenizer(directory))
    shortcut = measure_data(directory, passport)
    findings = find(passport, unused_share=tokens["unused_share"], shortcut=shortcut)
    environment = open_templates(Path(__file__).parent)
    environment.filters |= {
        "count": "{:,}".format,
        "percent": lambda share, decimals=1: f"{share * 100:.{decimals}f}%",
        "size": lambda count: _scaled(count, ("B", "kB", "MB", "GB", "TB")),
        "rounded": lambda n: f"{n:,}" if n < 1_000_000 else _scaled(n, ("", "", "M", "G", "T")),
        "interval": lambda estimate: f"{estimate.low * 100:.1f} – {estimate.high * 100:.1f}%",
    }
    html = environment.get_template("page.html").render(
        name=directory.resolve().name,
        passport=passport,
        fingerprint=passport_fingerprint(passport),
        preparation=passport["preparation"],
        splits=passport["splits"],
        split_names=SPLIT_NAMES,
        label_one=label_one(passport),
        fill={split: row_fill(passport, split=split) for split in passport["splits"]},
        tokens=tokens,
        masking=passport.get("masking"),
        exclusion=passport.get("exclusion"),
        shortcut=shortcut,
        findings=findings,
        plots=_plots(passport, shortcut=shortcut),
    )
    path = directory / "audit.html"
    write_atomically(path, html)
    return Audit(path=path, passport=passport, shortcut=shortcut, findings=findings)


def _describe_tokens(counts: np.ndarray, tokenizer: Tokenizer) -> dict:
    """Returns statistics about how often each vocabulary piece occurs in training records."""
    ordinary = ~np.isin(np.arange(len(counts)), list(tokenizer.special_ids.values()))
    unused = np.flatnonzero(ordinary & (counts == 0))
    total = int(counts.sum())
    order = np.argsort(-counts, kind="stable")
    covered = np.cumsum(counts[order])
    frequent = [
        {"piece": tokenizer.pieces[i], "count": int(counts[i]), "share": counts[i] / total}
        for i in order[:_FREQUENT_PIECES]
        if counts[i]
    ]
    return {
        "total": total,
        "vocab_size": len(counts),
        "unused": len(unused),
        "unused_share": len(unused) / max(1, int(ordinary.sum())),
        "unused_examples": [tokenizer.pieces[i] for i in unused[:8]],
        "rare": int((ordinary & (counts > 0) & (counts < _RARE)).sum()),
        "rare_below": _RARE,
        "half": int(np.searchsorted(covered, total / 2) + 1) if total else 0,
        "frequent": frequent,
        "plot": figures.plot_frequencies(counts),
    }


def _plots(passport: dict, *, shortcut: Shortcut | None) -> dict:
    """Returns the SVG of each plot by name, or None if the passport lacks the plot's numbers."""
    plots = dict.fromkeys(("lengths", "balance", "masking", "shortcut"))
    summaries = {SPLIT_NAMES[name]: summary for name, summary in passport["splits"].items()}
    if lengths := {name: one["lengths"] for name, one in summaries.items() if "lengths" in one}:
        width = passport["preparation"]["sequence_length"]
        plots["lengths"] = figures.plot_lengths(lengths, sequence_length=width)
    paired = {name: one for name, one in summaries.items() if one["pairs"]}
    if paired:
        swapped = label_one(passport) == "swapped"
        names = ("in order", "swapped") if swapped else ("B follows A", "B is random")
        shares = {name: one["random_pairs"] / one["pairs"] for name, one in paired.items()}
        balance = {name: (1 - share, share) for name, share in shares.items()}
        plots["balance"] = figures.plot_shares(balance, names=names, aim=0.5)
    if masking := passport.get("masking"):
        drawn = [masking[f"{kind}_share"] for kind in ("mask", "random", "kept")]
        bars = {"drawn": drawn, "asked for": masking["config"]["split"]}
        names = ("[MASK]", "a random piece", "unchanged")
        plots["masking"] = figures.plot_shares(bars, names=names)
    if shortcut:
        plots["shortcut"] = figures.plot_shortcut(shortcut)
    return plots


def _scaled(number: float, units: Sequence[str]) -> str:
    """Returns the number with three digits and a unit such as kB."""
    power = 0
    while number >= 999.5 and power < len(units) - 1:
        number /= 1000
        power += 1
    return f"{number:.3g}\N{NO-BREAK SPACE}{units[power]}"
