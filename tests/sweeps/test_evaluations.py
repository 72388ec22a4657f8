"""A sweep measures its runs after their training."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest

from bert_jax.config import load_experiment, override, to_json
from bert_jax.data.sentences import split_sentences
from bert_jax.data.sources.corpora import is_held_out, read_documents
from bert_jax.errors import ConfigError, DataError
from bert_jax.runs.load import load_run
from bert_jax.sweep import check_inputs
from bert_jax.sweeps.evaluations import (
    check_evaluations,
    load_evaluations,
    outcomes_of_evaluations,
    read_pairs,
)
from bert_jax.sweeps.grid import PlannedRun
from bert_jax.sweeps.runs import metrics_of, missing_commands, status

FILE = """
import json
from dataclasses import dataclass
from bert_jax.config import from_json, override
from bert_jax.models.config import BertConfig
from bert_jax.training.experiment import Experiment

@dataclass(frozen=True, kw_only=True)
class OwnConfig(BertConfig):
    pass

def get_config():
    base = from_json(Experiment, json.loads({base!r}))
    return override(base, {{"model": OwnConfig(**vars(base.model))}})

def sweep():
    return [{{"seed": seed}} for seed in (0, 1)]

def evaluations():
    return {evaluations!r}
"""
TASK = """
from bert_jax.tasks.config import FineTuningConfig, TaskConfig

def get_config():
    return FineTuningConfig(
        task=TaskConfig(
            family="classification", train={train!r}, dev={dev!r}, max_length=8,
            representation="mean",
        ),
    )
