"""Readers of examples, and errors that name file and line."""

import json
from dataclasses import replace

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


def test_rows_of_blank_cells_are_not_examples(write_set):
    expected = [{"text": "good", "label": "1"}, {"text": "bad", "label": ""}]
    file = write_set("blank.csv", ["", "text,label", "good,1", ",", " , ", ",,", "", "bad,"])
    assert fields(f"csv:{file}") == expected
    file = write_set("blank.tsv", ["text\tlabel", "good\t1", "\t", " \t", "\t\t", "bad\t"])
    assert fields(f"tsv:{file}") == expected


def test_a_cell_may_be_as_long_as_a_document(write_set):
    file = write_set("large.csv", ["text,label", f"{'word ' * 30_000},1"])
    assert len(fields(f"csv:{file}")[0]["text"]) == 150_000


def test_a_tsv_file_with_other_columns_than_task_columns_has_its_own_header(write_set):
    columns = ("source", "label", "mark", "sentence")  # CoLA
    file = write_set("cola_test.tsv", ["index\tsentence", "0\ta film", "1\ta play"])
    assert fields(f"tsv:{file}", columns)[1] == {"index": "1", "sentence": "a play"}
    file = write_set("cola_dev.tsv", ["\t".join(columns), "gj04\t0\t*\ta film"])
    with pytest.raises(DataError, match="cola_dev.tsv:1 holds the names of the columns"):
        fields(f"tsv:{file}", columns)
    file = write_set("sst2.tsv", ["sentence\tlabel", "a film\t0"])  # else `label` becomes a label
    with pytest.raises(DataError, match="sst2.tsv:1 is a header with other names than text, label"):
        fields(f"tsv:{file}", ("text", "label"))


def test_lines_before_a_sentence_of_germeval_are_comments(write_set):
    lines = ["#\thttp://a.b\t[2009-10-17]", "1\tFilm\tO\tO", "2\t#\tO\tO", "", "#\tno tokens"]
    file = write_set("germeval.conll", lines)
    (sentence,) = fields(f"conll:{file}", ("number", "token", "outer", "inner"))
    assert sentence["token"] == ["Film", "#"]
    hashes = write_set("hash.conll", ["# O", "good O"])
    assert fields(f"conll:{hashes}", ("token", "tag"))[0]["token"] == ["#", "good"]


def test_joined_files_with_byte_order_marks_are_read(tmp_path):
    lines = ['{"text": "good"}', '{"text": "bad"}']
    (tmp_path / "bom.jsonl").write_bytes("".join(f"\ufeff{one}\n" for one in lines).encode())
    assert fields(f"jsonl:{tmp_path}/bom.jsonl") == [{"text": "good"}, {"text": "bad"}]
    (tmp_path / "bom.json").write_text("\ufeff" + json.dumps(SQUAD), encoding="utf-8")
    assert len(read_records(f"squad:{tmp_path}/bom.json")) == 2


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
    text = json.dumps(SQUAD, indent=1)
    file.write_text(text.replace('"q2"', '"qé2"'), encoding="utf-8")
    first, second = read_records(f"squad:{file}")
    assert first.fields["answers"] == [("good", 2)] and second.fields["answers"] == []
    lines = file.read_text(encoding="utf-8").splitlines()
    for record, identifier in ((first, "q1"), (second, "qé2")):
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
            ":2 has 1 columns; .* separated by commas, or --set task.on_bad_record=skip",
        ),
        (
            "a.csv",
            ["text,label", "bad,1,2"],
            ":2 has 3 columns; accepted: 2",
        ),
        ("a.csv", ["text,label,label", "bad,1,2"], ":1 names 2 columns 'label'; accepted: each"),
        ("a.tsv", ["text\tlabel\ttext", "bad\t1\t2"], ":1 names 2 columns 'text'"),
        ("a.csv", ["text,label", "bad,1", "text,label"], ":3 holds the names of the columns"),
        ("a.jsonl", [{"text": "good"}, "{"], ":2 is not JSON"),
        ("a.jsonl", ['{"text": "\\ud83d"}'], ":1 is not JSON .*surrogates"),
        ("a.conll", ["token tag", "a DT"], ":1 holds the names of the columns; accepted: an"),
        ("a.conll", ["a DT", "# b c"], ":2 has 3 columns; accepted: 2"),
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
    with pytest.raises(DataError, match="did you mean csv:a.csv; accepted: tsv:FILE"):
        read_records("a.csv")


def test_the_error_says_that_line_1_names_the_fields(write_set):
    rows = {"no_header.tsv": ["a b\tx", "c d\ty"], "tabs.csv": ["text\tlabel", "c d\ty"]}
    names = {"no_header.tsv": "'a b', 'x'", "tabs.csv": r"'text\\tlabel'"}
    for name, lines in rows.items():
        spec = f"{name[-3:]}:{write_set(name, lines)}"
        task = TaskConfig(family="classification", train=spec, dev=spec)
        expected = (
            f"{name}:2 has no field '(text|label)'; accepted: {names[name]}, which line 1 names"
        )
        with pytest.raises(DataError, match=expected):
            load_dataset(task)


QUORA = ["id\tq1\tq2\tlabel", "0\ta\tb\t0", "1\ta\tb\t1", "2\ta", "3\ta\tb\tc\t1", "4\ta\tb\t-"]


