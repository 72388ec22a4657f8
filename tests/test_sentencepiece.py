"""SentencePiece from raw text to an answer: preparation, training, opening and exporting a run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import assert_one_line

import bert_jax
from bert_jax.config import override, to_json
from bert_jax.data.config import DataConfig, MaskingConfig
from bert_jax.data.passport import load_passport, load_token_counts
from bert_jax.data.pipeline import evaluation_batches
from bert_jax.data.preparation.engines import Engine
from bert_jax.data.preparation.prepare import prepare_data, train_vocabulary
from bert_jax.data.tokenizers.files import load_tokenizer
from bert_jax.data.tokenizers.sentencepiece import SentencePiece
from bert_jax.errors import CheckpointError, ConfigError, DataError
from bert_jax.interop.tokenizer_files import tokenizer_json
from bert_jax.runs.initial import open_initial_weights
from bert_jax.runs.load import load_run
from bert_jax.runs.save import save_run
from bert_jax.training.train import train

ROOT = Path(bert_jax.__file__).parents[1]
POEMS = Path(__file__).parent / "data" / "chinese_poems.txt"
VOCAB_SIZE = 500


def contents(directory):
    return {p.name: p.read_bytes() for p in Path(directory).iterdir() if p.name != ".lock"}


@pytest.fixture(scope="module")
def sentencepiece_experiment(experiment, tmp_path_factory):
    """The session's experiment with SentencePiece and whole-word masks, prepared by the command."""
    directory = tmp_path_factory.mktemp("sentencepiece")
    changed = override(
        experiment,
        {
            "data.tokenizer": "sentencepiece",
            "data.directory": str(directory / "prepared"),
            "data.masking.unit": "word",
            "data.evaluation_masking.unit": "word",
        },
    )
    result = prepare(changed, directory, "--workers=2")
    assert result.returncode == 0, result.stderr
    return changed


