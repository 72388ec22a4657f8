"""The batch that a run saw at a step, with the masked tokens and their labels."""

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np

from bert_jax.data.batch import Batch
from bert_jax.data.passport import join_passports, passport_fingerprint
from bert_jax.data.tokenizers.files import Tokenizer
from bert_jax.errors import DataError, require
from bert_jax.training.experiment import Experiment, phases
from bert_jax.training.phases import batch_of_step, files_of_step, load_data, phase_of_step

PAIR_LABELS = {
    "next_sentence": ("B follows A", "B is random"),
    "sentence_order": ("B follows A", "A follows B"),
}


class MaskedToken(NamedTuple):
    """A token that the model had to predict."""

    position: int
    """Position in the row, from 0."""
    shown: str
    """The piece in the input: [MASK], a random piece, or the label itself."""
    label: str
    """The piece that was there before masking."""


class Row(NamedTuple):
    """A row of a batch, without padding."""

    pieces: list[str]
    """The input."""
    masked: list[MaskedToken]
    pairs: list[str]
    """The meaning of each pair's label, such as `B is random`; empty if no label is trained."""

    def __str__(self) -> str:
        """Returns the pieces, with each prediction as {shown -> label}, and the pair labels."""
        marked = list(self.pieces)
        for position, shown, label in self.masked:
            marked[position] = f"{{{shown} -> {label}}}"
        return " ".join([*marked, *(f"({pair})" for pair in self.pairs)])


@dataclass(frozen=True)
class SeenBatch:
    """The global batch of an update of a run. In a notebook it is shown as a table of its rows."""

    step: int
    """The update, from 1."""
    phase: int
    """The phase of the update, from 1."""
    batch: Batch
    """The arrays; on each host, a run reads its part of their rows."""
    files: dict[str, list[int]]
    """Files of the prepared data, and the numbers of the batch's records in each file, from 0."""
    tokenizer: Tokenizer
    pair_labels: tuple[str, str]
    """The meanings of the labels 0 and 1 of a pair."""

    def __len__(self) -> int:
        return len(self.batch.token_ids)

    def __getitem__(self, row: int) -> Row:
        pieces, batch = self.tokenizer.pieces, self.batch
        ids = batch.token_ids[row][: int(batch.padding_mask[row].sum())]
        trained = batch.mask_weights[row] > 0
        positions, labels = batch.mask_positions[row][trained], batch.mask_labels[row][trained]
        masked = [
            MaskedToken(position, pieces[ids[position]], pieces[label])
            for position, label in zip(positions.tolist(), labels, strict=True)
        ]
        of_pairs = batch.pair_labels[row][batch.pair_weights[row] > 0]
        pairs = [self.pair_labels[label] for label in of_pairs]
        return Row([pieces[i] for i in ids], masked, pairs)

    def __iter__(self) -> Iterator[Row]:
        return (self[row] for row in range(len(self)))

    def __repr__(self) -> str:
        predictions = int(np.sum(self.batch.mask_weights))
        tokens = int(self.batch.padding_mask.sum())
        return (
            f"batch of step {self.step:,}, phase {self.phase}: {len(self)} rows, "
            f"{tokens:,} tokens, {predictions:,} predictions"
        )

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><td>{n}<td>{escape(str(row))}" for n, row in enumerate(self))
        return (
            f"<p>{escape(repr(self))}<table><tr><th>row<th>tokens, {{input → label}}{rows}</table>"
        )


def replay(
    experiment: Experiment, passport: dict[str, Any] | None, tokenizer: Tokenizer, step: int
) -> SeenBatch:
    """Returns the batch of update `step` of a run, from its prepared data; see `Run.batch`."""
    of_run = phases(experiment)
    last = of_run[-1].last_step
    require(isinstance(step, Integral) and 1 <= step <= last, "step", step, f"1 to {last}")
    found = passport_fingerprint(join_passports(load_data(of_run)[0]))
    if passport and found != (expected := passport_fingerprint(passport)):
        directories = ", ".join({phase.experiment.data.directory: None for phase in of_run})
        raise DataError(
            f"{directories}: the data have the fingerprint {found[:12]}, and the run was trained "
            f"on {expected[:12]}; accepted: the data of the run"
        )
    phase = phase_of_step(of_run, step)
    return SeenBatch(
        step,
        phase.number,
        batch_of_step(of_run, step),
        files_of_step(of_run, step),
        tokenizer,
        PAIR_LABELS.get(phase.experiment.data.pairs, PAIR_LABELS["next_sentence"]),
    )
