"""`run.encode` returns what the encoder computes, for each text alone and without padding."""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest

from bert_jax.data.batch import Batch
from bert_jax.errors import ConfigError, DataError
from bert_jax.models.bert import Bert, apply
from bert_jax.runs import encoding
from bert_jax.runs.load import load_run

A, B = "The president spoke to the Congress.", "The people of the union heard the message."
TEXTS = [A, (A, B), "Peace"]


@pytest.fixture(scope="module")
def run(two_phase_run):
    """A run with random noise on its parameters, so that its attention is not uniform."""
    run = load_run(two_phase_run[0])
    rng = np.random.default_rng(0)
    noise = jax.tree.map(lambda leaf: 0.3 * rng.standard_normal(leaf.shape), run.params)
    params = jax.tree.map(lambda leaf, more: leaf + more.astype(np.float32), run.params, noise)
    return dataclasses.replace(run, params=params)


@pytest.fixture(scope="module")
def encoded(run):
    return run.encode(TEXTS, hidden_states=True, attentions=True)


def test_tokens_have_the_places_of_their_pieces(run, encoded):
    for text, one in zip(TEXTS, encoded, strict=True):
        assert one.tokens == run.tokenize(text)
        pieces = [token.piece for token in one.tokens]
        assert pieces[0] == "[CLS]" and pieces[-1] == "[SEP]"
        assert pieces.count("[SEP]") == (1 if isinstance(text, str) else 2)
        for token in one.tokens:
            assert run.tokenizer.pieces[token.id] == token.piece
            if token.span:
                part = text if isinstance(text, str) else text[token.segment]
                found = part[slice(*token.span)].lower()
                assert found == token.piece.removeprefix("##")


def test_the_arrays_are_those_of_the_encoder_on_the_row_alone(run, encoded):
    config, ids = run.model.config, np.array([[t.id for t in encoded[1].tokens]], np.int32)
    segments = np.array([[t.segment for t in encoded[1].tokens]], np.int32)
    inputs = (ids, segments, np.ones_like(ids), np.zeros((1, 1), np.int32))
    apply = jax.jit(lambda params, inputs: Bert(config).apply({"params": params}, *inputs))
    expected = apply(run.params["bert"], inputs)
    # The row of `encode` has padding, so sums of numbers of order 1 have another order.
    np.testing.assert_allclose(
        encoded[1].sequence_output, expected.sequence_output[0], rtol=0, atol=2e-5
    )
    np.testing.assert_allclose(
        encoded[1].pooled_output, expected.pooled_output[0, 0], rtol=0, atol=2e-5
    )


def test_attention_mixes_the_values_as_the_layer_does(run, encoded):
    """The first layer, computed by hand from the hidden states and the returned probabilities."""
    one, layers = encoded[0], run.params["bert"]["layers"]
    attention = jax.tree.map(lambda leaf: np.asarray(leaf[0], np.float64), layers["attention"])
    x = one.hidden_states[0].astype(np.float64)
    project = {
        name: np.einsum("te,ehd->htd", x, attention[name]["kernel"])
        + attention[name]["bias"][:, None]
        for name in ("query", "key", "value")
    }
    scores = np.einsum("hqd,hkd->hqk", project["query"], project["key"])
    weights = np.exp(scores / np.sqrt(project["query"].shape[-1]))
    weights /= weights.sum(-1, keepdims=True)
    # float32 against float64: scores of order 10 are off by 1e-6 each.
    np.testing.assert_allclose(one.attentions[0], weights, rtol=0, atol=1e-5)
    assert np.ptp(one.attentions[0]) > 0.1
    assert len(one.attentions) == run.model.config.num_layers == len(one.hidden_states) - 1
    np.testing.assert_array_equal(one.hidden_states[-1], one.sequence_output)


