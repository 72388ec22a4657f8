"""Counts the faults that the tests of this folder inject, and says how many were survived."""

import json
import random
from collections.abc import Iterator

import pytest

from bert_jax.config import to_json
from bert_jax.sharding import MeshConfig
from bert_jax.tasks.config import FineTuningConfig, TaskConfig, TaskTrainingConfig
from bert_jax.training.optim import OptimizerConfig

FOLDER = "tests/faults/"


@pytest.fixture(autouse=True)
def faults(request) -> Iterator[list[int]]:
    """Holds the number of faults that the test injects: 1, unless the test changes it."""
    count = [1]
    request.node.user_properties.append(("faults", count))
    yield count


@pytest.fixture
def rng(request) -> random.Random:
    """Random numbers that depend on --fault_seed and the name of the test."""
    return random.Random(f"{request.config.getoption('--fault_seed')} {request.node.nodeid}")


@pytest.fixture
def fine_tuning(tmp_path):
    """The file of a fine-tuning whose two classes differ in one word."""
    words = [("good film", "yes"), ("bad film", "no"), ("very good", "yes"), ("very bad", "no")]
    rows = [{"text": text, "label": label} for text, label in words * 12]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    files = dict.fromkeys(("train", "dev"), f"jsonl:{tmp_path}/rows.jsonl")
    config = FineTuningConfig(
        task=TaskConfig(family="classification", **files, labels=("no", "yes"), max_length=16),
        training=TaskTrainingConfig(epochs=20, batch_size=16, evaluation_batch_size=16),
        optimizer=OptimizerConfig(learning_rate=3e-3, warmup_steps=0),
        mesh=MeshConfig(data=1),
    )
    file = tmp_path / "task.json"
    file.write_text(json.dumps(to_json(config)))
    return file


def pytest_terminal_summary(terminalreporter) -> None:
    """Prints one line after the tests."""
    counts = {}
    for outcome in ("passed", "failed", "error"):
        reports = [
            report
            for report in terminalreporter.stats.get(outcome, [])
            if report.nodeid.startswith(FOLDER) and (outcome == "error" or report.when == "call")
        ]
        counts[outcome] = sum(
            dict(report.user_properties).get("faults", [1])[0] for report in reports
        )
    lost = counts["failed"] + counts["error"]
    if total := counts["passed"] + lost:
        terminalreporter.write_line(
            f"{total} faults injected, {counts['passed']} survived, {lost} lost"
        )
