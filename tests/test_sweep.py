"""A sweep finishes each run once in spite of interruptions; a failed run stops no other run."""

import csv
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
from commands import assert_one_line, run_command

from bert_jax import command
from bert_jax.config import config_hash, override, to_json
from bert_jax.data.config import MaskingConfig
from bert_jax.errors import ConfigError, UnknownCodeError
from bert_jax.faults.run_files import RunResult
from bert_jax.sweep import runs_of_earlier_formats
from bert_jax.sweeps import processes, slurm
from bert_jax.sweeps.budget import Budget, load_budget, spend
from bert_jax.sweeps.grid import PlannedRun, describe, expand, keep_ids, load_sweeps, points_of
from bert_jax.sweeps.runs import pretrain_arguments, status
from bert_jax.sweeps.trunks import share_trunks, without_branch
from bert_jax.training.experiment import phases

FILE = """
from bert_jax.config import from_json
from bert_jax.training.experiment import Experiment
import json

def get_config():
    return from_json(Experiment, json.loads({base!r}))

def sweep_rate():
    for rate in {rates}:
        yield {{"optimizer.learning_rate": rate}}

def sweep_seed():
    for seed in {seeds}:
        yield {{"seed": seed}}
"""


def write_file(path, experiment, *, rates, seeds):
    base = json.dumps(to_json(experiment))
    path.write_text(FILE.format(base=base, rates=rates, seeds=seeds))
    return path


def start(file, workdir, arguments=(), **options):
    command = ["-m", "bert_jax.sweep", f"--experiment={file}", f"--workdir={workdir}", *arguments]
    return subprocess.Popen([sys.executable, *command], text=True, **options)


def test_the_probe_of_a_sweep_is_named_to_its_runs(experiment, tmp_path):
    """A run reads config.json, from which pretrain takes no probe without a flag."""
    probed = override(experiment, {"evaluation.probe": "mine.py"})
    for point, more in ((experiment, []), (probed, ["--set=evaluation.probe=mine.py"])):
        expected = ["-m", "bert_jax.pretrain", f"--experiment={tmp_path}/config.json"]
        expected += [f"--workdir={tmp_path}", *more]
        assert pretrain_arguments(PlannedRun("id", {}, point), tmp_path) == expected


def summary(workdir):
    return list(csv.DictReader((workdir / "summary.csv").open()))


def test_sweeps_are_multiplied_and_equal_runs_are_merged(experiment):
    points = expand(
        experiment,
        [
            [{"optimizer.learning_rate": 1e-3}, {"optimizer.learning_rate": 2e-3}],
            [{"seed": 0}, {"seed": 1}, {"seed": "1"}],
        ],
    )
    assert [(p.experiment.optimizer.learning_rate, p.experiment.seed) for p in points] == [
        (1e-3, 0),
        (1e-3, 1),
        (2e-3, 0),
        (2e-3, 1),
    ]
    assert len({point.id for point in points}) == 4


def test_a_value_may_be_a_whole_sub_config(experiment):
    model = override(experiment.model, {"num_layers": 1})
    (point,) = expand(experiment, [[{"model": model}]])
    assert point.experiment.model.num_layers == 1


def test_functions_named_zip_are_combined_entry_by_entry(experiment, tmp_path):
    file = write_file(tmp_path / "zip.py", experiment, rates=[1e-3, 2e-3], seeds=[0, 1])
    text = file.read_text().replace("def sweep_rate", "def sweep_zip_rate")
    zipped = "\n\ndef sweep_zip_steps():\n    return [{'training.steps': n} for n in (11, 12)]\n"
    file.write_text(text + zipped)
    runs = expand(experiment, load_sweeps(str(file)))
    fields = [(r.experiment.optimizer.learning_rate, r.experiment.training.steps) for r in runs]
    assert fields == [(1e-3, 11), (1e-3, 11), (2e-3, 12), (2e-3, 12)]
    assert [run.experiment.seed for run in runs] == [0, 1, 0, 1]
    file.write_text(text + zipped.replace("11, 12", "11,"))
    said = "sweep_zip_rate 2, sweep_zip_steps 1; accepted: equally many"
    with pytest.raises(ConfigError, match=said):
        load_sweeps(str(file))


