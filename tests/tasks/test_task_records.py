"""Readers of examples, and errors that name file and line."""

import json

import pytest

from bert_jax.errors import DataError
from bert_jax.tasks.config import TaskConfig
from bert_jax.tasks.datasets import load_dataset
from bert_jax.tasks.readers.read import read_records
from bert_jax.tasks.readers.records import fingerprint_records

SQUAD = {
    "data": [
        {
            "paragraphs": [
                {
                    "context": "A good film.",
                    "qas": [
                        {
                            "id": "q1",
                            "question": "What?",
                            "answers": [{"text": "good", "answer_start": 2}],
                        },
                        {"id": "q2", "question": "Who?", "answers": [], "is_impossible": True},
                    ],
                }
            ]
        }
    ]
}


def fields(spec, columns=()):
    return [record.fields for record in read_records(spec, columns)]


def test_a_tsv_file_has_its_columns_from_its_first_line_or_from_the_config(write_set):
    named = write_set("named.tsv", ["text\tlabel", 'it"s good\t1', "", "bad\t0"])
    expected = [{"text": 'it"s good', "label": "1"}, {"text": "bad", "label": "0"}]
    assert fields(f"tsv:{named}") == expected
    bare = write_set("bare.tsv", ['it"s good\t1', "bad\t0"])
    assert fields(f"tsv:{bare}", ("text", "label")) == expected
    assert [record.place for record in read_records(f"tsv:{named}")] == [f"{named}:2", f"{named}:4"]


def test_csv_cells_may_hold_commas_and_quotes(write_set):
    file = write_set("a.csv", ["text,label", '"good, very ""good""",1'])
    assert fields(f"csv:{file}") == [{"text": 'good, very "good"', "label": "1"}]


def test_sentences_of_conll_and_conllu(write_set):
    conll = write_set("a.conll", ["-DOCSTART- -X- O", "", "a DT", "film NN", "", "", "good JJ"])
    expected = [{"token": ["a", "film"], "tag": ["DT", "NN"]}, {"token": ["good"], "tag": ["JJ"]}]
    assert fields(f"conll:{conll}", ("token", "tag")) == expected
    rest = "_\t_\t0\troot\t_\t_"
    conllu = write_set(
        "a.conllu",
        [
            "# text = a b",
            f"1-2\tvamonos\t_\t_\t{rest}",
            f"1\tvamos\tir\tVERB\t{rest}",
            f"2\tnos\tnos\tPRON\t{rest}",
            f"2.1\tempty\t_\t_\t{rest}",
            "",
        ],
    )
    (sentence,) = fields(f"conllu:{conllu}")
    assert (sentence["form"], sentence["upos"]) == (["vamos", "nos"], ["VERB", "PRON"])


def test_questions_of_squad(tmp_path):
    file = tmp_path / "squad.json"
    file.write_text(json.dumps(SQUAD, indent=1))
    first, second = read_records(f"squad:{file}")
    assert first.fields["answers"] == [("good", 2)] and second.fields["answers"] == []
    lines = file.read_text().splitlines()
    for record, identifier in ((first, "q1"), (second, "q2")):
        place, _, name = record.place.partition(", question ")
        assert identifier in lines[int(place.rpartition(":")[2]) - 1] and name == identifier


