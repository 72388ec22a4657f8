"""The figure of a run shows the metrics of its rows and the baselines of its result."""

import pytest
from scripts import BENCHMARKS, load_script

from bert_jax.runs.curves import PANELS

pytestmark = pytest.mark.slow

RECORD = BENCHMARKS.parent / "docs" / "runs" / "mix.jsonl"


@pytest.fixture(scope="module")
def script():
    return load_script("training_curve")


def test_each_metric_is_drawn_beside_its_baseline(script):
    (run,) = load_script("record").load_runs(str(RECORD)).values()
    result = run["result"]
    figure = script.draw({"mix": (run["metrics"], result)})
    assert len(figure.axes) == 3
    for axes, (metric, _, baseline, _) in zip(figure.axes, PANELS, strict=True):
        training, held_out, line = axes.get_lines()
        assert len(training.get_ydata()) == 180 and len(held_out.get_ydata()) == 18
        assert held_out.get_ydata()[-1] == result[metric]
        assert set(line.get_ydata()) == {result[baseline]}


def test_a_run_on_single_texts_has_no_panel_for_pairs(script):
    rows = [{"step": 1, "train/mlm_loss": 3.0, "train/mlm_accuracy": 0.1}]
    assert len(script.draw({"": (rows, {})}).axes) == 2
