"""Runs the sweep of an experiment file on this machine, one or several runs at a time.

  python -m bert_jax.sweep --experiment=experiments/ablations/masking_rate.py --workdir=DIR
  python -m bert_jax.sweep --experiment=experiments/ablations/masking_rate.py --dry_run

Beside get_config, the file has a function sweep(), or several functions sweep_*(). Each function
yields overrides such as {"optimizer.learning_rate": 1e-3, "seed": 0}. There is a run for every
combination of one override from each function; the functions sweep_zip_*() are combined entry by
entry. The directory of a run is DIR/ID, where ID is the hash of the run's config. A sweep that
began with an earlier config format keeps the directories and the defaults of that format. A failed
run does not end the sweep. The same command again makes missing or failed runs and continues
interrupted runs. DIR/summary.csv has the results of the runs. Runs that differ only in their seed
are a point; DIR/table.{md,tex,csv} compare the points.

docs/ablations.md describes other functions of the file: budget(), tune_over(), evaluations(). Runs
that differ only in their last phase share a trunk in DIR/trunks, the updates before this phase.

--parallel=N makes N runs at a time, each with its own part of the cores, GPUs or TPU chips.
--launcher=slurm submits the missing runs as an array of jobs and ends. The same command later
writes the table, and submits what is missing when no job is left in the queue.
"""

import contextlib
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from absl import flags

from bert_jax import command, config
from bert_jax.config.paths import open_path
from bert_jax.data.passport import check_outside_data, check_passport, load_passport
from bert_jax.errors import BertJaxError, UnknownCodeError, require
from bert_jax.files import write_atomically, write_json
from bert_jax.sweeps import slurm, table, tuning
from bert_jax.sweeps.budget import Budget, load_budget, spend, step_seconds
from bert_jax.sweeps.comparison import Row, compare
from bert_jax.sweeps.evaluations import check_evaluations, load_evaluations, outcomes_of_evaluations
from bert_jax.sweeps.grid import PlannedRun, Point, expand, keep_ids, load_sweeps, points_of
from bert_jax.sweeps.processes import make_runs, shares
from bert_jax.sweeps.runs import metrics_of, result_of, state_of
from bert_jax.sweeps.trunks import TRUNKS, share_trunks, without_branch

RESULTS = ("mlm_loss", "mlm_accuracy", "nsp_accuracy", "unigram_loss", "steps", "seconds")


class SweepError(BertJaxError):
    """Some runs of a sweep failed."""


def runs_of_earlier_formats(workdir: Path) -> dict[str, Any]:
    """Returns the experiments of the runs that began with an earlier config format, by directory.

    The name of such a run's directory is the config's hash in the earlier format, not in today's.
    """
    runs = {}
    for file in sorted(workdir.glob("*/config.json")):
        with contextlib.suppress(UnknownCodeError):  # a run of another sweep
            runs[file.parent.name] = without_branch(command.load(str(file)))
    # A directory beside one with today's hash is a copy.
    return {name: run for name, run in runs.items() if config.config_hash(run) not in runs}


def summarize(points: Sequence[Point], workdir: Path) -> list[Row]:
    """Writes `summary.csv`, with a row for each run, and `table.*`. Returns the rows of `table`."""
    runs = [run for point in points for run in point.runs]
    results = {run.id: metrics_of(workdir / run.id) for run in runs}
    states = {run.id: state_of(run, workdir) for run in runs}
    found = {name for result in results.values() for name in result}
    evaluated = sorted(name for name in found if "/" in name or name.startswith("probe_"))
    summary = [
        {"id": run.id, "status": states[run.id], **point.fields, "seed": run.experiment.seed}
        | {name: results[run.id].get(name, "") for name in (*RESULTS, *evaluated)}
        for point in points
        for run in point.runs
    ]
    failed = [name for name, state in states.items() if state == "failed"]
    outcomes = {run.id: outcomes_of_evaluations(workdir / run.id) for run in runs}
    rows = compare(points, results, failed=failed, outcomes=outcomes)
    workdir.mkdir(parents=True, exist_ok=True)
    for name, text in ({"summary.csv": table.as_csv(summary)} | table.files_of(rows)).items():
        write_atomically(workdir / name, text)
    return rows