@pytest.fixture(scope="module")
def run(sentencepiece_experiment, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("sentencepiece_run") / "run"
    train(sentencepiece_experiment, workdir)
    return load_run(workdir)


def prepare(experiment, directory, *arguments):
    config = directory / "experiment.json"
    config.write_text(json.dumps(to_json(experiment)))
    command = ["-m", "bert_jax.prepare", f"--experiment={config}", *map(str, arguments)]
    return subprocess.run(
        [sys.executable, *command],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def prepare_with_vocabulary(config, vocab_size=VOCAB_SIZE):
    tokenizer = train_vocabulary(config, vocab_size=vocab_size, engine=Engine())
    return prepare_data(config, tokenizer=tokenizer, engine=Engine())


def test_workers_do_not_change_a_byte(sentencepiece_experiment, tmp_path):
    config = sentencepiece_experiment.data
    alone = override(config, {"directory": str(tmp_path / "alone")})
    prepare_with_vocabulary(alone)
    assert contents(alone.directory) == contents(config.directory)
    assert "spiece.model" in contents(alone.directory)
    assert load_passport(alone.directory)["preparation"]["tokenizer"] == "sentencepiece"


@pytest.mark.slow
def test_a_given_model_gives_the_same_data(sentencepiece_experiment, tmp_path):
    """A model of another casing, size or kind than the experiment's ends in one line."""
    prepared = Path(sentencepiece_experiment.data.directory)
    model = tmp_path / "given.model"
    model.write_bytes((prepared / "spiece.model").read_bytes())
    arguments = (f"--vocabulary={model}", f"--output={tmp_path}/out", "--workers=1")
    result = prepare(sentencepiece_experiment, tmp_path, *arguments)
    assert result.returncode == 0, result.stderr
    assert contents(tmp_path / "out") == contents(prepared)

    arguments = (f"--vocabulary={model}", f"--output={tmp_path}/other")
    for setting, said in {
        "data.lower_case=false": "is for data.lower_case True, but data.lower_case is False",
        "model.vocab_size=600": "given.model has 500 pieces and model.vocab_size is 600; ac",
        "data.tokenizer=wordpiece": "given.model is a SentencePiece model",
        "data.max_word_length=100": "data.max_word_length is 100 with data.tokenizer 'sentencep",
    }.items():
        result = prepare(sentencepiece_experiment, tmp_path, *arguments, f"--set={setting}")
        assert_one_line(result, said)
    model.write_text("[PAD]\n[UNK]\n")
    assert_one_line(
        prepare(sentencepiece_experiment, tmp_path, *arguments),
        "given.model: a model of 12 bytes cannot be read",
    )
    assert not list((tmp_path / "other").glob("*.array_record"))


def test_a_trained_model_is_not_used_for_other_settings(sentencepiece_experiment, tmp_path):
    config = override(sentencepiece_experiment.data, {"directory": str(tmp_path)})
    trained = Path(sentencepiece_experiment.data.directory) / "tokenizer.json"
    (tmp_path / "tokenizer.json").write_bytes(trained.read_bytes())
    changes = {"tokenizer": "wordpiece", "lower_case": False}
    for name, value in changes.items():
        other = override(config, {name: value})
        with pytest.raises(DataError, match=rf"tokenizer\.json was made with data\.{name} "):
            prepare_with_vocabulary(other)
    prepare_with_vocabulary(config)


def test_training_batches_mask_whole_words(sentencepiece_experiment):
    data = sentencepiece_experiment.data
    starts = load_tokenizer(data.directory).word_starts
    cut = 0
    for batch in evaluation_batches(data, batch_size=16):
        ids, masked = batch.token_ids.copy(), np.zeros_like(batch.token_ids, bool)
        rows, slots = np.nonzero(batch.mask_weights)
        columns = batch.mask_positions[rows, slots]
        ids[rows, columns] = batch.mask_labels[rows, slots]
        masked[rows, columns] = True
        continues = ~starts[ids[:, 1:]]  # the previous piece belongs to the same word
        same = masked[:, 1:] == masked[:, :-1]
        assert same[continues & (ids[:, :-1] > 4)].all()
        cut += (masked[:, 1:] & continues).sum()
    assert cut > 20


def test_a_run_fills_masks_and_keeps_its_tokenizer(run, sentencepiece_experiment, tmp_path):
    tokenizer = load_tokenizer(sentencepiece_experiment.data.directory)
    assert run.tokenizer == tokenizer and run.tokenizer.to_json()["kind"] == "sentencepiece"
    first, second = run.fill_mask("The [MASK] of the United States [MASK], and the Congress.")
    assert {filling.piece for filling in (*first, *second)} <= set(tokenizer.pieces)
    assert run.fill_mask("the [MASK].", 3) != run.fill_mask("the [MASK] .", 3), "no space before"
    (tmp_path / "converted").mkdir()
    save_run(run, tmp_path / "converted", to="bert_jax")
    assert (tmp_path / "converted" / "spiece.model").read_bytes() == tokenizer.model


def test_the_export_to_hugging_face_gives_the_same_ids_and_answers(run, tmp_path):
    """tests/reference/test_exported_runs.py opens such an export with transformers."""
    save_run(run, tmp_path, to="huggingface")
    back = load_run(tmp_path)
    assert back.tokenizer.pieces == run.tokenizer.pieces
    text = "The  President of the [MASK] spoke, naïvely; ﬁne and 中文 😀."
    assert back.tokenizer.encode(text) == run.tokenizer.encode(text)
    assert back.fill_mask(text) == run.fill_mask(text)


def test_a_model_that_is_no_unigram_model_is_not_exported(run, tmp_path):
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto.FromString(run.tokenizer.model)
    model.trainer_spec.model_type = model.trainer_spec.BPE
    with pytest.raises(CheckpointError, match="is number 2; accepted for Hugging Face: 1, a unigr"):
        tokenizer_json(SentencePiece(model=model.SerializeToString()))


@pytest.mark.slow
def test_weights_with_another_model_of_the_same_pieces_are_refused(
    run, sentencepiece_experiment, tmp_path
):
    """A model with the same pieces but other scores splits words differently."""
    from sentencepiece import sentencepiece_model_pb2

    data = sentencepiece_experiment.data
    model = sentencepiece_model_pb2.ModelProto.FromString(run.tokenizer.model)
    for piece in model.pieces[5:]:
        piece.score = -1.0 - len(piece.piece)
    (tmp_path / "other.model").write_bytes(model.SerializeToString())
    result = prepare(
        sentencepiece_experiment,
        tmp_path,
        *(f"--vocabulary={tmp_path}/other.model", f"--output={tmp_path}/out", "--workers=1"),
    )
    assert result.returncode == 0, result.stderr
    other = override(
        sentencepiece_experiment,
        {"data.directory": f"{tmp_path}/out", "training.init_from": str(run.path)},
    )
    with pytest.raises(
        ConfigError, match=r"has another tokenizer \(sentencepiece\); accepted: the same"
    ):
        train(other, tmp_path / "run", weights=open_initial_weights(other, tmp_path / "run"))
    same = override(other, {"data.directory": data.directory, "training.steps": 3})
    train(same, tmp_path / "run", weights=open_initial_weights(same, tmp_path / "run"))


# ---- Chinese -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "vocab_size"), [("wordpiece", 276), ("sentencepiece", 270)])
def test_chinese_poems_are_prepared(kind, vocab_size, tmp_path):
    """Each poem is one line. Its sentences are found, and each piece of ideographs is a word."""
    masking = MaskingConfig(max_predictions=5, unit="word")
    config = DataConfig(
        corpus=f"text:{POEMS}@5",
        directory=str(tmp_path),
        tokenizer=kind,
        sequence_length=32,
        dupe_factor=1,
        held_out_fraction=0.2,
        train_shards=1,
        masking=masking,
        evaluation_masking=masking,
    )
    splits = prepare_with_vocabulary(config, vocab_size)["splits"]
    stops = sum(POEMS.read_text(encoding="utf-8").count(stop) for stop in "。！？")
    assert splits["train"]["sentences"] + splits["eval"]["sentences"] == stops > 40
    tokenizer = load_tokenizer(tmp_path)
    counts = load_token_counts(tmp_path)
    assert counts[tokenizer.unk_id] < 0.1 * counts.sum()
    assert tokenizer.word_starts[tokenizer.encode("明月光")].all()
    if kind == "wordpiece":
        assert [tokenizer.pieces[i] for i in tokenizer.encode("明月")] == ["明", "月"]
