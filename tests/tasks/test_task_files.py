"""Files of examples in the field: compressed, Parquet, columns of a single file, GLUE's layouts."""

import bz2
import gzip
import json
import lzma
import re
from dataclasses import replace

import pytest
from glue_files import LABELS, LAYOUTS, ROWS

from bert_jax.errors import DataError
from bert_jax.finetuning.finetune import describe_flaws, finetune
from bert_jax.sharding import MeshConfig
from bert_jax.tasks.config import FineTuningConfig, TaskConfig, TaskTrainingConfig
from bert_jax.tasks.datasets import load_dataset
from bert_jax.tasks.readers.read import read_records

pyarrow = pytest.importorskip("pyarrow", reason="needs pip install -e '.[corpora]'")
parquet = pytest.importorskip("pyarrow.parquet", reason="needs pip install -e '.[corpora]'")

QUESTION = {"question": "What?", "answers": [{"text": "good", "answer_start": 2}]}


def squad(*questions, context="A good film."):
    return json.dumps({"data": [{"paragraphs": [{"context": context, "qas": questions}]}]})


SETS = {
    "tsv": "text\tlabel\ngood\t1\nbäd\t0\n",
    "csv": 'text,label\n"good, very",1\nbad,0\n',
    "jsonl": '{"text": "good", "label": 1}\n{"text": "bad", "label": 0}\n',
    "conll": "good JJ\nfilm NN\n\nbad JJ\n",
    "conllu": "\t".join("1234567890") + "\n",
    "squad": squad(QUESTION | {"id": "q1"}),
}
PACK = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda content: pyarrow.compress(content, codec="zstd", asbytes=True),
}


def fields(spec, columns=()):
    return [record.fields for record in read_records(spec, columns)]


@pytest.mark.parametrize("ending", PACK)
@pytest.mark.parametrize("kind", SETS)
def test_any_file_of_examples_may_be_compressed_whatever_its_name(kind, ending, tmp_path):
    columns = ("token", "tag") if kind == "conll" else ()
    content = SETS[kind].encode()
    (tmp_path / f"plain.{ending}").write_bytes(content)
    (tmp_path / "packed").write_bytes(PACK[ending](content))
    expected = fields(f"{kind}:{tmp_path}/plain.{ending}", columns)
    assert expected and fields(f"{kind}:{tmp_path}/packed", columns) == expected


def test_the_error_of_a_compressed_file_names_its_line_or_its_damage(tmp_path):
    file = tmp_path / "a.tsv.gz"
    file.write_bytes(gzip.compress(b"text\tlabel\ngood\t1\nbad\n"))
    with pytest.raises(DataError, match=r"a.tsv.gz:3 has 1 columns; accepted: 2"):
        read_records(f"tsv:{file}")
    for kind, content in SETS.items():
        packed = gzip.compress(content.encode())
        file.write_bytes(packed[:-9])
        with pytest.raises(DataError, match=r"a.tsv.gz is cut short .*; accepted: a whole .gz"):
            read_records(f"{kind}:{file}", ("token", "tag") if kind == "conll" else ())


@pytest.mark.parametrize("ending", PACK)
def test_a_compressed_file_that_inflates_without_limit_is_refused(ending, tmp_path, monkeypatch):
    """The limit is lowered, so that no test holds 64 MiB."""
    monkeypatch.setattr("bert_jax.data.sources.files.SMALL", 2**16)
    header, line = b"text\tlabel\n", b"good\t1\n"
    (tmp_path / "a").write_bytes(PACK[ending](header + line * 9000))
    assert len(read_records(f"tsv:{tmp_path}/a")) == 9000
    (tmp_path / "a").write_bytes(PACK[ending](header + line * 400_000))
    with pytest.raises(DataError, match=r"/a inflates from .*; accepted: 64 MiB or 100 times its"):
        read_records(f"tsv:{tmp_path}/a")


def write_parquet(file, **columns):
    parquet.write_table(pyarrow.table(columns), file, row_group_size=2)
    return f"parquet:{file}"


