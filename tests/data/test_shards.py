"""Prepared shards: the same bytes from any workers and after a kill, and never mixed settings."""

import dataclasses
import hashlib
import json
import random
from pathlib import Path

import numpy as np
import pytest
from array_record.python.array_record_data_source import ArrayRecordDataSource

from bert_jax.data import shards
from bert_jax.data.config import PREPARATION_FIELDS, DataConfig
from bert_jax.data.pairs import Pair
from bert_jax.data.passport import check_passport, check_tokenizer, load_passport
from bert_jax.data.shards import (
    ShardTask,
    decode_records,
    encode_record,
    prepare_data,
    record_dtype,
    write_shard,
)
from bert_jax.data.tokenizers import load_tokenizer
from bert_jax.data.wordpiece import SPECIAL_PIECES, WordPiece
from bert_jax.errors import DataError

WORDS_PER_DOCUMENT = 4
DOCUMENTS = 40
TOKENIZER = WordPiece(
    pieces=(*SPECIAL_PIECES, ".", *(f"w{i}" for i in range(WORDS_PER_DOCUMENT * DOCUMENTS))),
    lower_case=True,
)


@pytest.fixture
def config(tmp_path):
    """Forty documents, each of words that no other has."""
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


def prepare(config, *, tokenizer=TOKENIZER, workers=1):
    done = []
    passport = prepare_data(config, tokenizer=tokenizer, workers=workers, on_shard_done=done.append)
    assert len(done) == config.train_shards + 1
    return passport


def contents(directory):
    return {path.name: path.read_bytes() for path in Path(directory).iterdir()}


def read_pairs(config, passport, split):
    files = [shard["file"] for shard in passport["splits"][split]["shards"]]
    source = ArrayRecordDataSource([f"{config.directory}/{file}" for file in files])
    return decode_records(source.__getitems__(range(len(source))), dtype=passport["record_dtype"])


@pytest.mark.parametrize(("dtype", "largest"), [("uint16", 2**16 - 1), ("uint32", 2**32 - 1)])
def test_records_round_trip(dtype, largest):
    pairs = [Pair([1, largest], [0], 1), Pair([5, 6, 7], [], 0)]
    records = [encode_record(pair, dtype=dtype) for pair in pairs]
    decoded = decode_records(records, dtype=dtype)
    assert [(list(a), list(b), label) for a, b, label in decoded] == pairs
    assert len(records[0]) == np.dtype(dtype).itemsize * 6


def test_record_bytes_are_little_endian():
    assert encode_record(Pair([258], [3], 1), dtype="uint16") == bytes(
        [1, 0, 1, 0, 1, 0, 2, 1, 3, 0]
    )


def test_dtype_holds_every_id():
    assert [record_dtype(size) for size in (2**16, 2**16 + 1)] == ["uint16", "uint32"]


def test_passport_counts_what_the_shards_hold(config):
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


def test_a_killed_run_goes_on_with_what_is_missing(config, tmp_path):
    prepare(config)
    whole = contents(config.directory)
    directory = tmp_path / "prepared"
    # Killed between a shard and its statistics, before another shard, and in a third.
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


def test_finished_shards_are_not_written_again(config, tmp_path):
    prepare(config)
    whole = contents(config.directory)
    shards = [*(tmp_path / "prepared").glob("*.array_record")]
    before = [shard.stat().st_mtime_ns for shard in shards]
    (tmp_path / "corpus.txt").unlink()  # nobody can read it any more
    prepare(config)
    assert contents(config.directory) == whole
    assert [shard.stat().st_mtime_ns for shard in shards] == before


@pytest.mark.parametrize(
    ("field", "value"),
    [("dupe_factor", 2), ("train_shards", 4), ("preparation_seed", 1), ("lower_case", False)],
)
def test_other_settings_are_refused_and_nothing_is_touched(config, field, value):
    before = getattr(config, field)
    prepare(config)
    files = contents(config.directory)
    with pytest.raises(DataError, match=rf"data\.{field} {before}, not {value}") as error:
        prepare(dataclasses.replace(config, **{field: value}))
    assert "\n" not in str(error.value)
    assert contents(config.directory) == files


