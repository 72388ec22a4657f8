"""The tables of docs/performance.md are those of its records, and its programs measure."""

import collections
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from scripts import BENCHMARKS, load_script

from bert_jax.benchmarking import ours
from bert_jax.benchmarking.comparison import comparable
from bert_jax.config import flatten
from bert_jax.planning import hlo

PERFORMANCE = BENCHMARKS / "performance.py"


@pytest.fixture(scope="module")
def page():
    return load_script("performance_page")


@pytest.fixture(scope="module")
def step_profile():
    return load_script("step_profile")


def test_the_page_has_the_tables_of_its_records(page):
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.filled(text, page.TABLES) == text


def test_the_page_about_scaling_has_the_table_of_its_record():
    plan_table = load_script("plan_table")
    text = plan_table.PAGE.read_text(encoding="utf-8")
    assert plan_table.filled(text, plan_table.TABLES) == text


def test_a_table_stands_between_its_marks(page, tmp_path):
    record = tmp_path / "record.json"
    record.write_text(json.dumps({"value": 3}))
    tables = {"one": (record, lambda found: page.table(("a", "b"), [(1, found["value"])]))}
    text = "x\n<!-- one -->\n<!-- end -->\ny\n"
    filled = page.filled(text, tables)
    assert filled == "x\n<!-- one -->\n| a | b |\n| --- | --- |\n| 1 | 3 |\n<!-- end -->\ny\n"
    assert page.filled(filled, tables) == filled
    assert page.filled(text, {"one": (tmp_path / "missing.json", tables["one"][1])}) == text


def test_variants_are_compared_with_the_default_of_the_same_round(page):
    def rounds(*seconds):
        return [{"seconds": one, "program_bytes": 2**20} for one in seconds]

    sides = {"default": rounds(1.0, 2.0), "loop": rounds(1.5, 2.0)}
    table = page.variants_table({"results": {"variants": {"sides": sides}}}, "variants")
    assert "| loop | 1750.0 | 1.17 (1.00 to 1.50) | 1 |" in table


def test_the_page_names_the_values_that_growth_starts_from(page):
    performance = load_script("performance")
    fields = flatten(performance.experiment_of(performance.GROWTH))
    assert {field: fields[field] for field in page.UNCHANGED} == page.UNCHANGED
    assert list(page.FIELDS) == list(page.UNCHANGED) == list(performance.GROWTH_FIELDS)


def test_operations_at_the_same_moment_share_it(step_profile):
    spans = [(0, 4, "a"), (2, 4, "b"), (4, 6, "a"), (5, 6, "a")]
    found = step_profile.shares([step_profile.Span(*span) for span in spans], 10)
    assert found == pytest.approx({"a": 0.5, "b": 0.1, step_profile.NOTHING: 0.4})


def test_training_ends_at_the_goal_and_its_clock_stops_in_evaluations(monkeypatch):
    script = load_script("time_to_quality")
    now = iter(range(200))
    monkeypatch.setattr(script.time, "perf_counter", lambda: float(next(now)))
    losses = iter([3.0, 2.5, 2.0, 1.5])

    def evaluate():
        for _ in range(50):
            next(now)
        return next(losses)

    updates = []
    inputs = SimpleNamespace(goal=2.6, rates=[1e-3] * 10, every=4)
    result = script.train_until(
        inputs,
        compile_=lambda: None,
        update=updates.append,
        wait=lambda result: None,
        evaluate=evaluate,
    )
    assert result["reached"] and result["held_out_mlm_loss"] == 2.5
    assert updates == list(range(8)) and result["updates"] == 8
    # A second for the compilation and one between each pair of clock readings.
    assert (result["compile_seconds"], result["seconds"]) == (1.0, 3.0)


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_few_bytes_of_an_update_belong_to_no_part(step_profile, rate):
    performance = load_script("performance")
    fields = performance.dropout_fields(rate)
    experiment = comparable(performance.experiment_of(performance.SMALL, fields))
    program = hlo.parse(ours.compile_update(experiment).program.as_text())
    # Bytes, not seconds: on a busy machine, a single short operation may wait for long.
    num_bytes = collections.Counter()
    for name, instruction in program.computations[program.entry].items():
        if instruction.op not in {"parameter", "constant", "tuple"}:
            num_bytes[step_profile.part_of(program, name)] += hlo.num_bytes(instruction.type)
    assert set(num_bytes) >= {
        part for part, _ in step_profile.PARTS if rate or "dropout" not in part
    }
    assert num_bytes[step_profile.PRODUCTS] > 0.01 * num_bytes.total()
    # XLA's copies of scalars and small vectors are 0.2 % here.
    assert num_bytes[step_profile.OTHER] < 0.01 * num_bytes.total()


@pytest.mark.slow
def test_measurements_are_kept_and_made_into_tables(page, tmp_path):
    command = [sys.executable, str(PERFORMANCE), "--small", "--only=dropout,parts"]
    command += [f"--directory={tmp_path}"]
    environment = os.environ | {"PYTHONPATH": str(BENCHMARKS.parent), "XLA_FLAGS": ""}

    def measure():
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True, timeout=600
        )

    measure()
    assert measure().stderr.count("(already measured)") == 3
    (file,) = tmp_path.rglob("record.json")
    record = json.loads(file.read_text())
    assert set(record["results"]) == {"dropout", "parts/0.1", "parts/0.0"}
    for one in record["results"]["parts/0.1"], record["results"]["parts/0.0"]:
        assert sum(one["parts"].values()) == pytest.approx(1)
        assert one["parts"]["matrix products of the layers"] > 0
    assert "| dropout 0.1 |" in page.variants_table(record, "dropout")
    assert "| whole update |" in page.parts_table(record)
