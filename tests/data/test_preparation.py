"""Prepared data have the same bytes with any workers and after a kill; settings never mix."""

import contextlib
import dataclasses
import hashlib
import json
import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bert_jax.data.config import LATER_FIELDS, PREPARATION_FIELDS, DataConfig
from bert_jax.data.passport import (
    check_files,
    check_passport,
    load_passport,
    passport_fingerprint,
)
from bert_jax.data.preparation.engines import Engine
from bert_jax.data.preparation.prepare import prepare_data, train_vocabulary
from bert_jax.data.preparation.shards import ShardTask
from bert_jax.data.preparation.survey import SurveyTask
from bert_jax.data.records import open_split
from bert_jax.data.sources.base import Document
from bert_jax.data.sources.corpora import is_held_out, open_corpus
from bert_jax.data.sources.text import TextFile
from bert_jax.data.tokenizers.files import load_tokenizer
from bert_jax.data.tokenizers.wordpiece import SPECIAL_PIECES, WordPiece
from bert_jax.errors import DataError, MissingDataError

WORDS_PER_DOCUMENT = 4
DOCUMENTS = 40
TOKENIZER = WordPiece(
    pieces=(*SPECIAL_PIECES, ".", *(f"w{i}" for i in range(WORDS_PER_DOCUMENT * DOCUMENTS))),
    lower_case=True,
)


@pytest.fixture
def config(tmp_path):
    """Forty documents that share no words."""
    rng = random.Random(0)
    documents = []
    for number in range(DOCUMENTS):
        first = WORDS_PER_DOCUMENT * number
        words = [f"w{first + i}" for i in range(WORDS_PER_DOCUMENT)]
        sentences = [" ".join(rng.choices(words, k=rng.randint(2, 9))) + "." for _ in range(12)]
        documents.append("\n".join(sentences))
    (tmp_path / "corpus.txt").write_text("\n\n".join(documents) + "\n")
    return DataConfig(
        directory=str(tmp_path / "prepared"),
        corpus=f"text:{tmp_path}/corpus.txt",
        sequence_length=32,
        dupe_factor=3,
        held_out_fraction=0.25,
        train_shards=3,
    )


def prepare(config, *, tokenizer=TOKENIZER, vocab_size=None, on_bad_record="stop", **engine):
    """Prepares data; `vocab_size` first trains a vocabulary of that size."""
    reports = []
    settings = {
        "engine": Engine(**engine),
        "on_bad_record": on_bad_record,
        "report": lambda *report: reports.append(report),
    }
    if vocab_size:
        tokenizer = train_vocabulary(config, vocab_size=vocab_size, **settings)
    passport = prepare_data(config, tokenizer=tokenizer, **settings)
    stage, done, total = reports[-1]
    assert stage == "making rows" and done == total
    return passport


def contents(directory):
    return {path.name: path.read_bytes() for path in Path(directory).iterdir()}


def read_pairs(config, passport, split):
    source = open_split(config.directory, passport, split=split)
    return [pair for row in source.rows(range(len(source))) for pair in row]


def test_packed_shards_hold_the_same_pairs_as_unpacked_shards(config):
    packed = dataclasses.replace(
        config, directory=f"{config.directory}-packed", sequence_length=64, pairs_per_row=3
    )
    config = dataclasses.replace(config, sequence_length=64)
    passports = {one.directory: prepare(one) for one in (config, packed)}
    summaries = [passport["splits"]["train"] for passport in passports.values()]
    for name in ("tokens", "positions", "pairs", "random_pairs", "documents"):
        assert summaries[0][name] == summaries[1][name] > 0
    assert summaries[1]["examples"] < summaries[0]["examples"]

    def pairs(one, split):
        found = read_pairs(one, passports[one.directory], split)
        return [(tuple(a.tolist()), tuple(b.tolist()), label) for a, b, label in found]

    assert sorted(pairs(config, "train")) == sorted(pairs(packed, "train"))
    assert pairs(config, "eval") == pairs(packed, "eval")
    held_out = [passport["splits"]["eval"] for passport in passports.values()]
    assert held_out[0] == held_out[1], "held-out shards should have the same SHA-256"


