"""Training a unigram model: reproducibility, text without spaces, and bounded memory."""

import os
import random
import subprocess
import sys
from collections import Counter
from itertools import chain
from pathlib import Path

import pytest

from bert_jax.data.sentences import split_sentences
from bert_jax.data.sources.corpora import read_documents
from bert_jax.data.tokenizers import train_sentencepiece as unigram
from bert_jax.data.tokenizers.counts import merge_counts
from bert_jax.data.tokenizers.train_sentencepiece import count_pretokens, train_sentencepiece
from bert_jax.data.tokenizers.wordpiece import SPECIAL_PIECES
from bert_jax.errors import DataError

POEMS = Path(__file__).parent / "chinese_poems.txt"

MODEL_SCRIPT = """
import hashlib
from itertools import chain
from bert_jax.data.sentences import split_sentences
from bert_jax.data.sources.corpora import read_documents
from bert_jax.data.tokenizers.train_sentencepiece import count_pretokens, train_sentencepiece
texts = [d.text for d in read_documents("embedded:sotu")][::20]
counts = count_pretokens(chain.from_iterable(map(split_sentences, texts)), lower_case=True)
trained = train_sentencepiece(counts, vocab_size=1000, lower_case=True)
print(hashlib.sha256(trained.model).hexdigest())
"""


@pytest.fixture(scope="module")
def sentences():
    texts = [document.text for document in read_documents("embedded:sotu")][::20]
    return list(chain.from_iterable(map(split_sentences, texts)))


def train(sentences, *, vocab_size, lower_case=True):
    counts = count_pretokens(sentences, lower_case=lower_case)
    return train_sentencepiece(counts, vocab_size=vocab_size, lower_case=lower_case)


