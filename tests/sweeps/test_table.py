"""The comparison of the points of a sweep, and its table, from runs with known results."""

import csv
import io
import json
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from bert_jax.config import from_json, load_module, override
from bert_jax.models.config import ModernConfig
from bert_jax.statistics.examples import Scored, interval_over_examples, paired_outcomes
from bert_jax.sweeps.comparison import compare, statement
from bert_jax.sweeps.grid import expand, points_of
from bert_jax.sweeps.page import describe_changes
from bert_jax.sweeps.table import as_text, decimals_of, files_of, metric_columns, report
from bert_jax.training.experiment import Experiment

ROOT = Path(__file__).parents[2]
RECORDS = ROOT / "docs" / "runs"
RATES = (1e-3, 2e-3, 3e-3)


def sweep(experiment, rates=RATES, seeds=5):
    """Returns the points of a sweep over learning rates and seeds."""
    values = [{"optimizer.learning_rate": rate} for rate in rates]
    return points_of(expand(experiment, [values, [{"seed": seed} for seed in range(seeds)]]))


def results_of(points, values, metric="mlm_loss", **more):
    """Returns results with `values` [points, seeds] of a metric."""
    return {
        run.id: {metric: float(value), "unigram_loss": 6.5} | more
        for point, of_point in zip(points, values, strict=True)
        for run, value in zip(point.runs, of_point, strict=True)
    }


def mean_of(rows):
    return float(rows.mean())


def losses(effects, seeds=5, deviation=0.01):
    rng = np.random.default_rng(0)
    noise = rng.normal(0, deviation, (len(effects), seeds))
    return 5 + rng.normal(0, 0.5, (1, seeds)) + noise + np.array(effects)[:, None]


def test_points_are_better_worse_or_cannot_be_told(experiment):
    points = sweep(experiment)
    base, better, unclear = compare(points, results_of(points, losses([0, -0.2, 0.001])))
    assert (base.verdict, better.verdict, unclear.verdict) == ("base", "better", "cannot tell")
    assert np.isnan(base.p_value) and base.difference.count == 0
    assert better.estimate.deviation > 10 * better.difference.deviation  # seeds are paired
    assert better.p_value == pytest.approx(2 * better.difference.p_value)  # Holm, 2 comparisons
    assert better.seeds_to_tell is None and unclear.seeds_to_tell > 5
    accuracy = compare(points, results_of(points, losses([0, -0.2, 0.2]), "mlm_accuracy"))
    assert [row.verdict for row in accuracy] == ["base", "worse", "better"]
    same = compare(points, results_of(points, losses([0, 0, 0], deviation=0)))
    assert [row.verdict for row in same] == ["base", "equal", "equal"]
    four = sweep(experiment, seeds=4)
    coarse = np.array([[0.5, 0.6] * 2, [0.4, 0.5] * 2, [0.7, 0.5] * 2])
    _, other, _ = compare(four, results_of(four, coarse, "mlm_accuracy"))
    assert (other.verdict, other.seeds_to_tell) == ("cannot tell", 7)  # 2 / 2^7 times 2 comparisons
    assert "differs: -0.10, the same for all seeds, p 0.25. If" in statement(other, 2)


def test_statements_are_plain_sentences(experiment):
    points = sweep(experiment)
    _, better, unclear = compare(points, results_of(points, losses([0, -0.2, 0.001])))
    assert re.fullmatch(
        r"mlm_loss: point 1 \(optimizer.learning_rate=0.002\) is better than the base at 5 seeds: "
        r"-0\.\d{4}, 95 % interval -0\.\d{4} to -0\.\d{4}, p [\de.-]+\.",
        statement(better, 4),
    )
    assert re.fullmatch(
        r"mlm_loss: cannot tell at 5 seeds whether point 2 \(optimizer.learning_rate=0.003\) "
        r"differs: [+-]0\.\d{4}, 95 % interval -0\.\d{4} to \+0\.\d{4}, p [\d.]+\. If the true "
        r"difference is [+-]0\.\d{4}, \d+ seeds would tell with probability 0.8\.",
        statement(unclear, 4),
    )


