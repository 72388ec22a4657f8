"""Answers of a run equal those of the model, called directly on rows that are built here."""

import dataclasses
import warnings
from functools import partial
from typing import get_args

import jax
import numpy as np
import pytest

from bert_jax.config import override
from bert_jax.data.batch import Batch
from bert_jax.data.pairs import Pair
from bert_jax.errors import CheckpointError, ConfigError, DataError
from bert_jax.interop.tensors import LoadingReport
from bert_jax.models.bert import Bert
from bert_jax.models.config import Pooling
from bert_jax.runs import generation, inference, rows
from bert_jax.runs.load import load_run

# This level halves the compile time.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

A, B = "The president spoke to the Congress.", "The people of the union heard the message."
LONG = " ".join([B] * 3)


@pytest.fixture(scope="module")
def run(two_phase_run):
    return load_run(two_phase_run[0])


@pytest.fixture(scope="module")
def spread(run):
    """The same run with random noise on its parameters, so that texts have different embeddings."""
    rng = np.random.default_rng(0)
    noise = jax.tree.map(lambda leaf: 0.3 * rng.standard_normal(leaf.shape), run.params)
    params = jax.tree.map(lambda leaf, more: leaf + more.astype(np.float32), run.params, noise)
    return dataclasses.replace(run, params=params)


def row(run, a, b=()):
    """Returns a batch of one row, [CLS] A [SEP] or [CLS] A [SEP] B [SEP], without padding."""
    t = run.tokenizer
    first = [t.cls_id, *a, t.sep_id]
    second = [*b, t.sep_id] if b else []
    ids = np.array([first + second], np.int32)
    zero = np.zeros((1, 1), np.int32)
    return Batch(
        token_ids=ids,
        segment_ids=(np.arange(ids.shape[1])[None] >= len(first)).astype(np.int32),
        pack_ids=np.ones_like(ids),
        mask_positions=zero,
        mask_labels=zero,
        mask_weights=zero.astype(np.float32),
        cls_positions=zero,
        pair_labels=zero,
        pair_weights=zero.astype(np.float32),
    )


# ---- embed and similarity ----------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["mean", "pooled"])
def test_an_embedding_equals_the_pooled_encoder_output(pooling, run):
    batch = row(run, run.tokenizer.encode(A))
    inputs = (batch.token_ids, batch.segment_ids, batch.pack_ids, batch.cls_positions)
    output = jit(Bert(run.model.config).apply)({"params": run.params["bert"]}, *inputs)
    hidden = np.asarray(output.sequence_output)[0]
    expected = {"mean": hidden.mean(0), "pooled": np.asarray(output.pooled_output)[0, 0]}
    (found,) = run.embed([A], pooling)
    assert found.dtype == np.float32
    # Numbers of order 1 through 2 layers, summed in another order, because `embed` pads to 32.
    np.testing.assert_allclose(found, expected[pooling], atol=1e-5)


def test_a_text_has_the_same_embedding_alone_and_among_others(spread):
    texts = [A, LONG, "Peace", B, A, ""]
    together = spread.embed(texts)
    assert together.shape == (6, 32)
    for text, vector in zip(texts, together, strict=True):
        # Other batch shapes round float32 sums differently; different texts differ by 0.1.
        np.testing.assert_allclose(spread.embed([text])[0], vector, atol=2e-5)
    np.testing.assert_allclose(together[0], together[4], atol=2e-5)
    distances = np.abs(together[:, None] - together).max(-1)
    assert (distances > 0.1).sum() == 36 - 6 - 2  # all but equal texts: 6 with itself, 2 are A
    assert spread.embed([]).shape == (0, 32)


def test_every_pooling_gives_another_vector(spread):
    vectors = [spread.embed([A], pooling)[0] for pooling in get_args(Pooling)]
    for i, vector in enumerate(vectors):
        assert all(np.abs(vector - other).max() > 0.01 for other in vectors[:i])


def test_similarity_is_the_cosine_of_the_embeddings(spread):
    a, b = spread.embed([A, B]).astype(np.float64)
    cosine = a @ b / np.sqrt((a @ a) * (b @ b))
    # Epsilon of float32 is 6e-8, and sums have 32 terms.
    assert spread.similarity(A, B) == pytest.approx(cosine, abs=2e-6)
    assert spread.similarity(A, A) == pytest.approx(1, abs=2e-6)
    assert spread.similarity(A, B) < 0.99


def test_the_similarity_of_lists_is_a_matrix(spread):
    rows, columns = [A, B], [B, A, "Peace"]
    found = spread.similarity(rows, columns)
    expected = [[spread.similarity(a, b) for b in columns] for a in rows]
    # Other texts of a batch change sums of 32 float32 numbers of order 1.
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)
    np.testing.assert_allclose(spread.similarity(A, columns), found[0], rtol=0, atol=2e-5)
    np.testing.assert_allclose(spread.similarity(rows, B), found[:, 0], rtol=0, atol=2e-5)
    assert spread.similarity([], columns).shape == (0, 3)