def test_blocks_are_packed_separately(config, monkeypatch):
    """With blocks of two or three documents, rows hold adjacent documents and none is lost."""
    config = dataclasses.replace(config, sequence_length=64, pairs="none")
    whole = prepare(config)
    monkeypatch.setattr("bert_jax.data.preparation.shards.BLOCK_TOKENS", 1)
    packed = dataclasses.replace(config, directory=f"{config.directory}-packed", pairs_per_row=3)
    passport = prepare(packed)
    source = open_split(packed.directory, passport, split="train")
    rows = source.rows(range(len(source)))
    documents = [{(int(max(pair.a)) - 6) // WORDS_PER_DOCUMENT for pair in row} for row in rows]
    assert passport["splits"]["train"]["examples"] == len(rows) < sum(map(len, rows))
    order = sorted(set().union(*documents))
    spread = [order.index(max(found)) - order.index(min(found)) for found in documents]
    assert set(spread) <= {0, 1, 2} and len(order) > 10
    for name in ("documents", "tokens", "sentences"):
        assert passport["splits"]["train"][name] == whole["splits"]["train"][name]


@pytest.mark.parametrize("kind", ["sentence_order", "none"])
def test_shards_of_other_pair_tasks(config, kind):
    config = dataclasses.replace(config, pairs=kind)
    train = prepare(config)["splits"]["train"]
    pairs = read_pairs(config, load_passport(config.directory), "train")
    assert train["pairs"] == sum(len(pair.b) > 0 for pair in pairs)
    assert train["positions"] == train["tokens"] + 2 * train["examples"] + train["pairs"]
    if kind == "none":
        assert train["pairs"] == train["random_pairs"] == 0
    else:
        assert 0.3 < train["random_pairs"] / train["pairs"] < 0.7
    with pytest.raises(DataError, match="made with data.pairs"):
        prepare(dataclasses.replace(config, pairs="next_sentence"))


def test_passport_figures_agree_with_the_shards(config):
    passport = prepare(config)
    assert passport == load_passport(config.directory)
    assert passport["preparation"] == {name: getattr(config, name) for name in PREPARATION_FIELDS}
    assert passport["vocab_size"] == TOKENIZER.vocab_size
    assert passport["tokenizer_fingerprint"] == load_tokenizer(config.directory).fingerprint()
    files = contents(config.directory)
    for split in ("train", "eval"):
        summary = passport["splits"][split]
        pairs = read_pairs(config, passport, split)
        assert summary["examples"] == len(pairs) > 0
        assert summary["tokens"] == sum(len(a) + len(b) for a, b, _ in pairs)
        assert summary["pairs"] == len(pairs)
        assert summary["positions"] == summary["tokens"] + 3 * len(pairs)
        assert summary["random_pairs"] == sum(pair.label for pair in pairs)
        assert summary["sentences"] == 12 * summary["documents"]
        for shard in summary["shards"]:
            assert hashlib.sha256(files[shard["file"]]).hexdigest() == shard["sha256"]
    splits = passport["splits"]
    assert splits["train"]["documents"] + splits["eval"]["documents"] == DOCUMENTS
    assert len(splits["train"]["shards"]) == 3 and len(splits["eval"]["shards"]) == 1
    counts = np.load(f"{config.directory}/token_counts.npy")
    ids = np.concatenate([np.r_[a, b] for a, b, _ in read_pairs(config, passport, "train")])
    assert counts.dtype == np.int64
    assert np.array_equal(counts, np.bincount(ids, minlength=TOKENIZER.vocab_size))
    assert not any(name.endswith(".tmp") for name in files)


def test_training_and_held_out_records_share_no_document(config):
    passport = prepare(config)
    words = {
        split: {int(i) for a, b, _ in read_pairs(config, passport, split) for i in (*a, *b)}
        for split in ("train", "eval")
    }
    assert words["train"] & words["eval"] == {TOKENIZER.encode(".")[0]}
    assert len(words["train"] | words["eval"]) > 0.95 * (TOKENIZER.vocab_size - 5)


def test_held_out_records_are_in_order_and_visited_once(config):
    passport = prepare(config)
    documents = [int(max(pair.a)) // 4 for pair in read_pairs(config, passport, "eval")]
    assert documents == sorted(documents)
    training = [int(max(pair.a)) // 4 for pair in read_pairs(config, passport, "train")]
    assert training != sorted(training)


def test_workers_do_not_change_a_byte(config, tmp_path):
    serial = prepare(config)
    pooled_config = dataclasses.replace(config, directory=str(tmp_path / "pooled"))
    assert prepare(pooled_config, workers=2) == serial
    assert contents(config.directory) == contents(pooled_config.directory)


@pytest.mark.parametrize("workers", [1, 2])
def test_beam_does_not_change_a_byte(config, tmp_path, workers):
    pytest.importorskip("apache_beam", reason="needs pip install -e '.[beam]'")
    here = prepare(config, vocab_size=100)
    beam_config = dataclasses.replace(config, directory=str(tmp_path / "beam"))
    assert prepare(beam_config, vocab_size=100, workers=workers, kind="beam") == here
    assert contents(config.directory) == contents(beam_config.directory)


def test_a_killed_preparation_resumes_with_the_missing_shards(config, tmp_path):
    prepare(config)
    whole = contents(config.directory)
    directory = tmp_path / "prepared"
    # A kill between a shard and its statistics, before the second shard, and within the third.
    (directory / "train-00000-of-00003.json").unlink()
    (directory / "train-00001-of-00003.json").unlink()
    (directory / "train-00001-of-00003.array_record").unlink()
    (directory / "train-00002-of-00003.array_record").write_bytes(b"torn")
    (directory / "passport.json").unlink()
    kept = directory / "eval-00000-of-00001.array_record"
    before = kept.stat().st_mtime_ns
    prepare(config)
    assert contents(config.directory) == whole
    assert kept.stat().st_mtime_ns == before


def test_finished_shards_are_not_written_again(config, tmp_path, monkeypatch):
    prepare(config)
    whole = contents(config.directory)
    shards = [*(tmp_path / "prepared").glob("*.array_record")]
    before = [shard.stat().st_mtime_ns for shard in shards]
    monkeypatch.delattr(TextFile, "read")  # the text is not read either, except for its hash
    prepare(config)
    assert contents(config.directory) == whole
    assert [shard.stat().st_mtime_ns for shard in shards] == before


def test_the_error_names_a_changed_corpus_file(config, tmp_path):
    prepare(config)
    files = contents(config.directory)
    text = (tmp_path / "corpus.txt").read_text()
    (tmp_path / "corpus.txt").write_text(text.replace("w1 ", "w2 ", 1))
    with pytest.raises(DataError, match=r"corpus\.txt has changed since .*prepared") as error:
        prepare(config)
    assert "\n" not in str(error.value)
    (tmp_path / "corpus.txt").write_text(text)
    (tmp_path / "more.txt").write_text(text)
    both = dataclasses.replace(config, corpus=f"text:{tmp_path}/*.txt")
    with pytest.raises(DataError, match="made from 1 files of .*, not from the 2 files of"):
        prepare(both)
    heavier = dataclasses.replace(config, corpus=f"{config.corpus}@2")
    with pytest.raises(DataError, match="made from 1 files"):
        prepare(heavier)
    assert contents(config.directory) == files


def test_a_moved_corpus_has_the_same_fingerprint(config, tmp_path):
    passport = prepare(config)
    (tmp_path / "elsewhere").mkdir()
    moved = (tmp_path / "corpus.txt").rename(tmp_path / "elsewhere" / "corpus.txt")
    again = prepare(dataclasses.replace(config, corpus=f"text:{moved}"))
    assert again["splits"] == passport["splits"]
    assert again["corpus"]["fingerprint"] == passport["corpus"]["fingerprint"]
    assert again["corpus"] != passport["corpus"]
    assert passport_fingerprint(again) == passport_fingerprint(passport)


def dies(*_, **__):
    raise KeyboardInterrupt


def test_a_vocabulary_without_shards_is_not_used_with_other_settings(config, monkeypatch):
    """The run that trained the vocabulary died before it wrote a shard."""
    with monkeypatch.context() as patch:
        patch.setattr(ShardTask, "run", dies)
        with pytest.raises(KeyboardInterrupt):
            prepare(config, vocab_size=100)
    files = contents(config.directory + "/survey")
    with pytest.raises(DataError, match="made with data.held_out_fraction 0.25, not 0.1"):
        prepare(dataclasses.replace(config, held_out_fraction=0.1), vocab_size=100)
    assert contents(config.directory + "/survey") == files
    prepare(config, vocab_size=100)


def test_an_interrupted_survey_is_not_mixed_with_another(config, tmp_path, monkeypatch):
    """A run is interrupted, then a run with other settings, and then the first run is repeated."""
    alone = prepare(config, vocab_size=100)
    again = dataclasses.replace(config, directory=str(tmp_path / "again"))
    with monkeypatch.context() as patch:
        patch.setattr("bert_jax.data.preparation.survey.train_tokenizer", dies)
        with pytest.raises(KeyboardInterrupt):
            prepare(again, vocab_size=100)
    with monkeypatch.context() as patch:
        patch.setattr("bert_jax.data.preparation.survey.write_json", dies)
        with pytest.raises(KeyboardInterrupt):
            prepare(dataclasses.replace(again, held_out_fraction=0.5), vocab_size=100)
    assert prepare(again, vocab_size=100) == alone


def test_a_survey_that_counted_words_is_not_repeated_for_the_shards(config, monkeypatch):
    tokenizer = train_vocabulary(config, vocab_size=100, engine=Engine())
    monkeypatch.setattr(SurveyTask, "run", dies)
    prepare(config, tokenizer=tokenizer)
    assert not Path(config.directory, "survey").exists()


def test_a_survey_that_counted_no_words_is_repeated_for_a_vocabulary(config, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("bert_jax.data.preparation.survey.held_out_slice", dies)
        with pytest.raises(KeyboardInterrupt):
            prepare(config)
    assert list(Path(config.directory, "survey").glob("*-of-*.json"))
    again = train_vocabulary(config, vocab_size=100, engine=Engine())
    elsewhere = dataclasses.replace(config, directory=str(tmp_path / "elsewhere"))
    assert again == train_vocabulary(elsewhere, vocab_size=100, engine=Engine())


def test_a_vocabulary_that_differs_from_the_shards_leaves_no_survey(config):
    prepare(config)
    Path(config.directory, "tokenizer.json").unlink()
    files = contents(config.directory)
    with pytest.raises(DataError, match="made with vocab_size 166, not 100"):
        train_vocabulary(config, vocab_size=100, engine=Engine())
    assert contents(config.directory) == files


def test_a_split_without_rows_is_refused(config, tmp_path):
    text = (tmp_path / "corpus.txt").read_text()
    lines = [json.dumps({"text": document}) for document in text.split("\n\n")]
    held_out = 0.02  # holds out only the document of white space
    blank = next(
        blank
        for blank in (" " * n + "\N{ZERO WIDTH SPACE}" * n for n in range(1, 400))
        if is_held_out(Document("", blank), fraction=held_out)
    )
    (tmp_path / "corpus.jsonl").write_text("\n".join([*lines, json.dumps({"text": blank})]))
    corpus = f"jsonl:{tmp_path}/corpus.jsonl"
    assert (
        sum(is_held_out(Document("", line), fraction=held_out) for line in text.split("\n\n")) == 0
    )
    with pytest.raises(DataError, match="the 1 documents for evaluation in .* give no row"):
        prepare_data(
            dataclasses.replace(config, corpus=corpus, held_out_fraction=held_out),
            tokenizer=TOKENIZER,
            engine=Engine(),
        )


def test_the_passport_describes_the_corpus(config, tmp_path):
    corpus = prepare(config)["corpus"]
    (source,) = corpus["sources"]
    (file,) = source["files"]
    content = (tmp_path / "corpus.txt").read_bytes()
    assert source["spec"] == corpus["spec"] == config.corpus
    assert source["weight"] == 1 and source["licence"] is None
    assert file["sha256"] == hashlib.sha256(content).hexdigest() and file["bytes"] == len(content)


def test_a_trained_vocabulary_does_not_depend_on_the_workers(config, tmp_path):
    one = prepare(config, vocab_size=100)
    other = dataclasses.replace(config, directory=str(tmp_path / "pooled"))
    assert prepare(other, vocab_size=100, workers=2) == one
    assert contents(config.directory) == contents(other.directory)
    assert load_tokenizer(config.directory).vocab_size == 100
    with pytest.raises(DataError, match="vocab_size 100, not 101"):
        prepare(config, vocab_size=101)


@pytest.mark.parametrize(
    ("field", "before", "value"), [("lower_case", True, False), ("max_word_length", 200, 99)]
)
def test_a_trained_vocabulary_is_not_used_with_other_settings(field, before, value, config):
    """A kill between vocabulary and first shard; the second run has another setting."""
    prepare(config, vocab_size=100)
    assert load_tokenizer(config.directory).to_json()[field] == before
    for path in Path(config.directory).iterdir():
        if path.name != "tokenizer.json":
            path.unlink()
    with pytest.raises(DataError, match=f"tokenizer.json was made with data.{field} {before}, not"):
        prepare(dataclasses.replace(config, **{field: value}), vocab_size=100)
    assert list(contents(config.directory)) == ["tokenizer.json"]


def test_a_weight_changes_how_often_documents_are_visited(config, tmp_path):
    """Training tokens are proportional to the weight; held-out documents ignore the weight."""
    text = (tmp_path / "corpus.txt").read_text()
    (tmp_path / "other.txt").write_text(text.replace("w", "v"))
    tokenizer = WordPiece(
        pieces=(*TOKENIZER.pieces, *(p.replace("w", "v") for p in TOKENIZER.pieces if "w" in p)),
        lower_case=True,
    )

    def tokens(weights, name):
        corpus = ",".join(
            f"text:{tmp_path}/{file}@{weight}"
            for file, weight in zip(("corpus.txt", "other.txt"), weights, strict=True)
        )
        mixed = dataclasses.replace(config, corpus=corpus, directory=str(tmp_path / name))
        passport = prepare(mixed, tokenizer=tokenizer)
        # Counts only A, because a random B comes from any document of the shard.
        ids = np.concatenate([pair.a for pair in read_pairs(mixed, passport, "train")])
        words = ids[ids > TOKENIZER.pieces.index(".")]  # both files contain full stops
        second = int((words >= TOKENIZER.vocab_size).sum())
        return len(words) - second, second, passport["splits"]["eval"]["examples"]

    first, second, evaluation = tokens((1, 1), "natural")
    twice, third, same = tokens((2, "0.3333333"), "weighted")
    # The end of A is random, so sums of about 5,000 and 1,700 tokens vary by a few per cent.
    assert twice == pytest.approx(2 * first, rel=0.1)
    assert third == pytest.approx(second / 3, rel=0.1)
    assert evaluation == same


def test_memory_does_not_grow_with_a_shard(config, monkeypatch):
    """With blocks of two documents, a random B comes from the other document of the block."""
    whole = prepare(config)
    monkeypatch.setattr("bert_jax.data.preparation.shards.BLOCK_TOKENS", 1)
    split = dataclasses.replace(config, directory=config.directory + "-blocks")
    passport = prepare(split)
    assert passport["splits"]["train"]["documents"] == whole["splits"]["train"]["documents"]
    full_stop = set(TOKENIZER.encode("."))
    for a, b, label in read_pairs(split, passport, "train"):
        of_a, of_b = (
            {(int(i) - 6) // WORDS_PER_DOCUMENT for i in text if i not in full_stop}
            for text in (a, b)
        )
        assert len(of_a) <= 1 and len(of_b) <= 1
        if of_a and of_b:
            assert (of_a != of_b) == label


@pytest.mark.parametrize(
    ("field", "value"),
    [("dupe_factor", 2), ("train_shards", 4), ("preparation_seed", 1), ("held_out_fraction", 0.3)],
)
def test_other_settings_are_refused_and_change_no_file(config, field, value):
    before = getattr(config, field)
    prepare(config)
    files = contents(config.directory)
    with pytest.raises(DataError, match=rf"data\.{field} {before}, not {value}") as error:
        prepare(dataclasses.replace(config, **{field: value}))
    assert "\n" not in str(error.value)
    assert contents(config.directory) == files


@pytest.mark.parametrize("library", ["unicodedata.unidata_version", "version"])
def test_shards_of_other_versions_are_not_mixed(library, config, monkeypatch):
    """Python's Unicode tables and sentencex decide where words and sentences end."""
    prepare(config)
    files = contents(config.directory)
    other = "0.1" if "." in library else lambda name: "0.1"
    monkeypatch.setattr(f"bert_jax.data.preparation.prepare.{library}", other)
    with pytest.raises(DataError, match="was made with (unicode|sentencex)_version .*, not '0.1'"):
        prepare(config)
    assert contents(config.directory) == files


def test_another_tokenizer_is_refused_even_before_the_first_shard(config, tmp_path):
    prepare(config)
    for path in (tmp_path / "prepared").iterdir():
        if path.name != "tokenizer.json":
            path.unlink()
    with pytest.raises(DataError, match="tokenizer.json was made with tokenizer_fingerprint"):
        prepare(config, tokenizer=dataclasses.replace(TOKENIZER, max_word_length=99))
    assert list(contents(config.directory)) == ["tokenizer.json"]


def test_a_tokenizer_that_contradicts_the_settings_is_refused(config):
    cased = dataclasses.replace(TOKENIZER, lower_case=False)
    with pytest.raises(DataError, match=r"for data\.lower_case False, but .* is True; accepted"):
        prepare(config, tokenizer=cased)
    with pytest.raises(DataError, match=r"for data\.tokenizer 'wordpiece', but .* 'sentencepiece'"):
        prepare(dataclasses.replace(config, tokenizer="sentencepiece"))
    assert not Path(config.directory).exists()


def test_each_shard_and_each_seed_has_its_own_draws(config, tmp_path):
    # Two shards have the same text, so only the draws can differ.
    document = (tmp_path / "corpus.txt").read_text().split("\n\n")[0]
    (tmp_path / "corpus.txt").write_text(f"{document}\n")
    (tmp_path / "prepared").mkdir()
    config = dataclasses.replace(config, train_shards=2, held_out_fraction=0.0)
    (corpus_slice,) = open_corpus(config.corpus).slices(1)
    hashes = {
        ShardTask(
            split="train",
            index=index,
            config=dataclasses.replace(config, preparation_seed=seed),
            tokenizer=TOKENIZER,
            corpus_slice=corpus_slice,
            settings={},
        ).run()["sha256"]
        for index in (0, 1)
        for seed in (1, 2)
    }
    assert len(hashes) == 4


def test_a_bad_corpus_is_refused_before_a_shard_is_written(config, tmp_path):
    with pytest.raises(DataError, match="train_shards is 99, but .* only .* documents"):
        prepare(dataclasses.replace(config, train_shards=99))
    with pytest.raises(
        DataError, match=r"held_out_fraction is 0\.0, which holds out none of the 40"
    ):
        prepare(dataclasses.replace(config, held_out_fraction=0.0))
    good = (tmp_path / "corpus.txt").read_bytes()
    (tmp_path / "corpus.txt").write_bytes(good + b"\ngood\n\nbad \xff\n")
    for workers in (1, 2):
        with pytest.raises(DataError, match=rf"corpus.txt:{good.count(10) + 4} holds") as error:
            prepare(config, workers=workers)
        assert "\n" not in str(error.value)
        assert list((tmp_path / "prepared").iterdir()) == []
    (tmp_path / "corpus.txt").write_bytes(good)
    assert prepare(config)["splits"]["train"]["documents"] > 20
    assert not (tmp_path / "prepared" / "survey").exists()


def test_finished_survey_files_are_kept_after_a_full_disk(config, tmp_path):
    """The word counts of the first slice fit on the disk; those of the second (20 kB) do not."""
    few = [" ".join(["word"] * 400)] * 10
    many = [" ".join(f"w{number}x{i}" for i in range(300)) for number in range(10)]
    (tmp_path / "corpus.txt").write_text("\n\n".join([*few, *many]))
    config = dataclasses.replace(config, train_shards=2)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, before[1]))
    try:
        with pytest.raises(DataError, match="survey cannot be written .*; the same command"):
            prepare(config, vocab_size=100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    survey = tmp_path / "prepared" / "survey"
    assert [path.name for path in survey.glob("*-of-*.json")] == ["00000-of-00002.json"]


def test_the_error_names_files_that_differ_from_the_passport(config):
    passport = prepare(config)
    check_files(passport, config.directory, splits=("train", "eval"))
    first, second, *_ = (
        Path(config.directory) / shard["file"] for shard in passport["splits"]["train"]["shards"]
    )
    second.write_bytes(first.read_bytes())
    check_files(passport, config.directory, splits=("eval",))
    with pytest.raises(DataError, match=f"{second.name} has SHA-256 .*passport.json names"):
        check_files(passport, config.directory, splits=("train", "eval"))
    first.unlink()
    with pytest.raises(DataError, match=f"{first.name} is missing"):
        check_files(passport, config.directory, splits=("train",))
    np.save(Path(config.directory) / "token_counts.npy", np.zeros(3))
    with pytest.raises(DataError, match="token_counts.npy has SHA-256"):
        check_files(passport, config.directory, splits=("eval",))


def test_a_damaged_held_out_shard_is_written_again(config, tmp_path):
    prepare(config)
    whole = contents(config.directory)
    (tmp_path / "prepared" / "eval-00000-of-00001.array_record").write_bytes(b"torn")
    prepare(config)
    assert contents(config.directory) == whole


def test_a_missing_or_broken_passport_is_refused(config, tmp_path):
    with pytest.raises(
        MissingDataError, match=f"{tmp_path} holds no prepared data .*accepted: a d"
    ):
        load_passport(tmp_path)
    (tmp_path / "passport.json").write_text('{"format_ver')
    with pytest.raises(DataError, match=r"passport\.json:1 is not JSON"):
        load_passport(tmp_path)
    (tmp_path / "passport.json").write_text(json.dumps({"format_version": 1}))
    with pytest.raises(DataError, match="format_version 1; accepted: 3"):
        load_passport(tmp_path)


@pytest.mark.parametrize("field", PREPARATION_FIELDS)
def test_every_preparation_field_is_checked(config, field):
    passport = {
        "preparation": {name: getattr(config, name) for name in PREPARATION_FIELDS},
        "vocab_size": 9,
    }
    check_passport(passport, config, vocab_size=9)
    passport["preparation"][field] = "other"
    with pytest.raises(DataError, match=rf"data\.{field} 'other', not "):
        check_passport(passport, config, vocab_size=9)


def test_data_without_the_later_fields_are_those_of_the_defaults(config):
    preparation = {name: getattr(config, name) for name in PREPARATION_FIELDS}
    passport = {"preparation": preparation, "vocab_size": 9}
    earlier = {name: preparation[name] for name in preparation if name not in LATER_FIELDS}
    earlier = passport | {"preparation": earlier}
    check_passport(earlier, config, vocab_size=9)
    assert passport_fingerprint(earlier) == passport_fingerprint(passport)
    for changes in ({"language": "de"}, {"strip_accents": False}):
        other = dataclasses.replace(config, **changes)
        with pytest.raises(DataError, match=f"made with data.{next(iter(changes))} "):
            check_passport(earlier, other, vocab_size=9)
        preparation |= changes
        assert passport_fingerprint(earlier) != passport_fingerprint(passport)


def test_language_and_accents_reach_the_vocabulary_and_the_sentences(tmp_path):
    text = "Am 3. Mai kam Frau Müller. Sie blieb über Nacht."
    documents = (f"{text} Es war schön in Köln, Tag {i}." for i in range(40))
    (tmp_path / "corpus.txt").write_text("\n\n".join(documents), encoding="utf-8")
    config = DataConfig(
        directory=str(tmp_path / "prepared"),
        corpus=f"text:{tmp_path}/corpus.txt",
        language="de",
        strip_accents=False,
        sequence_length=32,
        held_out_fraction=0.25,
        train_shards=1,
    )
    passport = prepare(config, vocab_size=120)
    tokenizer = load_tokenizer(config.directory)
    assert {"ü", "ö"} <= {piece.removeprefix("##") for piece in tokenizer.pieces}
    assert passport["preparation"]["language"] == "de"
    assert passport["preparation"]["strip_accents"] is False
    train = passport["splits"]["train"]
    assert train["sentences"] == 3 * train["documents"]
    for changes in ({"language": "en"}, {"strip_accents": None}):
        with pytest.raises(DataError, match="was made with "):
            prepare(dataclasses.replace(config, **changes), vocab_size=120)


def test_skipped_records_are_counted_and_listed(config, tmp_path):
    lines = (tmp_path / "corpus.txt").read_text().split("\n\n")
    records = [json.dumps({"text": text}) for text in lines]
    (tmp_path / "good.jsonl").write_text("\n".join(records))
    records[3:3] = ['{"text": null}', "no JSON", '{"txt": "x"}']
    (tmp_path / "bad.jsonl").write_text("\n".join(records))
    passports = []
    for name, choice in (("good", "stop"), ("bad", "skip")):
        changes = {"corpus": f"jsonl:{tmp_path}/{name}.jsonl", "directory": str(tmp_path / name)}
        changed = dataclasses.replace(config, train_shards=1, **changes)
        if name == "bad":
            with pytest.raises(DataError, match=r"bad\.jsonl:4 has None in field 'text'"):
                prepare(changed)
        passports.append(prepare(changed, on_bad_record=choice))
    good, bad = passports
    assert good["skipped"] == {"count": 0, "records": []} and bad["skipped"]["count"] == 3
    first, *others = bad["skipped"]["records"]
    assert "bad.jsonl@" in first and "has None in field 'text'; accepted" in first
    assert len(others) == 2
    shards = [one["splits"]["train"]["shards"] for one in passports]
    assert shards[0] == shards[1], "the other records are prepared alike"


def test_equal_documents_are_named(config, tmp_path):
    (tmp_path / "corpus.txt").write_text("the same text\n\n" * 60)
    with pytest.raises(DataError, match="the 60 documents of .* are equal; accepted: at least two"):
        prepare(dataclasses.replace(config, train_shards=2))


def test_the_vocabulary_size_is_checked(config):
    passport = {
        "preparation": {name: getattr(config, name) for name in PREPARATION_FIELDS},
        "vocab_size": 9,
    }
    with pytest.raises(DataError, match="vocab_size 9, not 10"):
        check_passport(passport, config, vocab_size=10)


def change(path, **fields):
    """Replaces fields, given as `splits__train__shards`, in a JSON file."""
    content = json.loads(path.read_text())
    for name, value in fields.items():
        *parents, last = (int(key) if key.isdecimal() else key for key in name.split("__"))
        section = content
        for key in parents:
            section = section[key]
        section[last] = value
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("splits__train__shards__0__file", "../../etc/passwd", "accepted: the name of a file in"),
        ("splits__eval__shards__0__file", "/etc/passwd", "accepted: the name of a file in"),
        ("splits__train__shards__0__sha256", "../../etc", "accepted: a SHA-256 in hexadecimal"),
        ("token_counts_sha256", "../" * 20 + "etc", "accepted: a SHA-256 in hexadecimal"),
        ("splits__train__shards", [3], "is int; accepted: object"),
        ("splits__train__pairs", -1, "accepted: int >= 0"),
        ("splits__other", {}, "splits has the unknown field other"),
        ("splits", [], "splits is array; accepted: object"),
        ("vocab_size", "9", "vocab_size is str; accepted: int"),
        ("record_dtype", "float64", "record_dtype"),
        ("preparation__sequence_length", 0, "accepted: int >= 1"),
        ("preparation", None, "preparation is null; accepted: object"),
        ("corpus", {}, "corpus lacks the field spec"),
    ],
)
def test_a_passport_of_another_form_is_refused(field, value, said, config, tmp_path):
    prepare(config)
    change(tmp_path / "prepared" / "passport.json", **{field: value})
    with pytest.raises(DataError) as error:
        load_passport(config.directory)
    assert f"{config.directory}/passport.json: " in str(error.value)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_statistics_that_name_a_file_elsewhere_are_refused(config, tmp_path):
    prepare(config)
    name = "train-00000-of-00003.json"
    change(tmp_path / "prepared" / name, documents_file="../../etc/passwd")
    with pytest.raises(DataError, match=f"{name}: documents_file .*accepted: the name of a file"):
        prepare(config)


def test_no_file_is_written_through_a_link(config, tmp_path):
    (tmp_path / "victim").write_text("precious")
    directory = tmp_path / "prepared"
    (directory / "survey").mkdir(parents=True)
    names = ("corpus.json", "tokenizer.json", "passport.json", "token_counts.npy")
    names += ("train-00000-of-00003.array_record", "train-00000-of-00003.documents.npy")
    names += ("survey/00000-of-00003.held_out.jsonl",)
    for name in names:
        (directory / f"{name}.tmp").symlink_to(tmp_path / "victim")
    (directory / "survey" / "00000-of-00003.held_out.tmp").symlink_to(tmp_path / "victim")
    prepare(config)
    assert (tmp_path / "victim").read_text() == "precious"
    assert not any(path.is_symlink() for path in directory.iterdir())


@pytest.fixture
def dask_cluster(tmp_path):
    """Runs a Dask cluster: a scheduler and two workers, each a process. Yields a file about it."""
    distributed = pytest.importorskip("distributed", reason="needs requirements-beam.txt")
    log, file = tmp_path / "dask.log", f"--scheduler-file={tmp_path}/dask.json"
    worker = ("distributed.cli.dask_worker", "--nthreads=1", f"--local-directory={tmp_path}/dask")
    with contextlib.ExitStack() as stack, log.open("w") as output:
        for command in [("distributed.cli.dask_scheduler", "--port=0"), worker, worker]:
            process = subprocess.Popen(
                [sys.executable, "-m", *command, "--host=127.0.0.1", "--no-dashboard", file],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
                stdout=output,
                stderr=output,
            )
            stack.callback(process.wait)
            stack.callback(process.terminate)
        deadline = time.monotonic() + 60
        while log.read_text().count("Starting established connection") < 4:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield tmp_path / "dask.json"
        for _ in ("survey", "shards"):  # otherwise Dask makes lost results again
            distributed.default_client().close()
    assert "ERROR" not in log.read_text()


def test_beam_on_a_dask_cluster_does_not_change_a_byte(config, dask_cluster, tmp_path):
    here = prepare(config, vocab_size=100, workers=2)
    options = (
        *(
            "--runner=apache_beam.runners.dask.dask_runner.DaskRunner",
            f"--dask_scheduler_file={dask_cluster}",
            "--dask_npartitions=4",
        ),
    )
    beam_config = dataclasses.replace(config, directory=str(tmp_path / "beam"))
    assert prepare(beam_config, vocab_size=100, kind="beam", beam_options=options) == here
    assert contents(config.directory) == contents(beam_config.directory)
