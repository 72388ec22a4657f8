"""The bench command reports memory and compiles of an update, and its ratio to another library."""

import json
import subprocess
import sys
from types import SimpleNamespace

import jax
import pytest

from bert_jax import config
from bert_jax.bench import known_peak
from bert_jax.benchmarking import comparison, timing
from bert_jax.command import load
from bert_jax.errors import ConfigError
from bert_jax.faults.memory import program_memory


def test_peak_counts_every_kind_and_aliased_outputs_once():
    analysis = SimpleNamespace(
        argument_size_in_bytes=100,
        output_size_in_bytes=90,
        temp_size_in_bytes=1000,
        alias_size_in_bytes=80,
    )
    assert program_memory(analysis) == {
        "peak": 1110,
        "arguments": 100,
        "outputs": 90,
        "temporaries": 1000,
        "aliased": 80,
    }


def test_memory_of_a_program_equals_that_of_its_arrays():
    """The program has a donated matrix, a vector, and two temporary matrices."""

    def work(matrix, vector):
        inner = jax.numpy.sort(matrix @ matrix, axis=-1)
        return jax.numpy.sort(inner @ matrix, axis=0), vector.sum()

    matrix, vector = jax.numpy.zeros((256, 256)), jax.numpy.zeros(100)
    compiled = jax.jit(work, donate_argnums=0).lower(matrix, vector).compile()
    found = program_memory(compiled.memory_analysis())
    size = 4 * 256 * 256
    assert found["arguments"] == size + 400
    # The sum, and a pointer of 8 bytes for each output.
    assert found["outputs"] == size + 4 + 16
    assert found["aliased"] == size
    assert size <= found["temporaries"] < 4 * size
    assert found["peak"] == size + 400 + 4 + 16 + found["temporaries"]


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200 NVL", 835e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5p", 459e12),
        ("cpu", None),
    ],
)
def test_the_peak_is_that_of_the_form_of_a_chip(kind, peak):
    assert known_peak(SimpleNamespace(device_kind=kind)) == peak


def test_ratios_are_those_of_medians_and_normalized_by_the_ceilings():
    mine = [{"seconds": seconds} for seconds in (1.0, 2.0, 1.5)]
    theirs = [{"seconds": seconds} for seconds in (3.0, 3.0, 6.0)]
    found = comparison.ratios(mine, theirs, {"bert_jax": [90.0, 100.0], "torch": [50.0, 40.0]})
    assert found == {"ratio": 2.0, "min": 1.5, "max": 4.0, "normalized": 1.0}


def test_a_comparison_names_the_missing_libraries_and_what_differs(monkeypatch):
    monkeypatch.setattr(comparison, "NEEDED", ("no_such_library",))
    with pytest.raises(ConfigError, match="needs no_such_library.*pip install no_such_library"):
        comparison.check_installed()
    experiment = load("experiments/quickstart.py")
    assert comparison.comparable(experiment).mesh.data == 1
    packed = config.override(experiment, {"data.pairs_per_row": 2})
    with pytest.raises(ConfigError, match=r"data.pairs_per_row is 2; accepted .*: 1"):
        comparison.comparable(packed)


def test_updates_are_timed_until_the_seconds_are_over(monkeypatch):
    now = iter(range(1000))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(next(now)))
    made = []
    found = timing.time_updates(lambda: made.append(1), lambda result: None, seconds=4.5)
    # The clock is read once per update, so an update takes a second.
    assert len(made) == timing.UNTIMED + 5
    assert (found["updates"], found["seconds"]) == (5, 1.0)


def test_the_peak_of_the_resident_memory_starts_again():
    block = bytearray(2**27)
    block[:: 2**12] = b"x" * 2**15  # touches every page
    del block
    before = timing.peak_bytes()
    timing.restart_peak()
    after = timing.peak_bytes()
    assert before is None or after <= before - 2**26


@pytest.mark.slow
def test_bench_prints_the_memory_of_state_batch_and_temporaries():
    flags = [
        "--experiment=experiments/quickstart.py",
        *("--set=mesh.data=1", "--set=model.num_layers=1", "--set=data.batch_size=4"),
        *("--steps=1", "--json"),
    ]
    command = [sys.executable, "-m", "bert_jax.bench", *flags]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    result = json.loads(run.stdout)
    assert result["compiles"] == 1
    memory = result["memory_bytes"]
    experiment = config.override(
        load("experiments/quickstart.py"), {"model.num_layers": "1", "data.batch_size": "4"}
    )
    model, data = experiment.model, experiment.data
    h, f = model.hidden_size, 4 * model.hidden_size
    tables = (model.padded_vocab_size + model.max_positions + model.num_segments + 2) * h
    layer = 4 * (h * h + h) + 2 * h * f + f + h + 4 * h
    heads = (h * h + h) + (h * h + 3 * h + model.padded_vocab_size) + (2 * h + 2)
    state = 3 * 4 * (tables + layer + heads)  # float32 parameters and Adam's two moments
    # Three arrays of rows x positions, three of predictions, three numbers per pair.
    batch = 4 * data.batch_size * 3 * (data.sequence_length + data.masking.max_predictions + 1)
    counters = 3 * 4
    assert abs(memory["arguments"] - (state + batch)) <= counters
    assert abs(memory["aliased"] - state) <= counters
    assert memory["outputs"] - memory["aliased"] < 2000  # metrics and pointers to every output
    # The logits and their gradient are the largest arrays of an update.
    logits = 4 * data.batch_size * data.masking.max_predictions * model.padded_vocab_size
    assert memory["temporaries"] > logits
    assert memory["peak"] == (
        memory["arguments"] + memory["outputs"] + memory["temporaries"] - memory["aliased"]
    )