@pytest.mark.parametrize("kind", ["", "zip_"])
def test_two_functions_that_set_the_same_field_are_refused(experiment, tmp_path, kind):
    """The second would silently replace the values of the first."""
    file = write_file(tmp_path / "twice.py", experiment, rates=[1e-3], seeds=[0])
    more = f"\n\ndef sweep_{kind}more():\n    return [{{'optimizer.learning_rate': 2e-3}}]\n"
    file.write_text(file.read_text().replace("sweep_rate", f"sweep_{kind}rate") + more)
    names = f"sweep_{kind}more and sweep_{kind}rate"
    with pytest.raises(ConfigError, match=f"{names} set optimizer.learning_rate; accepted: one"):
        load_sweeps(str(file))


def test_runs_that_differ_only_in_their_seed_are_a_point(experiment):
    """A field that is set but is the same in all points is left out."""
    values = [{"model.num_layers": n, "training.steps": 12} for n in (2, 1)]
    first, second = points_of(expand(experiment, [[{"seed": 5}, {"seed": 3}], values]))
    assert (first.fields, first.changes) == ({"model.num_layers": 2}, {})
    assert second.fields == second.changes == {"model.num_layers": 1}
    assert [run.experiment.seed for run in second.runs] == [5, 3]


def test_an_invalid_point_is_refused_before_any_run(experiment):
    with pytest.raises(ConfigError, match="learning_rat'"):
        expand(experiment, [[{"seed": 1}, {"optimizer.learning_rat": 1e-3}]])


def test_the_line_of_a_run_has_the_changed_fields_of_a_whole_config():
    masking = MaskingConfig(rate=0.3, max_predictions=40)
    overrides = {"data.masking": masking, "seed": 1}
    assert describe(overrides) == "data.masking=MaskingConfig(rate=0.3, max_predictions=40), seed=1"
    assert describe({}) == "with no change"


RESULT = dict.fromkeys(RunResult.__annotations__, 5.5) | {"steps": 12}


# A stand-in for `python -m bert_jax.pretrain`. It records its start and then finishes, fails or is
# killed together with the sweep.
STUB = """#!/usr/bin/env bash
workdir=${4#--workdir=}
echo start >> "$workdir/starts"
if grep -q '"learning_rate": 1e+30' "$workdir/config.json"; then
  echo "error: optimizer.learning_rate 1e+30" >&2
  exit 2
elif grep -q '"seed": 1' "$workdir/config.json" && [ "$(wc -l < "$workdir/starts")" -eq 1 ]; then
  kill -KILL $PPID
  exit 1
fi
echo '@RESULT@' > "$workdir/result.json"
""".replace("@RESULT@", json.dumps(RESULT))
WITH_STUB = """
import runpy, sys
sys.executable = sys.argv.pop(1)
runpy.run_module("bert_jax.sweep", run_name="__main__")
"""


def test_a_restarted_sweep_repeats_only_unfinished_runs(experiment, tmp_path):
    """The second run kills the sweep once. Two runs always fail and do not stop other runs."""
    file = write_file(tmp_path / "four.py", experiment, rates=[1e-3, 1e30], seeds=[0, 1])
    stub, workdir = tmp_path / "stub", tmp_path / "sweep"
    stub.write_text(STUB)
    stub.chmod(0o755)
    command = [sys.executable, "-c", WITH_STUB, stub]
    command += [f"--experiment={file}", f"--workdir={workdir}"]
    killed, second, third = (
        subprocess.run(command, capture_output=True, text=True, check=False) for _ in range(3)
    )
    assert killed.returncode == -signal.SIGKILL
    assert second.returncode == third.returncode == 2, second.stderr
    assert second.stderr.splitlines()[-1].startswith("error: 2 of 4 runs failed")
    rows = summary(workdir)
    starts = [(workdir / row["id"] / "starts").read_text().count("start") for row in rows]
    assert starts == [1, 2, 2, 2]
    assert [row["status"] for row in rows] == ["done", "done", "failed", "failed"]
    assert [row["mlm_loss"] for row in rows] == ["5.5", "5.5", "", ""]
    for row in rows[2:]:
        error = (workdir / row["id"] / "error.txt").read_text()
        assert "learning_rate 1e+30\nthe process ended with status 2\n" in error
    write_file(file, experiment, rates=[1e-3, 1e30], seeds=[0])
    fewer = subprocess.run([*command, "--dry_run"], capture_output=True, text=True, check=False)
    assert fewer.stderr == f"{workdir} has 2 runs that are not of this sweep\n"


