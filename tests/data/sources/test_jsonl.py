"""JSON lines: the choice of the field, and the errors for bad lines."""

import gzip
import json

import pytest

from bert_jax.data.sources.base import MAX_DOCUMENT_BYTES
from bert_jax.data.sources.corpora import open_corpus, read_documents, read_slice
from bert_jax.errors import DataError


@pytest.fixture(params=[open, gzip.open], ids=["plain", "gzip"])
def write(request, tmp_path):
    path = tmp_path / ("a.jsonl.gz" if request.param is gzip.open else "a.jsonl")

    def write(*lines):
        with request.param(path, "wb") as stream:
            stream.write(b"\n".join(lines))
        return path

    return write


def test_the_field_can_be_chosen_and_may_hold_a_list_of_lines(write):
    path = write(b'{"body": "one"}', b"", b'{"body": ["two", "three"], "text": 1}')
    texts = [document.text for document in read_documents(f"jsonl:{path}:body")]
    assert texts == ["one", "two\nthree"]


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ('"body-text"', "dashed"),
        ("body-text", "dashed"),
        ("text 2", "spaced"),
        ('"a.b"', "dotted"),
        ("a.b", "dotted"),
        ("data.text", "nested"),
        ('data."body text"', "both"),
        ('"data"."deep.er"."x:y/z"', "deepest"),
    ],
)
def test_fields_may_be_nested_or_have_any_name(field, text, tmp_path):
    record = {"body-text": "dashed", "text 2": "spaced", "a.b": "dotted", "a": {"b": "hidden"}}
    record["data"] = {"text": "nested", "body text": "both", "deep.er": {"x:y/z": "deepest"}}
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(record))
    assert [document.text for document in read_documents(f"jsonl:{path}:{field}")] == [text]
    assert open_corpus(f"jsonl:{path}:{field}@2").sources[0].weight == 2
    with pytest.raises(DataError, match=r":1 has no field 'data.none', but 'body-text', 'text 2'"):
        list(read_documents(f"jsonl:{path}:data.none"))


def test_a_file_name_may_look_like_a_field(tmp_path):
    (tmp_path / "a:b-1.jsonl").write_text('{"text": "found"}')
    assert [d.text for d in read_documents(f"jsonl:{tmp_path}/a:b-1.jsonl")] == ["found"]
    with pytest.raises(DataError, match="matches no file"):
        open_corpus(f"jsonl:{tmp_path}/a:b-2.jsonl")


def test_bad_lines_are_skipped_and_listed(write):
    good = b'{"text": "good"}'
    bad = [line for name, (line, _) in BAD.items() if name != "longer"]
    path = write(good, *bad, good)
    for count in (1, 3):
        skipped, texts = [], []
        for part in open_corpus(f"jsonl:{path}").slices(count, on_bad_record="skip"):
            texts += [document.text for document, _ in read_slice(part, skipped=skipped)]
        assert texts == ["good", "good"] and len(skipped) == len(bad)
        assert sorted(skipped)[0].startswith(f"{path}@") and len(max(skipped, key=len)) < 400
    assert any("has None in field 'text'; accepted: a string" in line for line in skipped)


def test_files_that_begin_with_a_byte_order_mark_may_be_joined(write):
    mark = b"\xef\xbb\xbf"
    path = write(mark + b'{"text": "one"}', mark + b'{"text": "two"}', mark)
    assert [document.text for document in read_documents(f"jsonl:{path}")] == ["one", "two"]


def test_a_byte_order_mark_is_not_part_of_the_first_line(write):
    path = write(b'\xef\xbb\xbf{"text": "one"}', b'{"text": "two"}')
    assert [document.text for document in read_documents(f"jsonl:{path}")] == ["one", "two"]


def test_a_line_at_the_boundary_of_two_slices_is_read_once(tmp_path):
    """Twelve lines of equal length in four slices: every slice begins at a line's first byte."""
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": f"{i:02}"}) + "\n" for i in range(12)))
    slices = open_corpus(f"jsonl:{path}").slices(4)
    found = [
        [int(document.text) for document, _ in read_slice(corpus_slice)] for corpus_slice in slices
    ]
    assert found == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]


BAD = {
    "not-json": (b'{"text": ', "is not JSON"),
    "nested": (b"[" * 100_000, "is not JSON"),
    "no-object": (b'["text"]', "holds a list; accepted: an object"),
    "no-field": (b'{"txt": "a", "id": 3}', "has no field 'text', but 'txt', 'id'; accepted"),
    "no-field-at-all": (b"{}", "has no field 'text', but none at all"),
    "number": (b'{"text": 12}', "has 12 in field 'text'; accepted: a string"),
    "null": (b'{"text": null}', "has None in field 'text'"),
    "mixed": (b'{"text": ["a", 3]}', r"has \['a', 3\] in field 'text'"),
    "surrogate": (b'{"text": "\\ud800"}', "has no text in field 'text'"),
    "encoding": (b'{"text": "\xff"}', "holds byte 0xff at column 11"),
    "long": (
        json.dumps({"text": "x" * (MAX_DOCUMENT_BYTES + 1)}).encode(),
        "begins a document of more than 16,777,216",
    ),
    "longer": (b'{"text": "' + b"x" * 50 * 2**20, "begins a document of more than 16,777,216"),
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("count", [1, 3])
def test_the_error_names_file_and_number_of_a_bad_line(bad, count, write):
    line, said = BAD[bad]
    good = b'{"text": "good"}'
    path = write(good, good, b"", good, line, good)
    with pytest.raises(DataError, match=said) as error:
        for corpus_slice in open_corpus(f"jsonl:{path}").slices(count):
            list(read_slice(corpus_slice))
    assert str(error.value).startswith(f"{path}:5 ") and len(str(error.value)) < 300
    assert "\n" not in str(error.value)
