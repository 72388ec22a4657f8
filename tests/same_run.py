"""Compares two runs: every array of a checkpoint and every row of metrics, bit by bit."""

import json
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

UNTIMED = {"seconds": 0, "goodput": {}}
"""The fields of result.json that depend on time."""


def rows_of(workdir: Path) -> list[dict[str, float]]:
    """Returns the rows of metrics.jsonl without the fields that depend on time."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if "perf/" not in k} for line in lines]


def arrays_of(workdir: Path, step: int) -> dict[str, np.ndarray]:
    """Returns every array of a checkpoint by path, also of one that several processes wrote."""
    directory = (workdir / "checkpoints" / str(step) / "state").absolute()
    reader = ocp.PyTreeCheckpointer()
    saved = reader.metadata(directory).item_metadata.tree
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), saved)
    leaves = jax.tree_util.tree_leaves_with_path(reader.restore(directory, restore_args=as_numpy))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def assert_same_bits(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> None:
    assert first.keys() == second.keys() and len(first) > 20
    for path, array in first.items():
        other = second[path]
        assert (array.shape, array.dtype) == (other.shape, other.dtype), path
        assert array.tobytes() == other.tobytes(), path


def assert_same_run(one: Path, other: Path, *, step: int) -> None:
    assert rows_of(one) == rows_of(other)
    assert_same_bits(arrays_of(one, step), arrays_of(other, step))
