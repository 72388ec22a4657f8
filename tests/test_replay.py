"""`run.batch(step)` is bitwise the batch that training saw."""

import numpy as np
import pytest

from bert_jax.config import override
from bert_jax.errors import CheckpointError, ConfigError, DataError
from bert_jax.runs.load import load_run
from bert_jax.training import train as training
from bert_jax.training.train import train


@pytest.fixture(scope="module")
def recorded(two_phases, tmp_path_factory):
    """A run of two phases, and the batches that its steps saw."""
    batches, workdir = {}, tmp_path_factory.mktemp("recorded") / "run"
    read = training.training_batches

    def record(phase, first_step, host):
        first = max(first_step, phase.first_step) + 1
        for step, batch in enumerate(read(phase, first_step, host), start=first):
            batches.setdefault(step, []).append(batch)
            yield batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "training_batches", record)
        train(two_phases, workdir)
    return load_run(workdir), batches


@pytest.mark.slow
def test_every_batch_of_both_phases_is_bitwise_the_one_of_training(recorded):
    run, batches = recorded
    assert len(batches) == run.step
    phases = set()
    for step, of_training in batches.items():
        seen = run.batch(step)
        phases.add(seen.phase)
        for batch in of_training:
            for name, found, expected in zip(batch._fields, seen.batch, batch, strict=True):
                assert found.dtype == expected.dtype, name
                np.testing.assert_array_equal(found, expected, err_msg=f"step {step} {name}")
    assert phases == {1, 2}


@pytest.fixture(scope="module")
def run(two_phase_run):
    return load_run(two_phase_run[0])


def test_rows_show_the_masked_tokens_and_the_labels_of_the_pairs(run):
    seen = run.batch(1)
    rows = list(seen)
    assert len(rows) == len(seen) and sum(len(row.masked) for row in rows) == int(
        seen.batch.mask_weights.sum()
    )
    row = rows[0]
    assert row.pieces[0] == "[CLS]" and row.pieces[-1] == "[SEP]"
    assert row.pairs in (["B follows A"], ["B is random"])
    for one in row.masked:
        assert row.pieces[one.position] == one.shown
        assert f"{{{one.shown} -> {one.label}}}" in str(row)
    assert any(one.shown == "[MASK]" for row in rows for one in row.masked)
    assert repr(seen).startswith("batch of step 1, phase 1: ")
    assert "[MASK] -&gt;" in seen._repr_html_() and "<script" not in seen._repr_html_()


def test_another_step_or_other_data_are_refused(run, tmp_path):
    with pytest.raises(ConfigError, match=f"step is 0; accepted: 1 to {run.step}"):
        run.batch(0)
    other = override(run.config, {"data.directory": str(tmp_path / "none")})
    with pytest.raises(DataError, match="none"):
        type(run)(**{**vars(run), "config": other}).batch(1)
    with pytest.raises(DataError, match="have the fingerprint .* accepted: the data of the run"):
        type(run)(**{**vars(run), "passport": {**run.passport, "sentences": 1}}).batch(1)
    with pytest.raises(CheckpointError, match="accepted: a run of pretrain"):
        type(run)(**{**vars(run), "config": None}).batch(1)