def test_parquet_has_a_record_for_each_row(tmp_path):
    columns = {"text": ["good", "bad", "a film"], "label": [1, 0, 1]}
    spec = write_parquet(tmp_path / "a.parquet", **columns)
    assert fields(spec)[2] == {"text": "a film", "label": 1}
    assert [one.place.rpartition("/")[2] for one in read_records(spec)] == [
        f"a.parquet@{row}" for row in range(3)
    ]
    splits = load_dataset(TaskConfig(family="classification", train=spec, dev=spec)).splits
    assert [one.gold for one in splits["dev"].examples] == [1, 0, 1]
    packed = tmp_path / "packed"
    packed.write_bytes(gzip.compress((tmp_path / "a.parquet").read_bytes()))
    assert fields(f"parquet:{packed}") == fields(spec)


def test_parquet_holds_tags_and_answers_as_hugging_face_writes_them(tmp_path):
    columns = {"tokens": [["a", "film"], ["good"]], "tags": [[0, 1], [-100]]}
    spec = write_parquet(tmp_path / "tags.parquet", **columns)
    names = {"text": "tokens", "label": "tags", "representation": "last"}
    task = TaskConfig(family="tagging", train=spec, dev=spec, **names)
    found = load_dataset(task).splits["train"].examples
    assert [one.gold for one in found] == [(0, 1), (None,)]
    answers = {"text": ["good"], "answer_start": [2]}
    columns = {"id": ["q1"], "question": ["What?"], "context": ["A good film."]}
    spec = write_parquet(tmp_path / "squad.parquet", **columns, answers=[answers])
    names = {"text": "question", "text_pair": "context", "label": "answers"}
    task = TaskConfig(
        family="question_answering", train=spec, dev=spec, representation="last", **names
    )
    assert load_dataset(task).splits["dev"].examples[0].gold == (("good", 2),)


def test_the_error_names_the_row_of_a_parquet_file(tmp_path):
    columns = {"text": ["good", None, "bad"], "label": ["1", "0", None]}
    spec = write_parquet(tmp_path / "a.parquet", **columns)
    task = TaskConfig(family="classification", train=spec, dev=spec, labels=("0", "1"))
    with pytest.raises(
        DataError, match=r"a.parquet@1: text is None \(NoneType\); accepted: a text"
    ):
        load_dataset(task)
    skipped = load_dataset(replace(task, on_bad_record="skip")).splits["train"].skipped
    assert [one.partition(": ")[0].rpartition("@")[2] for one in skipped] == ["1", "2"]
    content = (tmp_path / "a.parquet").read_bytes()
    for damaged in (content[:-9], b"text", content[:60]):
        (tmp_path / "a.parquet").write_bytes(damaged)
        with pytest.raises(DataError, match=r"a.parquet cannot be read .*; accepted: a whole Parq"):
            read_records(spec)
    with pytest.raises(DataError, match=f"{tmp_path} cannot be read .*; accepted: a file"):
        read_records(f"parquet:{tmp_path}")
    table = pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 2, names=["text", "text"])
    parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match="names 2 columns 'text'; accepted: each name once"):
        read_records(spec)
    write_parquet(tmp_path / "a.parquet", text=pyarrow.array([], pyarrow.string()))
    with pytest.raises(DataError, match="a.parquet:1 holds no example"):
        read_records(spec)


def test_a_spec_may_name_the_columns_of_its_file(write_set):
    tagged = write_set("tagged.conll", ["good JJ", "", "film NN"])
    bare = write_set("bare.conll", ["good", "film"])
    columns = ("token", "tag")
    assert fields(f"conll:{tagged}", columns)[0] == {"token": ["good"], "tag": ["JJ"]}
    assert fields(f"conll:{bare}:token", columns) == [{"token": ["good", "film"]}]
    file = write_set("swapped.tsv", ["1\tgood"])
    assert fields(f"tsv:{file}:label,text", ("text", "label")) == [{"label": "1", "text": "good"}]
    odd = write_set("a.tsv:label,text", ["text\tlabel", "good\t1"])
    assert fields(f"tsv:{odd}") == [{"text": "good", "label": "1"}]
    with pytest.raises(DataError, match=":a,a names 2 columns 'a'; accepted: each name once"):
        read_records(f"conll:{tagged}:a,a")
    with pytest.raises(DataError, match="none.tsv does not exist"):
        read_records("tsv:none.tsv:label,text")


