"""A run of two phases has one step count and one series of checkpoints."""

import json
import shutil
import signal
import subprocess
from dataclasses import replace

import jax
import numpy as np
import pytest
from commands import start_command
from same_run import UNTIMED, arrays_of, assert_same_bits, rows_of

from bert_jax.config import config_hash, diff, from_json, override, to_json
from bert_jax.data.passport import join_passports, load_passport, passport_fingerprint
from bert_jax.data.pipeline import ReadPlan, TrainingSource
from bert_jax.data.preparation.engines import Engine
from bert_jax.data.preparation.prepare import prepare_data
from bert_jax.data.tokenizers.files import load_tokenizer
from bert_jax.data.tokenizers.wordpiece import WordPiece
from bert_jax.errors import CheckpointError, ConfigError, DataError
from bert_jax.planning.timeline import timeline
from bert_jax.runs.load import load_run
from bert_jax.training.checkpoint import next_batch
from bert_jax.training.config import PhaseConfig
from bert_jax.training.experiment import Experiment, phases
from bert_jax.training.optim import learning_rate_schedule
from bert_jax.training.phases import first_batch, held_out_batches, training_batches
from bert_jax.training.train import train

SEAM = 8


def finish(process):
    output, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    return output


def write(file, experiment):
    file.write_text(json.dumps(to_json(experiment)))
    return file


# ---- Phases of an experiment --------------------------------------------------------------------


def test_a_run_without_phases_is_one_phase(experiment):
    (phase,) = phases(experiment)
    assert phase.experiment is experiment
    assert (phase.first_step, phase.last_step, phase.data_seed) == (0, 12, experiment.seed)


def test_a_phase_changes_only_the_fields_that_it_names(two_phases, experiment):
    first, second = phases(two_phases)
    assert (first.first_step, first.last_step, second.last_step) == (0, SEAM, 12)
    changed = diff(first.experiment, second.experiment)
    assert {path: now for path, (_, now) in changed.items()} == {
        "data.directory": f"{experiment.data.directory}-48",
        "data.sequence_length": 48,
        "data.batch_size": 8,
        "data.masking.max_predictions": 8,
        "data.evaluation_masking.max_predictions": 8,
        "optimizer.learning_rate": 5e-4,
        "optimizer.warmup_steps": 1,
        "training.steps": 4,
    }
    assert first.experiment.training.steps == SEAM


def rates(experiment):
    """Returns the learning rate of every update of the run."""
    found = []
    for phase in phases(experiment):
        config = phase.experiment
        schedule = learning_rate_schedule(
            config.optimizer, steps=config.training.steps, start=phase.schedule_start
        )
        found += [float(schedule(step)) for step in range(phase.first_step, phase.last_step)]
    return found


def test_the_schedule_continues_or_each_phase_has_its_own(two_phases, experiment):
    changes = two_phases.phases[0].changes
    rows = {path: value for path, value in changes.items() if path.startswith("data.")}
    on = override(two_phases, {"phases": [{"steps": 4, "moments": "zeroed", "changes": rows}]})
    assert rates(on) == rates(experiment)
    # Phase 1: 2 warm-up steps, then 1e-3 x (1 - s / 8). Phase 2: 1 step, then 5e-4 x (1 - s / 4).
    own = [0, 5e-4, *(1e-3 * (1 - s / 8) for s in range(2, 8))]
    own += [0, *(5e-4 * (1 - s / 4) for s in range(1, 4))]
    assert rates(two_phases) == pytest.approx(own, rel=1e-6)  # float32 rounding


def test_the_position_counts_batches_within_a_phase(two_phases):
    plan = phases(two_phases)
    at = {step: tuple(next_batch(plan, step).values()) for step in (0, 7, SEAM, 9, 12)}
    assert at == {0: (1, 0), 7: (1, 7), SEAM: (2, 0), 9: (2, 1), 12: (2, 4)}
    assert next_batch(phases(override(two_phases, {"phases": []})), 12) == {
        "phase": 1,
        "next_batch": 12,
    }


ROOM = {"data.masking.max_predictions": 9, "data.evaluation_masking.max_predictions": 9}