def test_another_tokenizer_is_refused_even_before_the_first_shard(config, tmp_path):
    prepare(config)
    for path in (tmp_path / "prepared").iterdir():
        if path.name != "tokenizer.json":
            path.unlink()
    with pytest.raises(DataError, match="tokenizer.json was made with tokenizer_fingerprint"):
        prepare(config, tokenizer=dataclasses.replace(TOKENIZER, lower_case=False))
    assert list(contents(config.directory)) == ["tokenizer.json"]


def test_each_shard_and_each_seed_has_its_own_draws(config, tmp_path):
    # Two shards of the same text, so that only the draws can differ.
    document = (tmp_path / "corpus.txt").read_text().split("\n\n")[0]
    (tmp_path / "corpus.txt").write_text(f"{document}\n\n{document}\n")
    (tmp_path / "prepared").mkdir()
    config = dataclasses.replace(config, train_shards=2, held_out_fraction=0.0)
    hashes = {
        write_shard(
            ShardTask(
                split="train",
                index=index,
                config=dataclasses.replace(config, preparation_seed=seed),
                tokenizer=TOKENIZER,
            )
        )["sha256"]
        for index in (0, 1)
        for seed in (1, 2)
    }
    assert len(hashes) == 4


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_in_a_worker_arrives_as_one_line(config, workers):
    config = dataclasses.replace(config, corpus="text:/nowhere/*.txt")
    tasks = [
        ShardTask(split="train", index=index, config=config, tokenizer=TOKENIZER)
        for index in range(3)
    ]
    with pytest.raises(DataError, match=r"/nowhere/\*\.txt' matches no file") as error:
        list(shards._write_shards(tasks, workers=workers))
    assert "\n" not in str(error.value)


def test_a_bad_corpus_is_refused_before_anything_is_written(config, tmp_path):
    with pytest.raises(DataError, match="train_shards is 99, but .* documents for training"):
        prepare(dataclasses.replace(config, train_shards=99))
    with pytest.raises(
        DataError, match=r"held_out_fraction is 0\.0, which holds out none of the 40"
    ):
        prepare(dataclasses.replace(config, held_out_fraction=0.0))
    (tmp_path / "corpus.txt").write_bytes(b"good\n\nbad \xff\n")
    with pytest.raises(DataError, match="corpus.txt:3"):
        prepare(config)
    assert not (tmp_path / "prepared").exists()


def test_missing_and_broken_passports(config, tmp_path):
    with pytest.raises(DataError, match="bert_jax.prepare --experiment=experiments/bert.py:tiny"):
        load_passport(tmp_path, experiment="experiments/bert.py:tiny")
    (tmp_path / "passport.json").write_text('{"format_ver')
    with pytest.raises(DataError, match=r"passport\.json is not JSON"):
        load_passport(tmp_path)
    (tmp_path / "passport.json").write_text(json.dumps({"format_version": 2}))
    with pytest.raises(DataError, match="format_version 2; accepted: 1"):
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


def test_the_vocabulary_size_is_checked(config):
    passport = {
        "preparation": {name: getattr(config, name) for name in PREPARATION_FIELDS},
        "vocab_size": 9,
    }
    with pytest.raises(DataError, match="vocab_size 9, not 10"):
        check_passport(passport, config, vocab_size=10)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            {"lower_case": False},
            r"data.lower_case False, the experiment True; accepted: --set data",
        ),
        ({"max_word_length": 100}, "data.max_word_length 100, the experiment 200"),
        ({"pieces": 1}, "model.vocab_size 499, the experiment 500; accepted: --set model.vocab_s"),
    ],
)
def test_a_vocabulary_that_lies_there_is_as_configured_or_refused(data_config, given, says):
    tokenizer = load_tokenizer(data_config.directory)
    check_tokenizer(tokenizer, data_config, vocab_size=tokenizer.vocab_size)
    if "pieces" in given:
        given = {"pieces": tokenizer.pieces[: -given["pieces"]]}
    with pytest.raises(DataError, match=says):
        other = dataclasses.replace(tokenizer, **given)
        check_tokenizer(other, data_config, vocab_size=tokenizer.vocab_size)
