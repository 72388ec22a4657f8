"""What a reader of the passport should know before training, and what to do about it."""

from collections.abc import Iterator
from typing import NamedTuple

from bert_jax.audit.shortcut import Shortcut

HIGHEST_UNKNOWN_RATE = 0.01
LOWEST_FILL = 0.9
LARGEST_IMBALANCE = 0.1
"""Of the share of label 1, from one half."""
LARGEST_UNUSED_SHARE = 0.1
FEWEST_HELD_OUT_DOCUMENTS = 50


class Finding(NamedTuple):
    title: str
    explanation: str
    remedy: str


def find(passport: dict, *, unused_share: float, shortcut: Shortcut | None) -> list[Finding]:
    """All findings, the gravest first; what a passport does not tell is not looked for.

    Args:
      unused_share: of the vocabulary that stands nowhere in the training records.
    """
    return [
        *_repetitions(passport),
        *_unknown(passport),
        *_shortcuts(passport, shortcut),
        *_imbalance(passport),
        *_fill(passport),
        *_unused(unused_share),
        *_few_documents(passport),
    ]


def _repetitions(passport: dict) -> Iterator[Finding]:
    if shared := passport.get("shared_documents"):
        yield Finding(
            f"{_count(shared, 'document')} in training and in evaluation",
            "The same text is trained on and measured on: held-out figures are too good.",
            "Remove the copies from the corpus and prepare again.",
        )
    for names in passport.get("identical_shards", ()):
        yield Finding(
            f"{len(names)} identical shards",
            f"{', '.join(names)} are made of the same documents, which count {len(names)} times.",
            "Look for files that the corpus holds twice, and prepare again.",
        )
    for split, summary in passport["splits"].items():
        if copies := summary.get("identical_documents"):
            yield Finding(
                f"{_count(copies, 'repeated document')} in {SPLIT_NAMES[split]}",
                f"They are equal to an earlier one of the {summary['documents']:,}: repeated text "
                "is learnt by heart and counts for more than it is worth.",
                "Remove the copies from the corpus; to weigh a source, write SPEC@WEIGHT instead.",
            )


def _unknown(passport: dict) -> Iterator[Finding]:
    for split, summary in passport["splits"].items():
        rate = summary.get("unknown_token_rate", 0)
        if rate > HIGHEST_UNKNOWN_RATE:
            yield Finding(
                f"[UNK] is {rate:.1%} of {SPLIT_NAMES[split]}",
                "That text is lost: nothing can be learnt of it. Usual is well below "
                f"{HIGHEST_UNKNOWN_RATE:.0%}.",
                "Use a vocabulary that was trained on this text (leave out --vocabulary), and look "
                "whether data.lower_case and data.max_word_length suit it.",
            )


def _shortcuts(passport: dict, shortcut: Shortcut | None) -> Iterator[Finding]:
    if shortcut is None:
        return
    best, majority = shortcut.best, shortcut.majority
    remedy = "Read pair accuracy as understanding only above that figure."
    if passport["preparation"]["pairs"] == "next_sentence":
        remedy += (
            " data.pairs='sentence_order' takes both texts from one place, so that topic and words "
            "no longer tell; data.pairs='none' does without the task."
        )
    if best.accuracy.low > majority:
        yield Finding(
            f"A classifier that cannot read gets {best.accuracy.value:.1%} of pairs right",
            f"It sees no order of words ({best.name}), and the more frequent answer alone gets "
            f"{majority:.1%}: the pair task can be solved so far without understanding the text.",
            remedy,
        )
        return
    ranked = max(shortcut.classifiers, key=lambda one: one.ranking.low)
    if ranked.ranking.low > 0.5:
        yield Finding(
            "A classifier that cannot read tells pairs apart",
            f"By {ranked.name} alone it ranks {ranked.ranking.value:.0%} of pairs of different "
            f"labels rightly, guessing 50%. Accuracy hides it, for one answer is right "
            f"{majority:.1%} of the time.",
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
        explanation = "The coin that swaps them is fair: so few pairs are hardly worth the task."
        remedy = "Use more text."
    else:
        explanation = (
            "The recipe aims at 50%, but a stretch that holds a single sentence can only get a "
            f"random B. A model that always answers so is right {max(rate, 1 - rate):.1%} of the "
            "time."
        )
        remedy = (
            "Raise data.sequence_length until rows hold several sentences, or compare pair "
            "accuracy with that share and not with 50%."
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
        f"The other {1 - fill:.1%} of the positions are padding, and cost what text costs.",
        f"Pack with --set data.pairs_per_row={pairs_per_row + 2}, or lower "
        f"data.sequence_length, which is {preparation['sequence_length']}.",
    )


def _unused(share: float) -> Iterator[Finding]:
    if share > LARGEST_UNUSED_SHARE:
        yield Finding(
            f"{share:.0%} of the vocabulary never occur in training",
            "Their embeddings stay as they were initialized, and cost memory and time.",
            "Train a vocabulary on this text, or lower model.vocab_size.",
        )


def _few_documents(passport: dict) -> Iterator[Finding]:
    summary = passport["splits"]["eval"]
    if summary["documents"] < FEWEST_HELD_OUT_DOCUMENTS:
        yield Finding(
            f"Held-out rows come from {_count(summary['documents'], 'document')}",
            "Rows of one text resemble each other, and intervals that take all "
            f"{summary['examples']:,} for independent are too narrow.",
            "Raise data.held_out_fraction, or read small differences on these data with caution.",
        )


SPLIT_NAMES = {"train": "training", "eval": "evaluation"}


def label_one(passport: dict) -> str:
    """What pairs of label 1 are called."""
    return "swapped" if passport["preparation"]["pairs"] == "sentence_order" else "random"


def row_fill(passport: dict, *, split: str) -> float:
    """Share of the positions that are not padding, 0 for no row."""
    summary = passport["splits"][split]
    positions = summary["examples"] * passport["preparation"]["sequence_length"]
    return summary["positions"] / positions if positions else 0.0


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