@pytest.mark.parametrize(
    ("phase", "changes", "said"),
    [
        ({"steps": 12}, {}, ["phases have 12 steps", "training.steps 12", "at most 11"]),
        ({"steps": 0}, {}, ["phases.0.steps is 0", "1 to 2147483647"]),
        ({"moments": "gone"}, {}, ["phases.0.moments", "'gone'", "kept, recounted, zeroed"]),
        (
            {},
            {"data.sequence_length": 65} | ROOM,
            ["phase 2 of 2", "data.sequence_length is 65", "64"],
        ),
        (
            {},
            {"data.masking.max_predictions": 6},
            ["phase 2 of 2", "max_predictions is 6", "at least 7"],
        ),
        ({}, {"optimizer.warmup_steps": 4}, ["phase 2 of 2", "warmup_steps is 4"]),
        (
            {"steps": 10},
            {"optimizer.warmup_steps": 0},
            ["phase 1 of 2", "warmup_steps is 2", "training.steps 2"],
        ),
        (
            {"own_schedule": False},
            {},
            ["phase 2 of 2", "optimizer.learning_rate", "own_schedule"],
        ),
        ({}, {"data.batch_sze": 8}, ["unknown field", "batch_sze", "mean data.batch_size"]),
        ({}, {"model.hidden_size": 8}, ["model.hidden_size cannot change", "data.batch_size"]),
        ({}, {"data.tokenizer": "sentencepiece"}, ["data.tokenizer cannot change"]),
        ({}, {"seed": 1}, ["seed cannot change"]),
        (
            {},
            {"data.sequence_length": 32, "data.pairs_per_row": 3},
            ["phase 2 of 2", "data.pairs_per_row is 3", "earlier phase has 1", "another data.dir"],
        ),
        ({}, {"mesh.data": 1}, ["mesh.data cannot change"]),
        ({}, {"phases.0.steps": 1}, ["phases.0.steps cannot change"]),
        ({}, {"data.batch_size": "x"}, ["data.batch_size is 'x'", "int, 1 to 2147483647"]),
    ],
)
def test_an_invalid_phase_is_refused_by_field(phase, changes, said, two_phases):
    overrides = {f"phases.0.{name}": value for name, value in phase.items()}
    overrides |= {f"phases.0.changes.{path}": value for path, value in changes.items()}
    with pytest.raises(ConfigError) as error:
        override(two_phases, overrides)
    assert all(part in str(error.value) for part in said), error.value
    assert "\n" not in str(error.value)


def test_changes_in_a_file_are_checked_like_those_of_a_flag(two_phases):
    for wrong, said in (
        ({"data.batch_sze": 8}, "phase 2 of 2: unknown field 'data.batch_sze'; did you mean data."),
        ({"data.batch_size": 0}, "phase 2 of 2: data.batch_size is 0; accepted: 1 to 2147483647"),
    ):
        with pytest.raises(ConfigError, match=said):
            replace(two_phases, phases=(PhaseConfig(steps=4, changes=wrong),))


def test_phases_can_be_set_by_field_as_json_and_to_none(two_phases, experiment):
    changed = override(two_phases, {"phases.0.changes.data.batch_size": "4", "phases.0.steps": "3"})
    assert {path: now for path, (_, now) in diff(two_phases, changed).items()} == {
        "phases.0.changes.data.batch_size": 4,
        "phases.0.steps": 3,
    }
    whole = json.dumps(to_json(two_phases)["phases"])
    bare = override(two_phases, {"phases": "[]"})
    assert phases(bare)[0].experiment is bare and override(bare, {"phases": whole}) == two_phases
    with pytest.raises(ConfigError, match="phases.0.steps.*phases is empty; accepted: a JSON list"):
        override(bare, {"phases.0.steps": "3"})
    with pytest.raises(ConfigError, match="phases.1.steps.*phases.0.steps"):
        override(two_phases, {"phases.1.steps": "3"})


def test_equal_phases_may_write_their_changes_differently(two_phases):
    (phase,) = two_phases.phases
    nested = {"data": {"masking": {"max_predictions": 8}, "batch_size": 8.0}}
    others = {path: v for path, v in reversed(phase.changes.items()) if "batch_size" not in path}
    others.pop("data.masking.max_predictions")
    other = replace(phase, changes=others | {"data": {"masking": {"max_predictions": 8}}})
    other = replace(other, changes=other.changes | {"data.batch_size": "8"})
    again = replace(two_phases, phases=(other,))
    assert again == two_phases and config_hash(again) == config_hash(two_phases)
    with pytest.raises(ConfigError, match="batch_size is 8.0; accepted: int, 1 to 2147483647"):
        replace(two_phases, phases=(replace(phase, changes=nested),))


