"""The contract between data and model: what one batch holds.

B is the number of rows, S `data.sequence_length`, P `data.masking.max_predictions` and K the most
pairs that share a row (1 unless the data is packed). Rows that only fill up a last batch have
every weight 0 and `pack_ids` 0 throughout.
"""

from typing import Any, NamedTuple

from jaxtyping import Bool, Float, Int


class Batch(NamedTuple):
    """A batch of masked sentence pairs; arrays of NumPy on the host, of JAX on devices."""

    token_ids: Int[Any, "batch length"]
    """Input ids after masking, int32; padding is the tokenizer's [PAD]."""
    segment_ids: Int[Any, "batch length"]
    """0 for [CLS] A [SEP], 1 for B [SEP], 0 for padding, int32."""
    pack_ids: Int[Any, "batch length"]
    """Which pair of its row a position belongs to, counted from 1; 0 is padding, int32."""
    mask_positions: Int[Any, "batch predictions"]
    """Positions to predict in ascending order, then 0 where the weight is 0, int32."""
    mask_labels: Int[Any, "batch predictions"]
    """The true ids at `mask_positions`, int32."""
    mask_weights: Float[Any, "batch predictions"]
    """1 where `mask_positions` holds a prediction, else 0, float32."""
    cls_positions: Int[Any, "batch pairs"]
    """Position of each pair's [CLS], int32."""
    pair_labels: Int[Any, "batch pairs"]
    """0 where B follows A in the text, 1 where B is random or A follows B, int32."""
    pair_weights: Float[Any, "batch pairs"]
    """1 where there is a pair with a label, else 0, float32."""

    @property
    def padding_mask(self) -> Bool[Any, "batch length"]:
        """True at real tokens."""
        return self.pack_ids > 0
