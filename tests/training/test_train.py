"""The loop of updates: no hidden transfer, a trace on request, no metric of an untrained head."""

import gzip
import json

import jax
import pytest
from commands import run_command
from same_run import UNTIMED

from bert_jax.config import override, to_json
from bert_jax.errors import ConfigError
from bert_jax.pretrain import parse_steps
from bert_jax.training import build
from bert_jax.training.train import train
from bert_jax.training.writer import RunWriter


@pytest.fixture(scope="module")
def small(experiment):
    """One layer without dropout, which compiles in a fraction of the time."""
    return override(
        experiment,
        {"model.num_layers": 1, "model.dropout": 0.0, "model.attention_dropout": 0.0},
    )


def test_an_update_that_is_given_numpy_arrays_fails(small, tmp_path, monkeypatch):
    """Each step would wait for a copy that nobody sees."""
    monkeypatch.setattr(build, "place_batch", lambda batch, *, sharding: batch)
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
        train(small, tmp_path / "run")


def test_a_program_is_compiled_once(small, tmp_path, monkeypatch):
    """The first log row is written after an update and an evaluation. Then nothing is compiled."""
    compiled, counts = [], {}
    write = RunWriter.write

    def count(event, duration, **_):
        if event.endswith("backend_compile_duration"):
            compiled.append(duration)

    def written(writer, step, row):
        counts[step] = len(compiled)
        write(writer, step, row)

    monkeypatch.setattr(RunWriter, "write", written)
    every = {f"training.{name}_every": 2 for name in ("log", "eval", "checkpoint")}
    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        train(override(small, every | {"training.steps": 10}), tmp_path / "run")
    finally:
        jax.monitoring.unregister_event_duration_listener(count)
    assert list(counts) == [2, 4, 6, 8, 10]
    assert counts[2] == counts[10] > 0


# ---- --profile_steps --------------------------------------------------------------------------


def traces(workdir, suffix):
    return sorted((workdir / "tensorboard" / "plugins" / "profile").glob(f"*/*.{suffix}"))


def steps_in(file):
    """Steps of the updates in a trace.json.gz."""
    events = json.loads(gzip.open(file).read())["traceEvents"]
    named = [event for event in events if event.get("name") == "update"]
    return sorted(int(event["args"]["step_num"]) for event in named)


@pytest.mark.slow
def test_a_trace_holds_the_updates_that_were_asked_for_and_changes_no_number(small, tmp_path):
    """TensorBoard looks for plugins/profile/TIME/HOST.xplane.pb beside an events file."""
    plain = train(small, tmp_path / "plain")
    result = train(small, tmp_path / "run", profile_steps=range(4, 8))
    assert {**result, **UNTIMED} == {**plain, **UNTIMED}
    assert not traces(tmp_path / "plain", "xplane.pb")

    (file,) = traces(tmp_path / "run", "xplane.pb")
    assert list((tmp_path / "run" / "tensorboard").glob("events.*"))
    planes = jax.profiler.ProfileData.from_file(str(file)).planes
    events = [event for plane in planes for line in plane.lines for event in line.events]
    steps = [dict(event.stats)["step_num"] for event in events if event.name == "update"]
    assert sorted(map(int, steps)) == [4, 5, 6, 7]
    (file,) = traces(tmp_path / "run", "trace.json.gz")
    assert steps_in(file) == [4, 5, 6, 7]
    # The program that ran in these steps, on any thread.
    assert b"train_step" in gzip.open(file).read()


@pytest.mark.slow
def test_a_trace_may_reach_over_two_phases(two_phases, tmp_path):
    """Steps are those of the run: the second phase starts after step 8."""
    train(two_phases, tmp_path / "run", profile_steps=range(8, 10))
    (file,) = traces(tmp_path / "run", "trace.json.gz")
    assert steps_in(file) == [8, 9]


def test_profile_steps_are_first_and_last():
    assert parse_steps("10:15", after=0, last=90) == range(10, 16)
    assert parse_steps("7:7", after=6, last=7) == range(7, 8)


@pytest.mark.parametrize(
    "given", ["15", "", "a:b", "-1:4", "1:2:3", "15:10", "0:3", "6:8", "10:13", "13:14"]
)
def test_profile_steps_that_the_run_does_not_make_are_refused(given):
    with pytest.raises(ConfigError) as error:
        parse_steps(given, after=6, last=12)
    found = repr(given) if given else "missing"
    said = f"--profile_steps is {found}; accepted: FIRST:LAST, FIRST at most LAST"
    for part in (said, "(6)", "(12)"):
        assert part in str(error.value)


@pytest.mark.slow
def test_the_command_traces_from_first_to_last_and_ends_in_one_line_otherwise(small, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(to_json(small)))

    def pretrain(steps):
        arguments = ("--experiment=config.json", "--workdir=run", f"--profile_steps={steps}")
        return run_command("pretrain", *arguments, cwd=tmp_path)

    refused = pretrain("10:15")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    assert "--profile_steps is '10:15'; accepted: FIRST:LAST" in refused.stderr
    assert not (tmp_path / "run").exists()
    assert pretrain("2:3").returncode == 0
    (file,) = traces(tmp_path / "run", "trace.json.gz")
    assert steps_in(file) == [2, 3]


# ---- A head that is not trained ---------------------------------------------------------------


def test_without_the_pair_loss_no_metric_of_pairs_is_reported(small, tmp_path):
    result = train(override(small, {"objective.next_sentence": False}), tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert {"mlm_loss", "loss"} <= result.keys() and "train/mlm_loss" in rows[-1]
    assert not [name for name in (*result, *rows[-1]) if "nsp" in name]
