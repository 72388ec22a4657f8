"""Corpora: corpus specs, held-out documents, weights of sources, and splitting into sentences."""

import re
from collections import Counter
from pathlib import Path

import pytest

from bert_jax.data.sentences import split_sentences
from bert_jax.data.sources.base import Document
from bert_jax.data.sources.corpora import (
    copies,
    is_held_out,
    open_corpus,
    read_documents,
    read_slice,
)
from bert_jax.data.sources.embedded import HELD_OUT_ADDRESSES
from bert_jax.errors import DataError


@pytest.fixture(scope="module")
def addresses():
    return list(read_documents("embedded:sotu"))


def test_embedded_addresses_are_complete_and_in_order(addresses):
    assert len({a.name for a in addresses}) == len(addresses) == 233
    years = [int(a.name[:4]) for a in addresses]
    assert years == sorted(years)
    assert sorted({*range(1790, 2022)} - {*years}) == [1933]
    names = [a.name for a in addresses]
    assert names.index("1953_harry_s_truman_d") < names.index("1953_dwight_d_eisenhower_r")
    assert addresses[0].text.startswith("Fellow-Citizens of the Senate")
    assert all(len(a.text) > 5000 and a.text == a.text.strip() for a in addresses)
    assert list(read_documents("embedded:sotu")) == addresses


def test_twelve_addresses_are_held_out_whatever_the_fraction(addresses):
    for fraction in (0.0, 0.5, 1.0):
        held_out = [a.name for a in addresses if is_held_out(a, fraction=fraction)]
        assert held_out == list(HELD_OUT_ADDRESSES)
    assert len(set(HELD_OUT_ADDRESSES)) == 12


def test_held_out_sentences_are_not_in_training(addresses):
    sides = {True: set(), False: set()}
    for a in addresses:
        long = {s for s in split_sentences(a.text) if len(s) > 80}
        sides[is_held_out(a, fraction=0)] |= long
    assert len(sides[True]) > 1000
    # Presidents quote one another: 4 of 2,316 sentences occur on both sides.
    assert len(sides[True] & sides[False]) < 0.003 * len(sides[True])


def test_slices_take_addresses_in_turn_and_the_first_has_those_held_out(addresses):
    slices = [
        [document for document, _ in read_slice(corpus_slice)]
        for corpus_slice in open_corpus("embedded:sotu").slices(5)
    ]
    training = [a for a in addresses if a.name not in HELD_OUT_ADDRESSES]
    for number, documents in enumerate(slices):
        assert [d for d in documents if not d.held_out] == training[number::5]
    assert [d.name for d in slices[0] if d.held_out] == list(HELD_OUT_ADDRESSES)
    assert not any(d.held_out for documents in slices[1:] for d in documents)


def test_equal_texts_are_in_one_split_and_the_fraction_is_kept():
    def held_out(name, text, fraction):
        return is_held_out(Document(name, text), fraction=fraction)

    texts = [f"document {i}" for i in range(4000)]
    some = [held_out("a", t, 0.1) for t in texts]
    assert some == [held_out("b", t, 0.1) for t in texts]
    assert 300 < sum(some) < 500  # expected 400, standard deviation 19
    more = [held_out("a", t, 0.3) for t in texts]
    assert all(m for s, m in zip(some, more, strict=True) if s)
    assert not any(held_out("a", t, 0.0) for t in texts)
    assert all(held_out("a", t, 1.0) for t in texts)


def test_the_number_of_copies_is_an_integer_with_the_given_mean():
    documents = [Document("a", f"document {i}") for i in range(4000)]
    assert {copies(d, times=3.0) for d in documents} == {3}
    counts = [copies(d, times=2.3) for d in documents]
    assert set(counts) == {2, 3} and 1100 < sum(counts) - 2 * 4000 < 1300  # expected 1200 +- 29
    # The two draws are independent: expected 1,000, standard deviation 27.
    both = [d for d in documents if copies(d, times=0.5) and is_held_out(d, fraction=0.5)]
    assert 900 < len(both) < 1100


def test_a_mixture_alternates_its_sources_and_has_their_weights(tmp_path):
    (tmp_path / "a,b.txt").write_text("one\n\ntwo")
    (tmp_path / "c.jsonl").write_text('{"body": "three"}\n')
    spec = f"text:{tmp_path}/a,b.txt@2.5,jsonl:{tmp_path}/*.jsonl:body@.5,text:{tmp_path}/*.txt"
    corpus = open_corpus(spec)
    assert [source.weight for source in corpus.sources] == [2.5, 0.5, 1]
    (whole,) = corpus.slices(1)
    assert [(d.text, weight) for d, weight in read_slice(whole)] == [
        ("one", 2.5),
        ("three", 0.5),
        ("one", 1),
        ("two", 2.5),
        ("two", 1),
    ]


