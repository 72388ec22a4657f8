r"""Pretrains BERT: masked language model and next sentence.

  python -m bert_jax.pretrain --experiment=experiments/quickstart.py --workdir=runs/mine
  python -m bert_jax.pretrain --experiment=experiments/bert.py:mini --workdir=DIR \
    --set optimizer.learning_rate=2e-4 --set model.num_layers=6
  python -m bert_jax.pretrain --experiment=experiments/bert.py:base --dry_run

First prepare the data with python -m bert_jax.prepare. WORKDIR is --workdir; gs://BUCKET/PATH is
accepted. If it has a checkpoint, training continues from the last checkpoint. WORKDIR gets
config.json, environment.json, metrics.jsonl, result.json, checkpoints/ and tensorboard/. --dry_run
prints the phases of the run with their rows, learning rates and FLOPs, and trains nothing.
--profile_steps=10:15 traces updates 10 to 15; TensorBoard with its profile plugin opens the trace
from tensorboard/.

On several machines, run the command once on each. The processes find each other under Slurm (srun),
on GKE and on a Cloud TPU slice. Elsewhere, give --coordinator, --process_count and --process_index.
"""

import contextlib
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from bert_jax import command, config, cpu, environment
from bert_jax.config.paths import is_remote, open_path
from bert_jax.data.passport import load_passport
from bert_jax.errors import ConfigError, located, require
from bert_jax.faults.memory import explain_lack_of_memory

if TYPE_CHECKING:  # importing it imports jax; a command does so in main()
    from bert_jax.training.experiment import Experiment
    from bert_jax.training.writer import Tracker


def main() -> None:
    environment.configure_jax()
    cpu.keep_freed_memory()
    workdir = open_path(flags.FLAGS.workdir or ".", name="--workdir")
    config_file = workdir / "config.json"
    continues = bool(flags.FLAGS.workdir) and config_file.exists()
    command.run_code()
    begun = [command.load(str(config_file))] if continues else []
    experiment = command.experiment_from_flags(begun=begun)
    from bert_jax.training.experiment import phases

    if flags.FLAGS.dry_run:
        _print_timeline(experiment)
        return
    command.required("workdir", "a directory for the run")
    for phase in phases(experiment):
        data = phase.experiment.data
        passport = load_passport(data.directory)
        if (corpus := passport["corpus"]["spec"]) != data.corpus:
            print(
                f"{data.directory} was prepared from {corpus}; training does not read data.corpus, "
                f"{data.corpus}",
                file=sys.stderr,
            )
    import jax

    from bert_jax.faults import processes

    processes.start_processes(
        flags.FLAGS.coordinator,
        flags.FLAGS.process_count,
        flags.FLAGS.process_index,
        cluster=flags.FLAGS.cluster,
        timeout=flags.FLAGS.start_timeout,
    )
    if flags.FLAGS.log_every_process:
        processes.report_in_every_process()
    from bert_jax.runs.initial import open_initial_weights
    from bert_jax.training.checkpoint import latest_step
    from bert_jax.training.train import train
    from bert_jax.training.writer import TRACKERS

    profile_steps = range(0)
    if flags.FLAGS.profile_steps is not None:
        profile_steps = parse_steps(
            flags.FLAGS.profile_steps, after=latest_step(workdir), last=experiment.training.steps
        )
    probes = [_load_probe(experiment)] if experiment.evaluation.probe else []
    alone = command.exclusive(workdir) if jax.process_index() == 0 else contextlib.nullcontext()
    with alone, explain_lack_of_memory(experiment):
        if flags.FLAGS.tracker == "wandb" and jax.process_index() == 0:
            TRACKERS.append(_wandb_tracker(experiment, workdir))
        weights = open_initial_weights(experiment, workdir)
        result = train(
            experiment, workdir, probes=probes, weights=weights, profile_steps=profile_steps
        )
    if jax.process_index() == 0:
        print(_summary(result))


def _summary(result: dict[str, Any]) -> str:
    """Returns the line about the held-out metrics of a run."""
    pair_accuracy = ""
    if "nsp_accuracy" in result:  # absent if no head was trained on pairs
        majority = result["nsp_majority_accuracy"]
        pair_accuracy = f", nsp accuracy {result['nsp_accuracy']:.3f} (majority {majority:.3f})"
    return (
        f"held-out mlm loss {result['mlm_loss']:.3f} (unigram {result['unigram_loss']:.3f}), "
        f"mlm accuracy {result['mlm_accuracy']:.3f} "
        f"(most frequent token {result['majority_token_accuracy']:.3f})" + pair_accuracy
    )