def test_failed_and_unfinished_seeds_are_left_out_and_counted(experiment):
    """A seed that one of the two points lacks is in no difference."""
    points = sweep(experiment, RATES[:2])
    results = results_of(points, losses([0, -0.2]))
    failed = [points[1].runs[0].id]
    for run in (points[1].runs[0], points[0].runs[1]):
        results[run.id] = {}
    base, other = compare(points, results, failed=failed)
    assert (base.estimate.count, other.estimate.count, other.difference.count) == (4, 4, 3)
    assert (base.failed, other.failed) == (0, 1)
    assert statement(other, 2).endswith("1 of 5 seeds failed.")
    other = compare(points, results, failed=[points[0].runs[1].id, *failed])[1]
    said = " 1 of 5 seeds failed. In the base, 1 failed."  # the lucky ones are compared
    assert statement(other, 2).endswith(said)
    assert metric_columns([base, other])["failed"] == ["", "1"]
    measured = compare(points, results, failed=[points[1].runs[2].id])[1]
    assert measured.failed == 0  # only an evaluation failed, and this metric is not of it
    few = {run.id: results[run.id] for run in (*points[0].runs, points[1].runs[3])}
    _, other = compare(points, few)
    assert (other.verdict, other.seeds_to_tell) == ("cannot tell", None)
    assert "fewer than 2 seeds are in both" in statement(other, 2)
    lacking = {id: result for id, result in results.items() if id in {r.id for r in points[0].runs}}
    assert statement(compare(points, lacking)[1], 2).endswith("has no run with this metric.")
    assert compare(points, {}) == []
    assert files_of([])["table.csv"] == "\n"


def test_metrics_of_other_held_out_examples_are_not_compared(experiment):
    points = sweep(experiment)
    results = results_of(points, losses([0, -0.2, 0.1]))
    for run in points[1].runs:
        results[run.id]["unigram_loss"] = 7.0
    _, other, worse = compare(points, results)
    assert (other.verdict, worse.verdict) == ("not comparable", "worse")
    assert worse.p_value == worse.difference.p_value  # the only comparison
    assert statement(other, 2).endswith("their held-out examples differ.")
    results = results_of(points, losses([0, -0.2, 0.1]), "texts/bits_per_character")
    for number, point in enumerate(points):
        for run in point.runs:
            results[run.id]["texts/characters"] = 9000 if number == 1 else 8000
    rows = compare(points, results)
    assert [row.verdict for row in rows] == ["base", "not comparable", "worse"]


def test_a_difference_with_outcomes_is_one_for_other_examples_too(experiment):
    """Each of 40 examples is right or wrong, and the answers of the seeds are independent."""
    points, rng = sweep(experiment, rates=RATES[:2], seeds=3), np.random.default_rng(0)
    right = rng.random((2, 3, 40)) < np.array([0.5, 0.9])[:, None, None]
    outcomes = {
        run.id: {"movies/accuracy": Scored(of_run, mean_of, "hash")}
        for point, of_point in zip(points, right, strict=True)
        for run, of_run in zip(point.runs, of_point, strict=True)
    }
    results = results_of(points, right.mean(-1), "movies/accuracy")
    _, alone = compare(points, results)
    _, row = compare(points, results, outcomes=outcomes)
    expected = interval_over_examples(*paired_outcomes(right[1], right[0], np.mean))
    assert (row.difference.low, row.difference.high) == expected
    assert row.difference.low < alone.difference.low and row.p_value > alone.p_value
    first = points[1].runs[0].id
    (name, scored), *_ = outcomes[first].items()
    others = outcomes | {first: {name: scored._replace(data_sha256="another")}}
    fewer = compare(points, results, outcomes={first: {name: scored}})[1]
    assert fewer.difference == alone.difference
    _, other = compare(points, results, outcomes=others)  # a seed has other examples
    assert (other.verdict, other.difference.count) == ("not comparable", 0)