"""
PAIRS = [
    {"sentence_good": "the people of the states", "sentence_bad": "people the states the of"},
    {"sentence_good": "of the government", "sentence_bad": "the of government"},
    {"sentence_good": "the laws are", "sentence_bad": "laws the are"},
]


def write_lines(file, records):
    file.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return file


@pytest.fixture
def files(experiment, tmp_path):
    """Returns an experiment file with a model class of its own and four evaluations."""
    pairs = write_lines(tmp_path / "pairs.jsonl", PAIRS)
    rng = np.random.default_rng(0)
    splits = {}
    for name, count in (("train", 40), ("dev", 20)):
        words = rng.choice(["good", "bad"], size=count).tolist()
        records = [{"text": f"the {word} law", "label": word} for word in words]
        splits[name] = f"jsonl:{write_lines(tmp_path / f'{name}.jsonl', records)}"
    task = tmp_path / "task.py"
    task.write_text(TASK.format(**splits))
    named = {"pairs": f"minimal_pairs:{pairs}", "linear": f"probe:{task}", "words": str(task)}
    named["held_out"] = "bits_per_character:9"
    file = tmp_path / "sweep.py"
    file.write_text(FILE.format(base=json.dumps(to_json(experiment)), evaluations=named))
    return file


def test_a_run_is_done_when_it_is_evaluated(files, tmp_path):
    evaluations = load_evaluations(str(files))
    assert [(one.name, one.kind) for one in evaluations] == [
        *(("pairs", "minimal_pairs"), ("linear", "probe"), ("words", "finetune")),
        ("held_out", "bits_per_character"),
    ]
    run = PlannedRun("id", {}, load_experiment(files), evaluations)
    directory = tmp_path / "run"
    commands = missing_commands(run, directory)
    assert [(command[1], command[-1]) for command in commands] == [
        ("bert_jax.pretrain", f"--code={files}"),
        *[("bert_jax.sweeps.evaluations", str(files))] * 2,
        ("bert_jax.finetune", f"--code={files}"),
        ("bert_jax.sweeps.evaluations", str(files)),
    ]
    directory.mkdir()
    fields = ("steps", "seconds", "mlm_loss", "mlm_accuracy", "unigram_loss")
    result = dict.fromkeys((*fields, "majority_token_accuracy"), 1.5) | {"steps": 12}
    (directory / "result.json").write_text(json.dumps(result))
    assert (status(directory), status(directory, evaluations)) == ("done", "to do")
    for one in evaluations:
        one.directory(directory).mkdir(parents=True)
        metric = one.kind if one.kind == "bits_per_character" else "accuracy"
        found = {"metrics": {metric: 0.25}}
        if one.kind == "finetune":
            found = {"metric": "f1", "summary": {"dev": {"f1": {"mean": 0.5}}}}
        (one.directory(directory) / "result.json").write_text(json.dumps(found))
    assert status(directory, evaluations) == "done" and missing_commands(run, directory) == []
    expected = {"pairs/accuracy": 0.25, "linear/accuracy": 0.25, "words/f1": 0.5}
    expected["held_out/bits_per_character"] = 0.25
    assert metrics_of(directory) == result | expected
    pairs = evaluations[0]
    for source, done in (("elsewhere/pairs.jsonl", True), ("other.jsonl", False)):
        found = {"metrics": {"accuracy": 0.25}, "file": source}
        (pairs.directory(directory) / "result.json").write_text(json.dumps(found))
        assert pairs.is_done(directory) == done


def test_a_fine_tuning_with_another_config_keeps_its_name_for_itself(files, tmp_path):
    words = load_evaluations(str(files))[2]
    words.check_unchanged(tmp_path)
    words.directory(tmp_path).mkdir(parents=True)
    task = load_experiment(tmp_path / "task.py")
    stored = words.directory(tmp_path) / "config.json"
    stored.write_text(json.dumps(to_json(task)))
    words.check_unchanged(tmp_path)
    stored.write_text(json.dumps(to_json(override(task, {"training.epochs": 9}))))
    with pytest.raises(
        ConfigError, match="task.py: training.epochs is 3; accepted: 9 as in .*name"
    ):
        words.check_unchanged(tmp_path)


def test_a_missing_file_of_outcomes_is_named(tmp_path, capsys):
    """A report is also made from a copy of the JSON files alone."""
    place = tmp_path / "evaluations" / "words"
    place.mkdir(parents=True)
    dev = {"metric": "accuracy", "seeds": [{"seed": 3, "dev": {"accuracy": 0.5}}], "summary": {}}
    (place / "result.json").write_text(json.dumps(dev | {"family": "classification"}))
    assert outcomes_of_evaluations(tmp_path) == {}
    assert capsys.readouterr().err.startswith(f"{place / 'seed-3' / 'outcomes_dev.npy'} is missing")


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        ("3", ConfigError, "evaluations.. returns 3; accepted: a function"),
        ("{'a/b': 'task.py'}", ConfigError, "accepted: a function"),
        ("{'a': 'none.py'}", ConfigError, "evaluations.. 'a'"),
        ("{'a': 'probe:sweep.py'}", ConfigError, "of sweep.py is 'Experiment'; accepted: Fine"),
        ("{'a': 'minimal_pairs:none.jsonl'}", DataError, "none.jsonl"),
        ("{'a': 'bits_per_character:0'}", ConfigError, "'a': .* is '0'; accepted: a number of"),
    ],
)
def test_wrong_evaluations_are_refused(files, wrong, error, said, monkeypatch):
    monkeypatch.chdir(files.parent)
    files.write_text(files.read_text() + f"\n\ndef evaluations():\n    return {wrong}\n")
    with pytest.raises(error, match=said):
        load_evaluations(str(files))


def test_the_data_of_evaluations_are_read_before_any_run(files, experiment, tmp_path):
    """A wrong path, or a task that does not suit the model, would fail after the pretraining."""
    evaluations = load_evaluations(str(files))
    runs = [PlannedRun("id", {}, experiment, evaluations)]
    check_inputs(runs)
    unpaired = override(experiment, {"objective.next_sentence": False})
    # `prepare` may have skipped the first document.
    (tmp_path / "corpus.txt").write_bytes(b"\xff\n\nA document.\n\nAnother.\n")
    elsewhere = override(experiment, {"data.corpus": f"text:{tmp_path}/corpus.txt"})
    pairs, linear, words, held_out = evaluations
    task = (tmp_path / "task.py").read_text()
    for old, new, one, each, said in (
        ("train.jsonl", "none.jsonl", linear, experiment, "none.jsonl does not exist"),
        ("dev.jsonl", "none.jsonl", words, experiment, "none.jsonl does not exist"),
        ("classification", "multiple_choice", linear, experiment, "task.family of a probe is 'mul"),
        ("length=8", "length=80", words, experiment, "task.max_length is 80; accepted: at most 64"),
        ('"mean"', '"pooled"', words, unpaired, "task.representation is 'pooled'; accepted"),
        ("", "", held_out, override(elsewhere, {"data.held_out_fraction": 0}), "data.corpus is"),
    ):
        (tmp_path / "task.py").write_text(task.replace(old, new))
        with pytest.raises((ConfigError, DataError), match=f"{one.name!r}: .*{said}"):
            check_evaluations([pairs, one], [experiment, each])
    check_evaluations([held_out], [override(elsewhere, {"data.held_out_fraction": 0.99})])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no example"),
        ('{"sentence_good": "a"}\n', ":1 has no field 'sentence_bad'"),
        ('{"sentence_good": "a", "sentence_bad": "b"}\nno JSON\n', ":2 is not JSON"),
        ('{"sentence_good": "a", "sentence_bad": 3}\n', "sentence_bad is 3 .*accepted: a text"),
        ('{"sentence_good": "a", "sentence_bad": " "}\n', ":1 is .*; accepted: two sentences"),
    ],
)
def test_malformed_pairs_are_refused(tmp_path, text, said):
    (tmp_path / "pairs.jsonl").write_text(text)
    with pytest.raises(DataError, match=said):
        read_pairs(tmp_path / "pairs.jsonl")


@pytest.mark.slow  # pretrains and evaluates two runs
def test_a_sweep_compares_the_evaluations(files, experiment, tmp_path):
    workdir = tmp_path / "sweep"
    command = ["-m", "bert_jax.sweep", f"--experiment={files}", f"--workdir={workdir}"]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((workdir / "summary.csv").open()))
    documents = [d for d in read_documents(experiment.data.corpus) if is_held_out(d, fraction=0.1)]
    sentences = [s for d in documents for s in split_sentences(d.text) if len(s) <= 30]
    assert 1 < len(sentences) < 9
    for row in rows:
        run = load_run(workdir / row["id"], trust_code=True)
        load_run(workdir / row["id"] / "evaluations" / "words", trust_code=True)
        scores = [
            run.pseudo_log_likelihood([pair["sentence_good"], pair["sentence_bad"]])
            for pair in PAIRS
        ]
        accuracy = np.mean([good > bad for good, bad in scores])
        assert float(row["pairs/accuracy"]) == pytest.approx(accuracy)
        bits = run.bits_per_character(sentences)
        assert float(row["held_out/bits_per_character"]) == pytest.approx(bits, rel=1e-5)
        assert int(row["held_out/characters"]) == sum(map(len, sentences))
        assert 0 <= float(row["linear/accuracy"]) <= 1 and 0 <= float(row["words/accuracy"]) <= 1
        ((name, scored),) = outcomes_of_evaluations(workdir / row["id"]).items()
        measured = scored.metric(scored.outcomes)
        assert name == "words/accuracy" and float(row[name]) == pytest.approx(measured)
    table = (workdir / "table.md").read_text()
    names = (*(f"{name}/accuracy" for name in ("pairs", "linear", "words")),)
    assert all(f"{name}\n" in table for name in (*names, "held_out/bits_per_character"))
