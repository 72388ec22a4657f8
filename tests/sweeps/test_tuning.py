"""tune_over() chooses hyperparameters for each point on trials of their own, once."""

import csv
import json
import re
import signal
import subprocess
import sys

import pytest

from bert_jax.config import to_json
from bert_jax.errors import ConfigError
from bert_jax.faults.run_files import RunResult
from bert_jax.sweeps.gather import gather
from bert_jax.sweeps.grid import expand, points_of
from bert_jax.sweeps.tuning import SEED, choose, load_candidates

FILE = """
from bert_jax.config import from_json
from bert_jax.training.experiment import Experiment
import json

def get_config():
    return from_json(Experiment, json.loads({base!r}))

def sweep_layers():
    for layers in (2, 1):
        yield {{"model.num_layers": layers}}

def sweep_seed():
    for seed in (0, 1):
        yield {{"seed": seed}}

def tune_over():
    {body}
"""
RATES = 'return [{"optimizer.learning_rate": rate} for rate in (1e-3, 2e-3, 4e-3)]'
RESULT = dict.fromkeys(RunResult.__annotations__, 5.5) | {"steps": 12, "seconds": 7.0}


def write_file(path, experiment, body=RATES):
    path.write_text(FILE.format(base=json.dumps(to_json(experiment)), body=body))
    return path


def write_result(directory, loss):
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "result.json").write_text(json.dumps(RESULT | {"mlm_loss": loss}))


def test_the_choice_is_the_finished_trial_with_the_lowest_loss(experiment, tmp_path):
    runs = expand(experiment, [[{"model.num_layers": 1}], [{"seed": 0}, {"seed": 1}]])
    candidates = [{"optimizer.learning_rate": rate} for rate in (1e-3, 2e-3, 4e-3)]
    trials = expand(experiment, [[runs[0].overrides], candidates, [{"seed": SEED}]])
    assert [trial.experiment.seed for trial in trials] == [SEED] * 3
    places = [tmp_path / "tuning" / trial.id for trial in trials]
    (point,) = points_of(runs)
    write_result(places[0], 5.25)
    write_result(places[1], 5.0)
    before = choose(trials, tmp_path, fixed=runs[0].overrides)
    assert (before["choice"], before["trials"]) == ({}, {})
    assert before["flops"] == pytest.approx(3 * point.flops)
    places[2].mkdir()
    (places[2] / "error.txt").touch()
    choice = choose(trials, tmp_path, fixed=runs[0].overrides)
    assert choice["choice"] == {"optimizer.learning_rate": 2e-3}
    assert list(choice["trials"].values()) == [5.25, 5.0, None]
    assert (choice["flops"], choice["seconds"]) == (before["flops"], 14.0)
    for place in places:
        (place / "result.json").unlink(missing_ok=True)
        (place / "error.txt").touch()
    failed = choose(trials, tmp_path, fixed=runs[0].overrides)
    assert failed["choice"] == {"optimizer.learning_rate": 1e-3}
    assert set(failed["trials"].values()) == {None}


@pytest.mark.parametrize(
    ("body", "said"),
    {
        "return []": "tune_over yields nothing; accepted",
        "return 5": "tune_over yields 5; accepted",
        'return {"model.dropout": 0.1}': "tune_over yields .*; accepted",
        'yield {"seed": 1}': "a field of tune_over.. is 'seed'; accepted: a field of optimizer",
        'yield {"model.num_layers": 3}': "is 'model.num_layers'; .* that no sweep.. sets",
        'yield {"training.steps": 3}': "is 'training.steps'; accepted",
        "raise ValueError('bad')": "ValueError: bad; accepted",
    }.items(),
)
def test_a_wrong_tune_over_is_refused(experiment, tmp_path, body, said):
    runs = expand(experiment, [[{"model.num_layers": 1}], [{"seed": 0}]])
    with pytest.raises(ConfigError, match=said) as caught:
        load_candidates(str(write_file(tmp_path / "wrong.py", experiment, body)), runs)
    assert "\n" not in str(caught.value)