def test_processes_with_different_hash_seeds_train_the_same_bytes():
    hashes = {
        subprocess.run(
            [sys.executable, "-c", MODEL_SCRIPT],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(hashes) == 1 and len(hashes.pop().strip()) == 64


def test_order_of_the_sentences_does_not_matter(sentences):
    shuffled = random.Random(1).sample(sentences, len(sentences))
    assert train(sentences, vocab_size=600) == train(shuffled, vocab_size=600)


def test_counts_of_parts_add_up(sentences):
    parts = [count_pretokens(sentences[i::3], lower_case=True) for i in range(3)]
    assert merge_counts(parts, limit=unigram.MAX_PRETOKENS) == count_pretokens(
        sentences, lower_case=True
    )


def test_pretokens_are_normalized_and_a_long_one_is_cut():
    found = count_pretokens(["The ﬁrst…  THE\u3000第一 ½▁b", "x" * 300], lower_case=True)
    assert found == {
        "the": 2,
        "first...": 1,
        "第一": 1,
        "1⁄2": 1,
        "b": 1,
        "x" * 128: 2,
        "x" * 44: 1,
    }
    assert count_pretokens(["The"], lower_case=False) == {"The": 1}


def test_training_on_counts_encodes_as_short_as_training_on_sentences(sentences):
    """The trainer gets each pretoken once with its count instead of the sentences."""
    import io

    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        vocab_size=1000,
        character_coverage=1.0,
        normalization_rule_name="nmt_nfkc_cf",
        num_threads=1,
        minloglevel=2,
        bos_id=-1,
        eos_id=-1,
    )
    running = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    expected = sum(map(len, running.encode(sentences)))
    tokens = sum(map(len, map(train(sentences, vocab_size=1000).encode, sentences)))
    # Four pieces are special pieces, so the lengths cannot be exactly equal.
    assert tokens == pytest.approx(expected, rel=0.005)


def test_a_sample_keeps_the_counts_of_parts(monkeypatch):
    """About 2,000 of 20,000 pretokens that occur once are kept."""
    monkeypatch.setattr(unigram, "MAX_PRETOKENS", 4000)
    rng = random.Random(0)
    texts = ["often " + "".join(rng.choices("abcdef", k=12)) for _ in range(20_000)]
    sample = count_pretokens(texts, lower_case=True)
    assert len(sample) <= 4000 and sample["often"] == 20_000
    assert sample == count_pretokens(texts, lower_case=True)
    parts = [count_pretokens(texts[i::4], lower_case=True) for i in range(4)]
    merged = merge_counts(parts, limit=4000)
    assert len(merged) <= 4000 and merged["often"] == 20_000
    for counts in (sample, merged):
        # At least 2,000 pretokens count about ten each: the deviation is
        # 10 * sqrt(2000) / 20000 = 2 %.
        assert counts.total() - 20_000 == pytest.approx(20_000, rel=0.1)
        with_a = sum(count for pretoken, count in counts.items() if pretoken.startswith("a"))
        # A sixth of the pretokens: the deviation is 5 %.
        assert with_a == pytest.approx(20_000 / 6, rel=0.25)


def test_a_long_pretoken_is_cut_before_it_is_counted(monkeypatch):
    """Its parts count towards the limit: 60 texts give 600 pretokens of 128 characters."""
    monkeypatch.setattr(unigram, "MAX_PRETOKENS", 300)
    rng = random.Random(0)
    texts = ["".join(rng.choices("abcdef", k=1280)) for _ in range(60)]
    found = count_pretokens(texts, lower_case=True)
    assert len(found) <= 300 and {len(pretoken) for pretoken in found} == {128}
    # A half or a quarter of 600 is kept: the deviation is at most 600 * sqrt(3 / 600).
    assert found.total() == pytest.approx(600, rel=0.25)


def test_the_trainer_sees_a_bounded_sample(monkeypatch, sentences):
    whole = train(sentences, vocab_size=600)
    counts = count_pretokens(sentences, lower_case=True)
    assert unigram._sample(counts) == counts, "a small corpus should not be sampled"
    monkeypatch.setattr(unigram, "MAX_TRAINING_CHARACTERS", 100_000)
    sample = unigram._sample(counts)
    characters = sum(count * (len(pretoken) + 1) for pretoken, count in sample.items())
    # About 15,000 words are drawn: the deviation is below 1 %.
    assert characters == pytest.approx(100_000, rel=0.05) and len(sample) < len(counts) / 2
    first, second = (train(sentences, vocab_size=600) for _ in range(2))
    assert first == second != whole
    tokens = [sum(map(len, map(one.encode, sentences))) for one in (whole, first)]
    assert tokens[1] == pytest.approx(tokens[0], rel=0.1)  # most pieces are the same


@pytest.mark.parametrize("name", ["[MASK]", "[PAD]", "<unk>"])
def test_text_that_spells_special_pieces_adds_no_pieces(name, sentences):
    tokenizer = train([*sentences, *[f"{name} {name}x"] * 5000], vocab_size=600)
    assert tokenizer.pieces[:5] == SPECIAL_PIECES and len(set(tokenizer.pieces)) == 600
    assert tokenizer.unk_id not in tokenizer.encode(name)
    assert min(tokenizer.encode(name)) > 4


def test_rare_characters_have_no_piece(sentences):
    """The limit is 0.005 % of the half a million characters."""
    tokenizer = train([*sentences, *["ж"] * 2, *["ъ"] * 50], vocab_size=600)
    assert tokenizer.unk_id in tokenizer.encode("ж")
    assert tokenizer.unk_id not in tokenizer.encode("ъ")


def test_characters_leave_room_for_words():
    """The text has a thousand ideographs, half of them rare; the vocabulary has 800 pieces."""
    text = [chr(0x4E00 + i) for i in range(1000)]
    rng = random.Random(0)
    frequent = ["".join(rng.choices(text[:500], k=4)) for _ in range(4000)] * 4
    tokenizer = train([*frequent, *text], vocab_size=800)
    characters = {piece for piece in tokenizer.pieces if len(piece) == 1}
    assert len(characters) == 3 * 800 // 4


def test_chinese_is_encoded_in_words_of_several_characters():
    sentences = split_sentences(POEMS.read_text(encoding="utf-8"))
    tokenizer = train(sentences * 5, vocab_size=335)
    ids = list(chain.from_iterable(map(tokenizer.encode, sentences)))
    ideographs = {piece for piece in tokenizer.pieces if len(piece.strip("▁")) > 1} - {
        *SPECIAL_PIECES
    }
    assert ideographs and tokenizer.vocab_size == 335
    assert ids.count(tokenizer.unk_id) < 0.2 * len(ids)
    assert Counter(tokenizer.decode(ids))["，"] == 0  # the normalizer changes it to an ASCII comma
    assert max(map(len, count_pretokens(sentences, lower_case=True))) > 15, "a whole sentence"


@pytest.mark.parametrize("vocab_size", [5000, 100_000])
def test_error_names_the_largest_size(vocab_size):
    counts = count_pretokens(["The lower, the newer; the lowest."] * 9, lower_case=True)
    with pytest.raises(DataError, match=rf"vocab_size is {vocab_size}; accepted: at most \d+"):
        train_sentencepiece(counts, vocab_size=vocab_size, lower_case=True)


def test_the_largest_size_that_an_error_names_is_accepted():
    counts = count_pretokens(["The lower, the newer; the lowest."] * 9, lower_case=True)
    with pytest.raises(DataError) as error:
        train_sentencepiece(counts, vocab_size=5000, lower_case=True)
    largest = int(str(error.value).split("at most ")[1].split(",")[0])
    assert train_sentencepiece(counts, vocab_size=largest, lower_case=True).vocab_size == largest
    with pytest.raises(DataError, match=f"at most {largest},"):
        train_sentencepiece(counts, vocab_size=largest + 1, lower_case=True)


def test_error_names_the_smallest_size_and_an_empty_corpus():
    counts = count_pretokens(["The lower, the newer; the lowest."] * 9, lower_case=True)
    with pytest.raises(DataError, match=r"model.vocab_size is 7; accepted: at least \d+"):
        train_sentencepiece(counts, vocab_size=7, lower_case=True)
    with pytest.raises(DataError, match="vocab_size is 100; accepted: at most 0"):
        train_sentencepiece({}, vocab_size=100, lower_case=True)
