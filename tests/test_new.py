"""`new` writes an experiment file of one page that needs no change to be run."""

import ast
import subprocess
import sys
from itertools import product

import pytest
from commands import ROOT, run_command
from test_experiments import check_updates
from test_layering import allowed_in_an_experiment

from bert_jax.config import load_experiment, load_module, override
from bert_jax.new.__main__ import CORPORA, OF_CORPUS, SIZES, experiment_file


def write(directory, **changes):
    """Writes an experiment file and returns its path."""
    file = directory / "mine.py"
    options = {"language": "fi", "size": "tiny", "corpus": "text:c/*.txt", "corpus_bytes": 2e5}
    file.write_text(experiment_file(file, **options | changes), encoding="utf-8")
    return file


@pytest.mark.parametrize("size", SIZES)
def test_an_experiment_of_each_size_can_be_trained(size, tmp_path):
    experiment = load_experiment(write(tmp_path, size=size, corpus='text:a "b".txt'))
    if size in ("tiny", "large"):  # the others have the form of these
        check_updates(experiment)
    model = experiment.model
    assert (model.num_layers, model.hidden_size, model.num_heads) == SIZES[size]
    assert experiment.data.corpus == 'text:a "b".txt' and experiment.data.directory == "data/mine"
    assert experiment.data.language == "fi" and experiment.data.strip_accents is False


def test_the_sizes_are_those_of_the_published_models():
    assert load_module(ROOT / "experiments" / "bert.py").SIZES == SIZES


def test_the_file_is_one_formatted_page_that_imports_only_configs(tmp_path):
    for number, (size, language) in enumerate(product(("tiny", "base"), ("fi", "ja"))):
        (tmp_path / str(number)).mkdir()
        file = write(tmp_path / str(number), size=size, language=language)
        text = file.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 90 and text.count("            # ") >= 8
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom):
                names = {alias.name for alias in node.names}
                assert allowed_in_an_experiment(node.module, names), node.module
        kind = load_experiment(file).data.tokenizer
        assert kind == ("sentencepiece" if language == "ja" else "wordpiece")
        commands = [line for line in text.splitlines() if line.startswith("    python -m")]
        assert len(commands) == 3 and all(line.count(" --") <= 2 for line in commands)
    ruff = [sys.executable, "-m", "ruff", "format", "--check", "--line-length=100", tmp_path]
    subprocess.run(ruff, check=True)


def test_the_size_of_the_corpus_decides_about_vocabulary_and_files(tmp_path):
    found = [load_experiment(write(tmp_path, corpus_bytes=size)) for size in (1e5, 1e7, 1e9, 1e11)]
    for experiment, expected in zip(found, CORPORA.values(), strict=True):
        fields = vars(experiment.data) | {"vocab_size": experiment.model.vocab_size}
        assert tuple(fields[name] for name in OF_CORPUS) == expected


def test_the_experiment_for_a_language_is_what_new_writes(tmp_path):
    language = load_experiment(ROOT / "experiments" / "language.py")
    corpus = language.data.corpus
    file = write(tmp_path, language="de", size="base", corpus=corpus, corpus_bytes=1e11)
    assert override(load_experiment(file), {"data.directory": "data/de"}) == language


def test_the_command_writes_the_file_and_says_what_comes_next(tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("Moi. Olen täällä.\n", encoding="utf-8")
    flags = ("--language=fi", "--size=mini", "--corpus=text:texts/*.txt")
    result = run_command("new", "sub/mine.py", *flags, cwd=tmp_path)
    assert result.returncode == 0 and result.stderr == ""
    expected = experiment_file(
        "sub/mine.py", language="fi", size="mini", corpus="text:texts/*.txt", corpus_bytes=20
    )
    assert (tmp_path / "sub" / "mine.py").read_text(encoding="utf-8") == expected
    assert result.stdout.splitlines() == [
        "sub/mine.py: BERT-mini for fi, from 1 file (0.0 kB)",
        "next: python -m bert_jax.prepare --experiment=sub/mine.py",
    ]
