"""Evaluation results and baselines equal transcriptions in NumPy."""

from functools import partial

import jax
import numpy as np
import pytest

from bert_jax.data.passport import load_passport, load_token_counts, majority_pair_label
from bert_jax.data.pipeline import evaluation_batches
from bert_jax.models.bert import BertForPretraining
from bert_jax.training.evaluation import baselines, evaluate
from bert_jax.training.losses import ObjectiveConfig
from bert_jax.training.state import init_params
from bert_jax.training.step import eval_step


def read(experiment, batch_size):
    data = experiment.data
    return list(evaluation_batches(data, batch_size=batch_size))


@pytest.fixture(scope="module")
def model(experiment):
    return BertForPretraining(experiment.model)


@pytest.fixture(scope="module")
def params(model):
    """Ten times the initial matrices, so that rows have clearly different losses."""
    boxed = init_params(model, 0)
    return jax.tree.map(
        lambda leaf: 10 * leaf if leaf.ndim > 1 else leaf,
        jax.tree.map(lambda box: box.unbox(), boxed, is_leaf=lambda x: hasattr(x, "unbox")),
    )


@pytest.fixture(scope="module")
def score(model):
    return jax.jit(partial(eval_step, model=model, objective=ObjectiveConfig()))


def transcription(model, params, batch):
    """Returns loss and accuracies of a batch in float64, and the mean of the means of two parts."""
    output = model.apply({"params": params}, batch)

    def losses(logits, labels):
        logits = np.asarray(logits, np.float64)
        top = logits.max(-1, keepdims=True)
        log_sums = np.log(np.exp(logits - top).sum(-1)) + top[..., 0]
        return log_sums - np.take_along_axis(logits, labels[..., None], -1)[..., 0]

    def right(logits, labels):
        return np.asarray(logits).argmax(-1) == labels

    weights = batch.mask_weights.astype(bool)
    mlm, pair = losses(output.token_logits, batch.mask_labels), batch.pair_weights.astype(bool)
    nsp = losses(output.pair_logits, batch.pair_labels)
    return {
        "mlm_loss": mlm[weights].mean(),
        "nsp_loss": nsp[pair].mean(),
        "mlm_accuracy": right(output.token_logits, batch.mask_labels)[weights].mean(),
        "nsp_accuracy": right(output.pair_logits, batch.pair_labels)[pair].mean(),
        "mean_of_means": np.mean([mlm[:16][weights[:16]].mean(), mlm[16:][weights[16:]].mean()]),
    }


@pytest.mark.parametrize("batch_size", [16, 24, 32])
def test_every_metric_is_one_mean_over_all_batches(batch_size, experiment, model, params, score):
    """24 examples are read as 16 + 8 with 8 filler rows, as one batch, or with 8 filler rows."""
    (whole,) = read(experiment, 24)
    expected = transcription(model, params, whole)
    row = evaluate(score, params, read(experiment, batch_size))
    for name in ("mlm_loss", "nsp_loss", "mlm_accuracy", "nsp_accuracy"):
        # Float32 logits and sums of about a hundred terms.
        assert row[f"{name}"] == pytest.approx(expected[name], rel=1e-5), name
    assert row["loss"] == row["mlm_loss"] + row["nsp_loss"]
    assert row["perplexity"] == pytest.approx(np.exp(expected["mlm_loss"]), rel=1e-4)
    # The mean of the batches' means differs by far more than the tolerance.
    assert abs(expected["mean_of_means"] / expected["mlm_loss"] - 1) > 1e-3


def test_the_held_out_loss_does_not_depend_on_the_objective(experiment, model, params, score):
    summed = jax.jit(
        partial(eval_step, model=model, objective=ObjectiveConfig(mlm_reduction="sum"))
    )
    batches = read(experiment, 24)
    assert evaluate(summed, params, batches)["loss"] == pytest.approx(
        evaluate(score, params, batches)["loss"],
        rel=1e-6,  # the same float32 arithmetic, compiled twice
    )


def test_max_examples_are_taken_evenly(experiment):
    (few,) = evaluation_batches(experiment.data, batch_size=16, max_examples=8)
    (whole,) = read(experiment, 24)
    assert few.pack_ids.any(axis=1).sum() == 8
    assert np.array_equal(few.token_ids[:8], whole.token_ids[::3])


def test_baselines_equal_a_transcription(experiment):
    directory = experiment.data.directory
    counts, passport = load_token_counts(directory), load_passport(directory)
    majority = majority_pair_label(passport)
    result = baselines(read(experiment, 16), directory)

    (whole,) = read(experiment, 24)
    labels = whole.mask_labels[whole.mask_weights > 0]
    probabilities = (counts + 1) / (counts.sum() + len(counts))
    assert result == {
        # Log probabilities are rounded to float32.
        "unigram_loss": pytest.approx(-np.log(probabilities[labels]).mean(), rel=1e-6),
        "majority_token_accuracy": pytest.approx((labels == counts.argmax()).mean(), rel=1e-6),
        "nsp_majority_accuracy": pytest.approx((whole.pair_labels == majority).mean(), rel=1e-6),
    }


def test_token_counts_come_only_from_training_records(experiment):
    """Counts tokens in the records again. A baseline from held-out text would be too strong."""
    from bert_jax.data.pipeline import ReadPlan, TrainingSource

    data = experiment.data
    passport = load_passport(data.directory)
    train = passport["splits"]["train"]
    steps = -(-train["examples"] // data.batch_size)
    seen, source = {}, TrainingSource(ReadPlan(config=data, seed=0, num_steps=steps))
    for step, batch in enumerate(source):
        rows, slots = np.nonzero(batch.mask_weights)
        ids = batch.token_ids.copy()
        ids[rows, batch.mask_positions[rows, slots]] = batch.mask_labels[rows, slots]
        first = step * data.batch_size
        for address, row in zip(source.addresses(range(first, first + len(ids))), ids, strict=True):
            if address[0] == 0:
                seen[address[1]] = row
    assert len(seen) == train["examples"]
    tokens = np.bincount(np.concatenate([*seen.values()]), minlength=500)
    counts = load_token_counts(data.directory)
    # Records do not contain [PAD], [CLS] and [SEP], which the layout adds.
    assert np.array_equal(tokens[5:], counts[5:]) and counts.sum() == train["tokens"]
    assert majority_pair_label(passport) == int(2 * train["random_pairs"] > train["examples"])