# A stand-in for pretrain, which waits until another run has begun.
PAIR = """#!/usr/bin/env bash
workdir=${4#--workdir=}
grep Cpus_allowed_list /proc/self/status > "$workdir/cpus"
until [ "$(ls "$workdir"/../*/cpus | wc -l)" -ge 2 ]; do sleep 0.05; done
echo "says something" >&2
echo '@RESULT@' > "$workdir/result.json"
""".replace("@RESULT@", json.dumps(RESULT))


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_parallel_runs_have_their_own_cores(experiment, tmp_path):
    """The first run ends only if the second begins beside it. The sweep itself uses no GPU."""
    phased = override(experiment, {"phases": [{"steps": 4}]})  # rates are compared for trunks
    file = write_file(tmp_path / "three.py", phased, rates=[1e-3], seeds=[0, 1, 2])
    stub, workdir = tmp_path / "stub", tmp_path / "sweep"
    stub.write_text(PAIR)
    stub.chmod(0o755)
    command = [sys.executable, "-c", WITH_STUB, stub, "--parallel=2"]
    command += [f"--experiment={file}", f"--workdir={workdir}"]
    gpu = os.environ | {"JAX_PLATFORMS": "cuda"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=gpu)
    assert done.returncode == 0, done.stderr
    ids = [row["id"] for row in summary(workdir)]
    assert len(ids) == 3
    first, second, third = ((workdir / id / "cpus").read_text().split()[1] for id in ids)
    assert first != second and third in (first, second)
    assert sorted(done.stderr.splitlines()) == sorted(f"{id} says something" for id in ids)


