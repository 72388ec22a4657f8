"""Inference on texts: fills masks, computes vectors, and predicts whether B follows A.

Rows have the same layout as in training; `bert_jax.runs.rows` describes their lengths.
"""

import warnings
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from functools import cache, partial
from numbers import Integral
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bert_jax.data.batch import Batch
from bert_jax.data.masking import Layout
from bert_jax.data.pairs import Pair
from bert_jax.data.tokenizers.files import Tokenizer
from bert_jax.errors import DataError, located, require
from bert_jax.models.bert import BertForPretraining, EncoderOutput, apply
from bert_jax.models.config import Pooling
from bert_jax.models.heads import gather_positions
from bert_jax.models.pooling import pool
from bert_jax.runs import rows
from bert_jax.runs.rows import PackedBatch

MASK = "[MASK]"


class TextModel(NamedTuple):
    """A model with its tokenizer and the layout of a single text."""

    model: BertForPretraining
    params: Any
    tokenizer: Tokenizer
    single_text_separator: bool
    """Whether a single text ends with [SEP]. Pairs are always [CLS] A [SEP] B [SEP]."""
    trained_length: int | None = None
    """Longest row of the training, if it is known. Later positions are untrained."""


class Filling(NamedTuple):
    """A word piece for a masked position."""

    piece: str
    probability: float


# ---- Text -> ids -----------------------------------------------------------------------------


def encode_text(model: TextModel, text: str, *, truncate: bool = False) -> Pair:
    """Returns the ids of a single text. With `truncate` a long text loses its last ids."""
    return fit(model, model.tokenizer.encode(text), [], truncate=truncate)


def encode_pair(model: TextModel, a: str, b: str, *, truncate: bool = False) -> Pair:
    """Returns the ids of two texts. `truncate` cuts the end of the longer text until both fit."""
    ids = [model.tokenizer.encode(text) for text in (a, b)]
    for text, encoded in zip((a, b), ids, strict=True):
        if not encoded:
            raise DataError(f"{text!r} has no tokens; accepted: two texts")
    return fit(model, *ids, truncate=truncate)


def encode_masked(model: TextModel, text: str, *, truncate: bool = False) -> Pair:
    """Returns the ids of a text that contains [MASK].

    Raises:
      DataError: the text has no [MASK], or loses every [MASK] by truncation, or is too long.
    """
    *parts, last = text.split(MASK)
    if not parts:
        raise DataError(f"no {MASK} in {text!r:.60}; accepted: a text with at least one")
    mask_id = model.tokenizer.mask_id
    # A space before [MASK] belongs to the masked piece.
    first, *rest = (*(part.rstrip() for part in parts), last)
    ids = list(model.tokenizer.encode(first))
    for part in rest:
        ids += [mask_id, *model.tokenizer.encode_continuation(part)]
    pair = fit(model, ids, [], truncate=truncate)
    if mask_id not in pair.a:
        raise DataError(f"no {MASK} in the first {len(pair.a)} tokens, to which it is truncated")
    return pair


def fit(model: TextModel, a: Sequence[int], b: Sequence[int], *, truncate: bool) -> Pair:
    """Returns the ids as a pair that fits into a row.

    Raises:
      DataError: the pair is longer than the model's positions, and `truncate` is False; or the
        model has no segment for B.
    """
    limit, segments = model.model.config.max_positions, model.model.config.num_segments
    if b and segments < 2:
        raise DataError(
            f"a pair of texts needs 2 segments, and model.num_segments is {segments}; accepted: "
            "single texts"
        )
    over = 1 + len(a) + len(b) + (2 if b else model.single_text_separator) - limit
    if over > 0 and not truncate:
        raise DataError(
            f"the text has {limit + over} tokens with [CLS] and [SEP]; accepted: at most "
            f"model.max_positions, {limit}, or truncation"
        )
    if model.trained_length and model.trained_length < min(limit + over, limit):
        _warn_of_untrained_positions(model.trained_length)
    for _ in range(over):
        a, b = (a[:-1], b) if len(a) >= len(b) else (a, b[:-1])
    return Pair(array("i", a), array("i", b), 0)  # a third of the memory of lists


