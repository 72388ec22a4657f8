"""Plain text: where documents end, and the errors for files that are not text."""

import gzip
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert_jax.data.sources.base import MAX_DOCUMENT_BYTES, Document
from bert_jax.data.sources.corpora import open_corpus, read_documents, read_slice
from bert_jax.errors import DataError


def test_files_are_read_in_order_and_split_at_blank_lines(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "2.txt").write_bytes(b"last, without a line end")
    (tmp_path / "a.txt").write_bytes("\n\nÉin\r\ntwo \r\n \t\r\nthree\n\n\n".encode())
    (tmp_path / "skip.md").write_text("not matched")
    assert list(read_documents(f"text:{tmp_path}/**/*.txt")) == [
        Document(f"{tmp_path}/a.txt@2", "Éin\ntwo "),
        Document(f"{tmp_path}/a.txt@18", "three"),
        Document(f"{tmp_path}/b/2.txt@0", "last, without a line end"),
    ]


@settings(max_examples=200, deadline=None)
@given(
    lines=st.lists(st.sampled_from(["", " ", "\u3000", "a", "bc", "日本", "d" * 9]), max_size=25),
    end=st.sampled_from(["", "\n", "\r\n"]),
    count=st.integers(1, 30),
)
def test_slices_together_give_the_documents_of_the_whole_file(tmp_path_factory, lines, end, count):
    path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_bytes(("\n".join(lines) + end).encode())
    if not path.stat().st_size:
        return
    corpus = open_corpus(f"text:{path}")
    (whole,) = corpus.slices(1)
    expected = [d for d, _ in read_slice(whole)]
    assert "\n".join(d.text for d in expected).split() == "\n".join(lines).split()
    assert [
        d for corpus_slice in corpus.slices(count) for d, _ in read_slice(corpus_slice)
    ] == expected


@pytest.mark.parametrize("count", [1, 7])
def test_bytes_that_are_not_utf8_are_found_for_any_number_of_slices(count, tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"first\n\nsecond\n\n" + b"fine " * 20 + b"\xff\n" + b"\n\nmore" * 20)
    expected = re.escape(f"{path}:5 holds byte 0xff at column 101; accepted: UTF-8")
    with pytest.raises(DataError, match=expected):
        for corpus_slice in open_corpus(f"text:{path}").slices(count):
            list(read_slice(corpus_slice))


@pytest.mark.parametrize("line_length", [MAX_DOCUMENT_BYTES + 1, 50 * 2**20, 1000])
def test_a_document_above_the_size_limit_is_refused(line_length, tmp_path):
    """The limit holds for one long line and for many lines; reading stops at the limit."""
    path = tmp_path / "a.txt"
    lines = -(-(MAX_DOCUMENT_BYTES + 1) // line_length)
    path.write_bytes(b"short\n\n" + (b"x" * line_length + b"\n") * lines)
    with pytest.raises(DataError, match=r"a\.txt:3 begins a document of more than 16,777,216"):
        list(read_documents(f"text:{path}"))


def test_a_document_at_the_limit_is_read(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"x" * MAX_DOCUMENT_BYTES)
    (document,) = read_documents(f"text:{path}")
    assert len(document.text) == MAX_DOCUMENT_BYTES


@pytest.mark.parametrize("spec", ["text:{}", "jsonl:{}"])
@pytest.mark.parametrize("lines", [3, 2**18])
def test_lines_that_end_in_carriage_returns_alone_are_refused(spec, lines, tmp_path):
    """Such a file of any size is one line; a single carriage return counts as white space."""
    path = tmp_path / "a"
    path.write_bytes(b"a sentence" * 20 + b"\r\r" + b"another" * 20 * lines)
    first, _ = open_corpus(spec.format(path)).slices(2)
    with pytest.raises(DataError, match=r"a:1 has carriage returns and no line feed; accep"):
        list(read_slice(first))
    path.write_bytes(b"of\rDOS\r\n\r\nand\runix\n\none line\r")
    texts = [document.text for document in read_documents(f"text:{path}")]
    assert texts == ["of\rDOS", "and\runix", "one line"]


DAMAGES = {
    "no-gzip": (lambda packed: b"plain text", "is damaged, or no gzip file (Not a gzipped file"),
    "cut-short": (lambda packed: packed[:-9], "is cut short (Compressed file ended before"),
    "checksum": (
        lambda packed: packed[:-8] + bytes([packed[-8] ^ 1]) + packed[-7:],
        "is damaged, or no gzip file (CRC check failed",
    ),
    "bits": (lambda packed: packed[:900] + bytes(99) + packed[999:], "is damaged, or no gzip file"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_error_names_a_damaged_gzip_file(damage, tmp_path):
    change, said = DAMAGES[damage]
    rng = random.Random(0)
    text = "\n\n".join(str(rng.random()) for _ in range(500))
    (tmp_path / "a.gz").write_bytes(change(gzip.compress(text.encode())))
    with pytest.raises(DataError, match=re.escape(f"a.gz {said}")) as error:
        list(read_documents(f"text:{tmp_path}/a.gz"))
    assert str(error.value).endswith("; accepted: a whole .gz file")
