"""Generates text with a masked language model, by Gibbs sampling.

All positions after the prompt start as [MASK]. Each draw masks a position and draws a piece for it
from the model. A sweep draws every position once, in a random order, so no [MASK] remains after
the first sweep. Wang and Cho instead choose the position of each draw at random.

References:
  Wang and Cho 2019, https://arxiv.org/abs/1902.04094
"""

import re
from collections.abc import Sequence
from functools import partial
from numbers import Integral, Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from bert_jax.data.masking import Layout
from bert_jax.data.tokenizers.files import Tokenizer
from bert_jax.errors import ConfigError, DataError, require
from bert_jax.models.bert import BertForPretraining, apply
from bert_jax.runs.inference import TextModel, as_batch, fit, lay_out_batches


def generate(
    model: TextModel,
    prompt: Sequence[int],
    *,
    length: int,
    seed: int,
    temperature: float,
    top_k: int,
    sweeps: int,
) -> list[int]:
    """Returns `length` ids that continue the prompt. The first id starts a word; no id is special.

    Each piece is drawn from the `top_k` most probable pieces; `temperature` divides the logits.
    Calls with the same padded row length and the same `top_k` share a compiled program.
    `Run.generate` lists the errors.
    """
    for name, value in (("length", length), ("top_k", top_k), ("sweeps", sweeps)):
        require(isinstance(value, Integral) and value >= 1, name, value, "at least 1")
    is_number = isinstance(temperature, Real)
    require(is_number and 0 < temperature < np.inf, "temperature", temperature, "above 0")
    # jax.random.key takes only the lower 32 bits.
    require(isinstance(seed, Integral) and 0 <= seed < 2**32, "seed", seed, f"0 to {2**32 - 1}")
    limit, special = model.model.config.max_positions, 1 + model.single_text_separator
    room = max(0, limit - special - len(prompt))
    at_most = f"at most {room}, for {len(prompt)} pieces and model.max_positions {limit}"
    require(length <= room, "length", length, at_most, error=DataError)
    pair = fit(model, [*prompt, *[model.tokenizer.mask_id] * length], [], truncate=False)
    (batch,) = lay_out_batches(model, [pair])
    layout = batch.layout
    first = 1 + len(prompt)  # after [CLS]
    permitted = _text_pieces(model.tokenizer, model.model.config.padded_vocab_size)
    starts = permitted.copy()
    starts[: model.tokenizer.vocab_size] &= model.tokenizer.word_starts
    if not starts.any():
        raise ConfigError("the vocabulary has special pieces only")
    order = np.random.default_rng(seed)
    for sweep in range(sweeps):
        for step, offset in enumerate(order.permutation(length)):
            token_ids = _redraw(
                model.model,
                model.params,
                layout,
                first + offset,
                permitted if offset else starts,
                model.tokenizer.mask_id,
                float(temperature),
                (np.uint32(seed), np.uint32(sweep * length + step)),
                min(top_k, model.tokenizer.vocab_size),
            )
            # A device array instead of a NumPy array would compile a second program.
            layout = layout._replace(token_ids=np.asarray(token_ids))
    return layout.token_ids[0, first : first + length].tolist()


def _text_pieces(tokenizer: Tokenizer, rows: int) -> Bool[np.ndarray, "vocab"]:
    """Returns True for ids of the vocabulary, except special pieces and pieces like `[unused1]`."""
    permitted = np.zeros(rows, bool)
    permitted[: tokenizer.vocab_size] = [
        not re.fullmatch(r"(?s)\[.+\]", piece) for piece in tokenizer.pieces
    ]
    permitted[list(tokenizer.special_ids.values())] = False
    return permitted


@partial(jax.jit, static_argnums=(0, 8))
def _redraw(
    model: BertForPretraining,
    params: Any,
    layout: Layout,
    position: Int[Any, ""],
    permitted: Bool[Any, "vocab"],
    mask_id: Int[Any, ""],
    temperature: Float[Any, ""],
    address: tuple[Any, Any],
    top_k: int,
) -> Int[Array, "1 length"]:
    """Returns the row with a new id at `position`. `address` is (seed, number of the draw)."""
    token_ids = jnp.asarray(layout.token_ids)
    masked = layout._replace(token_ids=token_ids.at[0, position].set(mask_id))
    batch = as_batch(masked, jnp.full((1, 1), position))
    logits = jnp.where(permitted, apply(model, params, batch).token_logits[0, 0], -jnp.inf)
    best, ids = jax.lax.top_k(logits / temperature, top_k)
    rng = jax.random.fold_in(jax.random.key(address[0]), address[1])
    return token_ids.at[0, position].set(ids[jax.random.categorical(rng, best)])