def test_seeds_that_agree_do_not_tell_about_other_examples(experiment):
    """All seeds answer 20 of 40 examples with a point, and the same and 3 more with the other."""
    points = sweep(experiment, rates=RATES[:2], seeds=3)
    right = [np.arange(40) < 20, np.arange(40) < 23]
    scored = [{"movies/accuracy": Scored(one, mean_of, "hash")} for one in right]
    outcomes = {run.id: scored[point.number] for point in points for run in point.runs}
    results = results_of(points, [[one.mean()] * 3 for one in right], "movies/accuracy")
    _, row = compare(points, results, outcomes=outcomes)
    assert (row.verdict, row.seeds_to_tell) == ("cannot tell", None)
    assert "even 10,000 seeds would not tell with probability 0.8" in statement(row, 3)


def test_a_point_that_costs_more_says_so(experiment):
    runs = expand(experiment, [[{}, {"training.steps": 2 * experiment.training.steps}]])
    points = points_of(runs)
    _, other = compare(points, results_of(points, [[5.0], [4.9]]))
    assert statement(other, 2).endswith("A run costs 2.00 times the FLOPs of the base.")


def test_a_whole_simulated_sweep_is_wrong_in_5_percent_of_cases_at_most(experiment):
    """Holm corrects over metrics and points together."""
    points = sweep(experiment, seeds=3)
    rng, found = np.random.default_rng(0), []
    for _ in range(150):
        results = results_of(points, rng.normal(5, 0.1, (3, 3)))
        for id, more in results_of(points, rng.normal(0, 1, (3, 3)), "probe_accuracy").items():
            results[id] |= more
        rows = compare(points, results)
        assert len(rows) == 6
        found.append(any(row.verdict in ("better", "worse") for row in rows))
    # The deviation of the fraction is sqrt(0.05 * 0.95 / 150) = 0.018.
    assert np.mean(found) <= 0.1


def rows_of_record(file):
    """Returns the rows of the runs of a record, and their results."""
    lines = [json.loads(line) for line in (RECORDS / file).open()]
    found = {}
    for line in lines:
        config = from_json(Experiment, line["config"])
        found |= {run.id: line["result"] for run in expand(config, [[{}]])}
    configs = [from_json(Experiment, line["config"]) for line in lines]
    points = points_of([run for config in configs for run in expand(config, [[{}]])])
    return compare(points, found)


@pytest.fixture(scope="module")
def recorded():
    return rows_of_record("dropout_bits.jsonl")


def test_a_recorded_sweep_gives_the_published_numbers(recorded):
    """docs/results.md has 5.753 ± 0.072 and 5.691 ± 0.167, and the standard error 0.090."""
    base, other = (row for row in recorded if row.metric == "mlm_loss")
    assert other.point.changes == {"model.dropout_bits": "threefry"}
    assert base.estimate.mean == pytest.approx(5.753, abs=5e-4)
    assert other.estimate.deviation == pytest.approx(0.167, abs=5e-4)
    assert other.difference.deviation / 5**0.5 == pytest.approx(0.090, abs=5e-4)
    assert {row.verdict for row in recorded} == {"base", "cannot tell"}


def test_the_table_shows_every_number_whole_at_80_columns(recorded):
    text = report(recorded, partial(as_text, width=80))
    assert max(map(len, text.split("- mlm_loss")[0].splitlines())) <= 80
    assert "…" not in text
    for metric in ("mlm_loss", "mlm_accuracy", "nsp_accuracy"):
        rows = [row for row in recorded if row.metric == metric]
        columns = metric_columns(rows)
        for name, cells in columns.items():
            for cell in (name, *cells):
                assert cell in text
        decimals = decimals_of(rows)
        for estimate in (rows[0].estimate, rows[1].difference):
            for number in (estimate.mean, estimate.low, estimate.high):
                assert f"{number:.{decimals}f}" in text
    assert "model.dropout_bits" in text and "seed " not in text


