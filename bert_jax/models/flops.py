"""FLOPs of the matrix products of an update.

A multiply-add is 2 FLOPs. The backward pass costs twice the forward pass. Embedding lookups,
optimizer, recomputation and padding of rows are not counted, but padding of the vocabulary is.
Attention is counted within each pair only.
"""

from collections.abc import Sequence

from bert_jax.models.config import BertConfig


def update_flops(config: BertConfig, *, pair_lengths: Sequence[int], predictions: int) -> float:
    """Returns the FLOPs of the forward and backward pass over pairs of these lengths in tokens.

    A length includes [CLS] and [SEP]. `predictions` is the number of masked words in all pairs.
    """
    hidden, encoder = config.hidden_size, config.forward_flops(pair_lengths)
    masked_token_head = 2 * predictions * (hidden**2 + hidden * config.padded_vocab_size)
    next_sentence_head = 2 * len(pair_lengths) * (hidden**2 + 2 * hidden) * config.pair_head
    return 3.0 * (encoder + masked_token_head + next_sentence_head)
