"""Counts the faults that the tests of this folder inject, and says how many were survived."""

import random
from collections.abc import Iterator

import pytest

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
