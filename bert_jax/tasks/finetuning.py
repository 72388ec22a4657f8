"""The page that fine-tunes: data, encoder, compiled steps, seeds, result."""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from rich.console import Console

from bert_jax import config as configs
from bert_jax import environment
from bert_jax.errors import CheckpointError, ConfigError, DataError
from bert_jax.files import write_atomically, write_json
from bert_jax.models.task import BertForTask
from bert_jax.runs import Run, load_run
from bert_jax.tasks import results
from bert_jax.tasks.config import FineTuningConfig
from bert_jax.tasks.datasets import (
    SPLITS,
    Dataset,
    Split,
    baseline_scores,
    encode_split,
    labelled,
    load_dataset,
    score,
)
from bert_jax.tasks.encoding import chunks, row_length, shuffled, stack
from bert_jax.tasks.family import TaskBatch
from bert_jax.tasks.state import (
    make_model,
    make_task_optimizer,
    seed_streams,
    state_maker,
    task_logits,
    task_step,
)
from bert_jax.training import checkpoint as checkpoints
from bert_jax.training import initial
from bert_jax.training.metrics import merge
from bert_jax.training.sharding import make_mesh, named_sharding

FORMAT_VERSION = 1
UNUSED_HEADS = ("masked_token_head", "next_sentence_head")


class Tuner(NamedTuple):
    """What every seed shares, compiled once."""

    config: FineTuningConfig
    dataset: Dataset
    run: Run
    model: BertForTask
    encoder: Any
    """The checkpoint's encoder, placed."""
    make: Any
    """jit of (key, encoder) -> first state."""
    update: Any
    """jit of (state, batch, key) -> (state, metrics); the state is donated."""
    answer: Any
    """jit of (params, batch) -> what `decode` needs."""
    mesh: Mesh
    rows: NamedSharding
    length: int
    steps: int


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
    identity = {
        "config_hash": configs.config_hash(config),
        "checkpoint": str(source),
        "checkpoint_sha256": initial.fingerprint(run),
    }
    tuner = make_tuner(config, dataset, run)
    open_workdir(workdir, config, identity)
    floor = {
        name: baseline_scores(dataset, splits[name])
        for name in SPLITS[1:]
        if name in splits and labelled(splits[name])
    }
    lowest = max(one[dataset.metric] for one in floor["dev"].values())
    say(
        f"{len(splits['train'].rows):,} rows of {tuner.length} tokens, {tuner.steps:,} steps a "
        f"seed; to beat without a model on dev: {dataset.metric} {lowest:.4f}"
    )

    # ---- Seeds --------------------------------------------------------------------------------
    ended = []
    for seed in range(config.seed, config.seed + seeds):
        directory = workdir / f"seed-{seed}"
        if not (directory / "result.json").exists():
            directory.mkdir(exist_ok=True)
            with jax.set_mesh(tuner.mesh):
                tune(tuner, seed, directory)
        ended.append(json.loads((directory / "result.json").read_text()))
        say(f"seed {seed}: {_told(ended[-1], dataset.metric)}")

    # ---- Result -------------------------------------------------------------------------------
    finished = [one for one in ended if "dev" in one]
    if not finished:
        raise DataError(
            f"{workdir}: the loss of every seed became infinite; accepted: a lower "
            "optimizer.learning_rate"
        )
    result = {
        "format_version": FORMAT_VERSION,
        **identity,
        "commit": environment.describe()["commit"],
        "family": config.task.family,
        "metric": dataset.metric,
        "labels": list(dataset.labels),
        "data": {name: split.describe(splits["train"]) for name, split in splits.items()},
        "seeds": ended,
        "failed_seeds": [
            one["seed"] for one in ended if "dev" not in one or one["dev"][dataset.metric] <= lowest
        ],
        "best_seed": max(finished, key=lambda one: one["dev"][dataset.metric])["seed"],
        "summary": {
            name: results.summarize(
                [
                    np.load(workdir / f"seed-{one['seed']}" / f"outcomes_{name}.npy")
                    for one in finished
                ],
                dataset.family.metrics,
                dataset.metric,
            )
            for name in floor
        },
        "baselines": floor,
    }
    write_json(workdir / "result.json", result)
    Console(highlight=False).print(results.result_table(result))
    return result


def open_encoder(source: Path, config: FineTuningConfig) -> Run:
    """Opens weights whose heads, and a pooler that no one asks, may be missing.

    Raises:
      CheckpointError: see `load_run`.
    """
    if (source / "checkpoints").is_dir():
        return load_run(source)
    needed = config.task.representation == "pooled" and not config.training.reinitialize_pooler
    return load_run(source, allow=UNUSED_HEADS if needed else (*UNUSED_HEADS, "bert/pooler"))


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
        length=max(row_length(split.rows) for split in dataset.splits.values()),
        steps=steps,
    )


