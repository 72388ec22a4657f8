"""The contract between data and model: what one batch holds.

The axis `batch` counts rows, `length` is `data.sequence_length`, `predictions` is
`data.masking.max_predictions` and `pairs` is `data.pairs_per_row`. Filler rows complete the last
batch; all their weights and `pack_ids` are 0.
"""

from typing import Any, NamedTuple

from jaxtyping import Bool, Float, Int


class Host(NamedTuple):
    """The rows of each global batch that one process reads: those that its devices hold."""

    parts: tuple[int, ...] = (0,)
    """Numbers of the parts of the batch, ascending. Another process may read the same parts."""
    count: int = 1
    """Number of parts of equal size into which the rows of a batch are cut."""

    def rows(self, batch_size: int) -> list[int]:
        """Returns this process's rows of a global batch, ascending.

        If `count` does not divide `batch_size`, the rows from `batch_size` on are filler rows.
        """
        size = -(-batch_size // self.count)
        return [row for part in self.parts for row in range(part * size, (part + 1) * size)]


ONE_HOST = Host()


class Batch(NamedTuple):
    """A batch of masked sentence pairs: NumPy arrays on the host, JAX arrays on devices."""

    token_ids: Int[Any, "batch length"]
    """Input ids after masking, int32; padding is the tokenizer's [PAD]."""
    segment_ids: Int[Any, "batch length"]
    """0 for [CLS] A [SEP], 1 for B [SEP], 0 for padding, int32."""
    pack_ids: Int[Any, "batch length"]
    """Number of the pair at each position, from 1 in each row; 0 at padding, int32."""
    mask_positions: Int[Any, "batch predictions"]
    """Positions to predict, in ascending order; 0 in unused slots, int32."""
    mask_labels: Int[Any, "batch predictions"]
    """Ids at `mask_positions` before masking, int32."""
    mask_weights: Float[Any, "batch predictions"]
    """1 in slots that hold a prediction, 0 in unused slots, float32."""
    cls_positions: Int[Any, "batch pairs"]
    """Position of each pair's [CLS], int32."""
    pair_labels: Int[Any, "batch pairs"]
    """0 where B follows A in the text, 1 where B is random or A follows B, int32."""
    pair_weights: Float[Any, "batch pairs"]
    """1 for pairs with a label, 0 for single texts and empty slots, float32."""

    @property
    def padding_mask(self) -> Bool[Any, "batch length"]:
        """True at real tokens."""
        return self.pack_ids > 0
