"""Packed pairs give the same loss and gradients as padded pairs, without attention across pairs."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from bert_jax.data.batch import Batch
from bert_jax.data.config import MaskingConfig
from bert_jax.data.masking import BatchForm, masked_batch
from bert_jax.data.pairs import Pair
from bert_jax.data.preparation.packing import pack_pairs
from bert_jax.data.tokenizers.wordpiece import SPECIAL_PIECES, WordPiece
from bert_jax.models.bert import BertForPretraining, restarting_positions
from bert_jax.models.config import BertConfig
from bert_jax.training.losses import ObjectiveConfig
from bert_jax.training.step import pretraining_loss

LENGTH = 32
TOKENIZER = WordPiece(pieces=(*SPECIAL_PIECES, *(f"w{i}" for i in range(295))), lower_case=True)
CONFIG = BertConfig(
    vocab_size=300,
    hidden_size=32,
    num_layers=2,
    num_heads=4,
    max_positions=LENGTH,
    dropout=0.0,
    attention_dropout=0.0,
    initializer_stddev=0.2,  # large, so that positions and neighbours matter
)
MODEL = BertForPretraining(CONFIG)


def packed_batch(batch_size: int = 8) -> Batch:
    """Returns rows of one, two and three pairs or single texts, and filler rows."""
    rng = np.random.default_rng(0)

    def text(longest):
        return rng.integers(5, 300, size=rng.integers(1, longest + 1)).tolist()

    pairs = [Pair(text(9), text(9) if n % 5 else [], n % 5 and n % 2) for n in range(16)]
    rows = pack_pairs(pairs, sequence_length=LENGTH, pairs_per_row=3)
    assert {len(row) for row in rows} >= {2, 3} and len(rows) < batch_size
    return masked_batch(
        rows,
        form=BatchForm(
            batch_size=batch_size, sequence_length=LENGTH, tokenizer=TOKENIZER, pairs_per_row=3
        ),
        addresses=[(0, number) for number in range(len(rows))],
        seed=0,
        config=MaskingConfig(rate=0.3, max_predictions=10),
    )


def padded(packed: Batch) -> Batch:
    """Returns the same pairs with the same masks, each in its own row."""
    rows = []
    for row in range(len(packed.pack_ids)):
        for slot in range(packed.pack_ids[row].max()):
            columns = np.flatnonzero(packed.pack_ids[row] == slot + 1)
            start = columns[0]
            assert packed.cls_positions[row, slot] == start

            def front(values, columns=columns):
                return np.pad(values[columns], (0, LENGTH - len(columns)))

            mine = np.isin(packed.mask_positions[row], columns) & (packed.mask_weights[row] > 0)
            rows.append(
                Batch(
                    token_ids=front(packed.token_ids[row]),
                    segment_ids=front(packed.segment_ids[row]),
                    pack_ids=front(packed.pack_ids[row]) > 0,
                    mask_positions=np.where(mine, packed.mask_positions[row] - start, 0),
                    mask_labels=packed.mask_labels[row] * mine,
                    mask_weights=packed.mask_weights[row] * mine,
                    cls_positions=np.zeros(1),
                    pair_labels=packed.pair_labels[row, slot : slot + 1],
                    pair_weights=packed.pair_weights[row, slot : slot + 1],
                )
            )
    fields = zip(packed, zip(*rows, strict=True), strict=True)
    return Batch(*(np.stack(values).astype(like.dtype) for like, values in fields))


@pytest.fixture(scope="module")
def params():
    batch = jax.tree.map(jnp.asarray, packed_batch())
    # Without jit it takes five times as long.
    return nn.unbox(jax.jit(MODEL.init)(jax.random.key(0), batch)["params"])


@pytest.fixture(scope="module")
def apply():
    return jax.jit(lambda params, batch: MODEL.apply({"params": params}, batch))


@pytest.mark.parametrize("mlm_reduction", ["mean", pytest.param("sum", marks=pytest.mark.slow)])
def test_loss_and_gradients_of_packed_pairs_equal_those_of_padded_pairs(params, mlm_reduction):
    packed = packed_batch()
    loose = padded(packed)
    assert loose.mask_weights.sum() == packed.mask_weights.sum() > 40
    assert len(loose.pack_ids) == 16 and 10 < loose.pair_weights.sum() == packed.pair_weights.sum()
    objective = ObjectiveConfig(mlm_reduction=mlm_reduction)
    loss = partial(pretraining_loss, model=MODEL, objective=objective)
    gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (packed_loss, packed_metrics), packed_gradients = gradient(params, packed)
    (loose_loss, loose_metrics), loose_gradients = gradient(params, loose)
    # Float32 sums in another order. Errors of gradients are relative to the largest gradient.
    assert abs(packed_loss - loose_loss) < 1e-5 * abs(loose_loss)
    for name in ("mlm_accuracy", "nsp_accuracy"):
        assert packed_metrics[name].total == loose_metrics[name].total, name
    for (path, one), other in zip(
        jax.tree_util.tree_leaves_with_path(packed_gradients),
        jax.tree.leaves(loose_gradients),
        strict=True,
    ):
        largest = abs(np.asarray(other)).max()
        assert largest > 0 or "bias" in str(path), path
        assert abs(one - other).max() <= 1e-5 * max(largest, 1e-2), path


def test_logits_of_packed_pairs_equal_those_of_padded_pairs(params, apply):
    packed = packed_batch()
    loose = padded(packed)
    one, other = apply(params, packed), apply(params, loose)
    rows, slots = np.nonzero(packed.pair_weights)
    # Float32 rounding of logits of order 1 to 10.
    np.testing.assert_allclose(
        one.pair_logits[rows, slots],
        other.pair_logits[loose.pair_weights[:, 0] > 0][:, 0],
        atol=1e-5,
    )


def test_words_of_another_packed_pair_change_no_logit(params, apply):
    packed = packed_batch()
    (row,) = np.flatnonzero(packed.pack_ids.max(1) == 3)[:1]
    before = apply(params, packed)
    for changed in (1, 2, 3):
        token_ids = packed.token_ids.copy()
        inside = packed.pack_ids[row] == changed
        token_ids[row, inside] = (token_ids[row, inside] + 100) % 300
        after = apply(params, packed._replace(token_ids=token_ids))
        of_pair = np.take_along_axis(packed.pack_ids, packed.mask_positions, 1)[row]
        real = packed.mask_weights[row] > 0
        mine, others = real & (of_pair == changed), real & (of_pair != changed)
        moved = np.asarray(abs(after.token_logits - before.token_logits))[row, :, :300].max(-1)
        assert others.any() and (moved[others] == 0).all()
        # Predictions of the changed pair change, so the test can fail.
        assert (moved[mine] > 1e-3).all()
        moved = np.asarray(abs(after.pair_logits - before.pair_logits))[row].max(-1)
        assert moved[changed - 1] > 1e-3 and (np.delete(moved, changed - 1) == 0).all()


def test_positions_restart_at_each_cls_if_rows_have_several_pairs():
    batch = packed_batch()
    positions = np.asarray(restarting_positions(batch.pack_ids, batch.cls_positions))
    for row, pack_ids in enumerate(batch.pack_ids):
        for pair in range(1, pack_ids.max() + 1):
            found = positions[row, pack_ids == pair]
            assert found.tolist() == list(range(len(found)))
    assert positions.min() == 0 and positions.max() < LENGTH
    assert restarting_positions(batch.pack_ids, batch.cls_positions[:, :1]) is None


@pytest.mark.slow
def test_a_packed_update_is_the_same_on_a_mesh(trainer_on, first_state):
    metrics = {}
    for sizes in ((1, 1, 1), (2, 2, 2)):
        trainer = trainer_on(*sizes)
        state = jax.device_put(first_state, trainer.sharding)
        metrics[sizes] = trainer.step(state, packed_batch(batch_size=8))[1]
    one, other = metrics.values()
    # Float32 sums in another order.
    for name in ("loss", "grad_norm"):
        assert float(one[name].total) == pytest.approx(float(other[name].total), rel=1e-5)
