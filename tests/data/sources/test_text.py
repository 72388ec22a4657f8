"""Plain text: where documents end, and the errors for files that are not text."""

import bz2
import gzip
import random
import re
import shutil
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert_jax.data.sentences import split_sentences
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


def test_a_line_of_characters_without_width_is_blank(tmp_path):
    blank = ["", " ", "\u200b", "\ufeff", "\u200b \u2060", "\x00\x1f", "\u3000\u00ad"]
    text = "".join(f"document {i}\n{line}\n" for i, line in enumerate(blank))
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    documents = [document.text for document in read_documents(f"text:{tmp_path}/a.txt")]
    assert documents == [f"document {i}" for i in range(len(blank))]
    assert split_sentences("One.\n\u200b\nTwo.") == ["One.", "Two."]


def test_files_are_documents_with_files_glob(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"Ein Absatz.\r\n\r\nNoch einer.\n")
    (tmp_path / "b.txt").write_text("\n \u200b\n")
    (tmp_path / "c.txt").write_text("Last")
    texts = [(d.name, d.text) for d in read_documents(f"files:{tmp_path}/*.txt")]
    assert texts == [
        (f"{tmp_path}/a.txt", "Ein Absatz.\n\nNoch einer."),
        (f"{tmp_path}/c.txt", "Last"),
    ]
    line = b"ab" * 500 + b"\n"
    (tmp_path / "c.txt").write_bytes(line * (MAX_DOCUMENT_BYTES // len(line) + 1))
    with pytest.raises(DataError, match=r"c\.txt:1 begins a document of more than 16,777,216"):
        list(read_documents(f"files:{tmp_path}/*.txt"))
    (tmp_path / "a.txt").write_bytes(b"one\ntwo \xff\n")
    with pytest.raises(DataError, match=r"a\.txt:2 holds byte 0xff at column 5"):
        list(read_documents(f"files:{tmp_path}/*.txt"))


def test_brackets_in_names_are_found(tmp_path):
    folder = tmp_path / "odd [1]"
    folder.mkdir()
    for name in ("a[2].txt", "a2.txt"):
        (folder / name).write_text(name)
    for pattern, names in {
        "odd [1]/a[2].txt": ["a[2].txt"],  # a file with this very name
        "odd [1]/*.txt": ["a2.txt", "a[2].txt"],
        "odd [[]1]/a[0-9].txt": ["a2.txt"],
    }.items():
        assert [d.text for d in read_documents(f"text:{tmp_path}/{pattern}")] == names
        assert [d.text for d in read_documents(f"text:file://{tmp_path}/{pattern}")][-1] in names


def test_content_decides_about_compression(tmp_path):
    (tmp_path / "plain.gz").write_text("plain text")
    (tmp_path / "packed.txt").write_bytes(bz2.compress(b"packed text"))
    (tmp_path / "BZh.txt").write_text("BZh91 is no compressed file")
    texts = [document.text for document in read_documents(f"text:{tmp_path}/*")]
    assert texts == ["BZh91 is no compressed file", "packed text", "plain text"]


@pytest.mark.parametrize("tool", ["gzip", "bzip2", "xz", "zstd"])
def test_joined_compressed_files_are_read_and_damaged_ones_are_refused(tool, tmp_path):
    if not shutil.which(tool):
        pytest.skip(f"needs the program {tool}")
    texts = [str(random.Random(i).random()) for i in range(5000)]
    content = "\n\n".join(texts).encode()
    packed = subprocess.run([tool, "-c"], input=content, capture_output=True, check=True).stdout
    path = tmp_path / "a"
    path.write_bytes(packed + packed)
    found = [document.text for document in read_documents(f"text:{path}")]
    assert found == [*texts[:-1], texts[-1] + texts[0], *texts[1:]]
    ending = {"gzip": "gz", "bzip2": "bz2", "xz": "xz", "zstd": "zst"}[tool]
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DataError, match=rf"a is cut short .*; accepted: a whole \.{ending} file"):
        list(read_documents(f"text:{path}"))
    middle = len(packed) // 2
    path.write_bytes(packed[:middle] + bytes(99) + packed[middle + 99 :])
    with pytest.raises(DataError, match=rf"a is damaged .*; accepted: a whole \.{ending} file"):
        list(read_documents(f"text:{path}"))


@pytest.mark.slow
def test_compressed_text_is_not_held_in_memory(tmp_path):
    """60 MB of text, in a process that may use 20 MB more than after its first document."""
    if not shutil.which("zstd"):
        pytest.skip("needs the program zstd")
    text = b"".join(b"%d%s\n\n" % (i, b" word" * 200) for i in range(60_000))
    with open(tmp_path / "a.zst", "wb") as stream:
        subprocess.run(["zstd", "-1", "-c"], input=text, stdout=stream, check=True)
    code = (
        "import resource, sys; from bert_jax.data.sources.corpora import read_documents\n"
        "documents = read_documents(sys.argv[1]); next(documents)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "count = sum(1 for _ in documents)\n"
        "print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    command = [sys.executable, "-c", code, f"text:{tmp_path}/a.zst"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    count, grown = map(int, result.stdout.split())
    assert count == 59_999 and grown < 20_000  # KiB


def test_bad_documents_are_skipped_and_listed(tmp_path):
    path = tmp_path / "a.txt"
    long = b"x" * (MAX_DOCUMENT_BYTES + 5)
    path.write_bytes(b"one\n\nb\xff\nad\n\ntwo\n\n" + long + b"\nmore\n\nthree\nlast \xfe")
    for count in (1, 3):
        skipped, texts = [], []
        for part in open_corpus(f"text:{path}").slices(count, on_bad_record="skip"):
            texts += [document.text for document, _ in read_slice(part, skipped=skipped)]
        assert texts == ["one", "two"]
        assert [line.split(";")[0] for line in skipped] == [
            f"{path}@5 holds byte 0xff at column 2",
            f"{path}@17 begins a document of more than 16,777,216 bytes",
            f"{path}@{path.stat().st_size - 6} holds byte 0xfe at column 6",
        ]
    (slice_,) = open_corpus(f"files:{path}").slices(1, on_bad_record="skip")
    assert list(read_slice(slice_, skipped=skipped)) == [] and "a.txt@5 holds" in skipped[-1]


DAMAGES = {
    "cut-short": (lambda packed: packed[:-9], "is cut short (Compressed file ended before"),
    "checksum": (
        lambda packed: packed[:-8] + bytes([packed[-8] ^ 1]) + packed[-7:],
        "is damaged (CRC check failed",
    ),
    "bits": (lambda packed: packed[:900] + bytes(99) + packed[999:], "is damaged"),
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


def test_a_damaged_compressed_file_is_no_bad_record_unless_it_is_a_document(tmp_path):
    """Nobody can count the documents that are lost in the rest of a file."""
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"one\n\ntwo\n\n" * 99)[:-9])
    (tmp_path / "b.txt").write_text("three")
    skipped = []
    for count in (1, 3):
        parts = open_corpus(f"text:{tmp_path}/*").slices(count, on_bad_record="skip")
        with pytest.raises(DataError, match="a.gz is cut short .*; accepted: a whole .gz file"):
            for part in parts:
                list(read_slice(part, skipped=skipped))
    assert skipped == []
    for part in open_corpus(f"files:{tmp_path}/*").slices(2, on_bad_record="skip"):
        for document, _ in read_slice(part, skipped=skipped):
            assert document.text == "three"
    assert len(skipped) == 1 and "a.gz is cut short" in skipped[0]