def test_a_single_text_gives_a_single_answer_without_what_was_not_asked(run, encoded):
    alone = run.encode(TEXTS[2])
    assert alone.hidden_states is None and alone.attentions is None
    # Another batch is another program, which may add numbers of order 1 in another order.
    np.testing.assert_allclose(alone.pooled_output, encoded[2].pooled_output, rtol=0, atol=2e-5)
    assert run.encode([]) == []
    with pytest.raises(DataError, match="text 1: .* accepted: at most"):
        run.encode([A, " ".join([B] * 50)])
    with pytest.raises(DataError, match="texts is 3; accepted: a text, a pair of texts, or a list"):
        run.encode(3)


def test_one_program_is_compiled_for_texts_of_similar_length(run):
    before = encoding._encode._cache_size()
    run.encode(["peace and war", "the union"])
    after = encoding._encode._cache_size()
    run.encode(["war and peace", "the states"])
    assert encoding._encode._cache_size() == after <= before + 1


def test_the_attention_map_names_queries_and_keys(run, encoded):
    attention = run.attention(TEXTS[0])
    assert attention.tokens == encoded[0].tokens
    # Another batch is another program, which may add numbers of order 1 in another order.
    np.testing.assert_allclose(attention.probabilities, encoded[0].attentions, rtol=0, atol=2e-5)
    axes = attention.plot(layer=1, head=0)
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == [token.piece for token in attention.tokens]
    np.testing.assert_array_equal(axes.get_images()[0].get_array(), attention.probabilities[1, 0])
    with pytest.raises(ConfigError, match="head is 9; accepted: 0 to 3"):
        attention.plot(0, 9)
    for call in (run.attention, run.tokenize):  # for `encode`, this list is two texts
        with pytest.raises(DataError, match="a text, or a pair of texts as a tuple"):
            call([A, B])
    long = encoding.Attention(200 * attention.tokens[:1], np.zeros((1, 1, 200, 200), np.float32))
    assert long.plot(0, 0).figure.get_figwidth() == 30  # inches; a picture of 512 tokens took 1 GB


def test_bits_per_character_are_those_of_all_texts_together(run):
    texts = [A, (A, B)]
    nats = -run.pseudo_log_likelihood(texts).sum()
    characters = len(A) + len(A) + len(B)
    assert run.bits_per_character(texts) == pytest.approx(nats / np.log(2) / characters, rel=1e-6)
    assert run.bits_per_character(A) == pytest.approx(
        -run.pseudo_log_likelihood(A) / np.log(2) / len(A), rel=1e-6
    )
    with pytest.raises(DataError, match=r"texts is \[\]; accepted: at least one character"):
        run.bits_per_character([])


def test_the_pseudo_log_likelihood_equals_masking_one_token_at_a_time_by_hand(run):
    texts = [A, (A, B)]
    found = run.pseudo_log_likelihood(texts)
    mask = run.tokenizer.mask_id
    for text, score in zip(texts, found, strict=True):
        tokens = run.tokenize(text)
        ids = np.array([[token.id for token in tokens]], np.int32)
        segments = np.array([[token.segment for token in tokens]], np.int32)
        expected = 0.0
        for position, token in enumerate(tokens):
            if token.span is None:
                continue
            masked = ids.copy()
            masked[0, position] = mask
            zero = np.zeros((1, 1), np.int32)
            batch = Batch(
                masked, segments, np.ones_like(ids), zero + position, zero, zero, zero, zero, zero
            )
            logits = np.asarray(logits_of(run.model, run.params, batch), np.float64)[0, 0]
            expected += logits[token.id] - np.logaddexp.reduce(logits)
        # A sum of up to 30 float32 numbers of order 10, from rows with another padding.
        assert score == pytest.approx(expected, abs=1e-3)
    for text, score in zip(texts, found, strict=True):
        assert run.pseudo_log_likelihood(text) == pytest.approx(score, abs=1e-3)


@partial(jax.jit, static_argnums=0)
def logits_of(model, params, batch):
    return apply(model, params, batch).token_logits
