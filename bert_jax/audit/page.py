"""Writes `audit.html`: the passport of prepared data as a self-contained page."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from bert_jax.audit import figures
from bert_jax.audit.findings import SPLIT_NAMES, Finding, find, label_one, row_fill
from bert_jax.audit.shortcut import (
    HELD_OUT_ROWS,
    TRAIN_ROWS,
    Estimate,
    Shortcut,
    load_pairs,
    measure_shortcut,
)
from bert_jax.data.passport import (
    TOKEN_COUNTS_FILE,
    load_passport,
    load_token_counts,
    passport_fingerprint,
)
from bert_jax.data.tokenizers.files import Tokenizer, load_tokenizer
from bert_jax.errors import DataError
from bert_jax.files import write_atomically

PAGE_FILE = "audit.html"

_TEMPLATE = "page.html"
_FREQUENT_PIECES = 24
_RARE = 10
"""A piece with fewer occurrences than this is hardly trained."""


@dataclass(frozen=True, kw_only=True)
class Audit:
    """The results on the page: the passport and what was measured."""

    path: Path
    passport: dict
    shortcut: Shortcut | None
    findings: list[Finding]


def write_page(directory: str | Path) -> Audit:
    """Writes the page into the directory. The same data give the same bytes.

    Raises:
      DataError: the directory holds no prepared data, or a file of the passport is missing.
    """
    directory = Path(directory)
    passport = load_passport(directory)
    tokenizer = load_tokenizer(directory)
    tokens = _describe_tokens(_load_counts(directory, tokenizer), tokenizer)
    shortcut = _measure(directory, passport)
    findings = find(passport, unused_share=tokens["unused_share"], shortcut=shortcut)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": "{:,}".format,
        "percent": _percent,
        "size": _size,
        "rounded": _rounded,
        "interval": _interval,
    }
    html = environment.get_template(_TEMPLATE).render(
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
    path = directory / PAGE_FILE
    write_atomically(path, html)
    return Audit(path=path, passport=passport, shortcut=shortcut, findings=findings)


def _load_counts(directory: Path, tokenizer: Tokenizer) -> np.ndarray:
    path = directory / TOKEN_COUNTS_FILE
    try:
        counts = load_token_counts(directory)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); prepare again") from error
    if counts.shape != (tokenizer.vocab_size,):
        raise DataError(
            f"{path} has shape {counts.shape}; accepted: ({tokenizer.vocab_size},), the vocabulary"
        )
    return counts


def _measure(directory: Path, passport: dict) -> Shortcut | None:
    if passport["preparation"]["pairs"] == "none":
        return None
    return measure_shortcut(
        load_pairs(directory, passport, split="train", rows=TRAIN_ROWS),
        load_pairs(directory, passport, split="eval", rows=HELD_OUT_ROWS),
        vocab_size=passport["vocab_size"],
        sequence_length=passport["preparation"]["sequence_length"],
    )


def _describe_tokens(counts: np.ndarray, tokenizer: Tokenizer) -> dict:
    """Returns statistics of the vocabulary in the training records, special pieces aside."""
    special = [
        *(tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id),
        *(tokenizer.sep_id, tokenizer.mask_id),
    ]
    ordinary = np.ones(len(counts), bool)
    ordinary[special] = False
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
    """Returns the plots as SVG by name, with None where the passport lacks the numbers."""
    splits = passport["splits"]
    lengths = {
        SPLIT_NAMES[split]: summary["lengths"]
        for split, summary in splits.items()
        if "lengths" in summary
    }
    balance = {
        SPLIT_NAMES[split]: _shares(summary["random_pairs"], summary["pairs"])
        for split, summary in splits.items()
        if summary["pairs"]
    }
    masking = passport.get("masking")
    sequence_length = passport["preparation"]["sequence_length"]
    answers = ("B follows A", f"B is {label_one(passport)}")
    if label_one(passport) == "swapped":
        answers = ("in order", "swapped")
    shares = ("mask_share", "random_share", "kept_share")
    return {
        "lengths": figures.plot_lengths(lengths, sequence_length=sequence_length)
        if lengths
        else None,
        "balance": figures.plot_shares(balance, names=answers, aim=0.5) if balance else None,
        "masking": figures.plot_shares(
            {
                "drawn": tuple(masking[share] for share in shares),
                "asked for": masking["config"]["split"],
            },
            names=("[MASK]", "a random piece", "unchanged"),
        )
        if masking
        else None,
        "shortcut": figures.plot_shortcut(shortcut) if shortcut else None,
    }


def _shares(part: int, whole: int) -> tuple[float, float]:
    return 1 - part / whole, part / whole


def _percent(share: float, decimals: int = 1) -> str:
    return f"{share * 100:.{decimals}f}%"


def _interval(estimate: Estimate) -> str:
    return f"{estimate.low * 100:.1f} – {estimate.high * 100:.1f}%"


def _size(count: int) -> str:
    return _scaled(count, ("B", "kB", "MB", "GB", "TB"))


def _rounded(count: int) -> str:
    return f"{count:,}" if count < 1_000_000 else _scaled(count, ("", "", "M", "G", "T"))


def _scaled(number: float, units: Sequence[str]) -> str:
    """Returns the number with three digits and a unit such as kB."""
    power = 0
    while number >= 999.5 and power < len(units) - 1:
        number /= 1000
        power += 1
    return f"{number:.3g}\N{NO-BREAK SPACE}{units[power]}"
