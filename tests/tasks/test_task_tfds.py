"""`tfds:` sets, prepared here by builders with TFDS's own features."""

import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from bert_jax.errors import DataError
from bert_jax.tasks.config import TaskConfig
from bert_jax.tasks.datasets import load_dataset
from bert_jax.tasks.families.classification import CLASSIFICATION
from bert_jax.tasks.readers.read import read_records

tfds = pytest.importorskip("tensorflow_datasets", reason="needs pip install -e '.[corpora]'")

PASSAGE = "A good film."


class _Builder(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(0), "validation": self._generate_examples(1)}


def _described(builder, features):
    features = tfds.features.FeaturesDict(features)
    return tfds.core.DatasetInfo(builder=builder, features=features)


class Pairs(_Builder, skip_registration=True):
    """A set like `glue/mrpc`, with two texts, a class label and a number."""

    def _info(self):
        features = {
            "sentence1": tfds.features.Text(),
            "sentence2": tfds.features.Text(),
            "label": tfds.features.ClassLabel(names=["different", "same"]),
            "idx": np.int32,
        }
        return _described(self, features)

    def _generate_examples(self, first):
        for i in range(first, 5):
            yield i, {"sentence1": f"naïve {i}", "sentence2": "b", "label": i % 2, "idx": i}


class Glue(Pairs, skip_registration=True):
    """TFDS has a builder of this name that needs TensorFlow; a prepared set is read without it."""

    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="mrpc", version=tfds.core.Version("2.0.0"))]


class Hidden(Pairs, skip_registration=True):
    """A set like GLUE's test splits, with label -1 for every example."""

    def _generate_examples(self, first):
        for key, example in super()._generate_examples(first):
            yield key, example | {"label": -1}


class Questions(_Builder, skip_registration=True):
    """A set like `squad`."""

    def _info(self):
        features = {
            "id": tfds.features.Text(),
            "question": tfds.features.Text(),
            "context": tfds.features.Text(),
            "answers": tfds.features.Sequence(
                {"text": tfds.features.Text(), "answer_start": np.int32}
            ),
        }
        return _described(self, features)

    def _generate_examples(self, first):
        for i, answers in enumerate([["good"], ["good", "film"], []]):
            given = [{"text": text, "answer_start": PASSAGE.index(text)} for text in answers]
            yield i, {"id": f"q{i}", "question": "?", "context": PASSAGE, "answers": given}


class Tags(_Builder, skip_registration=True):
    """A set like `conll2003`, with tokens and tags that are class labels."""

    def _info(self):
        tag = tfds.features.ClassLabel(names=["O", "B-PER"])
        features = {
            "tokens": tfds.features.Sequence(tfds.features.Text()),
            "ner": tfds.features.Sequence(tag),
        }
        return _described(self, features)

    def _generate_examples(self, first):
        for i in range(2):
            yield i, {"tokens": ["hello", "ada"], "ner": [0, 1]}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """`prepared(builder)` prepares it and returns its directory."""
    directory = tmp_path_factory.mktemp("tfds")

    def prepare(builder):
        made = builder(data_dir=directory, file_format="array_record")
        made.download_and_prepare()
        return str(made.data_path)

    return prepare


def test_a_class_label_becomes_its_name_and_a_hidden_label_null(prepared):
    path = prepared(Pairs)
    records = read_records(f"tfds:{path}:train")
    by_number = {record.fields["idx"]: record.fields for record in records}
    assert len(records) == 5 and by_number[3]["label"] == "same"
    assert by_number[2] == {
        "sentence1": "naïve 2",
        "sentence2": "b",
        "label": "different",
        "idx": 2,
    }
    assert len(read_records(f"tfds:{path}:validation[:50%]")) == 2
    hidden = read_records(f"tfds:{prepared(Hidden)}:train")
    assert {record.fields["label"] for record in hidden} == {None}


def test_a_pair_task_is_read_from_tfds(prepared):
    path = prepared(Pairs)
    task = TaskConfig(
        family="classification",
        train=f"tfds:{path}:train",
        dev=f"tfds:{path}:validation",
        test=f"tfds:{prepared(Hidden)}:train",
        text="sentence1",
        text_pair="sentence2",
    )
    dataset = load_dataset(task)
    assert dataset.labels == ("different", "same")
    assert len(dataset.splits["dev"].examples) == 4
    assert all(example.gold is None for example in dataset.splits["test"].examples)


def test_task_labels_may_be_tfds_numbers(prepared):
    """GLUE's submissions for MRPC have numbers. Unknown names are refused."""
    path = prepared(Pairs)
    task = TaskConfig(
        family="classification",
        train=f"tfds:{path}:train",
        dev=f"tfds:{path}:validation",
        text="sentence1",
        labels=("1", "0"),
    )
    dev = load_dataset(task).splits["dev"].examples
    golds = {int(one.name): task.labels[one.gold] for one in dev}
    assert golds == {i: str(i % 2) for i in range(1, 5)}
    _, text = CLASSIFICATION.write_predictions([one.gold for one in dev], dev, task.labels)
    assert text == "index\tprediction\n1\t1\n2\t0\n3\t1\n4\t0\n"
    with pytest.raises(DataError, match="label is '(different|same)'; accepted: 0, 2"):
        load_dataset(replace(task, labels=("0", "2")))


def test_questions_and_tags_are_read_from_tfds(prepared):
    answers = sorted(
        record.fields["answers"] for record in read_records(f"tfds:{prepared(Questions)}:train")
    )
    assert answers == [[], [("good", 2)], [("good", 2), ("film", 7)]]
    (record, _) = read_records(f"tfds:{prepared(Tags)}:train")
    assert record.fields == {"tokens": ["hello", "ada"], "ner": ["O", "B-PER"]}


@pytest.mark.parametrize("name", ["imdb_reviews", "ag_news_subset", "piqa"])
def test_mock_data_of_tfds_are_read(name, prepared):
    """The mock data are written with the set's own features.

    GLUE is left out because its features need TensorFlow, and SQuAD because TFDS mocks more answer
    starts than texts and cannot write them.
    """
    with tfds.testing.mock_data(num_examples=6):
        mocked = list(tfds.data_source(name, split="train"))
        features = tfds.builder(name).info.features

    class Mocked(_Builder, skip_registration=True):
        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _generate_examples(self, first):
            yield from enumerate(mocked[first:])

    Mocked.name = f"mocked_{name}"
    records = read_records(f"tfds:{prepared(Mocked)}:train")
    expected = [
        example | {"label": features["label"].int2str(int(example["label"]))} for example in mocked
    ]
    by_text = partial(sorted, key=str)
    assert by_text(r.fields for r in records) == by_text(expected) and len(records) == 6


def test_a_prepared_glue_set_is_found_by_its_name(prepared, monkeypatch):
    directory = prepared(Glue)
    assert directory.endswith("glue/mrpc/2.0.0")
    root = directory.removesuffix("/glue/mrpc/2.0.0")
    monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", root)
    assert len(read_records("tfds:glue/mrpc:validation")) == 4


def test_the_error_names_a_missing_split_or_set(prepared):
    with pytest.raises(DataError, match="no split 'test'; accepted: train, validation"):
        read_records(f"tfds:{prepared(Pairs)}:test")
    with pytest.raises(DataError, match="no dataset .glue/mrpc.* prepared in TFDS_DATA_DIR"):
        read_records("tfds:glue/mrpc:train")


def test_tensorflow_is_not_loaded(prepared):
    code = (
        "import sys; from bert_jax.tasks.readers.read import read_records\n"
        f"assert len(read_records('tfds:{prepared(Pairs)}:train')) == 5\n"
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
