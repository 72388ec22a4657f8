"""The page that fine-tunes: data, encoder, compiled steps, seeds, result."""

import json
import math
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from bert_jax import config as configs
from bert_jax import environment
from bert_jax.errors import CheckpointError, ConfigError, DivergenceError
from bert_jax.files import write_json
from bert_jax.runs.run import Run, load_run
from bert_jax.sharding import make_mesh, named_sharding
from bert_jax.tasks import results
from bert_jax.tasks.config import FineTuningConfig
from bert_jax.tasks.datasets import (
    SPLITS,
    Dataset,
    baseline_scores,
    encode_split,
    fingerprint,
    labelled,
    load_dataset,
)
from bert_jax.tasks.families.encoding import row_length
from bert_jax.tasks.families.family import TaskBatch
from bert_jax.tasks.families.metrics import check_installed
from bert_jax.tasks.seed_run import Tuner, tune
from bert_jax.tasks.state import (
    make_model,
    make_task_optimizer,
    state_maker,
    task_logits,
    task_step,
)
from bert_jax.training import initial

FORMAT_VERSION = 1
OF_A_RUN = ("config.json", "checkpoints", "metrics.jsonl")
"""What a run of pretrain or a directory of weights holds, and must keep."""
UNUSED_HEADS = ("masked_token_head", "next_sentence_head")


def finetune(
    config: FineTuningConfig, source: Path, workdir: Path, *, seeds: int = 1
) -> dict[str, Any]:
    """Fine-tunes `seeds` times, on from those that `workdir` holds; returns `result.json`.

    Args:
      config: of the task.
      source: whose encoder to start from: all that `load_run` opens.
      workdir: gets a directory for each seed with checkpoint, metrics and predictions.
      seeds: number of runs; the first has `config.seed`.

    Raises:
      ConfigError, DataError, CheckpointError: what cannot be run, before any compile.
    """
    if jax.process_count() > 1:
        raise ConfigError(f"fine-tuning runs in one process; there are {jax.process_count()}")
    check_installed()
    console = Console(stderr=True, highlight=False)
    say = partial(console.print, soft_wrap=True)

    # ---- Data, encoder, run directory ---------------------------------------------------------
    dataset = load_dataset(config.task)
    run = open_encoder(source, config)
    splits = {
        name: encode_split(split, config.task, run.tokenizer)
        for name, split in dataset.splits.items()
    }
    dataset = replace(dataset, splits=splits)
    floor = {
        name: baseline_scores(dataset, splits[name])
        for name in SPLITS[1:]
        if name in splits and labelled(splits[name])
    }
    for name, scores in floor.items():
        known = next(iter(scores.values()))
        if dataset.metric not in known:
            raise ConfigError(
                f"task.metric is {dataset.metric!r}, which the labels of {name} have not; "
                f"accepted: {', '.join(known)}"
            )
    identity = {
        "config_hash": configs.config_hash(config),
        "checkpoint_sha256": initial.fingerprint_params(run.params),
        "data_sha256": fingerprint(splits),
    }
    tuner = make_tuner(config, dataset, run)
    made_by = open_workdir(workdir, config, identity)
    highest = max(one[dataset.metric] for one in floor["dev"].values())
    say(
        f"{len(splits['train'].rows):,} rows of {tuner.length} tokens, {tuner.steps:,} steps a "
        f"seed; to beat without a model on dev: {dataset.metric} {highest:.4f}"
    )
    if "test" in splits and "test" not in floor:
        hidden = sum(one.gold is None for one in splits["test"].examples)
        say(f"{hidden:,} examples of {config.task.test} have no label: test is not measured")

    # ---- Seeds --------------------------------------------------------------------------------
    ended = []
    for seed in range(config.seed, config.seed + seeds):
        directory = workdir / f"seed-{seed}"
        if not (directory / "result.json").exists():
            if directory.exists():  # what an interruption left
                shutil.rmtree(directory)
            directory.mkdir()
            with jax.set_mesh(tuner.mesh):
                tune(tuner, seed, directory, console)
        ended.append(json.loads((directory / "result.json").read_text()))
        say(f"seed {seed}: {_told(ended[-1], dataset.metric)}")

    # ---- Result -------------------------------------------------------------------------------
    finished = [one for one in ended if "dev" in one]
    if not finished:
        raise DivergenceError(
            f"{workdir}: loss or parameters of every seed became infinite; in another --workdir a "
            "lower optimizer.learning_rate may help"
        )
    result = {
        "format_version": FORMAT_VERSION,
        **identity,
        **made_by,
        "family": config.task.family,
        "metric": dataset.metric,
        "labels": list(dataset.labels),
        "data": {name: split.describe(splits["train"]) for name, split in splits.items()},
        "seeds": ended,
        "failed_seeds": [one["seed"] for one in ended if failed(one, floor["dev"], dataset.metric)],
        "best_seed": max(finished, key=lambda one: one["dev"][dataset.metric])["seed"],
        "summary": {name: summary_of(name, finished, dataset, workdir) for name in floor},
        "baselines": floor,
    }
    write_json(workdir / "result.json", result)
    Console(highlight=False).print(results.result_table(result))
    return result