def test_the_seed_of_the_trials_is_not_compared(experiment, tmp_path):
    file = str(write_file(tmp_path / "good.py", experiment))
    assert len(load_candidates(file, expand(experiment, [[{"seed": 0}]]))) == 3
    with pytest.raises(ConfigError, match="seed is 1000000; accepted: another seed"):
        load_candidates(file, expand(experiment, [[{"seed": SEED}]]))


# A stand-in for `python -m bert_jax.pretrain`. It records its start. With rate 0.004 it fails. The
# best rate is 0.001 for 2 layers and 0.002 for 1 layer. The first run with seed 0 kills the sweep.
STUB = """#!/usr/bin/env bash
workdir=${4#--workdir=}
echo start >> "$workdir/starts"
value() { grep -o "\\"$1\\": [^,]*" "$workdir/config.json" | head -1 | cut -d' ' -f2; }
if [ "$(value seed)" = 0 ] && [ "$(cat "$workdir"/../*/starts | wc -l)" -eq 1 ]; then
  kill -KILL $PPID
  exit 1
fi
case "$(value num_layers) $(value learning_rate)" in
  *" 0.004") echo "error: diverged" >&2; exit 2 ;;
  "2 0.001" | "1 0.002") loss=5.0 ;;
  *) loss=5.25 ;;
esac
echo '@RESULT@' | sed "s/\\"LOSS\\"/$loss/" > "$workdir/result.json"
""".replace("@RESULT@", json.dumps(RESULT | {"mlm_loss": "LOSS"}))
WITH_STUB = """
import runpy, sys
sys.executable = sys.argv.pop(1)
runpy.run_module("bert_jax.sweep", run_name="__main__")
"""


@pytest.mark.slow
def test_a_restarted_sweep_keeps_its_choices_and_repeats_no_trial(experiment, tmp_path):
    """The sweep is killed in its first compared run. A failed trial is not made again."""
    file = write_file(tmp_path / "tuned.py", experiment)
    stub, workdir = tmp_path / "stub", tmp_path / "sweep"
    stub.write_text(STUB)
    stub.chmod(0o755)

    def sweep(*more):
        code = [sys.executable, "-c", WITH_STUB, stub, f"--experiment={file}"]
        arguments = [*code, f"--workdir={workdir}", *more]
        return subprocess.run(arguments, capture_output=True, text=True, check=False)

    planned = sweep("--dry_run")
    assert planned.returncode == 0, planned.stderr
    assert re.search(r"tuned  tuning FLOPs\n0 .*  to do  \d\.\d+e\+09\n", planned.stdout)
    assert not workdir.exists()
    killed = sweep()
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    kept = (workdir / "tuning.json").read_text()
    done = sweep("--parallel=2")
    assert done.returncode == 0, done.stderr
    assert (workdir / "tuning.json").read_text() == kept
    trials = list((workdir / "tuning").glob("*/starts"))
    assert len(trials) == 6 and all(trial.read_text() == "start\n" for trial in trials)
    rows = list(csv.DictReader((workdir / "summary.csv").open()))
    found = [(r["model.num_layers"], r["optimizer.learning_rate"], r["seed"]) for r in rows]
    assert found == [(n, r, s) for n, r in (("2", "0.001"), ("1", "0.002")) for s in "01"]
    starts = [(workdir / row["id"] / "starts").read_text().count("start") for row in rows]
    assert starts == [2, 1, 1, 1] and len(list(workdir.glob("*/config.json"))) == 4
    (_, second) = gather([workdir]).points
    found = second.runs[0].tuning
    assert found["choice"] == {"optimizer.learning_rate": 2e-3}
    assert sorted(found["trials"].values(), key=str) == [5.0, 5.25, None]
    assert found["flops"] == pytest.approx(3 * second.flops)
    table = list(csv.DictReader((workdir / "table.csv").open()))
    assert {
        (float(row["tuning FLOPs"]), row["tuning seconds"]) for row in table if row["point"] == "1"
    } == {(found["flops"], "14.0")}
    assert table[1]["optimizer.learning_rate"] == "0.002" and "tuning seconds" in done.stdout
    assert "optimizer.learning_rate=0.002" in done.stdout