def test_three_phases_change_the_first_and_may_share_a_schedule(two_phases, experiment):
    (second,) = two_phases.phases
    third = PhaseConfig(steps=1, changes={"data.batch_size": 4})
    one, two, three = phases(replace(two_phases, phases=(second, third)))
    assert [(p.first_step, p.last_step) for p in (one, two, three)] == [(0, 7), (7, 11), (11, 12)]
    assert three.experiment.data == replace(experiment.data, batch_size=4)
    # The third phase continues the schedule of the second, which is for both phases.
    assert (three.schedule_start, three.experiment.training.steps) == (7, 5)
    assert two.experiment.optimizer == three.experiment.optimizer
    assert two.experiment.training == three.experiment.training
    assert one.experiment.training.steps == 7
    assert len({phase.data_seed for phase in (one, two, three)}) == 3
    expected = [0, *(5e-4 * (1 - s / 5) for s in range(1, 5))]
    three_phases = replace(two_phases, phases=(second, third))
    assert rates(three_phases)[7:] == pytest.approx(expected, rel=1e-6)  # float32


def test_the_error_names_the_phase_whose_rows_the_mesh_cannot_divide(two_phases, tmp_path):
    wrong = override(two_phases, {"mesh.data": 2, "phases.0.changes.data.batch_size": 7})
    with pytest.raises(ConfigError, match="phase 2 of 2: .*7"):
        train(wrong, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_phases_round_trip_through_json_and_change_the_hash(two_phases):
    again = from_json(Experiment, json.loads(json.dumps(to_json(two_phases))))
    assert again == two_phases and phases(again) == phases(two_phases)
    changed = override(two_phases, {"phases.0.moments": "kept"})
    assert config_hash(changed) != config_hash(two_phases)
    # A stored config without phases is a run of one phase.
    old = {name: value for name, value in to_json(two_phases).items() if name != "phases"}
    assert len(phases(from_json(Experiment, old))) == 1


# ---- Data -------------------------------------------------------------------------------------


def test_the_batches_of_a_phase_are_counted_from_its_first_step(two_phases):
    second = phases(two_phases)[1]
    data = second.experiment.data
    source = TrainingSource(ReadPlan(config=data, seed=second.data_seed, num_steps=4))
    for first_step, left in ((0, 4), (SEAM, 4), (10, 2)):
        batches = list(training_batches(second, first_step))
        assert len(batches) == left
        for one, other in zip(batches, [source[step] for step in range(4 - left, 4)], strict=True):
            jax.tree.map(np.testing.assert_array_equal, one, other)
        jax.tree.map(np.testing.assert_array_equal, first_batch(second, first_step), batches[0])
    assert batches[0].token_ids.shape == (8, 48)


def test_phases_on_the_same_data_draw_other_orders_and_masks(experiment):
    same = override(
        experiment,
        {
            "phases": [{"steps": 4}],
        },
    )
    first, second = (first_batch(phase, 0) for phase in phases(same))
    assert first.token_ids.shape == second.token_ids.shape
    # 16 of about 460 rows are drawn, so almost no row is expected at the same place.
    assert (first.token_ids != second.token_ids).any(axis=1).sum() > 12


def test_pairs_are_not_evaluated_with_an_untrained_head(experiment):
    (trained,) = phases(experiment)
    (alone,) = phases(override(experiment, {"objective.next_sentence": False}))
    for scored, unscored in zip(held_out_batches(trained), held_out_batches(alone), strict=True):
        assert scored.pair_weights.any() and not unscored.pair_weights.any()
        np.testing.assert_array_equal(scored.token_ids, unscored.token_ids)


def test_phases_of_two_vocabularies_are_refused_in_one_line(two_phases, tmp_path):
    second = override(two_phases, {"phases.0.changes.data.directory": str(tmp_path / "other")})
    data = phases(second)[1].experiment.data
    tokenizer = load_tokenizer(two_phases.data.directory)
    swapped = WordPiece(
        pieces=(*tokenizer.pieces[:-2], *tokenizer.pieces[:-3:-1]),
        lower_case=True,
        max_word_length=data.max_word_length,
    )
    prepare_data(data, tokenizer=swapped, engine=Engine())
    with pytest.raises(DataError, match="another vocabulary .*one for all phases") as error:
        train(second, tmp_path / "run")
    assert str(tmp_path / "other") in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_prepare_writes_data_of_both_phases_with_one_vocabulary(two_phases, tmp_path):
    experiment = override(two_phases, {"data.directory": str(tmp_path / "data")})
    file = write(tmp_path / "config.json", experiment)
    shutil.copytree(two_phases.data.directory, tmp_path / "data")
    process = start_command("pretrain", f"--experiment={file}", f"--workdir={tmp_path}/run")
    errors = process.communicate(timeout=200)[1]
    assert process.returncode == 2 and errors.count("\n") == 1
    assert f"{tmp_path}/data-48 holds no prepared data" in errors
    assert not (tmp_path / "run").exists()

    printed = finish(start_command("prepare", f"--experiment={file}", "--workers=1"))
    lines = [line for line in printed.splitlines() if ": look: " not in line]
    assert [line.split(":")[0] for line in lines] == [
        *[f"{tmp_path}/data"] * 3,  # the first says that nothing is left to do
        *[f"{tmp_path}/data-48"] * 2,
    ]
    made = load_passport(tmp_path / "data-48")
    assert made["preparation"]["sequence_length"] == 48
    # Bitwise the same as with these settings in another process.
    assert made == load_passport(f"{two_phases.data.directory}-48")


# ---- The run ----------------------------------------------------------------------------------


def test_rows_name_their_phase_and_none_spans_two(two_phase_run, two_phases):
    workdir, result = two_phase_run
    rows = rows_of(workdir)
    assert [(row["step"], row["phase"]) for row in rows] == [
        *[(3, 1), (5, 1), (6, 1), (8, 1)],
        *[(9, 2), (10, 2), (12, 2)],
    ]
    assert [row["step"] for row in rows if "eval/loss" in row] == [5, 8, 10, 12]
    expected = rates(two_phases)
    for row, since in zip(rows, (0, 3, 5, 6, 8, 9, 10), strict=True):
        mean = sum(expected[since : row["step"]]) / (row["step"] - since)
        assert row["train/learning_rate"] == pytest.approx(mean, rel=1e-6)  # float32
    assert (result["steps"], result["mlm_loss"]) == (12, rows[-1]["eval/mlm_loss"])


def test_the_passport_of_a_run_describes_the_data_of_both_phases(two_phase_run, two_phases):
    first, second = (load_passport(two_phases.data.directory + end) for end in ("", "-48"))
    assert load_run(two_phase_run[0]).passport == {**first, "second_phase": second}
    joined = join_passports([first, second])
    fingerprint = passport_fingerprint(joined)
    for changes in ({"masking": {}}, {"second_phase": {**second, "masking": {}}}):
        assert passport_fingerprint({**joined, **changes}) == fingerprint
    assert passport_fingerprint({**joined, "second_phase": {**second, "pairs": 0}}) != fingerprint


def test_checkpoint_positions_name_the_phase(two_phase_run):
    positions = {
        step: json.loads(
            (two_phase_run[0] / "checkpoints" / str(step) / "position" / "metadata").read_text()
        )
        for step in (5, 8, 10, 12)
    }
    assert {step: (p["phase"], p["next_batch"]) for step, p in positions.items()} == {
        5: (1, 5),
        8: (2, 0),
        10: (2, 2),
        12: (2, 4),
    }


@pytest.fixture
def stopped_at(two_phase_run, tmp_path):
    """`stopped_at(step)` returns a copy of the run as it is after a kill behind that checkpoint."""

    def stop(step):
        workdir = tmp_path / "run"
        shutil.copytree(two_phase_run[0], workdir)
        for directory in (workdir / "checkpoints").iterdir():
            if directory.name.isdigit() and int(directory.name) > step:
                shutil.rmtree(directory)
        (workdir / "result.json").unlink()
        return workdir

    return stop


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(5, id="before", marks=pytest.mark.slow),
        pytest.param(SEAM, id="seam"),
        pytest.param(10, id="after", marks=pytest.mark.slow),
        pytest.param(12, id="end"),
    ],
)
def test_a_resumed_run_is_bitwise_equal(step, stopped_at, two_phase_run, two_phases):
    workdir = stopped_at(step)
    result = train(two_phases, workdir)
    assert {**result, **UNTIMED} == {**two_phase_run[1], **UNTIMED}
    assert rows_of(workdir) == rows_of(two_phase_run[0])
    assert_same_bits(arrays_of(workdir, 12), arrays_of(two_phase_run[0], 12))