def parse_steps(given: str, *, after: int, last: int) -> range:
    """Returns the steps of `--profile_steps=FIRST:LAST`, both included.

    `after` is the step of the last checkpoint, or 0. `last` is the last step of the run.

    Raises:
      ConfigError: the value is not FIRST:LAST, or the run will not make these steps.
    """
    found = re.fullmatch(r"(\d+):(\d+)", given)
    steps = range(int(found[1]), int(found[2]) + 1) if found else range(0)
    accepted = (
        "FIRST:LAST, FIRST at most LAST, "
        f"both later than the last checkpoint ({after}) and at most training.steps ({last})"
    )
    whole = steps and after < steps[0] and steps[-1] <= last
    require(whole, "--profile_steps", given, accepted)
    return steps


def _load_probe(experiment: "Experiment") -> Callable[[Any], dict[str, float]]:
    from bert_jax.data.tokenizers.files import load_tokenizer
    from bert_jax.tasks.config import FineTuningConfig
    from bert_jax.tasks.probe import make_probe

    probe = experiment.evaluation.probe
    with located(f"evaluation.probe is {probe!r}"):
        task = command.load(probe, FineTuningConfig)
    return make_probe(task, experiment.model, load_tokenizer(experiment.data.directory))


def _wandb_tracker(experiment: "Experiment", workdir: Path) -> "Tracker":
    """Starts a run of Weights & Biases, without network by default, and returns its tracker.

    The run is written to `workdir`/wandb; `wandb sync` sends it. With the variable
    WANDB_MODE=online, it is sent at once. All starts of a run have the same id. Their rows have a
    scalar `step`, because a resumed run makes some steps again.

    Raises:
      ConfigError: wandb is not installed, or the workdir is not local.
    """
    require(not is_remote(workdir), "--workdir", str(workdir), "a local one, with --tracker")
    try:
        import wandb  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise ConfigError("--tracker is 'wandb'; accepted: pip install wandb first") from error
    run = wandb.init(
        project="bert_jax",
        id=f"{re.sub(r'[^a-zA-Z0-9_-]', '-', workdir.name)}-{config.config_hash(experiment)}",
        dir=str(workdir),
        config=config.flatten(experiment),
        mode=os.environ.get("WANDB_MODE", "offline"),
        resume="allow",
        settings=wandb.Settings(console="off"),
    )
    run.define_metric("*", step_metric="step")
    return lambda step, row: run.log({"step": step} | row)


def _print_timeline(experiment: "Experiment") -> None:
    import jax

    jax.config.update("jax_platforms", "cpu")  # another process may hold the accelerator
    from bert_jax.planning.timeline import timeline

    print(timeline(experiment))


if __name__ == "__main__":
    flags.adopt_module_key_flags(command)
    flags.DEFINE_string("workdir", None, "Directory of the run. It is made if it does not exist.")
    flags.DEFINE_string(
        "profile_steps",
        None,
        "FIRST:LAST. Writes a trace of the updates from step FIRST to step LAST for TensorBoard "
        "into WORKDIR/tensorboard.",
    )
    flags.DEFINE_bool("dry_run", False, "Prints the phases of the run and trains nothing.")
    flags.DEFINE_enum(
        "tracker", None, ["wandb"], "Also writes the metrics for Weights & Biases: WORKDIR/wandb."
    )
    flags.DEFINE_string(
        "coordinator", None, "Address of process 0, HOST:PORT, if there are several processes."
    )
    flags.DEFINE_bool(
        "cluster",
        None,
        "By default, the process joins the cluster that jax detects, if any. --cluster makes it an "
        "error if there is none. With --nocluster, the process is alone.",
    )
    flags.DEFINE_integer("process_count", None, "Number of processes.")
    flags.DEFINE_integer("process_index", None, "Index of this process, from 0.")
    flags.DEFINE_integer(
        "start_timeout",
        300,
        "Seconds in which the processes of a run must find each other.",
        lower_bound=1,
    )
    flags.DEFINE_bool(
        "log_every_process", False, "Prints the lines of every process, not only of process 0."
    )
    command.run(main, resumes=True)
