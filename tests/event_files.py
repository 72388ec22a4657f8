"""Compares TensorBoard files with `metrics.jsonl`."""

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bert_jax.faults.run_files import whole_rows


def scalars_of(workdir):
    """Returns {name: {step: value}} as TensorBoard reads it, and checks that no step is double."""
    events = EventAccumulator(str(workdir / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    found = {}
    for name in events.Tags()["scalars"]:
        steps = [(event.step, event.value) for event in events.Scalars(name)]
        assert len(dict(steps)) == len(steps), name
        found[name] = dict(steps)
    return found


def assert_tensorboard_has_the_rows(workdir):
    wanted = {}
    for row in whole_rows(workdir / "metrics.jsonl"):
        for name in row.keys() - {"step", "phase"}:
            wanted.setdefault(name, {})[row["step"]] = float(np.float32(row[name]))
    assert wanted and scalars_of(workdir) == wanted