def spend_budget(runs: list[PlannedRun], budget: Budget | None, workdir: Path) -> list[PlannedRun]:
    """Returns the runs with the steps of the budget. May measure the time of an update."""
    if not budget:
        return runs
    file = workdir / "step_seconds.json"
    measures = budget.unit == "seconds" and not flags.FLAGS.dry_run
    lock = command.exclusive(workdir, wait=True) if measures else contextlib.nullcontext()
    with lock:
        may_measure = measures and flags.FLAGS.launcher == "local"
        return spend(runs, budget, partial(step_seconds, file=file, may_measure=may_measure))


def plan(
    base: Any, workdir: Path, earlier: dict[str, Any]
) -> tuple[list[PlannedRun], list[PlannedRun]]:
    """Returns the compared runs, and the trials of tune_over() that come before them.

    When all trials of a point have ended, its runs have the chosen hyperparameters.
    """
    spec, trials = flags.FLAGS.experiment, []
    spent = partial(spend_budget, budget=load_budget(spec), workdir=workdir)
    runs = spent(expand(base, load_sweeps(spec)))
    if candidates := tuning.load_candidates(spec, runs):
        points, runs = points_of(runs), []
        for point in points:
            overrides = [run.overrides for run in point.runs]
            own = spent(expand(base, [[overrides[0] | {"seed": tuning.SEED}], candidates]))
            choice = tuning.choose(own, workdir, fixed=overrides[0])
            tuned = spent(expand(base, [overrides, [choice["choice"]]]))
            runs += [replace(run, tuning=choice) for run in tuned]
            trials += [] if choice["trials"] else own
    evaluations = load_evaluations(spec)
    return [replace(run, evaluations=evaluations) for run in keep_ids(runs, earlier)], trials


def check_inputs(runs: Sequence[PlannedRun]) -> None:
    """Raises an error if prepared data or the data of an evaluation are missing or do not suit."""
    from bert_jax.training.experiment import phases  # imports jax

    firsts = [point.runs[0] for point in points_of(runs)]
    for phase in (phase for run in firsts for phase in phases(run.experiment)):
        data, model = phase.experiment.data, phase.experiment.model
        check_passport(load_passport(data.directory), data, vocab_size=model.vocab_size)
    evaluations = dict.fromkeys(one for run in firsts for one in run.evaluations)
    check_evaluations(evaluations, [run.experiment for run in firsts if run.evaluations])


def cost_columns(points: Sequence[Point], workdir: Path) -> dict[str, list[str]]:
    """Returns the points and their cost. The time left follows from the runs that are done."""
    states = [Counter(state_of(run, workdir) for run in point.runs) for point in points]
    results = [[r for run in p.runs if (r := result_of(workdir / run.id))] for p in points]
    seconds = sum(result["seconds"] for found in results for result in found)
    done = sum(p.flops * len(found) for p, found in zip(points, results, strict=True))
    left = [p.flops * (len(p.runs) - len(r)) for p, r in zip(points, results, strict=True)]
    columns = table.point_columns(points) | {
        "runs": [", ".join(f"{n} {word}" for word, n in state.items()) for state in states],
        "tokens a run": [f"{point.tokens:,}" for point in points],
        "FLOPs a run": [f"{point.flops:.3g}" for point in points],
    }
    if all(tuned := [point.runs[0].tuning for point in points]):
        chosen = [", ".join(f"{k}={v}" for k, v in one["choice"].items()) for one in tuned]
        columns["tuned"] = [text or "to do" for text in chosen]
        columns["tuning FLOPs"] = [f"{one['flops']:.3g}" for one in tuned]
    minutes = [f"{flops * seconds / done / 60:.1f}" for flops in left] if done else []
    return columns | ({"minutes left": minutes} if done else {})