def failed(result: dict[str, Any], floor: dict[str, dict[str, float]], metric: str) -> bool:
    """Whether a seed diverged, or beats not every baseline on dev.

    A threshold that was chosen on dev makes every seed as good as no answer, or better by chance;
    there the answers to the questions that have one are asked, none of them withheld.
    """
    if "dev" not in result:
        return True
    scores = result["dev"]
    if "dev_without_threshold" in result:
        metric, scores = "answerable_f1", result["dev_without_threshold"]
    return scores.get(metric, 0.0) <= max(one.get(metric, 0.0) for one in floor.values())


def summary_of(
    split: str, finished: list[dict[str, Any]], dataset: Dataset, workdir: Path
) -> dict[str, dict[str, Any]]:
    """Returns mean, deviation and interval over the seeds that came to their end."""
    outcomes = [
        np.load(workdir / f"seed-{one['seed']}" / f"outcomes_{split}.npy") for one in finished
    ]
    return results.summarize(outcomes, dataset.family.metrics, dataset.metric)


def open_encoder(source: Path, config: FineTuningConfig) -> Run:
    """Opens weights whose heads, and a pooler that no one asks, may be missing or untrained.

    Raises:
      CheckpointError: see `load_run`; a pooler that is asked was not trained.
    """
    anew = config.training.reinitialize_pooler or config.training.from_scratch
    needed = config.task.representation == "pooled" and not anew
    allow = UNUSED_HEADS if needed else (*UNUSED_HEADS, "bert/pooler")
    run = load_run(source, allow=() if (source / "checkpoints").is_dir() else allow)
    if needed:
        try:
            run.check_trained("bert/pooler")
        except CheckpointError as error:
            raise CheckpointError(f"{error}, or training.reinitialize_pooler=true") from error
    return run


def make_tuner(config: FineTuningConfig, dataset: Dataset, run: Run) -> Tuner:
    """Builds what the seeds share; compiles nothing.

    Raises:
      ConfigError: model, task and mesh do not fit.
    """
    training, family = config.training, dataset.family
    model = make_model(config, run.model.config, family, dataset.labels)
    mesh = make_mesh(config.mesh)
    for name in ("batch_size", "evaluation_batch_size"):
        rows = named_sharding(
            ("batch",),
            rules=config.sharding,
            mesh=mesh,
            shape=(getattr(training, name),),
            what=f"training.{name}",
        )
    steps = training.epochs * math.ceil(len(dataset.splits["train"].rows) / training.batch_size)
    optimizer, schedule = make_task_optimizer(
        config, steps=steps, num_layers=run.model.config.num_layers
    )
    sharding, make = state_maker(model, optimizer, config, mesh)
    update = partial(task_step, model=model, family=family, optimizer=optimizer, schedule=schedule)

    def answer(params: Any, batch: TaskBatch) -> jax.Array:
        return family.answer(task_logits(model, params, batch))

    return Tuner(
        config=config,
        dataset=dataset,
        run=run,
        model=model,
        encoder=initial.place(run.params["bert"], sharding.params["bert"]),
        make=make,
        update=jax.jit(update, out_shardings=(sharding, None), donate_argnums=0),
        answer=jax.jit(answer),
        mesh=mesh,
        rows=rows,
        length=row_length(dataset.splits["train"].rows, config.task.max_length),
        steps=steps,
    )


def open_workdir(
    workdir: Path, config: FineTuningConfig, identity: dict[str, Any]
) -> dict[str, Any]:
    """Writes config, environment and what is fine-tuned, or checks that they are those it holds.

    Returns the commit that runs, and the hash of what is changed in it.

    Raises:
      CheckpointError: the workdir holds another fine-tuning, or what is none.
    """
    if workdir.exists() and not workdir.is_dir():
        raise CheckpointError(f"{workdir} is a file; accepted: a directory for the run")
    file = workdir / "identity.json"
    if file.exists():
        before = json.loads(file.read_text())
        for name, value in identity.items():
            held = str(before.get(name))
            if held != value:
                raise CheckpointError(
                    f"{workdir} holds a fine-tuning with {name} {held[:12]}, this one has "
                    f"{value[:12]}; accepted: the same, or another --workdir"
                )
    elif foreign := [name for name in OF_A_RUN if (workdir / name).exists()]:
        raise CheckpointError(
            f"{workdir} holds {', '.join(foreign)} of something else than a fine-tuning; "
            "accepted: another --workdir"
        )
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(file, identity)
    write_json(workdir / "config.json", configs.to_json(config))
    file = workdir / "environment.json"
    description = environment.describe_again(file)
    write_json(file, description)
    return {name: description[name] for name in ("commit", "uncommitted_changes")}


def _told(result: dict[str, Any], metric: str) -> str:
    if "dev" not in result:
        return f"diverged at step {result['diverged_at_step']}"
    parts = [f"{name} {metric} {result[name][metric]:.4f}" for name in SPLITS if name in result]
    return ", ".join([*parts, f"best at step {result['best_step']} of {result['steps']}"])
