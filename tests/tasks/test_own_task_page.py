"""docs/your-own-task.md: its experiment reads its files, and its commands lead to predictions."""

import dataclasses
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import bert_jax
from bert_jax.tasks.datasets import load_dataset

ROOT = Path(bert_jax.__file__).parents[1]
PAGE = (ROOT / "docs" / "your-own-task.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.M | re.S)


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A directory with the page's experiment, and its files with more lines."""
    (labelled, new), (experiment,) = blocks("text"), blocks("python")
    for name, count in (("train", 20), ("dev", 5)):
        header, *lines = labelled.splitlines()
        more = [line.replace("\t", f" {name} {i}\t") for i in range(count) for line in lines]
        (tmp_path / f"{name}.tsv").write_text("\n".join([header, *more]) + "\n")
    (tmp_path / "new.tsv").write_text(new)
    (tmp_path / "my_task.py").write_text(experiment)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_experiment_of_the_page_reads_its_files(clone):
    names = runpy.run_path(str(clone / "my_task.py"))
    splits = load_dataset(names["get_config"]().task).splits
    assert {name: len(split.examples) for name, split in splits.items()} == {
        "train": 40,
        "dev": 10,
        "test": 1,
    }
    assert not splits["test"].labelled and not splits["train"].shared_with(splits["dev"])


SQUAD = """{"data": [{"paragraphs": [{"context": "It fell in 1989.", "qas": [{"id": "a", "question":
"When did it fall?", "answers": [{"text": "1989", "answer_start": 11}]}]}]}]}"""
FILES = {
    "pairs of texts": ("tsv", "a\tb\tlabel\nA cat.\tA dog.\t0\nA cat.\tA cat.\t1\n"),
    "a number instead of a label": ("tsv", "text\tlabel\nA cat.\t0.5\nA dog.\t2\n"),
    "a tag for each word": ("conll", "Bonn B-LOC\nsleeps O\n"),
    "answers to questions": ("squad", SQUAD),
}
"""Files of the tasks in the page's table."""


def test_the_fields_of_other_tasks_read_their_files(clone):
    task = runpy.run_path(str(clone / "my_task.py"))["get_config"]().task
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", PAGE, re.M)
    assert [name for name, _ in rows] == ["your task", *FILES]
    for name, fields in rows[1:]:
        kind, content = FILES[name]
        Path("examples").write_text(content)
        given = re.findall(r"`(\w+=[^`]+)`", fields)
        changes = eval(f"dict({', '.join(given)})")
        files = dict.fromkeys(("train", "dev"), f"{kind}:examples") | {"test": ""}
        dataset = load_dataset(dataclasses.replace(task, **changes, **files))
        assert dataset.metric == changes.get("metric", "macro_f1")
        assert dataset.splits["train"].labelled, name


@pytest.mark.slow
def test_the_commands_of_the_page_lead_to_predictions(clone, pretrained):
    """The weights are random, so only the form of the output is compared with the page."""
    programs = clone / "programs"
    programs.mkdir()
    (programs / "python").write_text(f'#!/usr/bin/env bash\nexec {sys.executable} "$@"\n')
    (programs / "python").chmod(0o755)
    variables = {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    variables["XLA_FLAGS"] = ""  # one device, not the eight of other tests

    def bash(command):
        result = subprocess.run(
            ["bash", "-euc", command.replace("CHECKPOINT", str(pretrained))],
            env=os.environ | variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    fine_tuning, prediction = blocks("bash")
    printed = bash(fine_tuning)
    for part in ("dev macro_f1", "seeds", "mean", "interval", "majority"):
        assert part in printed, part
    assert re.search(r"\nindex\tprediction\n0\t(complaint|praise)\n$", printed)
    best = json.loads(Path("runs/my_task/result.json").read_text())["best_seed"]
    assert best in range(3) and Path(f"runs/my_task/seed-{best}/predictions_test.tsv").exists()
    answer = json.loads(bash(prediction))
    expected = bert_jax.load_run("runs/my_task").predict("Nobody answers my letters.")
    assert answer["label"] == expected["label"] and len(answer) == len(expected) == 2
    assert answer["probability"] == pytest.approx(expected["probability"], rel=1e-4)
