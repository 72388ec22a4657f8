"""Pretraining as a whole: both heads learn, no label leaks, no held-out example is trained on."""

import dataclasses
import json
from functools import partial

import jax
import numpy as np
import pytest
from flax import linen as nn

from bert_jax.config import override
from bert_jax.data.config import MaskingConfig
from bert_jax.data.masking import BatchForm, masked_batch
from bert_jax.data.pairs import Pair
from bert_jax.data.pipeline import ReadPlan, TrainingSource, evaluation_batches
from bert_jax.data.preparation.engines import Engine
from bert_jax.data.preparation.prepare import prepare_data
from bert_jax.data.tokenizers.files import load_tokenizer
from bert_jax.data.tokenizers.wordpiece import SPECIAL_PIECES, WordPiece
from bert_jax.models.bert import BertForPretraining
from bert_jax.models.config import BertConfig
from bert_jax.training.losses import ObjectiveConfig
from bert_jax.training.optim import OptimizerConfig, learning_rate_schedule, make_optimizer
from bert_jax.training.state import state_initializer
from bert_jax.training.step import eval_step, train_step
from bert_jax.training.train import train

LENGTH = 16
TOKENIZER = WordPiece(pieces=(*SPECIAL_PIECES, *(f"w{i}" for i in range(59))), lower_case=True)
MODEL = BertForPretraining(
    BertConfig(
        vocab_size=64,
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        max_positions=LENGTH,
        dropout=0.0,
        attention_dropout=0.0,
    )
)


def lay_out_and_mask(pairs, masking):
    return masked_batch(
        [[pair] for pair in pairs],
        form=BatchForm(batch_size=len(pairs), sequence_length=LENGTH, tokenizer=TOKENIZER),
        addresses=[(0, index) for index in range(len(pairs))],
        seed=0,
        config=masking,
    )


def coin_pairs(count, *, seed):
    """Returns pairs of random words with random labels, so a pair contains no clue to its label."""
    rng = np.random.default_rng(seed)

    def text():
        return rng.integers(5, 64, size=rng.integers(2, 7)).tolist()

    return [Pair(text(), text(), int(rng.integers(2))) for _ in range(count)]


@pytest.fixture(scope="module")
def taught():
    """Parameters after 150 updates on 256 fixed pairs and masks, `eval_step`, and the batch."""
    config = OptimizerConfig(learning_rate=3e-3, warmup_steps=20)
    schedule = learning_rate_schedule(config, steps=150)
    optimizer = make_optimizer(config, schedule)
    initialize = state_initializer(MODEL, optimizer, seed=0)
    state = jax.jit(lambda: nn.unbox(initialize()))()
    update = partial(
        train_step,
        model=MODEL,
        optimizer=optimizer,
        schedule=schedule,
        objective=ObjectiveConfig(),
        seed=0,
    )
    # 150 updates take longer than their compilation with LLVM's optimizations.
    fast = {"xla_backend_optimization_level": 3}
    update = jax.jit(update, donate_argnums=0, compiler_options=fast)
    batch = lay_out_and_mask(coin_pairs(256, seed=1), MaskingConfig(max_predictions=2))
    batch = jax.device_put(batch)
    for _ in range(150):
        state, _ = update(state, batch)
    return (
        state.params,
        jax.jit(partial(eval_step, model=MODEL, objective=ObjectiveConfig())),
        batch,
    )


def test_both_heads_memorize_256_fixed_pairs(taught):
    """With this seed accuracy is 1 from update 100 on. A constant answer gives about 0.5."""
    params, score, batch = taught
    metrics = score(params, batch)
    assert float(metrics["nsp_accuracy"].weight) == 256
    assert float(metrics["nsp_accuracy"].total) == 256
    assert float(metrics["mlm_accuracy"].compute()) == 1


def test_random_labels_of_other_pairs_are_not_predicted(taught):
    """Otherwise the label would leak into the model's input."""
    params, score, _ = taught
    masking = MaskingConfig(max_predictions=2)
    batches = [lay_out_and_mask(coin_pairs(256, seed=seed), masking) for seed in (2, 3, 4, 5)]
    right = sum(float(score(params, batch)["nsp_accuracy"].total) for batch in batches)
    # 1024 fair coins: 4 deviations of sqrt(1024) / 2 = 16.
    assert abs(right - 512) < 64