def test_a_slice_is_a_small_mixture(tmp_path):
    """Each block then has documents of every source for random B and for packed rows."""
    for name, count in (("a", 6000), ("b", 2000), ("c", 1)):
        (tmp_path / name).write_text("\n\n".join(f"{name} {i:04}" for i in range(count)))
    slices = open_corpus(f"text:{tmp_path}/a@3,text:{tmp_path}/b,text:{tmp_path}/c").slices(4)
    found = [[d.text for d, _ in read_slice(corpus_slice)] for corpus_slice in slices]
    assert sum(found, []).count("c 0000") == 1
    for part in found:
        # Files are cut by bytes, so a slice may have a document more or less.
        for texts, ours in ((part, 2000), (part[:1000], 1000), (part[-1000:], 1000)):
            share = Counter(text[0] for text in texts)
            assert share["a"] == pytest.approx(ours * 3 / 4, abs=2)
            assert share["b"] == pytest.approx(ours / 4, abs=2)


def test_slices_take_sources_of_one_document_in_turn(tmp_path):
    for name in "abcdef":
        (tmp_path / name).write_text(name * 9)
    slices = open_corpus(",".join(f"text:{tmp_path}/{name}" for name in "abcdef")).slices(3)
    found = [[d.text for d, _ in read_slice(corpus_slice)] for corpus_slice in slices]
    assert found == [[9 * "a", 9 * "d"], [9 * "b", 9 * "e"], [9 * "c", 9 * "f"]]


@pytest.mark.parametrize("corpus", ["embedded:wikipedia", "corpus.txt", "", "text:", "jsonl:"])
def test_an_invalid_spec_is_refused_at_once(corpus):
    with pytest.raises(DataError, match="accepted: text:GLOB, jsonl:GLOB") as error:
        open_corpus(corpus)
    assert repr(corpus) in str(error.value)


@pytest.mark.parametrize(
    "weight", ["0", "0.0", "1.2.3", ".", "", "-1", "x", "nan", "inf", "-inf", "1e999"]
)
def test_an_invalid_weight_is_refused(weight):
    with pytest.raises(DataError, match=re.escape(f"has weight {weight}; accepted: a number")):
        open_corpus(f"embedded:sotu@{weight}")


def test_a_file_name_may_contain_the_at_sign(tmp_path):
    (tmp_path / "name@home.txt").write_text("one")
    for weight, times in {"": 1, "@2": 2, "@1e-1": 0.1}.items():
        (source,) = open_corpus(f"text:{tmp_path}/name@home.txt{weight}").sources
        assert source.weight == times


def test_a_space_may_follow_a_comma(tmp_path):
    (tmp_path / "a, b").write_text("one")
    corpus = open_corpus(f"text:{tmp_path}/a, b@2, embedded:sotu")
    assert [source.weight for source in corpus.sources] == [2, 1]


@pytest.mark.parametrize("corpus", ["embedded:sotu, ", "embedded:sotu@2,", "a.txt,,embedded:sotu"])
def test_a_trailing_comma_is_refused(corpus):
    with pytest.raises(DataError, match=r"ends in a comma; accepted: SPEC\[@WEIGHT\]"):
        open_corpus(corpus)


def test_sentences_are_stripped_and_stay_within_their_line():
    text = " It began in 1790. Mr. Adams spoke!  Did he?\n\nA heading\nand more. \n"
    assert split_sentences(text) == [
        "It began in 1790.",
        "Mr. Adams spoke!",
        "Did he?",
        "A heading",
        "and more.",
    ]
    assert split_sentences(" \n\n") == []


def test_chinese_sentences_end_at_their_own_marks():
    """They end there within a line too; a quotation ends with its closing mark."""
    text = "子曰：「學而時習之，不亦說乎？」曾子曰：「吾日三省吾身！」為人謀。"
    assert split_sentences(text) == [
        "子曰：「學而時習之，不亦說乎？」",
        "曾子曰：「吾日三省吾身！」",
        "為人謀。",
    ]
    poems = (Path(__file__).parent / "chinese_poems.txt").read_text(encoding="utf-8")
    one_line = poems.replace("\n", "")
    sentences = split_sentences(one_line)
    assert "".join(sentences) == one_line and len(sentences) > 40
    for sentence in sentences:
        assert sentence[-1] in "。！？" and not set(sentence[:-1]) & set("。！？")


def test_sentences_keep_every_word(addresses):
    for a in addresses[::60]:
        sentences = split_sentences(a.text)
        assert " ".join(sentences).split() == a.text.split()
        assert len(sentences) > 30