def tune(tuner: Tuner, seed: int, directory: Path) -> None:
    """Trains one seed and writes its checkpoint, metrics, predictions and, last, result."""
    config, dataset = tuner.config, tuner.dataset
    training, family, splits = config.training, dataset.family, dataset.splits
    started = time.monotonic()
    init_rng, dropout_rng = seed_streams(seed)
    state = tuner.make(init_rng, tuner.encoder)
    rows, per_epoch = splits["train"].rows, tuner.steps // training.epochs
    looks = {
        epoch * per_epoch + math.ceil(part * per_epoch / training.evaluations_per_epoch)
        for epoch in range(training.epochs)
        for part in range(1, training.evaluations_per_epoch + 1)
    }
    best: tuple[float, int, Any] = (-math.inf, 0, None)
    since_best, window, log, step = 0, [], [], 0
    for epoch in range(training.epochs):
        order = shuffled(len(rows), seed=seed, epoch=epoch)
        for batch in chunks([rows[i] for i in order], training.batch_size):
            placed = place(tuner, batch, training.batch_size)
            state, metrics = tuner.update(state, placed, dropout_rng)
            window.append(metrics)
            step += 1
            if step not in looks:
                continue
            row = {f"train/{name}": value for name, value in merge(window).items()}
            window = []
            if not math.isfinite(row["train/loss"]):
                write_json(directory / "result.json", {"seed": seed, "diverged_at_step": step})
                return
            predictions = predict(tuner, state.params, splits["dev"])
            threshold = family.settle(predictions, splits["dev"].examples)
            scores = score(family, family.judge(predictions, splits["dev"].examples, threshold))
            row |= {f"dev/{name}": value for name, value in scores.items()}
            log.append({"seed": seed, "epoch": epoch + 1, "step": step} | row)
            write_atomically(
                directory / "metrics.jsonl", "".join(json.dumps(one) + "\n" for one in log)
            )
            since_best += 1
            if scores[dataset.metric] > best[0]:
                best = (scores[dataset.metric], step, jax.device_get(state.params))
                since_best = 0
            if training.patience and since_best >= training.patience:
                break
        if training.patience and since_best >= training.patience:
            break
    _, best_step, params = best
    result: dict[str, Any] = {"seed": seed, "steps": step, "best_step": best_step}
    result |= write_predictions(tuner, params, directory)
    save(tuner, params, directory)
    result["seconds"] = round(time.monotonic() - started, 1)
    write_json(directory / "result.json", result)


def place(tuner: Tuner, rows: Sequence[Any], batch_size: int) -> TaskBatch:
    """Lays rows, padded to a batch, over the devices."""
    batch = stack(
        rows,
        family=tuner.dataset.family,
        batch_size=batch_size,
        length=tuner.length,
        pad_id=tuner.run.tokenizer.pad_id,
    )
    return jax.device_put(batch, tuner.rows)


def predict(tuner: Tuner, params: Any, split: Split) -> list[Any]:
    """Returns the prediction of each example of a split."""
    size, answers = tuner.config.training.evaluation_batch_size, []
    for rows in chunks(split.rows, size):
        answer = jax.device_get(tuner.answer(params, place(tuner, rows, size)))
        answers.extend(answer[: len(rows)])
    return tuner.dataset.family.decode(answers, split.rows, split.examples, tuner.config.task)


def write_predictions(tuner: Tuner, params: Any, directory: Path) -> dict[str, Any]:
    """Writes predictions and outcomes of dev and test; returns their metrics.

    What dev settles, such as a threshold, is used on both.
    """
    family, dataset = tuner.dataset.family, tuner.dataset
    result: dict[str, Any] = {}
    threshold = None
    for name in SPLITS[1:]:
        if name not in dataset.splits:
            continue
        split = dataset.splits[name]
        predictions = predict(tuner, params, split)
        if name == "dev":
            threshold = family.settle(predictions, split.examples)
            if threshold is not None:
                result["threshold"] = threshold
        suffix, text = family.write(predictions, split.examples, dataset.labels, threshold)
        write_atomically(directory / f"predictions_{name}.{suffix}", text)
        if labelled(split):
            outcomes = family.judge(predictions, split.examples, threshold)
            np.save(directory / f"outcomes_{name}.npy", outcomes)
            result[name] = score(family, outcomes)
    return result


def save(tuner: Tuner, params: Any, directory: Path) -> None:
    """Writes the best parameters, so that `load_run` opens the directory."""
    checkpoints.save_params(
        directory,
        params,
        model=tuner.run.model.config,
        experiment=None,
        tokenizer=tuner.run.tokenizer.to_json(),
    )


def open_workdir(workdir: Path, config: FineTuningConfig, identity: dict[str, Any]) -> None:
    """Writes config, environment and what is fine-tuned, or checks that they are those it holds.

    Raises:
      CheckpointError: the workdir holds another fine-tuning.
    """
    if workdir.exists() and not workdir.is_dir():
        raise CheckpointError(f"{workdir} is a file; accepted: a directory for the run")
    workdir.mkdir(parents=True, exist_ok=True)
    file = workdir / "identity.json"
    if file.exists():
        before = json.loads(file.read_text())
        for name in ("config_hash", "checkpoint_sha256"):
            if before[name] != identity[name]:
                raise CheckpointError(
                    f"{workdir} holds a fine-tuning with {name} {before[name][:12]}, this one has "
                    f"{identity[name][:12]}; accepted: the same, or another --workdir"
                )
    write_json(file, identity)
    write_json(workdir / "config.json", configs.to_json(config))
    description = workdir / "environment.json"
    write_json(description, environment.describe_again(description))


def _told(result: dict[str, Any], metric: str) -> str:
    if "dev" not in result:
        return f"diverged at step {result['diverged_at_step']}"
    parts = [f"{name} {metric} {result[name][metric]:.4f}" for name in SPLITS if name in result]
    return ", ".join([*parts, f"best at step {result['best_step']} of {result['steps']}"])
