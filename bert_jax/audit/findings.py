"""Finds problems of prepared data in their passport (`passport.json`), and names remedies."""

from collections.abc import Iterator
from pathlib import PurePath
from typing import TYPE_CHECKING, NamedTuple

from bert_jax.data.sentences import LOWEST_F1, SENTENCE_F1
from bert_jax.data.sources.base import MAX_DOCUMENT_BYTES
from bert_jax.data.sources.files import COMPRESSIONS

if TYPE_CHECKING:
    from bert_jax.audit.shortcut import Shortcut

HIGHEST_UNKNOWN_RATE = 0.01
LOWEST_FILL = 0.9
LARGEST_IMBALANCE = 0.1
"""Largest accepted difference between 0.5 and the share of the pairs with label 1."""
LARGEST_UNUSED_SHARE = 0.1
FEWEST_HELD_OUT_DOCUMENTS = 50
FEW_DOCUMENTS = 10
"""Most documents in an average file of plain text that are not worth a finding."""


class Finding(NamedTuple):
    title: str
    explanation: str
    remedy: str


_TEXT_RATES = {
    "short_document_rate": (
        0.5,
        "{:.0%} of documents have fewer than three sentences",
        "Texts A and B of a pair are consecutive sentences. A short document has none.",
        "Put blank lines between documents and not between sentences, or use data.pairs='none'.",
    ),
    "short_sentence_rate": (
        0.05,
        "{:.1%} of sentences have fewer than three words",
        "They may be pieces that were cut after an abbreviation, or headings, tables and lists.",
        "Check that data.language is the language of the text, and remove tables and lists.",
    ),
    "folded_letter_rate": (
        0.005,
        "{:.1%} of letters lose an accent or another mark",
        "Accents are removed: ä becomes a. Words that differ only in accents become the same.",
        "Keep accents with --set data.strip_accents=false.",
    ),
}
"""Largest accepted value of each rate in the passport's `text`, and the finding above it."""


def find_at_once(passport: dict) -> list[Finding]:
    """Returns the findings that `prepare` prints, the most serious first."""
    return [*_shared(passport), *_files(passport), *_text(passport), *_imbalance(passport)]


def find(passport: dict, *, unused_share: float, shortcut: "Shortcut | None") -> list[Finding]:
    """Returns all findings, the most serious first. Missing passport fields give no finding.

    `unused_share` is the share of the vocabulary that never occurs in the training records.
    """
    return [
        *_shared(passport),
        *_repetitions(passport),
        *_files(passport),
        *_text(passport),
        *_unknown(passport),
        *_shortcuts(passport, shortcut),
        *_imbalance(passport),
        *_fill(passport),
        *_unused(unused_share),
        *_few_documents(passport),
    ]


def _files(passport: dict) -> Iterator[Finding]:
    if (skipped := passport.get("skipped")) and skipped["records"]:
        yield Finding(
            f"{_count(skipped['count'], 'bad record')} skipped, first {skipped['records'][0]}",
            "These records are in no split.",
            "passport.json lists them under 'skipped'.",
        )
    files = [file for source in passport["corpus"]["sources"] for file in source["files"]]
    for file in (file for file in files if "compression" in file):
        ending, kind = PurePath(file["path"]).suffix[1:].lower(), file["compression"]
        if kind != next((kind for kind in COMPRESSIONS if ending.startswith(kind)), None):
            yield Finding(
                f"{file['path']} is {f'a .{kind} file' if kind else 'not compressed'}",
                "Its name says otherwise. It was read by its content.",
                "Rename it if other programs read it too.",
            )
    kinds = {file.get("read_as", {}).get("kind") for file in files}
    documents = sum(summary["documents"] for summary in passport["splits"].values())
    if (
        kinds == {"TextFile"}
        and documents > FEW_DOCUMENTS * len(files) > FEW_DOCUMENTS
        and max(file["bytes"] for file in files) <= MAX_DOCUMENT_BYTES
    ):
        yield Finding(
            f"{len(files):,} files hold {documents:,} documents",
            "In the files of text:GLOB, a blank line ends a document.",
            "If each file is one document, write files:GLOB in place of text:GLOB.",
        )


def _text(passport: dict) -> Iterator[Finding]:
    language = passport["preparation"].get("language", "en")
    f1 = SENTENCE_F1.get(language)
    if language != "en" and (f1 is None or f1 < LOWEST_F1):
        measured = "was never measured" if f1 is None else f"is {f1:.2f} on 20 sentences"
        yield Finding(
            f"The F1 of sentences in data.language {language!r} {measured}",
            "Text was perhaps cut within sentences. Pairs of texts then begin and end there.",
            "Look at sentences of the text. data.pairs='none' depends least on them.",
        )
    rates = passport.get("text") or {}
    for name, (largest, title, explanation, remedy) in _TEXT_RATES.items():
        if rates.get(name, 0) > largest:
            yield Finding(title.format(rates[name]), explanation, remedy)


def _shared(passport: dict) -> Iterator[Finding]:
    if shared := passport.get("shared_documents"):
        yield Finding(
            f"{_count(shared, 'document')} in training and in evaluation",
            "The model is evaluated on text that it was trained on, so its metrics are too good.",
            "Remove the copies from the corpus, and prepare the data again.",
        )


