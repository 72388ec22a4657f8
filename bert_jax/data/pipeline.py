"""Prepared data -> batches: element k is this host's rows of global batch k.

The state of the training data is therefore one number, the step. Example j of a run is record
`shuffle(j mod n)` of epoch `j div n`, n being the number of records, and global batch k holds
examples k * batch_size onwards, so neither hosts nor threads nor restarts change what is read.
"""

from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path

import grain
import numpy as np

from bert_jax.data.batch import Batch
from bert_jax.data.config import DataConfig, MaskingConfig
from bert_jax.data.masking import masked_batch
from bert_jax.data.passport import check_passport, load_passport
from bert_jax.data.records import decode_rows, open_split
from bert_jax.data.tokenizers.files import load_tokenizer
from bert_jax.errors import DataError

EVALUATION_SEED = 20181011
"""Of the frozen masks; changing it makes every published evaluation incomparable."""

_SHUFFLE_STREAM = 1
_PREFETCHED_BATCHES = 8


class TrainingSource:
    """Random access to this host's rows of each global batch; `source[k]` is batch k.

    What `training_batches` reads ahead from; of use by itself in tests and notebooks.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        config: DataConfig,
        seed: int,
        num_steps: int,
        steps_before: int = 0,
        run_steps: int | None = None,
        process_index: int = 0,
        process_count: int = 1,
    ):
        self._rows = _host_rows(config.batch_size, process_index, process_count)
        self._records = _Records(directory, config=config, split="train")
        self._config = config
        self._seed = seed
        self._num_steps = num_steps
        # Batch 0 of a second phase is not the first of the run, to which rates refer.
        self._steps_before = steps_before
        self._run_steps = run_steps or num_steps

    def __len__(self) -> int:
        return self._num_steps

    def __getitem__(self, step: int) -> Batch:
        first = step * self._config.batch_size
        addresses = self.addresses(range(first + self._rows.start, first + self._rows.stop))
        return self._records.batch(
            addresses,
            seed=self._seed,
            batch_size=len(self._rows),
            masking=self._config.masking.at((self._steps_before + step) / self._run_steps),
        )

    def addresses(self, examples: range) -> list[tuple[int, int]]:
        """(epoch, record index) of each of the run's examples, counted over all epochs."""
        count = len(self._records)
        addresses = []
        for example in examples:
            epoch, position = divmod(example, count)
            index = grain.experimental.index_shuffle(
                position, max_index=count - 1, seed=_shuffle_seed(self._seed, epoch), rounds=4
            )
            addresses.append((epoch, index))
        return addresses


def training_batches(
    directory: str | Path,
    *,
    config: DataConfig,
    seed: int,
    first_step: int,
    num_steps: int,
    steps_before: int = 0,
    run_steps: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 2,
) -> Iterator[Batch]:
    """This host's rows of global batch `first_step`, ... `num_steps - 1`, read ahead by threads.

    In a run of several phases `steps_before` were made before batch 0, and it has `run_steps` in
    all; the rate of masking follows these.

    Raises:
      DataError: the data are not prepared as `config` says, or `batch_size` does not divide.
    """
    source = TrainingSource(
        directory,
        config=config,
        seed=seed,
        num_steps=num_steps,
        steps_before=steps_before,
        run_steps=run_steps,
        process_index=process_index,
        process_count=process_count,
    )
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=_PREFETCHED_BATCHES)
    steps = grain.MapDataset.range(first_step, num_steps)
    return iter(steps.map(source.__getitem__).to_iter_dataset(options))


def evaluation_batches(
    directory: str | Path,
    *,
    config: DataConfig,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    max_examples: int | None = None,
) -> Iterator[Batch]:
    """This host's rows of the held-out records, in order and with frozen masks.

    Rows that fill up the last global batch have weight 0, so that every host gets the same number
    of batches. `max_examples` takes records evenly over the split, number `i * n // max_examples`.
    """
    rows = _host_rows(batch_size, process_index, process_count)
    records = _Records(directory, config=config, split="eval")
    if max_examples is not None and max_examples < 1:
        raise DataError(f"max_examples is {max_examples}; accepted: at least 1, or None for all")
    count = min(len(records), max_examples or len(records))
    addresses = [(0, i * len(records) // count) for i in range(count)]

    read = partial(
        records.batch,
        seed=EVALUATION_SEED,
        batch_size=len(rows),
        masking=config.evaluation_masking,
    )
    starts = range(0, count, batch_size)
    return (read(addresses[first + rows.start : first + rows.stop]) for first in starts)


class _Records:
    """The records of a split, counted through its shards."""

    def __init__(self, directory: str | Path, *, config: DataConfig, split: str):
        passport = load_passport(directory)
        self._tokenizer = load_tokenizer(directory)
        check_passport(passport, config, vocab_size=self._tokenizer.vocab_size)
        self._source = open_split(directory, passport, split=split)
        self._dtype = passport["record_dtype"]
        self._pairs_per_row = config.pairs_per_row if split == "train" else 1
        self._config = config

    def __len__(self) -> int:
        return len(self._source)

    def batch(
        self,
        addresses: list[tuple[int, int]],
        *,
        seed: int,
        batch_size: int,
        masking: MaskingConfig,
    ) -> Batch:
        # One call for all: read one by one, records come ten times slower.
        indices = [index for _, index in addresses]
        encoded = self._source.__getitems__(indices) if indices else []
        pairs, rows = decode_rows(encoded, dtype=self._dtype)
        return masked_batch(
            pairs,
            rows=rows,
            pairs_per_row=self._pairs_per_row,
            addresses=addresses,
            seed=seed,
            batch_size=batch_size,
            sequence_length=self._config.sequence_length,
            single_text_separator=self._config.single_text_separator,
            tokenizer=self._tokenizer,
            config=masking,
        )


def _host_rows(batch_size: int, process_index: int, process_count: int) -> range:
    if batch_size % process_count:
        raise DataError(
            f"batch_size is {batch_size}; accepted: a multiple of the {process_count} processes"
        )
    rows = batch_size // process_count
    return range(process_index * rows, (process_index + 1) * rows)


@lru_cache(maxsize=64)
def _shuffle_seed(seed: int, epoch: int) -> int:
    """Hashed, and not seed + epoch, so that no epoch of one seed is an epoch of another."""
    return int(np.random.SeedSequence([seed, epoch, _SHUFFLE_STREAM]).generate_state(1)[0])