@pytest.mark.long
def test_losses_are_the_same_on_another_mesh(stopped_at, two_phase_run, two_phases):
    workdir = stopped_at(5)
    train(override(two_phases, {"mesh.data": 2, "mesh.fsdp": 2}), workdir)
    for row, other in zip(rows_of(two_phase_run[0]), rows_of(workdir), strict=True):
        for name in ("train/mlm_loss", "eval/mlm_loss"):
            if name in row:
                # docs/scaling.md states 1e-5; another mask or dropout moves a loss by over 1e-2.
                assert other[name] == pytest.approx(row[name], rel=1e-5), (row["step"], name)


@pytest.mark.slow
def test_a_command_killed_between_the_phases_resumes_bitwise(two_phase_command, tmp_path):
    (file, alone), workdir = two_phase_command, tmp_path / "run"
    arguments = (f"--experiment={file}", f"--workdir={workdir}")
    process = start_command("pretrain", *arguments)
    while not (workdir / "checkpoints" / str(SEAM)).exists():
        try:
            process.wait(timeout=0.002)
        except subprocess.TimeoutExpired:
            continue
        pytest.fail(f"ended before it was killed: {process.communicate()}")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (workdir / "result.json").exists()
    finish(start_command("pretrain", *arguments))
    assert rows_of(workdir) == rows_of(alone)
    assert_same_bits(arrays_of(workdir, 12), arrays_of(alone, 12))