def test_runs_do_not_share_a_chip_or_a_core(tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS")
    assert processes.accelerators(tmp_path) == ("", [])
    for name in ("nvidia0", "nvidia1", "nvidia2", "nvidia3", "nvidiactl"):
        (tmp_path / name).touch()
    found = processes.accelerators(tmp_path)
    assert found == ("CUDA_VISIBLE_DEVICES", ["0", "1", "2", "3"])
    monkeypatch.setattr(processes, "accelerators", lambda: found)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    first, second = processes.shares(2)
    assert first == ({0, 1, 2, 3}, {"CUDA_VISIBLE_DEVICES": "0,1"})
    assert second == ({4, 5, 6, 7}, {"CUDA_VISIBLE_DEVICES": "2,3"})
    with pytest.raises(ConfigError, match="--parallel is 5; accepted: at most 4.* share a chip"):
        processes.shares(5)
    monkeypatch.setattr(processes, "accelerators", lambda: ("TPU_VISIBLE_CHIPS", list("01")))
    bounds = {"TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1", "TPU_PROCESS_BOUNDS": "1,1,1"}
    assert [share.environment for share in processes.shares(2)] == [
        {"TPU_VISIBLE_CHIPS": chip} | bounds for chip in "01"
    ]
    monkeypatch.setattr(processes, "accelerators", lambda: ("", []))
    with pytest.raises(ConfigError, match="--parallel is 9; accepted: at most 8.* share a core"):
        processes.shares(9)
    monkeypatch.undo()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.delenv("JAX_PLATFORMS")
    assert processes.accelerators(tmp_path) == ("CUDA_VISIBLE_DEVICES", ["3"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")  # hides all
    assert processes.accelerators(tmp_path) == ("CUDA_VISIBLE_DEVICES", [])
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert processes.accelerators(tmp_path) == ("", [])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--launcher=slurm", "--parallel=0"], "parallel=0"),
        (["--sbatch=--gpus=1"], "--sbatch is ['--gpus=1']; accepted: none without --launcher"),
    ],
)
def test_a_flag_without_effect_is_refused(arguments, said):
    assert_one_line(run_command("sweep", "--dry_run", *arguments), said)


def spent(experiment, budget, values, step_seconds=None):
    return [
        run.experiment.training.steps
        for run in spend(expand(experiment, [values]), Budget(*budget), step_seconds)
    ]


def test_a_budget_gives_each_point_its_steps(experiment, tmp_path):
    batch, narrow = {"data.batch_size": 32}, {"model.intermediate_size": 32}
    assert experiment.data.batch_size * experiment.data.sequence_length == 16 * 32
    assert spent(experiment, ("steps", 100), [{}, batch]) == [100, 100]
    assert spent(experiment, ("tokens", 512 * 100), [{}, batch]) == [100, 50]
    (point,) = points_of(expand(experiment, [[{}]]))
    flops = point.flops / experiment.training.steps * 100
    whole, half, more = spent(experiment, ("flops", flops), [{}, batch, narrow])
    assert (whole, half) == (100, 50) and more > 100
    runs = spend(expand(experiment, [[{}, batch, narrow]]), Budget("flops", 1e11), None)
    costs = [point.flops for point in points_of(runs)]
    assert max(costs) / min(costs) < 1.01
    assert [run.id for run in runs] == [config_hash(run.experiment) for run in runs]
    seconds = lambda phase: phase.data.batch_size / 1600  # noqa: E731
    assert spent(experiment, ("seconds", 10), [{}, batch], seconds) == [1000, 500]
    with pytest.raises(ConfigError, match="budget.. in tokens is 100"):
        spent(experiment, ("tokens", 100), [{}])
    with pytest.raises(ConfigError, match="optimizer.warmup_steps"):
        spent(experiment, ("steps", 1), [{}])
    with pytest.raises(ConfigError, match="a run is 'training.steps=11'; accepted: runs that diff"):
        spent(experiment, ("steps", 100), [{"training.steps": 11}, {"training.steps": 12}])


def test_a_budget_keeps_the_shares_of_the_phases(two_phases):
    """The run has 8 updates with 16 rows of 32 tokens, and 4 with 8 rows of 48 tokens."""
    narrow = {"model.intermediate_size": 32}
    tokens = 8 * 16 * 32 + 4 * 8 * 48
    seconds = {32: 0.3, 48: 0.6}
    for unit, amount in (("steps", 120), ("tokens", 10 * tokens), ("seconds", 10 * 4.8)):
        budget = Budget(unit, amount)
        (run,) = spend(
            expand(two_phases, [[{}]]), budget, lambda phase: seconds[phase.data.sequence_length]
        )
        assert [phase.steps for phase in phases(run.experiment)] == [80, 40]
    runs = spend(expand(two_phases, [[{}, narrow]]), Budget("flops", 1e11), None)
    costs = [point.flops for point in points_of(runs)]
    # Two phases of some hundred steps are each rounded by half a step at most.
    assert costs == pytest.approx([1e11, 1e11], rel=0.005)
    for run in runs:
        first, second = phases(run.experiment)
        assert first.steps == pytest.approx(2 * second.steps, abs=2)
    with pytest.raises(ConfigError, match="phases have|phases.*steps is 0"):
        spend(expand(two_phases, [[{"optimizer.warmup_steps": 0}]]), Budget("steps", 1), None)


@pytest.mark.parametrize("wrong", ["{'hours': 1}", "{'flops': 0}", "{'flops': 1, 'steps': 2}", "3"])
def test_a_wrong_budget_is_refused(experiment, tmp_path, wrong):
    file = write_file(tmp_path / "one.py", experiment, rates=[1e-3], seeds=[0])
    assert load_budget(str(file)) is None
    file.write_text(file.read_text() + "\ndef budget():\n    return {'flops': 3}\n")
    assert load_budget(str(file)) == ("flops", 3.0)
    file.write_text(file.read_text().replace("{'flops': 3}", wrong))
    with pytest.raises(ConfigError, match="budget.. returns .* accepted: a function"):
        load_budget(str(file))


OWN_CLASS = """
from dataclasses import dataclass
from bert_jax.config import override
from bert_jax.models.config import BertConfig

@dataclass(frozen=True, kw_only=True)
class OwnConfig(BertConfig):
    pass

base = get_config()

def get_config():
    return override(base, {"model": OwnConfig(**vars(base.model))})

def budget():
    return {"seconds": 0.2}
"""


@pytest.mark.long
def test_a_budget_in_seconds_is_measured_once(experiment, tmp_path):
    """A second start reads the time, so it finds the finished run. The model has an own class."""
    file = write_file(tmp_path / "one.py", experiment, rates=[1e-3], seeds=[0, 1])
    file.write_text(file.read_text() + OWN_CLASS)
    workdir = tmp_path / "sweep"
    for measured in (True, False):
        sweep = start(file, workdir, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        errors = sweep.communicate(timeout=300)[1]
        assert sweep.returncode == 0, errors
        assert errors.count("measuring the time of an update") == measured
    (seconds,) = json.loads((workdir / "step_seconds.json").read_text()).values()
    rows = summary(workdir)
    assert [int(row["steps"]) for row in rows] == [round(0.2 / seconds)] * 2
    assert {row["status"] for row in rows} == {"done"} and len(list(workdir.glob("*/"))) == 2


@pytest.mark.slow
def test_a_killed_sweep_of_parallel_runs_finishes_each_run_exactly_once(experiment, tmp_path):
    """The process group is killed after the first run. The next start does not repeat this run.

    It gets a signal and passes it on. The third start makes what is left.
    """
    file = write_file(tmp_path / "six.py", experiment, rates=[1e-3, 2e-3], seeds=[0, 1, 2])
    workdir = tmp_path / "sweep"
    parallel = ["--parallel=2"]
    sweep = start(file, workdir, parallel, start_new_session=True, stderr=subprocess.DEVNULL)
    wait_for_results(sweep, workdir, 1)
    os.killpg(sweep.pid, signal.SIGKILL)
    sweep.wait()
    first = {file: file.stat().st_mtime_ns for file in workdir.glob("*/result.json")}
    assert 1 <= len(first) < 6

    interrupted = start(file, workdir, parallel, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    wait_for_results(interrupted, workdir, len(first) + 1)
    interrupted.send_signal(signal.SIGTERM)
    errors = interrupted.communicate(timeout=120)[1]
    assert interrupted.returncode == 75, errors
    assert errors.splitlines()[-1].endswith("; the same command goes on from what was saved")
    assert not list(workdir.glob("*/error.txt"))

    again = start(file, workdir, parallel, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    errors = again.communicate(timeout=300)[1]
    assert again.returncode == 0, errors
    rows = summary(workdir)
    assert [row["status"] for row in rows] == ["done"] * 6
    assert [row["seed"] for row in rows] == ["0", "1", "2"] * 2
    for file, changed in first.items():
        assert file.stat().st_mtime_ns == changed
    for row in rows:
        run = workdir / row["id"]
        steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").open()]
        assert all(before < after for before, after in pairwise(steps))
        assert steps[-1] == experiment.training.steps
        assert float(row["mlm_loss"]) == json.loads((run / "result.json").read_text())["mlm_loss"]
    assert "| 0 | 0.001 | 3 | " in (workdir / "table.md").read_text()
    report = ["-m", "bert_jax.report", str(workdir), f"--output={tmp_path}/report.html"]
    subprocess.run([sys.executable, *report], check=True, capture_output=True)
    assert "optimizer.learning_rate=0.002" in (tmp_path / "report.html").read_text()


def wait_for_results(sweep, workdir, count):
    deadline = time.monotonic() + 200
    while len(list(workdir.glob("*/result.json"))) < count:
        assert sweep.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_a_failed_run_does_not_stop_the_others(experiment, tmp_path):
    file = write_file(tmp_path / "two.py", experiment, rates=[1e30, 1e-3], seeds=[0])
    workdir = tmp_path / "sweep"
    sweep = start(file, workdir, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    errors = sweep.communicate(timeout=300)[1]
    assert sweep.returncode == 2
    assert errors.splitlines()[-1].startswith("error: 1 of 2 runs failed")
    failed, done = summary(workdir)
    assert (failed["status"], done["status"]) == ("failed", "done")
    assert "learning_rate" in (workdir / failed["id"] / "error.txt").read_text()


@pytest.mark.parametrize("status", [0, 2])
def test_the_job_of_a_failed_run_keeps_its_last_lines(status, tmp_path):
    (tmp_path / "tee").write_text('#!/bin/sh\nsleep 0.3\nexec /usr/bin/tee "$@"')
    (tmp_path / "tee").chmod(0o755)
    (tmp_path / "slurm-ids.txt").write_text("other\nmine\n")
    (tmp_path / "mine").mkdir()
    commands = f"echo result && bash -c 'echo reason >&2; exit {status}' && echo more"
    (tmp_path / "mine" / "slurm-commands.sh").write_text(commands)
    variables = {"SLURM_ARRAY_TASK_ID": "1", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    script = slurm.SCRIPT.format(workdir=tmp_path)
    job = subprocess.run(
        ["bash", "-c", script], env=os.environ | variables, capture_output=True, text=True
    )
    printed = "result\n" if status else "result\nmore\n"
    assert (job.returncode, job.stdout, job.stderr) == (status, printed, "reason\n")
    error = tmp_path / "mine" / "error.txt"
    assert (error.read_text() == "reason\n") if status else not error.exists()


def test_an_error_of_the_sweep_leaves_no_run_at_work(experiment, tmp_path):
    first, second = expand(experiment, [[{"seed": 0}, {"seed": 1}]])
    (tmp_path / second.id).touch()  # its directory cannot be made
    ended, lock = os.pipe()  # each run inherits `lock`
    share, known = processes.Share(frozenset(os.sched_getaffinity(0)), {}), []
    with pytest.raises(FileExistsError):
        processes.make_runs(
            [first, second], tmp_path, [share] * 2, lock=lock, summarize=lambda: known.append(1)
        )
    assert known, "a report does not know the order of the runs"
    os.close(lock)
    assert select.select([ended], [], [], 0)[0], "the first run is still at work"
    os.close(ended)


def test_a_finished_run_of_an_earlier_format_is_not_repeated(tmp_path):
    """The directory of an archived run of config format 1 has the id of format 1.

    The experiment file has today's default of model.dropout_bits, which the run has not.
    """
    shutil.unpack_archive(Path(__file__).parent / "goldens" / "runs" / "runs.tar.xz", tmp_path)
    workdir = tmp_path / "sweep"
    shutil.move(tmp_path / "one_phase", workdir / "bc56393585ed")
    experiment = command.load(str(workdir / "bc56393585ed" / "config.json"))
    assert config_hash(experiment) != "bc56393585ed"
    earlier = runs_of_earlier_formats(workdir)
    assert earlier == {"bc56393585ed": experiment}
    (again,) = keep_ids(expand(experiment, [[{"seed": 3}]]), earlier)
    assert (again.id, again.experiment) == ("bc56393585ed", experiment)
    today = override(experiment, {"model.dropout_bits": "hash"})
    assert [point.id for point in expand(today, [[{"seed": 3}]])] != ["bc56393585ed"]
    file = write_file(tmp_path / "one.py", today, rates=[2e-3], seeds=[3])
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    sweep = start(file, workdir, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    errors = sweep.communicate(timeout=200)[1]
    assert sweep.returncode == 0, errors
    (row,) = summary(workdir)
    assert (row["id"], row["status"], row["steps"]) == ("bc56393585ed", "done", "8")
    files = {path for path in workdir.rglob("*") if path.parent != workdir}
    assert {path: path.stat().st_mtime_ns for path in files} == {
        path: changed for path, changed in before.items() if path.parent != workdir
    }


def test_a_copy_of_a_run_does_not_take_its_place(experiment, tmp_path):
    """Its directory has another name than the config's hash, as a run of an earlier format has."""
    for name in (config_hash(experiment), "backup"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(to_json(experiment)))
    assert runs_of_earlier_formats(tmp_path) == {}


def test_a_run_with_code_of_another_sweep_is_left_alone(experiment, tmp_path):
    """For example, the file of the user's model has changed since."""
    stored = to_json(experiment)
    stored["model"]["class"] = f"mine.py:MyConfig@{'0' * 64}"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(stored))
    with pytest.raises(UnknownCodeError):
        command.load(str(tmp_path / "run" / "config.json"))
    assert runs_of_earlier_formats(tmp_path) == {}


def test_the_status_of_a_directory(tmp_path):
    assert status(tmp_path / "none") == "to do"
    for name, word in (("config.json", "begun"), ("error.txt", "failed")):
        (tmp_path / name).touch()
        assert status(tmp_path) == word
    (tmp_path / "result.json").write_text(json.dumps(RESULT))
    assert status(tmp_path) == "done"


def decays(experiment):
    """Returns three runs that differ in the schedule of their last 4 updates."""
    base = override(experiment, {"optimizer.schedule": "constant"})
    shapes = ("polynomial", "one_minus_sqrt", "cosine")
    phases = [
        {
            "steps": 4,
            "own_schedule": True,
            "changes": {"optimizer.schedule": shape, "optimizer.warmup_steps": 0},
        }
        for shape in shapes
    ]
    return expand(base, [[{"phases": [phase]} for phase in phases]])


def test_runs_that_differ_in_their_last_phase_share_a_trunk(experiment, tmp_path):
    runs = decays(experiment)
    (trunk,), branches = share_trunks(runs, tmp_path)
    assert trunk.experiment.training.steps == 8 and not trunk.experiment.phases
    assert [run.id for run in branches] == [run.id for run in runs]
    sources = {run.experiment.training.branch_from for run in branches}
    assert sources == {f"{tmp_path}/trunks/{trunk.id}@8"}
    assert [without_branch(run.experiment) for run in branches] == [run.experiment for run in runs]
    # A run alone, runs of one phase, and runs whose schedules begin before the last phase.
    decaying = [{"optimizer.schedule": "polynomial", "phases": [{"steps": n}]} for n in (4, 5)]
    for alone in (runs[:1], expand(experiment, [[{"seed": 0}, {"seed": 1}]])):
        assert share_trunks(alone, tmp_path) == ([], alone)
    assert share_trunks(expand(experiment, [decaying]), tmp_path)[0] == []
    for run in runs:  # When all branches have ended, a trunk that was deleted is not made again.
        (tmp_path / run.id).mkdir()
        (tmp_path / run.id / "result.json").write_text(json.dumps(RESULT))
    assert share_trunks(runs, tmp_path) == ([], branches)


@pytest.mark.long
def test_a_sweep_makes_a_shared_trunk_once(experiment, tmp_path):
    """The command again makes nothing."""
    base = override(experiment, {"optimizer.schedule": "constant"})
    file = write_file(tmp_path / "file.py", base, rates=[1e-3], seeds=[0])
    overrides = [run.overrides for run in decays(experiment)]
    file.write_text(file.read_text() + f"\ndef sweep_decay():\n    return {overrides}\n")
    for _ in range(2):
        with start(file, tmp_path / "sweep", stderr=subprocess.PIPE) as process:
            _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors
    (trunk,) = (tmp_path / "sweep" / "trunks").iterdir()
    steps = [json.loads(line)["step"] for line in (trunk / "metrics.jsonl").open()]
    assert max(steps) == 8
    rows = summary(tmp_path / "sweep")
    assert [row["status"] for row in rows] == ["done"] * 3
    for row in rows:
        config = json.loads((tmp_path / "sweep" / row["id"] / "config.json").read_text())
        assert config["training"]["branch_from"].endswith(f"{trunk.name}@8")
