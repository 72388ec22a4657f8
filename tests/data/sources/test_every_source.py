"""Every kind of source can be cut into slices that give each document once and in order."""

import json
import pickle
import random
import shutil
import struct
import subprocess

import fsspec
import pytest

from bert_jax.data.sources.corpora import open_corpus, read_documents, read_slice, size_of
from bert_jax.errors import DataError

SEQUENTIAL = ("text.gz", "text.xz", "text.zst", "jsonl.gz", "jsonl.bz2")
"""Kinds whose slices take documents in turn, because a file is read from its beginning."""
KINDS = ("text", "files", "jsonl", *SEQUENTIAL, "parquet", "array_record", "tfrecord")
TOOLS = {"gz": "gzip", "bz2": "bzip2", "xz": "xz", "zst": "zstd"}


def make_texts(count=97):
    """Documents of very different lengths, some with letters of several bytes."""
    rng = random.Random(0)
    words = ["wörd", "文字", "plain", "x", "longer-than-others"]
    return [
        "\n".join(
            f"{i} " + " ".join(rng.choices(words, k=rng.choice([1, 3, 40])))
            for _ in range(rng.choice([1, 2, 9]))
        )
        for i in range(count)
    ]


def write_corpus(directory, kind, texts):
    """Writes three files of one kind and returns the spec that reads them."""
    cuts = [0, len(texts) // 5, len(texts) // 2, len(texts)]
    parts = [texts[a:b] for a, b in zip(cuts, cuts[1:], strict=False)]
    if kind in ("array_record", "tfrecord"):
        return write_tfds(directory, kind, parts)
    if kind == "files":
        for number, text in enumerate(texts):
            (directory / f"{number:03}.files").write_bytes(text.replace("\n", "\n\n").encode())
        return f"files:{directory}/*.files"
    format_name, _, compression = kind.partition(".")
    for number, part in enumerate(parts):
        path = directory / f"{number}.{format_name}"
        if format_name == "parquet":
            write_parquet(path, part)
            continue
        blank = ["\n\n", "\n \t\n\n"][number % 2]
        jsonl = "".join(
            json.dumps({"text": text}, ensure_ascii=number == 0) + "\n" for text in part
        )
        content = blank.join(part) if format_name == "text" else jsonl
        path.write_bytes(content.encode())
        if compression:
            pack(path, compression)
    return f"{format_name}:{directory}/*.{kind}"


def pack(path, compression):
    """Replaces a file by its compressed form, with the program of the format."""
    if not shutil.which(TOOLS[compression]):
        pytest.skip(f"needs the program {TOOLS[compression]}")
    with open(f"{path}.{compression}", "wb") as stream:
        subprocess.run([TOOLS[compression], "-c", str(path)], stdout=stream, check=True)
    path.unlink()


def write_parquet(path, texts):
    pyarrow = pytest.importorskip("pyarrow", reason="needs pip install -e '.[corpora]'")
    from pyarrow import parquet

    table = pyarrow.table({"id": list(range(len(texts))), "text": texts})
    parquet.write_table(table, path, row_group_size=7)


def write_tfds(directory, kind, parts):
    """Writes a dataset in TFDS's layout, TFRecords by hand (TFDS needs TensorFlow for them)."""
    tfds = pytest.importorskip("tensorflow_datasets", reason="needs pip install -e '.[corpora]'")
    from array_record.python.array_record_module import ArrayRecordWriter

    features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
    names = [f"corpus-train.{kind}-{i:05}-of-{len(parts):05}" for i in range(len(parts))]
    for name, part in zip(names, parts, strict=True):
        records = [features.serialize_example({"text": text}) for text in part]
        if kind == "array_record":
            writer = ArrayRecordWriter(str(directory / name), "group_size:1")
            for record in records:
                writer.write(record)
            writer.close()
        else:
            framed = (struct.pack("<Q4x", len(one)) + one + b"sum." for one in records)
            (directory / name).write_bytes(b"".join(framed))
    split = {
        "name": "train",
        "shardLengths": [str(len(part)) for part in parts],
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
    }
    info = {
        "name": "corpus",
        "version": "1.0.0",
        "fileFormat": kind,
        "splits": [split],
        "redistributionInfo": {"license": "CC0"},
    }
    (directory / "dataset_info.json").write_text(json.dumps(info))
    features.save_config(str(directory))
    return f"tfds:{directory}"


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.mark.parametrize("kind", ["text", "jsonl", "jsonl.bz2", "text.gz"])
@pytest.mark.parametrize("excess", [0, 1, 2**18])
def test_a_line_beyond_the_limit_is_skipped(kind, excess, tmp_path, monkeypatch):
    """A line of the largest length is read; a longer line is left out, but not the next lines."""
    limit = 2**17
    monkeypatch.setattr("bert_jax.data.sources.files.MAX_LINE_BYTES", limit)
    # The line end counts in plain text, and not in JSONL.
    around = len(b'{"text": ""}') if kind.startswith("jsonl") else len(b"\n")
    short = [f"text {i}" for i in range(9)]
    texts = [*short[:7], "x" * (limit - around + excess), *short[7:]]
    spec = write_corpus(tmp_path, kind, texts)
    skipped, found = [], []
    for part in open_corpus(spec).slices(3, on_bad_record="skip"):
        found += [document.text for document, _ in read_slice(part, skipped=skipped)]
    if not excess:
        assert sorted(found) == sorted(texts) and not skipped
        return
    assert sorted(found) == short
    assert len(skipped) == 1 and "begins a document of more than" in skipped[0]
    with pytest.raises(DataError, match=r":\d+ begins a document of more than"):
        list(read_documents(spec))


def texts_of(corpus_slice):
    return [document.text.replace("\n\n", "\n") for document, _ in read_slice(corpus_slice)]


@pytest.mark.parametrize("count", [1, 2, 3, 8, 50])
def test_slices_give_every_document_once(kind, count, tmp_path):
    texts = make_texts()
    corpus = open_corpus(write_corpus(tmp_path, kind, texts))
    slices = corpus.slices(count)
    assert len(slices) == count
    found = [texts_of(corpus_slice) for corpus_slice in pickle.loads(pickle.dumps(slices))]
    if kind in SEQUENTIAL:
        assert sorted(sum(found, [])) == sorted(texts)
    else:
        assert sum(found, []) == texts
    if count == 3:
        sizes = [sum(map(len, part)) for part in found]
        # Records and files are not split, so their slices are less equal.
        assert max(sizes) < (2 if kind in ("text", "jsonl", "files") else 3) * min(sizes)


def test_names_are_unique_and_the_order_is_kept(kind, tmp_path):
    texts = make_texts()
    spec = write_corpus(tmp_path, kind, texts)
    documents = list(read_documents(spec))
    assert [document.text.replace("\n\n", "\n") for document in documents] == texts
    assert len({document.name for document in documents}) == len(texts)
    if "text" not in kind and kind != "files":
        assert all(":text@" in document.name for document in documents)
    assert list(read_documents(spec)) == documents


def test_text_is_streamed(kind, tmp_path):
    """The first document arrives before the last file is opened."""
    spec = write_corpus(tmp_path, kind, make_texts())
    documents = read_documents(spec)
    sorted(path for path in tmp_path.iterdir() if kind in path.name)[-1].unlink()
    assert next(documents).text.replace("\n\n", "\n") == make_texts()[0]
    with pytest.raises((OSError, DataError)):
        list(documents)


@pytest.mark.parametrize("kind", ["text", "files", "text.gz", "text.zst", "jsonl", "parquet"])
def test_urls_are_read_like_paths(kind, tmp_path):
    texts = make_texts()
    local = write_corpus(tmp_path, kind, texts)
    memory = fsspec.filesystem("memory")
    for path in tmp_path.iterdir():
        memory.pipe(f"/{tmp_path.name}/{path.name}", path.read_bytes())
    remote = open_corpus(local.replace(str(tmp_path), f"memory://{tmp_path.name}"))
    assert size_of(*remote.slices(1)) == size_of(*open_corpus(local).slices(1))
    assert sorted(sum(map(texts_of, remote.slices(4)), [])) == sorted(texts)


@pytest.mark.parametrize("kind", ["text", "jsonl", "parquet"])
def test_the_error_names_an_empty_file_or_a_pattern_without_files(kind, tmp_path):
    pytest.importorskip("pyarrow", reason="needs pip install -e '.[corpora]'")
    with pytest.raises(DataError, match=rf"'{kind}:.*\*' matches no file"):
        open_corpus(f"{kind}:{tmp_path}/*")
    for pattern in (tmp_path, f"{tmp_path}/", f"file://{tmp_path}"):
        accepted = rf"matches a directory and no file; accepted: (file://)?{tmp_path}/\*$"
        with pytest.raises(DataError, match=accepted):
            open_corpus(f"{kind}:{pattern}")
    (tmp_path / "full").write_text("text")
    (tmp_path / "nothing").touch()
    with pytest.raises(DataError, match=r"nothing:1 is an empty file"):
        open_corpus(f"{kind}:{tmp_path}/*")


def test_a_url_of_an_unknown_scheme_is_a_one_line_error(tmp_path):
    with pytest.raises(DataError, match=r"nonesuch://x/\*\.txt cannot be opened") as error:
        open_corpus("text:nonesuch://x/*.txt")
    assert "\n" not in str(error.value)


def test_the_length_of_a_tfrecord_takes_no_memory(tmp_path):
    spec = write_corpus(tmp_path, "tfrecord", make_texts())
    file = sorted(tmp_path.glob("*.tfrecord*"))[1]
    content = file.read_bytes()
    for length in (2**62, 2**63 + 5, len(content)):
        file.write_bytes(struct.pack("<Q", length) + content[8:])
        with pytest.raises(DataError, match=f"record 0 has {length} bytes, more than the file"):
            list(read_documents(spec))


def test_an_empty_file_of_tfds_is_refused(tmp_path):
    spec = write_corpus(tmp_path, "tfrecord", make_texts())
    sorted(tmp_path.glob("*.tfrecord*"))[1].write_bytes(b"")
    with pytest.raises(DataError, match="ends before record 0; accepted: 29 records"):
        list(read_documents(spec))