def test_half_of_a_surrogate_pair_in_squad_is_refused_with_its_question(write_set):
    names = {"text": "question", "text_pair": "context", "label": "answers"}
    good, bad = QUESTION | {"id": "q1"}, QUESTION | {"id": "q2", "question": "What \ud83d?"}
    file = write_set("surrogate.json", [squad(good, bad)])
    task = TaskConfig(
        family="question_answering",
        train=f"squad:{file}",
        dev=f"squad:{file}",
        representation="last",
        **names,
    )
    with pytest.raises(DataError, match=r"json:1, question q2: question cannot be read .*surrog"):
        load_dataset(task)
    dev = load_dataset(replace(task, on_bad_record="skip")).splits["dev"]
    assert len(dev.examples) == 1 and len(dev.skipped) == 1
    write_set("surrogate.json", [squad(good, context="A good \ud83d film.")])
    with pytest.raises(DataError, match=r"json:1, question q1: context cannot be read"):
        load_dataset(task)
    write_set("surrogate.json", [squad(good, QUESTION | {"id": "\ud83d"})])
    with pytest.raises(DataError, match=r"json:1, after question q1, .*surrogates") as error:
        load_dataset(task)
    assert str(error.value).encode("utf-8")


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_layouts_of_glue_give_all_rows(name, tmp_path):
    layout = LAYOUTS[name]
    task = TaskConfig(**layout.config, **layout.write(tmp_path), on_bad_record="skip")
    splits = load_dataset(task).splits
    counts = {split: (len(one.examples), len(one.skipped)) for split, one in splits.items()}
    assert counts == {split: (ROWS - bad, bad) for split, bad in layout.bad.items()}
    assert splits["train"].labelled and splits["dev"].labelled
    assert all(example.gold is None for example in splits["test"].examples)
    if any(layout.bad.values()):
        with pytest.raises(DataError, match=r"train.tsv:\d+.* (columns|'-'); accepted"):
            load_dataset(replace(task, on_bad_record="stop"))


def test_texts_that_are_also_in_train_are_named(write_set):
    lines = {
        "train": [{"text": text, "label": i % 2} for i, text in enumerate("abcd")],
        "dev": [{"text": text, "label": i % 2} for i, text in enumerate("xbya")],
        "test": [{"text": "z", "label": 0}],
    }
    files = {name: f"jsonl:{write_set(f'shared_{name}.jsonl', one)}" for name, one in lines.items()}
    dataset = load_dataset(TaskConfig(family="classification", **files))
    (line,) = describe_flaws(dataset)
    said = r"dev: 2 of 4 texts are also in train, first: .*shared_dev.jsonl:2 \['b'\]"
    assert re.fullmatch(said, line)


@pytest.mark.slow
def test_files_of_glue_are_fine_tuned_on(pretrained, tmp_path, capsys):
    for name in ("cola", "qqp", "snli"):
        layout, workdir = LAYOUTS[name], tmp_path / name / "run"
        (tmp_path / name).mkdir()
        files = layout.write(tmp_path / name)
        config = FineTuningConfig(
            task=TaskConfig(**layout.config, **files, on_bad_record="skip", max_length=32),
            training=TaskTrainingConfig(epochs=1, batch_size=16),
            mesh=MeshConfig(data=1),
        )
        result = finetune(config, pretrained, workdir)
        for split, bad in layout.bad.items():
            data = result["data"][split]
            assert (data["examples"], data["rows"]) == (ROWS - bad, ROWS - bad)
            assert data.get("skipped", {"count": 0})["count"] == bad
        assert result["labels"] == list(LABELS if name == "snli" else ("0", "1"))
        assert "test" not in result["summary"]
        lines = (workdir / "seed-0" / "predictions_test.tsv").read_text().splitlines()
        assert [line.split("\t")[0] for line in lines] == ["index", *map(str, range(ROWS))]
        said = capsys.readouterr().err
        assert f"{ROWS} examples of tsv:{tmp_path}/{name}/test.tsv have no label" in said
        assert ("train: 3 bad records, first:" in said) == (name == "qqp")
