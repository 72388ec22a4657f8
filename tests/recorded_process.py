"""A process of a run that records the rows of its training batches. Its argument is JSON.

The fields are `config`, `workdir` and `record` (files), `coordinator`, `count` and `index` (of the
process), and `slices`: the number of slices of TPUs that are simulated. Neighbouring processes are
in different slices. A line of `record` has the number of rows that the process read, and the
SHA-256 of each row that its devices hold, by the number of the row in the global batch. If
`outputs` names a `.npz` file, process 0 writes the encoder's outputs for random rows there at each
evaluation, computed on the mesh of the training, and the SHA-256 of the parameters.
"""

import hashlib
import json
import sys
from collections import defaultdict
from pathlib import Path

from bert_jax import environment
from bert_jax.faults import processes


def main(config, workdir, record, coordinator, count, index, slices, outputs=None):
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
    experiment = from_json(Experiment, json.loads(Path(config).read_text()))
    probes = [output_probe(experiment, Path(outputs), index)] if outputs else []
    loop.train(experiment, Path(workdir), probes=probes)


def output_probe(experiment, file, index):
    """Returns a probe that writes random ids, the outputs for them, and the parameters' SHA-256."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.experimental.multihost_utils import process_allgather

    from bert_jax.models.bert import Bert
    from bert_jax.training.initial import fingerprint_params

    @jax.jit
    def encode(params, ids):
        zero = jnp.zeros_like(ids)
        output = Bert(experiment.model).apply(
            {"params": params["bert"]}, ids, zero, zero + 1, zero[:, :1]
        )
        return output.sequence_output, output.pooled_output

    def probe(params):
        ids = np.random.default_rng(0).integers(0, experiment.model.vocab_size, (8, 32), np.int32)
        found = [np.asarray(process_allgather(one, tiled=True)) for one in encode(params, ids)]
        digest = fingerprint_params(process_allgather(params, tiled=True))
        if index == 0:
            np.savez(file, ids=ids, sequence=found[0], pooled=found[1], params=digest)
        return {}

    return probe


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