def test_moments_of_a_phase_cannot_change_during_the_run(stopped_at, two_phases):
    with pytest.raises(CheckpointError, match="phases.0.moments='zeroed', not 'kept'"):
        train(override(two_phases, {"phases.0.moments": "kept"}), stopped_at(5))


def test_changed_data_of_the_second_phase_are_refused(stopped_at, two_phases, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(f"{two_phases.data.directory}-48", other)
    workdir = stopped_at(5)
    moved = override(two_phases, {"phases.0.changes.data.directory": str(other)})
    step = workdir / "checkpoints" / "5"
    (step / "digests.json").write_text('{"format_version": 1, "sha256": {}}')
    for file in (workdir / "config.json", step / "config" / "metadata"):
        file.write_text(json.dumps(to_json(moved)))
    passport = json.loads((other / "passport.json").read_text())
    passport["splits"]["train"]["bytes_read"] += 1
    (other / "passport.json").write_text(json.dumps(passport))
    with pytest.raises(CheckpointError, match="data have changed since checkpoint 5"):
        train(moved, workdir)


def test_training_refuses_an_exchanged_shard(two_phases, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(f"{two_phases.data.directory}-48", other)
    first, second, *_ = sorted(other.glob("train-*.array_record"))
    second.write_bytes(first.read_bytes())
    moved = override(two_phases, {"phases.0.changes.data.directory": str(other)})
    with pytest.raises(DataError, match=f"{second.name} has SHA-256 .*passport.json names"):
        train(moved, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ---- The timeline -----------------------------------------------------------------------------


def test_a_dry_run_prints_the_timeline_and_does_nothing_else(two_phases, tmp_path):
    file = write(tmp_path / "config.json", two_phases)
    workdir = tmp_path / "run"
    printed = finish(
        start_command("pretrain", f"--experiment={file}", f"--workdir={workdir}", "--dry_run")
    )
    assert printed.rstrip("\n") == timeline(two_phases)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_the_timeline_adds_up(two_phases):
    lines = [line.split("  ") for line in timeline(two_phases).splitlines()]
    table = {line[0]: [cell.strip() for cell in line[1:] if cell.strip()] for line in lines}
    assert table["updates"] == ["1 to 8", "9 to 12"]
    assert table["tokens, at most"] == [f"{8 * 16 * 32:,}", f"{4 * 8 * 48:,}"]
    assert table["rows of a batch"] == ["16", "8"]
    found = [
        float(table[name][1]) for name in ("learning rate, first update", "learning rate, highest")
    ]
    assert found == pytest.approx([0, 3.75e-4], rel=1e-3)  # four digits are printed
    assert table["Adam's moments, at the start"] == ["0", "zeroed"]
    flops = [float(cell) for cell in table["FLOPs, at most"]]
    shares = [float(cell.rstrip("%")) / 100 for cell in table["share of all FLOPs"]]
    assert shares == pytest.approx([cost / sum(flops) for cost in flops], abs=5e-4)
