"""`evaluate` gives the numbers of training on the same data, and evaluates on other data."""

import dataclasses
import json

import jax
import pytest
from commands import run_command

from bert_jax.config import override
from bert_jax.data.preparation.engines import Engine
from bert_jax.data.preparation.prepare import prepare_data
from bert_jax.data.tokenizers.wordpiece import WordPiece
from bert_jax.errors import ConfigError, DataError
from bert_jax.runs.evaluation import as_evaluated, evaluate_run, frozen_masking
from bert_jax.runs.load import load_run
from bert_jax.training.experiment import phases

NUMBERS = ("mlm_loss", "mlm_accuracy", "nsp_loss", "nsp_accuracy", "loss", "perplexity")
BASELINES = ("unigram_loss", "majority_token_accuracy", "nsp_majority_accuracy")


@pytest.fixture(scope="module")
def run(two_phase_run):
    return load_run(two_phase_run[0])


def evaluate(*arguments):
    return run_command("evaluate", *arguments)


def prepared(run, directory, tokenizer=None, **changes):
    """Prepares data like those of the run's first phase, with `changes`."""
    masking = dataclasses.replace(run.config.data.masking, max_predictions=13)
    data = dataclasses.replace(
        run.config.data,
        directory=str(directory),
        masking=masking,
        evaluation_masking=masking,
        **changes,
    )
    prepare_data(data, tokenizer=tokenizer or run.tokenizer, engine=Engine())
    return str(directory)


@pytest.mark.slow
def test_the_command_gives_bitwise_the_result_of_training(two_phase_command, two_phases):
    workdir = two_phase_command[1]
    result = json.loads((workdir / "result.json").read_text())
    directory = phases(two_phases)[1].experiment.data.directory
    printed = evaluate(f"--run={workdir}", f"--data={directory}", "--json")
    assert printed.returncode == 0, printed.stderr
    found = json.loads(printed.stdout)
    wanted = {name: result[name] for name in (*NUMBERS, *BASELINES)}
    assert {name: found[name] for name in wanted} == wanted


def test_the_command_prints_json_and_a_table(two_phase_run, two_phases):
    workdir, result = two_phase_run
    directory = phases(two_phases)[1].experiment.data.directory
    arguments = (f"--run={workdir}", f"--data={directory}")
    printed = evaluate(*arguments, "--json")
    assert printed.returncode == 0, printed.stderr
    found = json.loads(printed.stdout)
    for name in (*NUMBERS, *BASELINES):
        # The command has other XLA flags, so it sums float32 in another order than this process.
        assert found[name] == pytest.approx(result[name], rel=1e-5), name
    assert (found["step"], found["sequence_length"], found["data"]) == (12, 48, directory)

    table = evaluate(*arguments)
    lines = dict(line.split(maxsplit=1) for line in table.stdout.splitlines())
    assert lines.keys() == found.keys() - {"format_version"}
    assert float(lines["mlm_loss"]) == pytest.approx(found["mlm_loss"], abs=5e-5)  # four digits


def test_a_step_of_the_first_phase_is_bitwise_its_row_in_metrics(two_phase_run, two_phases):
    rows = [json.loads(line) for line in (two_phase_run[0] / "metrics.jsonl").open()]
    row = next(row for row in rows if row["step"] == 8)
    found = evaluate_run(load_run(two_phase_run[0], 8), two_phases.data.directory)
    assert {name: found[name] for name in NUMBERS} == {
        name: row[f"eval/{name}"] for name in NUMBERS
    }


def test_another_number_of_devices_gives_the_same_numbers(run, two_phases):
    """A run of 16 devices is evaluated on 8 devices."""
    many = dataclasses.replace(run, config=override(run.config, {"mesh.data": 16}))
    found = evaluate_run(many, two_phases.data.directory)
    alone = evaluate_run(run, two_phases.data.directory)
    assert (found["mesh"]["data"], alone["mesh"]["data"]) == (8, 1) == (jax.device_count(), 1)
    for name in NUMBERS:
        # Float32 sums in another order: the measured difference between meshes is 2e-6.
        assert found[name] == pytest.approx(alone[name], rel=1e-5), name


def test_a_run_with_a_kernel_of_other_devices_is_evaluated(run, two_phases):
    """cuDNN's kernel needs a GPU and bfloat16; einsum gives the same up to bfloat16's 8 bits."""
    changes = {"model.attention": "cudnn", "model.dtype": "bfloat16", "model.attention_dropout": 0}
    of_gpu = dataclasses.replace(run, config=override(run.config, changes))
    found = evaluate_run(of_gpu, two_phases.data.directory)
    alone = evaluate_run(run, two_phases.data.directory)
    assert found["mlm_loss"] == pytest.approx(alone["mlm_loss"], rel=2**-8)


def test_rows_may_have_a_length_of_no_phase(run, tmp_path):
    directory = prepared(run, tmp_path / "data", sequence_length=64)
    found = evaluate_run(run, directory)
    assert found["sequence_length"] == 64 and 0 < found["mlm_loss"] < 10
    passport = json.loads((tmp_path / "data" / "passport.json").read_text())
    changed = as_evaluated(run.config, passport, directory)
    assert changed.data.evaluation_masking.max_predictions == 12  # training has 6 for 32 tokens
    assert changed.objective.next_sentence
    passport["preparation"]["pairs"] = "sentence_order"
    assert not as_evaluated(run.config, passport, directory).objective.next_sentence


@pytest.mark.parametrize(("length", "room"), [(32, 6), (64, 12), (33, 7), (16, 3), (5, 1)], ids=str)
def test_max_predictions_grows_with_the_row_length(length, room, run):
    masking = run.config.data.evaluation_masking
    assert frozen_masking(run.config.data, length) == dataclasses.replace(
        masking, max_predictions=room
    )
    tight = override(run.config, {"data.evaluation_masking.max_predictions": 4}).data
    assert frozen_masking(tight, 32).max_predictions == 4
    # int(0.15 * 60). Scaling 4 of 32 to 60 tokens would give less than the rate of 0.15.
    assert frozen_masking(tight, 60).max_predictions == 9


def test_data_of_another_vocabulary_are_refused(run, tmp_path):
    pieces = run.tokenizer.pieces
    other = WordPiece(
        pieces=(*pieces[:-2], pieces[-1], pieces[-2]),
        lower_case=True,
        max_word_length=run.config.data.max_word_length,
    )
    directory = prepared(run, tmp_path / "data", tokenizer=other)
    with pytest.raises(DataError, match="another vocabulary") as error:
        evaluate_run(run, directory)
    for part in (directory, str(run.path), run.tokenizer.fingerprint()[:12]):
        assert part in str(error.value)


def test_rows_longer_than_the_positions_are_refused(run, tmp_path):
    directory = prepared(run, tmp_path / "data", sequence_length=65)
    with pytest.raises(ConfigError, match="data.sequence_length is 65; .*model.max_positions 64"):
        evaluate_run(run, directory)