def test_an_error_in_squad_names_the_question_because_the_file_is_one_line(tmp_path):
    file = tmp_path / "squad.json"

    def load(change, **test):
        squad = json.loads(json.dumps(SQUAD))
        change(squad["data"][0]["paragraphs"][0]["qas"])
        file.write_text(json.dumps(squad))
        files = {name: f"squad:{file}" for name in ("train", "dev")} | test
        names = {"text": "question", "text_pair": "context", "label": "answers"}
        task = TaskConfig(
            family="question_answering", representation="last", no_answer=True, **files, **names
        )
        return load_dataset(task)

    def start(value):
        return lambda questions: questions[0]["answers"][0].update(answer_start=value)

    place = f"{file}:1, question q1"
    for value in ("9", None):
        with pytest.raises(DataError, match=f"{place}: answers has .'good', .*; accepted: a text"):
            load(start(value))
    with pytest.raises(
        DataError, match=f"{place}: answer 'good' is not in its passage at character 3"
    ):
        load(start(3))
    for answers in (None, 5, [None]):
        with pytest.raises(DataError, match=f"{place} does not have SQuAD's form .TypeError"):
            load(lambda questions, answers=answers: questions[0].update(answers=answers))
    with pytest.raises(DataError, match=f"{file}:1, after question q1, does not have SQuAD's form"):
        load(lambda questions: questions[1].pop("id"))
    with pytest.raises(DataError, match=f"{place} has no field 'answers'"):
        load(lambda questions: questions[0].pop("answers"))


def test_a_squad_test_file_may_hide_its_answers(tmp_path, write_set):
    squad = json.loads(json.dumps(SQUAD))
    for question in squad["data"][0]["paragraphs"][0]["qas"]:
        del question["answers"]
        question.pop("is_impossible", None)
    known, bare = write_set("known.json", [SQUAD]), write_set("bare.json", [squad])
    task = TaskConfig(
        family="question_answering",
        train=f"squad:{known}",
        dev=f"squad:{known}",
        test=f"squad:{bare}",
        text="question",
        text_pair="context",
        label="answers",
        representation="last",
        no_answer=True,
    )
    found = load_dataset(task).splits["test"].examples
    assert [(one.name, one.gold) for one in found] == [("q1", None), ("q2", None)]


def test_a_no_break_space_is_part_of_a_cell(write_set):
    conll = write_set("a.conll", ["10\u00a0000 \tCD", "\u00a0 SP", " \t", "a DT"])
    assert fields(f"conll:{conll}", ("token", "tag")) == [
        {"token": ["10\u00a0000", "\u00a0"], "tag": ["CD", "SP"]},
        {"token": ["a"], "tag": ["DT"]},
    ]
    conllu = write_set("a.conllu", ["1\ta" + "\t_" * 8, "\u00a0", "2\tb" + "\t_" * 8])
    with pytest.raises(DataError, match=":2 has 1 columns; accepted: 10"):
        fields(f"conllu:{conllu}")


@pytest.mark.parametrize(
    ("name", "lines", "said"),
    [
        ("a.tsv", ["text\tlabel", "good\t1", "bad"], ":3 has 1 columns; accepted: 2"),
        (
            "a.csv",
            ["text,label", "bad"],
            ":2 has another number of cells",
        ),
        (
            "a.csv",
            ["text,label", "bad,1,2"],
            ":2 has another number of cells",
        ),
        ("a.jsonl", [{"text": "good"}, "{"], ":2 is not JSON"),
        ("a.jsonl", ["[]"], ":1 holds a list"),
        ("a.conll", ["a DT", "film"], ":2 has 1 columns; accepted: 2"),
        ("a.conllu", ["1\ta"], ":1 has 2 columns; accepted: 10"),
        ("a.squad", ["{"], ":2 is not JSON"),
        ("a.squad", ['{"data": [{"paragraphs": [{"qas": [{"id": "q"}]}]}]}'], "KeyError"),
        ("a.tsv", ["text\tlabel"], ":1 holds no example"),
        ("a.jsonl", [], ":1 holds no example"),
    ],
)
def test_the_error_names_a_wrong_line(name, lines, said, write_set):
    file = write_set(name, lines)
    with pytest.raises(DataError, match=said) as error:
        read_records(f"{file.suffix[1:]}:{file}", ("token", "tag") if "conll" in name else ())
    assert str(file) in str(error.value) and "\n" not in str(error.value)