@cache
def _warn_of_untrained_positions(trained: int) -> None:
    """Warns once of texts that are longer than `trained` tokens."""
    warnings.warn(
        f"a text has more than {trained} tokens, the length of the rows in training; later "
        "positions are untrained",
        stacklevel=2,
    )


def as_list(given: Any, *, name: str = "texts", pairs: bool = False) -> list[Any]:
    """Returns a text, or the items of a list, as a list. With `pairs`, a tuple is a pair of texts.

    Raises:
      DataError: `given` is something else. A dict or a set is no list of texts.
    """
    if isinstance(given, str) or pairs and isinstance(given, tuple):
        return [given]
    if not isinstance(given, Iterable) or isinstance(given, bytes | Mapping | Set):
        accepted = "a text, a pair of texts, or a list" if pairs else "a text, or a list of texts"
        raise DataError(f"{name} is {given!r:.60}; accepted: {accepted}")
    return list(given)


def as_texts(given: Any, *, name: str = "texts") -> list[str]:
    """Returns a text, or each text of a list, array or the like, as a list.

    Raises:
      DataError: `given`, or an item of it, is no text.
    """
    texts = as_list(given, name=name)
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise DataError(f"{name}[{number}] is {text!r:.60}; accepted: a text")
    return texts


def encode_each(encode: Callable[..., Pair], texts: Iterable[tuple[Any, ...]]) -> list[Pair]:
    """Returns the ids of each text or pair; an error gives its index."""
    pairs = []
    for number, one in enumerate(texts):
        with located(f"text {number}"):
            pairs.append(encode(*one))
    return pairs


def as_pairs(a: Any, b: Any) -> list[tuple[str, str]]:
    """Returns two texts, or the texts of two lists of the same length, as pairs.

    Raises:
      DataError: a text is no text, or the numbers of texts differ.
    """
    first, second = as_texts(a, name="a"), as_texts(b, name="b")
    if isinstance(a, str) != isinstance(b, str):
        kind = "a text" if isinstance(a, str) else "a list of texts"
        raise DataError(f"b is {b!r:.60}; accepted: {kind}, as a is")
    if len(first) != len(second):
        raise DataError(f"b has {len(second)} texts; accepted: {len(first)}, as many as a")
    return list(zip(first, second, strict=True))


# ---- Ids -> answers ----------------------------------------------------------------------------


def fill_mask(model: TextModel, pairs: Sequence[Pair], *, top_k: int) -> list[list[list[Filling]]]:
    """Returns the `top_k` most probable pieces for each [MASK] of each text, best first."""
    require(isinstance(top_k, Integral) and top_k >= 1, "top_k", top_k, "at least 1")
    answers: list[list[list[Filling]]] = [[] for _ in pairs]
    vocab_size, pieces = model.tokenizer.vocab_size, model.tokenizer.pieces
    for batch in lay_out_batches(model, pairs):
        layout = batch.layout
        masks = [np.flatnonzero(ids == model.tokenizer.mask_id) for ids in layout.token_ids]
        width = 1 << max(max(map(len, masks)) - 1, 0).bit_length()  # a power of two, for few shapes
        positions = np.zeros((len(masks), width), np.int32)
        for row, found in enumerate(masks):
            positions[row, : len(found)] = found
        probabilities = np.asarray(
            _token_probabilities(model.model, model.params, as_batch(layout, positions), vocab_size)
        )
        for number, row, slot, _ in batch.places():
            of_text = layout.pack_ids[row, masks[row]] == slot + 1
            of_masks = probabilities[row, : len(masks[row])][of_text]
            best = np.argsort(-of_masks, axis=-1, kind="stable")[:, :top_k]
            answers[number] = [
                [Filling(pieces[i], float(of_mask[i])) for i in ids]
                for of_mask, ids in zip(of_masks, best, strict=True)
            ]
    return answers


