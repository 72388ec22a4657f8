"""The picture of a run shows what its rows and its result say."""

import json
from pathlib import Path

import pytest
from scripts import load_script

import bert_jax

ROOT = Path(bert_jax.__file__).parents[1]


@pytest.fixture(scope="module")
def script():
    return load_script("training_curve")


def test_each_metric_is_drawn_beside_what_is_to_beat(script):
    run = ROOT / "docs" / "runs" / "mix"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    result = json.loads((run / "result.json").read_text())
    figure = script.draw(rows, result)
    assert len(figure.axes) == 3
    for axes, (metric, _, floor, _) in zip(figure.axes, script.PANELS, strict=True):
        training, held_out, to_beat = axes.get_lines()
        assert len(training.get_ydata()) == 180 and len(held_out.get_ydata()) == 18
        assert held_out.get_ydata()[-1] == result[metric]
        assert set(to_beat.get_ydata()) == {result[floor]}


def test_of_single_texts_no_pairs_are_drawn(script):
    rows = [{"step": 1, "train/mlm_loss": 3.0, "train/mlm_accuracy": 0.1}]
    assert len(script.draw(rows, {}).axes) == 2
