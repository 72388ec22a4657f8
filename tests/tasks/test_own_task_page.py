"""docs/your-own-task.md: its experiment reads its files."""

import re
import runpy
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