def test_a_text_gives_a_vector_and_a_list_gives_a_matrix(spread):
    together = spread.embed(np.array([A, B]), normalize=True)
    alone = spread.embed(A, normalize=True)
    assert together.shape == (2, 32) and alone.shape == (32,)
    np.testing.assert_allclose(np.linalg.norm(together, axis=-1), 1, atol=1e-6)
    np.testing.assert_allclose(alone, together[0], atol=2e-5)
    np.testing.assert_allclose(alone * np.linalg.norm(spread.embed(A)), spread.embed(A), atol=1e-5)


def test_lists_of_texts_and_pairs_get_the_answers_of_each(spread):
    found, ask = spread.next_sentence([A, B, A], [B, A, A]), spread.next_sentence
    expected = [ask(A, B), ask(B, A), ask(A, A)]
    np.testing.assert_allclose(found, expected, atol=2e-5)  # rounding in another batch
    texts = ["The [MASK] spoke.", "A [MASK] and a [MASK]."]
    found = spread.fill_mask(texts, top_k=2)
    assert [len(answer) for answer in found] == [1, 2]
    for text, answer in zip(texts, found, strict=True):
        for (ours, _), (theirs, _) in zip(answer, spread.fill_mask(text, top_k=2), strict=True):
            assert ours.piece == theirs.piece