def test_malformed_records_can_be_skipped_and_are_counted(write_set):
    file = write_set("qqp.tsv", QUORA)
    task = TaskConfig(
        family="classification",
        train=f"tsv:{file}",
        dev=f"tsv:{file}",
        text="q1",
        text_pair="q2",
        labels=("0", "1"),
        on_bad_record="skip",
    )
    splits = load_dataset(task).splits
    train = splits["train"].describe(splits["train"])
    assert train["examples"] == 2 and train["skipped"]["count"] == 3
    found = [one.removeprefix(f"{file}:")[:23] for one in train["skipped"]["records"]]
    assert found == [
        "4 has 2 columns; accept",
        "5 has 5 columns; accept",
        "6: label is '-'; accept",
    ]
    clean = write_set("clean.tsv", QUORA[:3])
    both = {name: f"tsv:{clean}" for name in ("train", "dev")}
    cleaned = load_dataset(replace(task, **both)).splits["train"]
    assert cleaned.sha256 == splits["train"].sha256
    assert "skipped" not in cleaned.describe(cleaned)
    with pytest.raises(DataError, match="qqp.tsv:4 has 2 columns"):
        load_dataset(replace(task, on_bad_record="stop"))
    with pytest.raises(DataError, match="task.train: all examples were skipped"):
        load_dataset(replace(task, labels=("x", "y")))


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("", "label is ''; accepted: no, yes"),
        (" ", "label is ' '; accepted"),
        (-100, "label is '-100'; accepted"),
        ("-100", "label is '-100'; accepted"),
        (["no"], "label is .*; accepted"),
        ({"no": 1}, "label is .*; accepted"),
        ("a\tb", "label is .*; accepted"),
        (float("nan"), "label is 'nan'; accepted"),
        (None, "label is hidden; accepted in task.train"),
    ],
)
def test_what_is_no_label_is_refused_in_train(label, said, write_set):
    lines = [{"text": "a", "label": one} for one in ("no", "yes", label)]
    file = f"jsonl:{write_set('no_label.jsonl', lines)}"
    with pytest.raises(DataError, match=f"no_label.jsonl:3: {said}"):
        load_dataset(TaskConfig(family="classification", train=file, dev=file))


@pytest.mark.parametrize("family", ["classification", "tagging", "multiple_choice"])
def test_a_task_of_one_label_is_refused(family, write_set):
    label, text = ("0", "a") if family != "tagging" else (["0"], ["a"])
    file = f"jsonl:{write_set('one_label.jsonl', [{'text': text, 'b': text, 'label': label}] * 2)}"
    fields = {"representation": "last"} if family == "tagging" else {}
    fields |= {"text_pair": "b"} if family == "multiple_choice" else {}
    with pytest.raises(DataError, match="has the labels .'0',.; accepted: two or more labels"):
        load_dataset(TaskConfig(family=family, train=file, dev=file, **fields))


def test_two_questions_of_dev_have_different_ids(write_set):
    line = {"id": "q1", "q": "who ?", "p": "a film", "a": ["film"]}
    file = f"jsonl:{write_set('same_id.jsonl', [line, line])}"
    single = f"jsonl:{write_set('one_id.jsonl', [line])}"
    names = {"text": "q", "text_pair": "p", "label": "a", "representation": "last"}
    task = TaskConfig(family="question_answering", train=file, dev=single, **names)
    assert len(load_dataset(task).splits["train"].examples) == 2
    with pytest.raises(DataError, match="same_id.jsonl:2 has the id of another question"):
        load_dataset(replace(task, dev=file))


@pytest.mark.parametrize(
    ("family", "labels", "golds"),
    [
        ("regression", [-1.0, -1.0], [None, None]),  # STS-B at TFDS
        ("regression", ["-1.0", "-1.0"], [None, None]),
        ("regression", [-1.0, 0.5], [-1.0, 0.5]),
        ("classification", [-1, -1], [None, None]),
        ("classification", ["", ""], [None, None]),  # the empty column of a CSV file
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


@pytest.mark.parametrize(
    ("tags", "hidden"),
    [
        ([["-1", "-1"], ["-1", "-1"]], True),
        ([[-100, -100], [-100, -100]], True),
        ([[None, None], ["-1", None]], True),  # class labels of -1 at TFDS
        ([None, None], True),
        ([], True),
        ([[-100, "N"], [-100, -100]], False),
    ],
)
def test_tags_of_test_are_hidden_as_labels_are(tags, hidden, write_set):
    known = [{"token": ["a", "b"], "tag": ["N", "O"]}]
    train = f"jsonl:{write_set('train.jsonl', known)}"
    lines = [{"token": ["a", "b"], "tag": one} for one in tags] or [{"token": ["a", "b"]}] * 2
    test = f"jsonl:{write_set('test.jsonl', lines)}"
    names = {"text": "token", "label": "tag", "representation": "last"}
    task = TaskConfig(family="tagging", train=train, dev=train, test=test, **names)
    split = load_dataset(task).splits["test"]
    assert [one.gold is None for one in split.examples] == [hidden, hidden]
    assert split.labelled != hidden


def test_only_test_hides_labels_and_minus_one_may_be_a_label(write_set):
    known = [{"text": "a", "label": label} for label in (-1, 1)]
    train = f"jsonl:{write_set('train.jsonl', known)}"
    test = f"jsonl:{write_set('test.jsonl', known[:1])}"
    task = TaskConfig(family="classification", train=train, dev=train, test=test)
    assert load_dataset(task).splits["test"].examples[0].gold == 0
    bare = write_set("bare.jsonl", [{"text": "a"}])
    with pytest.raises(DataError, match="bare.jsonl:1 has no field 'label'; accepted: 'text'"):
        load_dataset(TaskConfig(family="classification", train=train, dev=f"jsonl:{bare}"))
    some = write_set("some.jsonl", [*known, {"text": "a"}])
    with pytest.raises(DataError, match="some.jsonl:3 has no field 'label'; accepted: 'text'"):
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
