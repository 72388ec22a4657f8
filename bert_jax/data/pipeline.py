"""Reads batches from prepared data: each host reads its rows of every global batch.

Global batch k holds the `batch_size` examples from number k * batch_size on. With n records,
example j of a run is record `shuffle(j mod n)` in epoch `j div n`, and each epoch has its own
shuffle. The step number alone therefore gives the batch, on any number of hosts and threads.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial

import grain
import numpy as np

from bert_jax.data.batch import ONE_HOST, Batch, Host
from bert_jax.data.config import DataConfig, MaskingConfig
from bert_jax.data.masking import BatchForm, masked_batch
from bert_jax.data.passport import check_passport, load_passport
from bert_jax.data.records import open_split
from bert_jax.data.tokenizers.files import load_tokenizer
from bert_jax.errors import DataError, require

EVALUATION_SEED = 20181011
"""Seed of the fixed held-out masks. Published evaluations are comparable only with this seed."""

_SHUFFLE_STREAM = 1
_PREFETCHED_BATCHES = 8


@dataclass(frozen=True, kw_only=True)
class ReadPlan:
    """The training batches to read: those of a whole run, or of one phase of a run."""

    config: DataConfig
    seed: int
    """Seed of the order of the records and of their masks."""
    num_steps: int
    """Number of batches."""
    steps_before: int = 0
    """Number of updates in earlier phases of the run. `masking.rate_points` counts them too."""
    run_steps: int | None = None
    """Number of updates of the whole run; None means `num_steps`."""


class TrainingSource:
    """Random access to this host's rows of each global batch; `source[k]` is batch k.

    `training_batches` reads ahead from a TrainingSource. Tests and notebooks use it directly.
    """

    def __init__(self, plan: ReadPlan, *, host: Host = ONE_HOST):
        size, accepted = plan.config.batch_size, f"a multiple of the {host.count} parts of a batch"
        require(size % host.count == 0, "batch_size", size, accepted, error=DataError)
        self._plan = plan
        self._rows = host.rows(size)
        self._records = _Records(plan.config, split="train", batch_size=len(self._rows))

    def __len__(self) -> int:
        return self._plan.num_steps

    def __getitem__(self, step: int) -> Batch:
        plan = self._plan
        if not 0 <= step < len(self):  # ends a loop over the batches
            raise IndexError(f"batch is {step}; accepted: 0 to {len(self) - 1}")
        first = step * plan.config.batch_size
        addresses = self.addresses([first + row for row in self._rows])
        progress = (plan.steps_before + step) / (plan.run_steps or plan.num_steps)
        masking = plan.config.masking.at(progress)
        return self._records.batch(addresses, seed=plan.seed, masking=masking)

    def files(self, step: int) -> dict[str, list[int]]:
        """Returns the files of global batch `step`, and the numbers of its records in each file."""
        size, files = self._plan.config.batch_size, {}
        for _, index in self.addresses(range(step * size, (step + 1) * size)):
            file, record = self._records.source.place(index)
            files.setdefault(file, []).append(record)
        return files

    def addresses(self, examples: Iterable[int]) -> list[tuple[int, int]]:
        """Returns (epoch, record index) of each example. Numbers continue from epoch to epoch."""
        count = len(self._records.source)
        addresses = []
        for example in examples:
            epoch, position = divmod(example, count)
            seed = _shuffle_seed(self._plan.seed, epoch)
            index = grain.experimental.index_shuffle(
                position, max_index=count - 1, seed=seed, rounds=4
            )
            addresses.append((epoch, index))
        return addresses


def training_batches(
    plan: ReadPlan, *, first_step: int = 0, host: Host = ONE_HOST, threads: int = 2
) -> Iterator[Batch]:
    """Yields this host's rows of batches `first_step` to `num_steps - 1`; threads read ahead.

    Raises:
      DataError: the data are not prepared as the config says, or `host.count` does not divide
        `batch_size`.
    """
    source = TrainingSource(plan, host=host)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=_PREFETCHED_BATCHES)
    steps = grain.MapDataset.range(first_step, plan.num_steps)
    return iter(steps.map(source.__getitem__).to_iter_dataset(options))


def evaluation_batches(
    config: DataConfig, *, batch_size: int, max_examples: int | None = None, host: Host = ONE_HOST
) -> Iterator[Batch]:
    """Yields this host's rows of the held-out records, in order and with fixed masks.

    Filler rows, with weight 0, complete the last global batch. They also complete every batch if
    `host.count` does not divide `batch_size`. Every host gets the same number of batches.

    Args:
      max_examples: number of records to take, evenly spaced over the n records of the split:
        record `i * n // max_examples` for each i. None takes all.
    """
    rows = host.rows(batch_size)
    records = _Records(config, split="eval", batch_size=len(rows))
    if max_examples is not None and max_examples < 1:
        raise DataError(f"max_examples is {max_examples}; accepted: at least 1, or None for all")
    available = len(records.source)
    count = min(available, max_examples or available)
    addresses = [(0, i * available // count) for i in range(count)]
    read = partial(records.batch, seed=EVALUATION_SEED, masking=config.evaluation_masking)
    batches = (addresses[first : first + batch_size] for first in range(0, count, batch_size))
    return (read([batch[row] for row in rows if row < len(batch)]) for batch in batches)


class _Records:
    """The records of a split, numbered from 0 over all its shards."""

    def __init__(self, config: DataConfig, *, split: str, batch_size: int):
        passport = load_passport(config.directory)
        tokenizer = load_tokenizer(config.directory)
        check_passport(passport, config, vocab_size=tokenizer.vocab_size)
        self.source = open_split(config.directory, passport, split=split)
        self._form = BatchForm(
            batch_size=batch_size,
            sequence_length=config.sequence_length,
            tokenizer=tokenizer,
            single_text_separator=config.single_text_separator,
            pairs_per_row=config.pairs_per_row if split == "train" else 1,
        )

    def batch(
        self, addresses: list[tuple[int, int]], *, seed: int, masking: MaskingConfig
    ) -> Batch:
        rows, form = self.source.rows([index for _, index in addresses]), self._form
        for (_, index), row in zip(addresses, rows, strict=True):
            if len(row) > form.pairs_per_row or form.tokens(row) > form.sequence_length:
                raise self.source.damaged_record(
                    index,
                    f"has {len(row)} pairs and {form.tokens(row)} tokens; accepted: at most "
                    f"{form.pairs_per_row} and {form.sequence_length}",
                )
        return masked_batch(rows, form=form, addresses=addresses, seed=seed, config=masking)


@lru_cache(maxsize=64)
def _shuffle_seed(seed: int, epoch: int) -> int:
    """Hashes seed and epoch: their sum would be equal for seed 1, epoch 2 and seed 2, epoch 1."""
    return int(np.random.SeedSequence([seed, epoch, _SHUFFLE_STREAM]).generate_state(1)[0])
