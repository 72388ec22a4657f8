"""A process of a run that records the rows of its training batches. Its argument is JSON.

The fields are `config`, `workdir` and `record` (files), `coordinator`, `count` and `index` (of the
process), and `slices`: the number of slices of TPUs that are simulated. Neighbouring processes are
in different slices. A line of `record` has the number of rows that the process read, and the
SHA-256 of each row that its devices hold, by the number of the row in the global batch.
"""

import hashlib
import json
import sys
from collections import defaultdict
from pathlib import Path

from bert_jax import environment
from bert_jax.faults import processes


def main(config, workdir, record, coordinator, count, index, slices):
    environment.configure_jax()
    several = (coordinator, count, index) if count > 1 else (None, None, None)
    processes.start_processes(*several, cluster=False)
    import numpy as np

    from bert_jax import sharding
    from bert_jax.config import from_json
    from bert_jax.training import build
    from bert_jax.training import train as loop
    from bert_jax.training.experiment import Experiment

    sharding.slice_of = lambda device: device.process_index % slices
    read, training_batches, place_batch = [None], loop.training_batches, build.place_batch

    def remember(*arguments):
        for batch in training_batches(*arguments):
            read[0] = batch
            yield batch

    def place(batch, *, sharding):
        placed = place_batch(batch, sharding=sharding)
        if batch is read[0]:  # and no held-out batch
            rows = defaultdict(dict)
            for name, array in zip(placed._fields, placed, strict=True):
                for shard in array.addressable_shards:
                    for row, content in enumerate(
                        np.asarray(shard.data), shard.index[0].start or 0
                    ):
                        rows[row][name] = content.tobytes()
            digests = {
                row: hashlib.sha256(b"".join(found.values())).hexdigest()
                for row, found in rows.items()
            }
            with Path(record).open("a") as file:
                file.write(json.dumps([len(batch.token_ids), digests]) + "\n")
        return placed

    loop.training_batches, build.place_batch = remember, place
    loop.train(from_json(Experiment, json.loads(Path(config).read_text())), Path(workdir))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