def test_the_true_word_changes_logits_only_where_it_is_kept(taught):
    """Compares with a batch that has another word at one predicted position, but the same masks."""
    params = taught[0]
    masking = MaskingConfig(max_predictions=2, split=(0.6, 0.2, 0.2))
    pairs = coin_pairs(128, seed=6)
    batch = lay_out_and_mask(pairs, masking)
    changed_pairs = []
    for pair, position in zip(pairs, batch.mask_positions[:, 0], strict=True):
        words = [*pair.a, None, *pair.b]  # None is for [SEP], which is never predicted
        words[position - 1] = 5 + (words[position - 1] - 5 + 7) % 59
        changed_pairs.append(Pair(words[: len(pair.a)], words[len(pair.a) + 1 :], pair.label))
    changed = lay_out_and_mask(changed_pairs, masking)

    assert np.array_equal(batch.mask_positions, changed.mask_positions)
    assert (batch.mask_labels[:, 0] != changed.mask_labels[:, 0]).all()
    position = batch.mask_positions[:, :1]
    shown = np.take_along_axis(batch.token_ids, position, axis=1)[:, 0]
    shown_then = np.take_along_axis(changed.token_ids, position, axis=1)[:, 0]
    masked = shown == TOKENIZER.mask_id
    # Kept in both batches, because a random word can be the true word by chance.
    kept = (shown == batch.mask_labels[:, 0]) & (shown_then == changed.mask_labels[:, 0])
    # 77, 26 and 26 of 128 are expected.
    assert min(masked.sum(), kept.sum(), (~masked & ~kept).sum()) >= 8

    apply = jax.jit(lambda batch: MODEL.apply({"params": params}, batch))
    first, second = apply(batch), apply(changed)
    for logits, others in zip(first, second, strict=True):
        assert np.array_equal(np.asarray(logits)[~kept], np.asarray(others)[~kept])
    differs = (np.asarray(first.token_logits) != np.asarray(second.token_logits)).any(axis=(1, 2))
    assert differs[kept].all()


# ---- Prepared text ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(experiment, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trained") / "run"
    return workdir, train(experiment, workdir)


def texts(batch):
    """Returns the unmasked ids of each row as bytes, without filler rows."""
    token_ids = batch.token_ids.copy()
    rows, slots = np.nonzero(batch.mask_weights)
    token_ids[rows, batch.mask_positions[rows, slots]] = batch.mask_labels[rows, slots]
    return [
        row.tobytes() for row, real in zip(token_ids, batch.padding_mask, strict=True) if real[0]
    ]


def test_no_held_out_example_is_trained_on(experiment):
    data = experiment.data
    passport = json.loads(open(f"{data.directory}/passport.json").read())
    counts = {split: passport["splits"][split]["examples"] for split in ("train", "eval")}
    steps = -(-counts["train"] // data.batch_size)
    source = TrainingSource(ReadPlan(config=data, seed=experiment.seed, num_steps=steps))
    trained = {text for step in range(steps) for text in texts(source[step])}
    batches = evaluation_batches(data, batch_size=16)
    held_out = [text for batch in batches for text in texts(batch)]
    # A little more than an epoch. Few pairs are equal, so almost all records are seen.
    assert len(trained) > 0.95 * counts["train"] and len(held_out) == counts["eval"] > 0
    assert not trained & set(held_out)


@pytest.mark.slow
def test_the_seed_of_the_experiment_does_not_change_the_baselines(experiment, trained, tmp_path):
    """Baselines depend only on held-out examples and masks; the model depends on the seed."""
    # One layer without dropout compiles much faster.
    small = {"model.num_layers": 1, "model.dropout": 0.0, "model.attention_dropout": 0.0}
    other = train(override(experiment, {"seed": 7} | small), tmp_path / "run")
    baselines = ("unigram_loss", "majority_token_accuracy", "nsp_majority_accuracy")
    assert {name: other[name] for name in baselines} == {
        name: trained[1][name] for name in baselines
    }
    assert other["mlm_loss"] != trained[1]["mlm_loss"]


def test_the_seed_changes_order_and_masks_of_training(experiment):
    data = experiment.data

    def first(seed):
        return TrainingSource(ReadPlan(config=data, seed=seed, num_steps=1))[0]

    assert texts(first(0)) == texts(first(0)) != texts(first(7))
    assert not np.array_equal(first(0).mask_positions, first(7).mask_positions)


def test_evaluation_masks_have_their_own_settings(experiment):
    data = experiment.data
    masking = dataclasses.replace(data.masking, rate=0.9, max_predictions=28)

    def positions(config):
        batches = evaluation_batches(config, batch_size=24)
        return next(iter(batches)).mask_positions

    assert np.array_equal(positions(data), positions(dataclasses.replace(data, masking=masking)))
    other = dataclasses.replace(data, evaluation_masking=masking)
    assert not np.array_equal(positions(data), positions(other))


def test_training_lowers_training_and_held_out_loss(trained):
    rows = [json.loads(line) for line in (trained[0] / "metrics.jsonl").open()]
    # With this seed 12 updates lower the loss by about 0.6. Rows vary by about 0.05.
    assert rows[-1]["train/loss"] < rows[0]["train/loss"] - 0.3
    held_out = [row["eval/loss"] for row in rows if "eval/loss" in row]
    assert len(held_out) == 2 and held_out[1] < held_out[0] - 0.1


def test_packed_full_sentences_with_span_masks_train_without_pair_loss(
    experiment, tmp_path, capsys
):
    changed = override(
        experiment,
        {
            "data.directory": str(tmp_path / "data"),
            "data.pairs": "none",
            "data.pairs_per_row": 3,
            "data.short_sequence_probability": 0.5,
            "data.masking.unit": "span",
            "data.masking.rate_points": ((1.0, 0.05),),
            "objective.next_sentence": False,
            "model.num_layers": 1,
            "training.steps": 6,
        },
    )
    tokenizer = load_tokenizer(experiment.data.directory)
    prepare_data(changed.data, tokenizer=tokenizer, engine=Engine())
    result = train(changed, tmp_path / "run")
    assert 0 < result["mlm_loss"] < result["unigram_loss"] + 2
    assert not [name for name in result if name.startswith("nsp")]
    assert "pair label" not in "".join(capsys.readouterr())