def test_the_error_names_invalid_bytes_and_missing_files(tmp_path, monkeypatch):
    (tmp_path / "a.tsv").write_bytes(b"text\nfine\nb\xe4d\n")
    with pytest.raises(DataError, match="a.tsv:3 holds byte 0xe4 at column 2"):
        read_records(f"tsv:{tmp_path}/a.tsv")
    with pytest.raises(DataError, match="nowhere.tsv does not exist; accepted: an existing file"):
        read_records(f"tsv:{tmp_path}/nowhere.tsv")
    with pytest.raises(DataError, match=f"{tmp_path} cannot be read"):
        read_records(f"tsv:{tmp_path}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="does not exist; .* make it with .*--only=boolq`"):
        read_records("jsonl:data/tasks/boolq/train.jsonl")
    with pytest.raises(DataError, match="'excel:a' names no set of examples; accepted: tsv:FILE"):
        read_records("excel:a")


@pytest.mark.parametrize(
    ("family", "labels", "golds"),
    [
        ("regression", [-1.0, -1.0], [None, None]),  # STS-B at TFDS
        ("regression", ["-1.0", "-1.0"], [None, None]),
        ("regression", [-1.0, 0.5], [-1.0, 0.5]),
        ("classification", [-1, -1], [None, None]),
        ("classification", ["no", "yes"], [0, 1]),
        ("classification", [], [None, None]),  # GLUE's test.tsv
    ],
)
def test_labels_of_test_are_hidden_if_all_are_minus_one_or_missing(
    family, labels, golds, write_set
):
    known = ("no", "yes") if family == "classification" else (1, 2.5)
    files = {
        name: f"jsonl:{write_set(f'{name}.jsonl', [{'text': 'a', 'label': v} for v in known])}"
        for name in ("train", "dev")
    }
    lines = [{"text": "a", "label": label} for label in labels] or [{"text": "a"}] * 2
    test = f"jsonl:{write_set('test.jsonl', lines)}"
    dataset = load_dataset(TaskConfig(family=family, **files, test=test))
    assert [one.gold for one in dataset.splits["test"].examples] == golds


def test_only_test_hides_labels_and_minus_one_may_be_a_label(write_set):
    known = [{"text": "a", "label": label} for label in (-1, 1)]
    train = f"jsonl:{write_set('train.jsonl', known)}"
    test = f"jsonl:{write_set('test.jsonl', known[:1])}"
    task = TaskConfig(family="classification", train=train, dev=train, test=test)
    assert load_dataset(task).splits["test"].examples[0].gold == 0
    bare = write_set("bare.jsonl", [{"text": "a"}])
    with pytest.raises(DataError, match="bare.jsonl:1 has no field 'label'; accepted: text"):
        load_dataset(TaskConfig(family="classification", train=train, dev=f"jsonl:{bare}"))
    some = write_set("some.jsonl", [*known, {"text": "a"}])
    with pytest.raises(DataError, match="some.jsonl:3 has no field 'label'; accepted: text"):
        load_dataset(
            TaskConfig(family="classification", train=train, dev=train, test=f"jsonl:{some}")
        )


def test_the_fingerprint_depends_on_content_and_order_but_not_on_the_file(write_set):
    lines = [{"text": "good"}, {"text": "bad"}]
    one = read_records(f"jsonl:{write_set('one.jsonl', lines)}")
    two = read_records(f"jsonl:{write_set('two.jsonl', lines)}")
    other = read_records(f"jsonl:{write_set('other.jsonl', lines[::-1])}")
    assert fingerprint_records(one) == fingerprint_records(two) != fingerprint_records(other)


@pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl", "conll", "conllu"])
def test_the_error_names_carriage_returns_without_line_feeds(kind, tmp_path):
    (tmp_path / "cr").write_bytes(b"sentence\tlabel\rone\t1\rtwo\t0\r")
    with pytest.raises(DataError, match="cr:1 has carriage returns and no line feed; accepted"):
        read_records(f"{kind}:{tmp_path}/cr", ("form", "tag"))