def test_a_column_wider_than_the_terminal_is_not_cut():
    columns = {"point": ["0", "1"], "a": ["1", "2"], "wide": ["x" * 100, "y"], "b": ["3", "4"]}
    first, second, third = as_text(columns, 80).split("\n\n")
    assert first == "point  a\n0      1\n1      2"
    assert "x" * 100 in second and third == "point  b\n0      3\n1      4"


def test_the_files_have_the_same_table(recorded):
    files = files_of(recorded)
    rows = list(csv.DictReader(io.StringIO(files["table.csv"])))
    assert len(rows) == 6 and rows[0]["metric"] == "mlm_loss"
    assert [float(row["mean"]) for row in rows] == [row.estimate.mean for row in recorded]
    assert [row["verdict"] for row in rows[:2]] == ["base", "cannot tell"]
    assert rows[1]["model.dropout_bits"] == "threefry"
    columns = metric_columns(recorded[:2])
    assert f"| {' | '.join(columns)} |\n" in files["table.md"]
    assert "cannot tell at 5 seeds whether point 1" in files["table.md"]


def test_latex_escapes_texts_and_uses_booktabs(recorded):
    text = files_of(recorded)["table.tex"]
    tables = re.findall(r"\\begin\{tabular\}\{(l+)\}\n(.*?)\\end\{tabular\}", text, re.S)
    assert len(tables) == 3
    for form, body in tables:
        top, head, middle, *lines, bottom = body.splitlines()
        assert (top, middle, bottom) == ("\\toprule", "\\midrule", "\\bottomrule")
        assert len(lines) == 2
        for line in (head, *lines):
            assert line.count(" & ") == len(form) - 1 and line.endswith("\\\\")
        assert not re.search(r"(?<!\\)[_%#]", body)
        assert "model.dropout\\_bits" in head
    assert re.search(r"\$5\.\d+\$ & \$0\.\d+\$", tables[0][1])


def test_an_experiment_is_compared_by_all_fields_that_differ(experiment):
    one = override(experiment, {"objective.next_sentence": not experiment.objective.next_sentence})
    points = points_of([*expand(experiment, [[{}]]), *expand(one, [[{"model.num_layers": 1}]])])
    assert list(points[1].changes) == ["model.num_layers", "objective.next_sentence"]


def test_a_class_has_its_name_and_a_dash_for_each_field_that_it_lacks(experiment):
    """The class of point 0 is the type of the field `model`."""
    base = override(experiment, {"objective.next_sentence": False})
    shape = vars(base.model) | {"intermediate_size": 128}
    own = load_module(ROOT / "experiments" / "own_parts" / "pre_norm.py").PreNormConfig(**shape)
    modern, narrow = ModernConfig(**shape), ModernConfig(**shape, local_window=64)
    classes = [{"model.intermediate_size": 128}, {"model": modern}, {"model": own}]
    points = points_of(expand(base, [classes]))
    assert [list(point.changes) for point in points[1:]] == [["model.class"]] * 2
    points = points_of(expand(base, [[*classes, {"model": narrow}]]))
    bert, modern, pre_norm, _ = (point.fields for point in points)
    assert list(bert) == ["model.class", "model.local_window"]
    assert [one["model.local_window"] for one in (bert, modern, pre_norm)] == ["-", 128, "-"]
    assert (bert["model.class"], modern["model.class"]) == ("BertConfig", "ModernConfig")
    assert re.fullmatch(r"pre_norm\.py:PreNormConfig@[0-9a-f]{12}", pre_norm["model.class"])
    assert list(points[2].changes) == ["model.class"]
    rows = compare(points, results_of(points, [[5.0], [4.0], [3.0], [2.0]]))
    for text in (report(rows, as_text), *files_of(rows).values()):
        assert (
            "None" not in text
            and "BertConfig" in text
            and "pre_norm.py:PreNormConfig" in (text.replace("\\_", "_"))
        )
    assert "model.class=BertConfig, model.local_window=-" in describe_changes(points[0])
    assert points_of(expand(base, [classes[2:]]))[0].fields == {}
