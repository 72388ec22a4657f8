"""The bench command reports the memory and the compiles of an update."""

import json
import subprocess
import sys
from types import SimpleNamespace

import jax
import pytest

from bert_jax import bench, config
from bert_jax.command import load


def test_peak_counts_every_kind_and_aliased_outputs_once():
    analysis = SimpleNamespace(
        argument_size_in_bytes=100,
        output_size_in_bytes=90,
        temp_size_in_bytes=1000,
        alias_size_in_bytes=80,
    )
    assert bench.update_memory(analysis) == {
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
    found = bench.update_memory(compiled.memory_analysis())
    size = 4 * 256 * 256
    assert found["arguments"] == size + 400
    # The sum, and a pointer of 8 bytes for each output.
    assert found["outputs"] == size + 4 + 16
    assert found["aliased"] == size
    assert size <= found["temporaries"] < 4 * size
    assert found["peak"] == size + 400 + 4 + 16 + found["temporaries"]


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
