"""Measures how much the SHA-256 of a checkpoint's files slow down training.

  python benchmarks/save_cost.py --experiment=experiments/bert.py:mini --set data.batch_size=16

Saves come in pairs: one with the hashes and one without, in alternating order. After each save, the
same number of updates follows, while a thread of orbax writes the files and hashes them. Prints the
median of the pairs' ratios, and their smallest and largest value.
"""

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

from absl import flags

from bert_jax import command, cpu, environment

FLAGS = flags.FLAGS


def measure(experiment: Any, pairs: int, updates: int) -> dict[str, Any]:
    """Returns the seconds of each save and its updates, in pairs: with hashes, and without."""
    import jax
    import orbax.checkpoint as ocp

    from bert_jax.benchmarking import ours
    from bert_jax.benchmarking.comparison import comparable
    from bert_jax.faults import damage
    from bert_jax.training.config import TrainingConfig
    from bert_jax.training.manager import open_checkpoints

    made, kept = ours.compile_update(comparable(experiment)), TrainingConfig(steps=1)
    state, batch, hashing = made.state, made.batch, []
    write = damage.write_digests

    def timed(checkpoints: Path) -> None:
        start = time.perf_counter()
        write(checkpoints)
        hashing.append(time.perf_counter() - start)

    def save(number: int, digests: bool) -> dict[str, float]:
        nonlocal state
        with mock.patch.object(damage, "write_digests", timed if digests else lambda _: None):
            start = time.perf_counter()
            manager.save(
                number,
                metrics={"regular": True, "held_out": None},
                args=ocp.args.Composite(state=ocp.args.PyTreeSave(state)),
            )
            times = []
            for _ in range(updates):
                state, metrics = made.update(state, batch)
                jax.block_until_ready((state, metrics))
                times.append(time.perf_counter() - start)
            manager.wait_until_finished()
        return {"save_and_first_update": times[0], "save_and_all_updates": times[-1]}

    rows: list[dict[bool, dict[str, float]]] = []
    with (
        jax.set_mesh(made.mesh),
        tempfile.TemporaryDirectory() as directory,
        open_checkpoints(Path(directory), training=kept) as manager,
    ):
        for number in range(-1, pairs):  # the first pair opens files and warms up
            order = (True, False) if number % 2 else (False, True)
            row = {one: save(2 * number + 2 + index, one) for index, one in enumerate(order)}
            rows.append(row)
    bytes_of_state = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    return {
        "bytes": bytes_of_state,
        "seconds_of_hashing": statistics.median(hashing),
        "seconds_without": statistics.median(row[False]["save_and_all_updates"] for row in rows),
        "pairs": [
            {name: row[True][name] / row[False][name] for name in row[True]} for row in rows[1:]
        ],
    }


def main() -> None:
    """Runs the command."""
    environment.configure_jax()
    cpu.keep_freed_memory()
    result = measure(command.experiment_from_flags(), FLAGS.pairs, FLAGS.updates)
    if FLAGS.json:
        print(json.dumps(result))
        return
    print(
        f"{result['bytes'] / 1e6:.0f} MB; hashing takes {result['seconds_of_hashing']:.2f} s; "
        f"without it, a save and {FLAGS.updates} updates take {result['seconds_without']:.2f} s"
    )
    for name in result["pairs"][0]:
        ratios = [pair[name] for pair in result["pairs"]]
        print(
            f"{name}: {statistics.median(ratios):.3f} times the time without hashes (from "
            f"{min(ratios):.3f} to {max(ratios):.3f}, {len(ratios)} pairs)"
        )


if __name__ == "__main__":
    flags.adopt_module_key_flags(command)
    flags.DEFINE_integer("pairs", 12, "Number of pairs of saves.", lower_bound=1)
    flags.DEFINE_integer("updates", 10, "Number of updates after each save.", lower_bound=1)
    flags.DEFINE_bool("json", False, "Prints one JSON object instead of text.")
    command.run(main)