def test_a_text_beyond_the_trained_positions_warns_once(run):
    """The last rows of the run have 48 tokens, and the model has 64 positions."""
    assert run.text_model.trained_length == 48
    of_first_phase = dataclasses.replace(run, step=8)
    assert of_first_phase.text_model.trained_length == 32
    assert dataclasses.replace(run, step=0).text_model.trained_length == 48  # a copy
    begun = override(run.config, {"training.init_from": "bert-base-uncased"})
    assert dataclasses.replace(run, config=begun).text_model.trained_length is None
    inference._warn_of_untrained_positions.cache_clear()
    ids = run.tokenizer.encode(A)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        inference.fit(run.text_model, [ids[0]] * 46, [], truncate=False)
    with pytest.warns(UserWarning, match="more than 48 tokens.*are untrained"):
        inference.fit(run.text_model, [ids[0]] * 47, [], truncate=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        inference.fit(run.text_model, [ids[0]] * 90, [], truncate=True)


def test_texts_share_rows_and_batches_of_few_shapes(run):
    model = run.text_model
    pairs = [Pair([9] * n, [], 0) for n in (40, 3, *[5] * 39, 62)]
    found = list(inference.lay_out_batches(model, pairs))
    # Rows of 64 hold 62 + 2 tokens, 42 + 3 * 7, four times 9 * 7, and the rest, 5.
    assert [len(batch.layout.token_ids) for batch in found] == [1] * 7
    assert sum(len(batch.numbers) for batch in found) == len(pairs)
    for batch in found:
        lengths = [len(pairs[number].a) + 2 for number in batch.numbers]
        assert (batch.layout.pack_ids > 0).sum() == sum(lengths) <= 64
        for number, row, slot, start in batch.places():
            assert batch.layout.token_ids[row, start] == model.tokenizer.cls_id
            of_text = batch.layout.pack_ids[row] == slot + 1
            assert of_text.sum() == of_text[start:].sum() == len(pairs[number].a) + 2
    many = [Pair([9] * 62, [], 0)] * 25
    shapes = [batch.layout.token_ids.shape for batch in inference.lay_out_batches(model, many)]
    assert shapes == [(16, 64), (16, 64)]  # 9 rows are more than half a batch


def test_packing_wastes_few_tokens_and_needs_few_shapes():
    rng = np.random.default_rng(0)
    assert rows.row_lengths(512) == [64, 128, 256, 512] and rows.row_lengths(48) == [48]
    for mean in (25, 150):  # sentences and paragraphs
        tokens = np.clip(rng.gamma(4, mean / 4, 2000).astype(int), 3, 512).tolist()
        packed = list(rows.pack(tokens, rows.row_lengths(512)))
        assert sorted(number for _, row in packed for number in row) == list(range(2000))
        assert all(sum(tokens[i] for i in row) <= length for length, row in packed)
        assert sum(length for length, _ in packed) < 1.05 * sum(tokens)
    assert max(len(row) for _, row in rows.pack([2] * 100, [64])) == 16


def test_texts_are_laid_out_in_windows(run, monkeypatch):
    """A window is packed when its texts are read; rows of all windows share batches."""
    monkeypatch.setattr(rows, "WINDOW", 40)
    read = []
    texts = (read.append(n) or Pair([9] * 30, [], 0) for n in range(100))
    sizes = []
    for batch in inference.lay_out_batches(run.text_model, texts):
        sizes.append((len(read), *batch.layout.token_ids.shape))
    assert sizes == [(40, 16, 64), (80, 16, 64), (100, 16, 64), *[(100, 1, 64)] * 2]


def test_a_pair_is_refused_by_a_model_with_one_segment(run):
    model = dataclasses.replace(run.model, config=override(run.model.config, {"num_segments": 1}))
    with pytest.raises(DataError, match="a pair of texts needs 2 segments"):
        dataclasses.replace(run, model=model).next_sentence(A, B)


# ---- next_sentence -----------------------------------------------------------------------------


def test_next_sentence_is_the_softmax_of_class_0_of_the_head(spread):
    a, b = spread.tokenizer.encode(A), spread.tokenizer.encode(B)
    output = jit(spread.model.apply)({"params": spread.params}, row(spread, a, b))
    logits = output.pair_logits[0, 0]
    expected = np.asarray(jax.nn.softmax(logits))
    # The tolerance of embeddings; the logit is a sum of 32 such numbers.
    assert spread.next_sentence(A, B) == pytest.approx(expected[0], abs=2e-5)
    assert abs(expected[0] - expected[1]) > 0.01
    assert spread.next_sentence(B, A) != pytest.approx(expected[0], abs=1e-4)


def test_an_untrained_head_is_refused(run):
    config = override(run.config, {"objective.next_sentence": False})
    without = dataclasses.replace(run, config=config)
    with pytest.raises(CheckpointError, match="objective.next_sentence False"):
        without.next_sentence(A, B)
    with pytest.raises(CheckpointError, match="bert/pooler"):
        without.embed([A], "pooled")
    missing = ["masked_token_head/bias float32[512]: initialized"]
    missing += ["next_sentence_head/dense/kernel float32[32, 2]: initialized"]
    foreign = dataclasses.replace(run, config=None, loading=LoadingReport(missing=missing))
    with pytest.raises(CheckpointError, match="came without next_sentence_head"):
        foreign.next_sentence(A, B)
    for verb in (foreign.generate, foreign.fill_mask):
        with pytest.raises(CheckpointError, match="came without masked_token_head"):
            verb("the [MASK]")
    np.testing.assert_array_equal(foreign.embed([A], "pooled"), run.embed([A], "pooled"))


# ---- Lengths -----------------------------------------------------------------------------------


def test_a_long_text_is_refused_by_number_or_truncated_at_its_end(run):
    limit = run.config.model.max_positions
    ids = run.tokenizer.encode(" ".join([LONG] * 3))
    text = " ".join([LONG] * 3)
    with pytest.raises(DataError, match=rf"text 1: .* {len(ids) + 2} tokens.*{limit}"):
        run.embed([A, text])
    pair = inference.encode_text(run.text_model, text, truncate=True)
    assert list(pair.a) == ids[: limit - 2]
    assert run.embed([text], truncate=True).shape == (1, 32)
    assert run.embed(text, truncate=True).shape == (32,)


def test_truncation_of_a_pair_cuts_the_longer_text(run):
    limit = run.config.model.max_positions
    short, long = run.tokenizer.encode(A), run.tokenizer.encode(" ".join([LONG] * 3))
    with pytest.raises(DataError, match="or truncation"):
        run.next_sentence(A, " ".join([LONG] * 3))
    pair = inference.fit(run.text_model, short, long, truncate=True)
    assert (list(pair.a), list(pair.b)) == (short, long[: limit - 3 - len(short)])
    both = inference.fit(run.text_model, long, long, truncate=True)
    assert (len(both.a), len(both.b)) == ((limit - 3) // 2, (limit - 3) - (limit - 3) // 2)
    with pytest.raises(DataError, match="'' has no tokens"):
        run.next_sentence(A, "")


def test_a_mask_that_truncation_cuts_off_is_refused(run):
    text = " ".join([LONG] * 3) + " [MASK]"
    with pytest.raises(DataError, match="first 62 tokens"):
        inference.encode_masked(run.text_model, text, truncate=True)


def test_masks_of_many_texts_are_filled_like_those_of_one(run):
    texts = ["the [MASK] of", "[MASK] people [MASK] the [MASK]", f"{B} [MASK]"]
    pairs = [inference.encode_masked(run.text_model, text) for text in texts]
    together = inference.fill_mask(run.text_model, pairs, top_k=3)
    assert [len(row) for row in together] == [1, 3, 1]
    for text, fillings in zip(texts, together, strict=True):
        for alone, among in zip(run.fill_mask(text, top_k=3), fillings, strict=True):
            for one, other in zip(alone, among, strict=True):
                # Other batch shapes round float32 sums differently.
                assert one.probability == pytest.approx(other.probability, rel=2e-5)


# ---- generate ----------------------------------------------------------------------------------


def new_ids(run, prompt="the president", **options):
    defaults = {"length": 6, "seed": 0, "temperature": 1.0, "top_k": 100, "sweeps": 2}
    ids = run.tokenizer.encode(prompt)
    return generation.generate(run.text_model, ids, **(defaults | options))


def test_the_same_seed_generates_the_same_text_after_the_unchanged_prompt(run):
    prompt = "The  PRESIDENT \u2603"
    text = run.generate(prompt, length=6, seed=3, sweeps=2)
    assert text.startswith(f"{prompt} ") and len(text) > len(prompt) + 6
    assert run.generate(prompt, length=6, seed=3, sweeps=2) == text
    assert run.generate(prompt, length=6, seed=4, sweeps=2) != text
    assert run.generate("", length=6, seed=3, sweeps=2).strip()


def test_rows_contain_the_prompt_and_one_position_is_drawn_at_a_time(run, monkeypatch):
    """Each row holds the whole prompt, and one position is drawn at a time."""
    prompt, rows = run.tokenizer.encode("the president"), []
    draw = generation._redraw

    def record(model, params, layout, *rest):
        rows.append(layout.token_ids[0].copy())
        return draw(model, params, layout, *rest)

    monkeypatch.setattr(generation, "_redraw", record)
    found = new_ids(run)
    t = run.tokenizer
    assert len(rows) == 2 * 6 and len(found) == 6
    for number, ids in enumerate(rows):
        assert ids[: 1 + len(prompt)].tolist() == [t.cls_id, *prompt]
        assert ids[1 + len(prompt) + 6] == t.sep_id
        assert (ids == t.mask_id).sum() == max(6 - number, 0)
        if number:
            assert (ids != rows[number - 1]).sum() <= 1


def test_special_pieces_are_never_generated(run):
    """With a bias of +50 on special pieces, an unguarded draw would give nothing else."""
    t = run.tokenizer
    special = [t.pad_id, t.unk_id, t.cls_id, t.sep_id, t.mask_id]
    head = dict(run.params["masked_token_head"])
    head["bias"] = np.asarray(head["bias"]).copy()
    head["bias"][special] += 50
    preferred = dataclasses.replace(run, params=run.params | {"masked_token_head": head})
    (fillings,) = preferred.fill_mask("the [MASK]", top_k=5)
    assert {filling.piece for filling in fillings} == {t.pieces[i] for i in special}
    for seed in range(3):
        ids = new_ids(preferred, seed=seed, top_k=500)
        assert not set(ids) & set(special)
        assert t.word_starts[ids[0]], "the first piece should not continue the prompt's last word"


def test_unused_pieces_are_special_and_brackets_are_not(run):
    pieces = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused7]", "[", "]", "a", "##b")
    tokenizer = dataclasses.replace(run.tokenizer, pieces=pieces)
    assert generation._text_pieces(tokenizer, 12).tolist() == [False] * 6 + [True] * 4 + [False] * 2


def test_only_the_top_k_pieces_are_drawn(run):
    (found,) = new_ids(run, length=1, sweeps=1, top_k=1)
    (fillings,) = run.fill_mask("the president [MASK]", top_k=500)
    starts = {p for p, s in zip(run.tokenizer.pieces, run.tokenizer.word_starts, strict=True) if s}
    text = [filling.piece for filling in fillings if filling.piece in starts]
    text = [piece for piece in text if piece[0] != "[" or piece == "["]
    assert run.tokenizer.pieces[found] == text[0]
    drawn = {new_ids(run, length=1, sweeps=1, top_k=3, seed=seed)[0] for seed in range(25)}
    # One of three nearly equal pieces is missing with probability 3 * (2/3)^25 = 1e-4.
    assert {run.tokenizer.pieces[i] for i in drawn} == set(text[:3])


def test_one_program_serves_all_positions_seeds_and_prompts_of_a_row_length(run):
    new_ids(run)
    before = generation._redraw._cache_size()
    new_ids(run, "peace", length=9, seed=2**32 - 1, sweeps=1, temperature=2)
    assert generation._redraw._cache_size() == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"length": 0}, "length is 0; accepted: at least 1"),
        ({"top_k": 0}, "top_k is 0"),
        ({"sweeps": 0}, "sweeps is 0"),
        ({"temperature": 0.0}, "temperature is 0.0; accepted: above 0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_a_number_out_of_range_is_refused(options, said, run):
    with pytest.raises(ConfigError, match=said):
        run.generate("the", **options)
    with pytest.raises(
        DataError, match="length is 70; .* at most 6[01], for .* model.max_positions 64"
    ):
        run.generate("the", length=70)
