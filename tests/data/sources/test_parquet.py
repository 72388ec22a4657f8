"""Parquet: the choice of the column, and the errors for bad files and values."""

import numpy as np
import pytest

from bert_jax.data.sources.corpora import open_corpus, read_documents, read_slice
from bert_jax.errors import DataError

pyarrow = pytest.importorskip("pyarrow", reason="needs pip install -e '.[corpora]'")
parquet = pytest.importorskip("pyarrow.parquet", reason="needs pip install -e '.[corpora]'")


def write(path, **columns):
    parquet.write_table(pyarrow.table(columns), path, row_group_size=2)
    return path


def test_the_column_can_be_chosen_and_may_hold_lists_of_lines(tmp_path):
    path = write(tmp_path / "a.parquet", body=[["one", "two"], ["three"], ["four"]], text=[1, 2, 3])
    texts = [document.text for document in read_documents(f"parquet:{path}:body")]
    assert texts == ["one\ntwo", "three", "four"]


def test_columns_may_be_nested_or_have_any_name(tmp_path):
    data = [{"text": "one", "n": 1}, {"text": "two", "n": 2}, {"text": "three", "n": 3}]
    columns = {"my text": ["a", "b", "c"], "a.b": ["d", "e", "f"], "data": data}
    path = write(tmp_path / "a.parquet", **columns)
    for field, texts in {
        '"my text"': ["a", "b", "c"],
        "my text": ["a", "b", "c"],
        '"a.b"': ["d", "e", "f"],
        "data.text": ["one", "two", "three"],
    }.items():
        assert [document.text for document in read_documents(f"parquet:{path}:{field}")] == texts
    with pytest.raises(DataError, match="has no column 'data.none', but my text, a.b, data"):
        list(read_documents(f"parquet:{path}:data.none"))


def test_rows_without_text_are_skipped_and_listed(tmp_path):
    path = write(tmp_path / "a.parquet", text=["a", None, "b", None])
    skipped, texts = [], []
    for part in open_corpus(f"parquet:{path}").slices(2, on_bad_record="skip"):
        texts += [document.text for document, _ in read_slice(part, skipped=skipped)]
    assert texts == ["a", "b"]
    assert [line.split(";")[0] for line in skipped] == [
        f"{path}@{row} has None in field 'text'" for row in (1, 3)
    ]


def test_the_error_names_a_missing_column_and_the_existing_columns(tmp_path):
    path = write(tmp_path / "a.parquet", id=[1], body=["a"])
    with pytest.raises(DataError, match="has no column 'text', but id, body"):
        list(read_documents(f"parquet:{path}"))


@pytest.mark.parametrize(
    ("values", "shown"), [(["a", "b", "c", None], "None"), ([0, 1, 2, 3], "0")]
)
def test_the_error_names_the_row_of_a_value_that_is_not_text(values, shown, tmp_path):
    path = write(tmp_path / "a.parquet", text=values)
    row = 3 if None in values else 0
    with pytest.raises(DataError, match=rf"a\.parquet@{row} has {shown} in field 'text'"):
        list(read_documents(f"parquet:{path}"))


def test_the_error_names_a_file_that_is_not_parquet(tmp_path):
    (tmp_path / "a.parquet").write_text("text")
    with pytest.raises(DataError, match=r"a\.parquet cannot be read .*whole Parquet file") as error:
        list(read_documents(f"parquet:{tmp_path}/a.parquet"))
    assert "\n" not in str(error.value)


def test_the_error_names_the_file_with_a_damaged_page(tmp_path):
    numbers = np.random.default_rng(0).random((9, 200))
    path = write(tmp_path / "a.parquet", text=[" ".join(map(str, row)) for row in numbers])
    content = bytearray(path.read_bytes())
    content[1000:1400] = b"\xff" * 400
    path.write_bytes(content)
    with pytest.raises(
        DataError, match=r"a\.parquet cannot be read \(.*; accepted: a whole Parquet"
    ):
        list(read_documents(f"parquet:{path}"))


def test_a_row_group_that_inflates_a_hundredfold_is_refused_before_it_is_read(tmp_path):
    write(tmp_path / "small.parquet", text=["x" * 2**20] * 4)
    assert len(list(read_documents(f"parquet:{tmp_path}/small.parquet"))) == 4
    table = pyarrow.table({"text": [str(i % 10) * 2**24 for i in range(5)]})
    parquet.write_table(table, tmp_path / "a.parquet", compression="zstd", use_dictionary=False)
    assert (tmp_path / "a.parquet").stat().st_size < 2**17
    with pytest.raises(
        DataError, match=r"a\.parquet cannot .*row group 0 inflates to more than 67,108,864"
    ):
        list(read_documents(f"parquet:{tmp_path}/a.parquet"))
