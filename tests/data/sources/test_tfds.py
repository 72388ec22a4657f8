"""TensorFlow Datasets (TFDS) are read without TensorFlow: the embedded corpus, splits, fields."""

import json
import shutil
import subprocess
import sys

import pytest

from bert_jax.data.sources.corpora import open_corpus, read_documents
from bert_jax.errors import DataError

pytest.importorskip("tensorflow_datasets", reason="needs pip install -e '.[corpora]'")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The data directory of TFDS, in which the dataset `sotu` is prepared."""
    directory = tmp_path_factory.mktemp("tfds")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tensorflow_datasets.core.constants.DATA_DIR", str(directory))
        open_corpus("tfds:sotu")
        yield directory


def test_the_embedded_corpus_is_the_same_through_tfds(prepared):
    embedded = [document.text for document in read_documents("embedded:sotu")]
    by_name = [document.text for document in read_documents("tfds:sotu")]
    by_path = [document.text for document in read_documents(f"tfds:{prepared}/sotu/1.0.0:train")]
    assert by_name == by_path == embedded
    (source,) = open_corpus("tfds:sotu").sources
    assert "public domain" in (source.licence or "")
    assert all("array_record" in file.path for file in source.files)


def test_a_slice_of_a_split_and_other_fields_can_be_read(prepared):
    texts = [document.text for document in read_documents("tfds:sotu")]
    part = [document.text for document in read_documents("tfds:sotu:train[10%:50%]")]
    assert part == texts[23:116]
    names = [document.text for document in read_documents("tfds:sotu:train[:2]:name")]
    assert names == ["1790_george_washington_n", "1791_george_washington_n"]
    both = read_documents("tfds:sotu:train[:2],tfds:sotu:train[-1:]")
    assert [document.text for document in both] == [texts[0], texts[-1], texts[1]]  # alternating


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("tfds:nonesuch", "TFDS has no dataset 'nonesuch'"),
        ("tfds:sotu/other", "other"),
        ("tfds:lm1b", "lm1b.* is missing; accepted: a dataset that TFDS has prepared there"),
        ("tfds:sotu:validation", "has no split 'validation'; accepted: train"),
        ("tfds:sotu:train[:x]", "has no split"),
        ("tfds:sotu:train:body", "has no field 'body'; accepted: name, text"),
    ],
)
def test_the_error_names_a_missing_dataset_split_or_field(spec, said, prepared):
    with pytest.raises(DataError, match=said) as error:
        open_corpus(spec)
    assert "\n" not in str(error.value)


def test_a_directory_without_a_dataset_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no dataset of TFDS"):
        open_corpus(f"tfds:{tmp_path}")


def test_neither_tensorflow_nor_jax_is_loaded(prepared):
    code = (
        "import sys; from bert_jax.data.sources.corpora import read_documents\n"
        f"assert len(list(read_documents('tfds:{prepared}/sotu/1.0.0'))) == 233\n"
        "assert not {'tensorflow', 'jax', 'grain'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- Directories of somebody else ----------------------------------------------------------------


@pytest.fixture
def copy(prepared, tmp_path):
    return shutil.copytree(prepared / "sotu" / "1.0.0", tmp_path / "copy")


@pytest.mark.parametrize("name", ["name", "text"])
def test_no_class_of_another_package_is_imported(name, copy, tmp_path, monkeypatch):
    """`features.json` names a class, and TFDS imports its module."""
    (tmp_path / "planted.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    features = json.loads((copy / "features.json").read_text())
    nested = features["featuresDict"]["features"][name]
    for feature in (nested, features):
        before, feature["pythonClassName"] = feature["pythonClassName"], "planted.Feature"
        (copy / "features.json").write_text(json.dumps(features))
        with pytest.raises(DataError, match="'planted.Feature', which TFDS does not have"):
            open_corpus(f"tfds:{copy}")
        feature["pythonClassName"] = before
    old = {"type": "planted.Feature", "content": {}}
    (copy / "features.json").write_text(json.dumps(old))
    with pytest.raises(DataError, match="'planted.Feature'"):
        open_corpus(f"tfds:{copy}")
    assert not (tmp_path / "ran").exists()
    (copy / "features.json").write_text(json.dumps(features))
    assert open_corpus(f"tfds:{copy}").sources


def test_files_outside_the_directory_are_refused(copy, tmp_path):
    info = json.loads((copy / "dataset_info.json").read_text())
    (split,) = info["splits"]
    split["filepathTemplate"] = "../other/{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    (copy / "dataset_info.json").write_text(json.dumps(info))
    shutil.copytree(copy, tmp_path / "other")
    with pytest.raises(DataError, match=r"names .*other.*; accepted: files in .*copy"):
        open_corpus(f"tfds:{copy}")
