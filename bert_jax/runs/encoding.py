"""The encoder's view of texts: tokens with their places, vectors, hidden states and attention."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bert_jax.data.masking import Layout
from bert_jax.data.pairs import Pair
from bert_jax.data.tokenizers.files import Tokenizer
from bert_jax.errors import DataError, require
from bert_jax.models.bert import EncoderOutput
from bert_jax.models.config import BertConfig
from bert_jax.runs import inference
from bert_jax.runs.inference import TextModel

Text = str | tuple[str, str]
"""A text, or a pair of texts."""


@dataclass(frozen=True)
class Token:
    """A token of a row [CLS] A [SEP] B [SEP]."""

    piece: str
    id: int
    segment: int
    """0 in [CLS] A [SEP], 1 in B [SEP]."""
    span: tuple[int, int] | None
    """The piece is `text[start:end]` of text A or B, after cleaning; None for [CLS] and [SEP]."""


@dataclass(frozen=True)
class Encoded:
    """The encoder's outputs for a text or a pair. All arrays are float32, without padding."""

    tokens: list[Token]
    sequence_output: Float[np.ndarray, "tokens embed"]
    """The output of the last layer."""
    pooled_output: Float[np.ndarray, "embed"]
    """The output at [CLS], after the pooler's dense layer and tanh if the model has a pooler. A
    pooler is untrained if `objective.next_sentence` was False."""
    hidden_states: Float[np.ndarray, "layers+1 tokens embed"] | None = None
    """The output of the embeddings, then of each layer."""
    attentions: Float[np.ndarray, "layers heads queries keys"] | None = None
    """Attention probabilities: those of a query sum to 1."""


@dataclass(frozen=True)
class Attention:
    """The attention probabilities of all heads for a text or a pair."""

    tokens: list[Token]
    probabilities: Float[np.ndarray, "layers heads queries keys"]
    """The probabilities of a query sum to 1."""

    def plot(self, layer: int, head: int, axes: Any = None) -> Any:
        """Draws the map of a head as an image: a row for each query, a column for each key.

        `layer` and `head` count from 0. Returns matplotlib's axes, by default of a new figure.

        Raises:
          ConfigError: there is no such layer or head.
        """
        for name, value, count in zip(
            ("layer", "head"), (layer, head), self.probabilities.shape[:2], strict=True
        ):
            ok = isinstance(value, Integral) and 0 <= value < count
            require(ok, name, value, f"0 to {count - 1}")
        import matplotlib.pyplot as plt

        pieces, numbers = [token.piece for token in self.tokens], range(len(self.tokens))
        if axes is None:
            axes = plt.subplots(figsize=(min(1 + 0.3 * len(pieces), 30),) * 2)[1]
        axes.imshow(self.probabilities[layer, head], vmin=0, vmax=1, cmap="Blues")
        axes.set_xticks(numbers, pieces, rotation=90)
        axes.set_yticks(numbers, pieces)
        axes.set(xlabel="key", ylabel="query", title=f"layer {layer}, head {head}")
        return axes


def tokenize(model: TextModel, text: Text, *, truncate: bool = False) -> list[Token]:
    """Returns the tokens of a row [CLS] A [SEP] B [SEP]; see `Run.tokenize`."""
    return _tokens(model, text, _pair(model, text, truncate=truncate))


def encode(
    model: TextModel,
    texts: Text | Iterable[Text],
    *,
    hidden_states: bool = False,
    attentions: bool = False,
    truncate: bool = False,
) -> list[Encoded]:
    """Runs the encoder on texts or pairs; see `Run.encode`."""
    texts = inference.as_list(texts, pairs=True)
    pairs = encode_texts(model, texts, truncate=truncate)
    encoded: dict[int, Encoded] = {}
    for batch in inference.lay_out_batches(model, pairs):
        params, config = model.params["bert"], model.model.config
        output = jax.device_get(_encode(config, params, batch.layout, hidden_states, attentions))
        for number, row, slot, start in batch.places():
            tokens = _tokens(model, texts[number], pairs[number])
            encoded[number] = _of_text(output, row, slot, start, tokens)
    return [encoded[number] for number in range(len(texts))]


def encode_texts(model: TextModel, texts: Sequence[Text], *, truncate: bool = False) -> list[Pair]:
    """Returns the ids of texts or pairs. Raises DataError as `Run.encode` does."""
    items = ((tuple(text) if isinstance(text, list) else text,) for text in texts)
    return inference.encode_each(partial(_pair, model, truncate=truncate), items)


def _pair(model: TextModel, text: Text, *, truncate: bool) -> Pair:
    if isinstance(text, str):
        return inference.encode_text(model, text, truncate=truncate)
    is_pair = isinstance(text, tuple) and len(text) == 2
    if not is_pair or not all(isinstance(one, str) for one in text):
        accepted = "a text, or a pair of texts as a tuple"
        raise DataError(f"the text is {text!r:.60}; accepted: {accepted}")
    return inference.encode_pair(model, *text, truncate=truncate)


def _tokens(model: TextModel, text: Text, pair: Pair) -> list[Token]:
    tokenizer: Tokenizer = model.tokenizer
    parts = (text,) if isinstance(text, str) else text
    tokens = [Token("[CLS]", tokenizer.cls_id, 0, None)]
    for segment, (part, ids) in enumerate(zip(parts, (pair.a, pair.b), strict=False)):
        spans = tokenizer.encode_with_offsets(part).offsets
        # `strict=False`: truncation has cut ids off.
        for id_, span in zip(ids, spans, strict=False):
            tokens.append(Token(tokenizer.pieces[id_], id_, segment, span))
        if model.single_text_separator or len(parts) == 2:
            tokens.append(Token("[SEP]", tokenizer.sep_id, segment, None))
    return tokens


def _of_text(
    output: EncoderOutput, row: int, slot: int, start: int, tokens: list[Token]
) -> Encoded:
    place = slice(start, start + len(tokens))
    states, attentions = output.hidden_states, output.attentions
    if states is not None:
        assert output.embedding_output is not None
        states = np.concatenate([output.embedding_output[None, row, place], states[:, row, place]])
    return Encoded(
        tokens,
        np.array(output.sequence_output[row, place]),
        np.array(output.pooled_output[row, slot]),
        states,
        None if attentions is None else np.array(attentions[:, row, :, place, place]),
    )


@partial(jax.jit, static_argnums=(0, 3, 4))
def _encode(
    config: BertConfig, params: Any, layout: Layout, hidden_states: bool, attentions: bool
) -> EncoderOutput:
    output = config.build().apply(
        {"params": params},
        layout.token_ids,
        layout.segment_ids,
        layout.pack_ids,
        layout.cls_positions,
        keep_hidden_states=hidden_states,
        keep_attentions=attentions,
    )
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), output)