def _repetitions(passport: dict) -> Iterator[Finding]:
    for names in passport.get("identical_shards", ()):
        yield Finding(
            f"{len(names)} identical shards",
            f"{', '.join(names)} hold the same documents, so each document is used {len(names)} "
            "times.",
            "Look for files that occur twice in the corpus, and prepare the data again.",
        )
    for split, summary in passport["splits"].items():
        if copies := summary.get("identical_documents"):
            yield Finding(
                f"{_count(copies, 'repeated document')} in {SPLIT_NAMES[split]}",
                f"Each is a copy of an earlier document; the split has {summary['documents']:,} "
                "in all. A model memorizes repeated text and gives it too much weight.",
                "Remove the copies from the corpus. To use a source more often, write SPEC@WEIGHT.",
            )


def _unknown(passport: dict) -> Iterator[Finding]:
    for split, summary in passport["splits"].items():
        rate = summary.get("unknown_token_rate", 0)
        if rate > HIGHEST_UNKNOWN_RATE:
            yield Finding(
                f"[UNK] is {rate:.1%} of {SPLIT_NAMES[split]}",
                "The model cannot learn from unknown words. The usual rate is well below "
                f"{HIGHEST_UNKNOWN_RATE:.0%}.",
                "Train a vocabulary on this text (omit --vocabulary), and check that "
                "data.lower_case and data.max_word_length suit the text.",
            )


def _shortcuts(passport: dict, shortcut: "Shortcut | None") -> Iterator[Finding]:
    if shortcut is None:
        return
    best, majority = shortcut.best, shortcut.majority
    remedy = f"Pair accuracy up to {max(best.accuracy.value, majority):.1%} shows no understanding."
    if passport["preparation"]["pairs"] == "next_sentence":
        remedy += (
            " With data.pairs='sentence_order' both texts come from the same place, so topic and "
            "words do not reveal the label. data.pairs='none' omits the pair task."
        )
    if best.accuracy.low > majority:
        yield Finding(
            f"A classifier without word order gets {best.accuracy.value:.1%} of pairs right",
            f"It sees only {best.name}. Always answering with the majority label gets "
            f"{majority:.1%}. A model can do as well without understanding the text.",
            remedy,
        )
        return
    ranked = max(shortcut.classifiers, key=lambda one: one.ranking.low)
    if ranked.ranking.low > 0.5:
        yield Finding(
            "A classifier without word order can distinguish the pairs",
            f"It sees only {ranked.name}. It ranks a pair of label 1 above a pair of label 0 in "
            f"{ranked.ranking.value:.0%} of cases; chance is 50%. Accuracy does not show this, "
            f"because the majority label is right {majority:.1%} of the time.",
            remedy,
        )


def _imbalance(passport: dict) -> Iterator[Finding]:
    summary = passport["splits"]["train"]
    if not summary["pairs"]:
        return
    rate = summary["random_pairs"] / summary["pairs"]
    if abs(rate - 0.5) <= LARGEST_IMBALANCE:
        return
    if passport["preparation"]["pairs"] == "sentence_order":
        explanation = "Pairs are swapped with probability 50%. This share is far off by chance."
        remedy = "Use more text: with more pairs, the share comes closer to 50%."
    else:
        explanation = (
            "The recipe aims at 50%, but B is always random if A's chunk of the document is a "
            "single sentence. A model that always answers with the more frequent label is right "
            f"{max(rate, 1 - rate):.1%} of the time."
        )
        remedy = (
            "Raise data.sequence_length until rows hold several sentences, put blank lines between "
            "documents and not between sentences, or use data.pairs='none'. Compare pair accuracy "
            "with the share of the more frequent label and not with 50%."
        )
    yield Finding(f"{rate:.1%} of training pairs are {label_one(passport)}", explanation, remedy)


def _fill(passport: dict) -> Iterator[Finding]:
    preparation, summary = passport["preparation"], passport["splits"]["train"]
    fill = row_fill(passport, split="train")
    if not summary["examples"] or fill >= LOWEST_FILL:
        return
    pairs_per_row = preparation["pairs_per_row"]
    yield Finding(
        f"Training rows are {fill:.1%} full",
        f"The other {1 - fill:.1%} of the positions are padding, which costs as much as text.",
        f"Pack more pairs into a row with --set data.pairs_per_row={pairs_per_row + 2}, or lower "
        f"data.sequence_length, which is {preparation['sequence_length']}.",
    )


def _unused(share: float) -> Iterator[Finding]:
    if share > LARGEST_UNUSED_SHARE:
        yield Finding(
            f"{share:.0%} of the vocabulary never occurs in training",
            "The embeddings of these pieces are never trained, and cost memory and time.",
            "Train a vocabulary on this text, or lower model.vocab_size.",
        )


def _few_documents(passport: dict) -> Iterator[Finding]:
    summary = passport["splits"]["eval"]
    if summary["documents"] < FEWEST_HELD_OUT_DOCUMENTS:
        yield Finding(
            f"Held-out rows come from {_count(summary['documents'], 'document')}",
            "Rows of the same document resemble each other. Intervals that treat all "
            f"{summary['examples']:,} rows as independent are too narrow.",
            "Raise data.held_out_fraction, or treat small differences on these data with caution.",
        )


SPLIT_NAMES = {"train": "training", "eval": "evaluation"}


def label_one(passport: dict) -> str:
    """Returns the word for pairs with label 1: 'swapped' or 'random'."""
    return "swapped" if passport["preparation"]["pairs"] == "sentence_order" else "random"


def row_fill(passport: dict, *, split: str) -> float:
    """Returns the share of positions that are not padding; 0 if there are no rows."""
    summary = passport["splits"][split]
    positions = summary["examples"] * passport["preparation"]["sequence_length"]
    return summary["positions"] / positions if positions else 0.0


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