def submit_missing(runs: Sequence[PlannedRun], workdir: Path) -> bool:
    """Submits the runs that are not done to Slurm. Returns whether all are done."""
    states = {run.id: state_of(run, workdir) for run in runs}
    missing = [run for run in runs if states[run.id] != "done"]
    if not missing:
        return True
    counts = ", ".join(f"{n} {state}" for state, n in Counter(states.values()).items())
    print(f"{workdir}: {counts}")
    if waiting := slurm.queued(workdir):
        print(f"{waiting} jobs of this sweep are in the queue; no job is submitted")
        return False
    arguments, parallel = flags.FLAGS.sbatch, flags.FLAGS.parallel
    job = slurm.submit(missing, workdir, arguments=arguments, parallel=parallel)
    print(f"submitted {len(missing)} runs as job {job}; the same command later goes on")
    return False


def main() -> None:
    """Runs the command."""
    local, given = flags.FLAGS.launcher == "local", flags.FLAGS.sbatch
    require(not (local and given), "--sbatch", given, "none without --launcher=slurm")
    import jax

    jax.config.update("jax_platforms", "cpu")  # the runs need the accelerators
    workdir = open_path(flags.FLAGS.workdir or ".", name="--workdir", local=True)
    command.run_code()
    earlier = runs_of_earlier_formats(workdir) if flags.FLAGS.workdir else {}
    base = command.experiment_from_flags(begun=list(earlier.values()))
    if not flags.FLAGS.dry_run:
        command.required("workdir", "a directory for the runs, or --dry_run")
    check_outside_data(workdir)
    parts = shares(flags.FLAGS.parallel or 1) if local and not flags.FLAGS.dry_run else []
    runs, trials = plan(base, workdir, earlier)
    points = points_of(runs)
    as_text = partial(table.as_text, width=shutil.get_terminal_size().columns)
    print(as_text(cost_columns(points, workdir)), flush=True)
    found = {file.parent.name for file in workdir.glob("*/config.json")}
    if flags.FLAGS.workdir and (others := found - {run.id for run in runs}):
        print(f"{workdir} has {len(others)} runs that are not of this sweep", file=sys.stderr)
    if flags.FLAGS.dry_run:
        return
    for run in runs:
        for one in run.evaluations:
            one.check_unchanged(workdir / run.id)
    check_inputs([*trials, *(run for run in runs if state_of(run, workdir) != "done")])
    if trials:
        with command.exclusive(workdir, wait=True) as lock:
            place = workdir / tuning.DIRECTORY
            if parts:
                make_runs(trials, place, parts, lock=lock, summarize=lambda: None)
            elif not submit_missing(trials, place):
                return
        runs, _ = plan(base, workdir, earlier)
        points = points_of(runs)
        print(as_text(cost_columns(points, workdir)), flush=True)
    trunks, branches = share_trunks(runs, workdir)
    with command.exclusive(workdir, wait=True) as lock:
        if runs[0].tuning:
            firsts = [point.runs[0] for point in points]
            write_json(workdir / tuning.FILE, {run.id: run.tuning for run in firsts})
        write_table = partial(summarize, points, workdir)
        for stage, directory in ((trunks, workdir / TRUNKS), (branches, workdir)):
            if parts:
                make_runs(stage, directory, parts, lock=lock, summarize=write_table)
            elif not submit_missing(stage, directory):
                write_table()
                print(f"{workdir / 'table.md'} compares the runs that are done")
                return
        rows = write_table()
    print(f"\n{table.report(rows, as_text)}", end="")
    failed = [run.id for run in runs if state_of(run, workdir) != "done"]
    if failed:
        raise SweepError(
            f"{len(failed)} of {len(runs)} runs failed: {', '.join(failed)}; "
            f"see {workdir}/ID/error.txt; the same command runs them again"
        )


if __name__ == "__main__":
    flags.adopt_module_key_flags(command)
    flags.DEFINE_string("workdir", None, "Directory of the runs and their summary.")
    words = "Number of runs at a time: by default 1, and with Slurm no limit."
    flags.DEFINE_integer("parallel", None, words, lower_bound=1)
    flags.DEFINE_enum("launcher", "local", ["local", "slurm"], "Where the runs are made.")
    flags.DEFINE_multi_string("sbatch", [], "Argument of sbatch. May be repeated.")
    flags.DEFINE_bool("dry_run", False, "Only prints the table of runs.")
    command.run(main, resumes=True)