def embed(
    model: TextModel, pairs: Sequence[Pair], *, pooling: Pooling
) -> Float[np.ndarray, "texts embed"]:
    """Returns a float32 vector for each text; `bert_jax.models.pooling` lists the poolings."""
    vectors = np.zeros((len(pairs), model.model.config.hidden_size), np.float32)
    for batch in lay_out_batches(model, pairs):
        found = np.asarray(_embed(model.model, model.params, batch.layout, pooling))
        vectors[batch.numbers] = found[batch.rows, batch.slots]
    return vectors


def next_sentence(model: TextModel, pairs: Sequence[Pair]) -> Float[np.ndarray, "pairs"]:
    """Returns for each pair the probability that B follows A: class 0 of the head."""
    follows = np.zeros(len(pairs), np.float32)
    for batch in lay_out_batches(model, pairs):
        rows = as_batch(batch.layout, np.zeros((len(batch.layout.token_ids), 1), np.int32))
        found = np.asarray(_pair_probabilities(model.model, model.params, rows))
        follows[batch.numbers] = found[batch.rows, batch.slots, 0]
    return follows


def cosine(
    a: Float[np.ndarray, "texts embed"], b: Float[np.ndarray, "texts embed"]
) -> Float[np.ndarray, "texts"]:
    """Returns the cosine similarity of each row of `a` and the same row of `b`."""
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return np.einsum("te,te->t", a, b) / lengths


# ---- Rows --------------------------------------------------------------------------------------


def lay_out_batches(model: TextModel, pairs: Iterable[Pair]) -> Iterator[PackedBatch]:
    """Yields batches of the texts and pairs, as `bert_jax.runs.rows` packs them."""
    return rows.lay_out_batches(
        pairs,
        limit=model.model.config.max_positions,
        tokenizer=model.tokenizer,
        single_text_separator=model.single_text_separator,
    )


def as_batch(layout: Layout, mask_positions: Int[Any, "batch predictions"]) -> Batch:
    """Returns the rows as a batch for the model. Labels and weights of the masks are 0."""
    rows = {name: value for name, value in layout._asdict().items() if name in Batch._fields}
    labels, weights = (np.zeros(mask_positions.shape, dtype) for dtype in (np.int32, np.float32))
    return Batch(**rows, mask_positions=mask_positions, mask_labels=labels, mask_weights=weights)


# ---- Compiled functions: one program for each model and shape ------------------------------------


@partial(jax.jit, static_argnums=(0, 3))
def _token_probabilities(
    model: BertForPretraining, params: Any, batch: Batch, vocab_size: int
) -> Float[Array, "batch predictions vocab"]:
    return jax.nn.softmax(apply(model, params, batch).token_logits[..., :vocab_size], axis=-1)


@partial(jax.jit, static_argnums=0)
def _pair_probabilities(
    model: BertForPretraining, params: Any, batch: Batch
) -> Float[Array, "batch pairs 2"]:
    return jax.nn.softmax(apply(model, params, batch).pair_logits, axis=-1)


@partial(jax.jit, static_argnums=(0, 3))
def _embed(
    model: BertForPretraining, params: Any, layout: Layout, pooling: Pooling
) -> Float[Array, "batch pairs embed"]:
    output = model.config.build().apply(
        {"params": params["bert"]},
        layout.token_ids,
        layout.segment_ids,
        layout.pack_ids,
        layout.cls_positions,
        keep_hidden_states=pooling == "last4",
    )
    assert isinstance(output, EncoderOutput)
    if pooling == "pooled":
        return output.pooled_output.astype(jnp.float32)
    if pooling == "cls":
        first = gather_positions(output.sequence_output, jnp.asarray(layout.cls_positions))
        return first.astype(jnp.float32)
    slots = jnp.arange(layout.cls_positions.shape[1])
    of_text = jnp.asarray(layout.pack_ids) == slots[:, None, None] + 1  # [P, B, S]
    return jax.vmap(partial(pool, output, pooling=pooling), out_axes=1)(of_text)
