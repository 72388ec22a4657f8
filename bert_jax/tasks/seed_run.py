"""One seed of a fine-tuning: from the first state to checkpoint, predictions and result."""

import json
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from rich.console import Console
from rich.progress import track

from bert_jax import config as configs
from bert_jax.files import write_atomically, write_json
from bert_jax.models.task import BertForTask
from bert_jax.runs.run import Run
from bert_jax.tasks.config import FineTuningConfig, TuningConfig
from bert_jax.tasks.datasets import SPLITS, Dataset, Split, labelled, score
from bert_jax.tasks.families.encoding import batch_length, chunks, epoch_batches, num_tokens, stack
from bert_jax.tasks.families.family import Row, TaskBatch
from bert_jax.tasks.state import seed_streams
from bert_jax.training import checkpoint as checkpoints
from bert_jax.training.metrics import Mean, merge


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
    """Of the training rows, padded."""
    steps: int


def tune(tuner: Tuner, seed: int, directory: Path, console: Console) -> None:
    """Trains one seed and writes its checkpoint, metrics, predictions and, last, its result.

    A seed whose loss or parameters are no longer finite ends at the next look, and its result is
    the update that did it.
    """
    dataset, training = tuner.dataset, tuner.config.training
    started = time.monotonic()
    init_rng, dropout_rng = seed_streams(seed)
    state = tuner.make(init_rng, tuner.encoder)
    rows = dataset.splits["train"].rows
    looks = evaluation_steps(tuner.steps, training)
    best = Best(-math.inf, 0, None)
    window, log, looks_since_best = [], [], 0
    batches = track(
        epochs(rows, seed=seed, training=training),
        f"seed {seed}",
        total=tuner.steps,
        console=console,
        transient=True,
    )
    for step, batch in enumerate(batches, start=1):
        length = batch_length(batch, tuner.length) if training.group_by_length else tuner.length
        placed = place(tuner, batch, training.batch_size, length)
        state, metrics = tuner.update(state, placed, dropout_rng)
        window.append(metrics)
        if step not in looks:
            continue
        row = {f"train/{name}": value for name, value in merge(window).items()}
        diverged = diverged_at(window, step)
        scores = {} if diverged else evaluate(tuner, state.params, dataset.splits["dev"])
        row |= {f"dev/{name}": value for name, value in scores.items()}
        row = {name: value if math.isfinite(value) else None for name, value in row.items()}
        log.append(json.dumps({"seed": seed, "step": step} | row) + "\n")
        write_atomically(directory / "metrics.jsonl", "".join(log))
        if diverged:
            write_json(directory / "result.json", {"seed": seed, "diverged_at_step": diverged})
            return
        console.print(
            f"seed {seed} step {step:7,}  train loss {row['train/loss']:.3f}  "
            f"dev {dataset.metric} {scores[dataset.metric]:.4f}  {time.monotonic() - started:.0f} s"
        )
        window, looks_since_best = [], looks_since_best + 1
        if scores[dataset.metric] > best.score:
            best = Best(scores[dataset.metric], step, jax.device_get(state.params))
            looks_since_best = 0
        if training.patience and looks_since_best >= training.patience:
            break
    result: dict[str, Any] = {"seed": seed, "steps": step, "best_step": best.step}
    result |= write_predictions(tuner, best.params, directory)
    save(tuner, best.params, directory)
    result["seconds"] = round(time.monotonic() - started, 1)
    write_json(directory / "result.json", result)


class Best(NamedTuple):
    """The checkpoint that dev likes most; of equals the first."""

    score: float
    step: int
    params: Any
    """On the host."""


def epochs(rows: Sequence[Row], *, seed: int, training: TuningConfig) -> Iterator[list[Row]]:
    """Returns the batches of all epochs; one of each may be smaller."""
    for epoch in range(training.epochs):
        yield from epoch_batches(
            rows,
            seed=seed,
            epoch=epoch,
            size=training.batch_size,
            by_length=training.group_by_length,
        )


def evaluation_steps(steps: int, training: TuningConfig) -> set[int]:
    """Returns the steps after which dev is measured, the last of each epoch among them."""
    looks = training.epochs * training.evaluations_per_epoch
    return {math.ceil(i * steps / looks) for i in range(1, looks + 1)}


def diverged_at(window: Sequence[dict[str, Mean]], last: int) -> int | None:
    """Returns the first of the steps up to `last` that had a loss, or left parameters, not finite.

    A loss tells of the parameters before its step, so that of the last ones the norm alone does.
    """
    for step, metrics in enumerate(jax.device_get(window), start=last - len(window) + 1):
        if not all(math.isfinite(metrics[name].total) for name in ("loss", "param_norm")):
            return step
    return None


def evaluate(tuner: Tuner, params: Any, split: Split) -> dict[str, float]:
    """Returns the metrics of a split, what dev settles settled on it."""
    family = tuner.dataset.family
    predictions = predict(tuner, params, split)
    threshold = family.settle(predictions, split.examples, tuner.dataset.metric)
    labels = tuner.dataset.labels
    return score(family, family.judge(predictions, split.examples, labels, threshold))


def place(tuner: Tuner, rows: Sequence[Row], batch_size: int, length: int) -> TaskBatch:
    """Lays rows, padded to a batch of a length, over the devices."""
    batch = stack(
        rows,
        family=tuner.dataset.family,
        batch_size=batch_size,
        length=length,
        pad_id=tuner.run.tokenizer.pad_id,
    )
    return jax.device_put(batch, tuner.rows)


def predict(tuner: Tuner, params: Any, split: Split) -> list[Any]:
    """Returns the prediction of each example of a split."""
    size = tuner.config.training.evaluation_batch_size
    answers: dict[int, Any] = {}
    # Rows of similar length together: there is little padding, which changes no answer.
    by_length = sorted(range(len(split.rows)), key=lambda i: num_tokens(split.rows[i]))
    for numbers in chunks(by_length, size):
        rows = [split.rows[i] for i in numbers]
        longest = tuner.config.task.max_length
        batch = place(tuner, rows, size, batch_length(rows, longest))
        found = jax.device_get(tuner.answer(params, batch))
        answers |= zip(numbers, found[: len(rows)], strict=True)
    answers_in_order = [answers[i] for i in range(len(split.rows))]
    return tuner.dataset.family.decode(
        answers_in_order, split.rows, split.examples, tuner.config.task
    )


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
            threshold = family.settle(predictions, split.examples, dataset.metric)
            if threshold is not None:
                answered = family.judge(predictions, split.examples, dataset.labels, None)
                result["threshold"] = threshold
                result["dev_without_threshold"] = score(family, answered)
        suffix, text = family.write(predictions, split.examples, dataset.labels, threshold)
        write_atomically(directory / f"predictions_{name}.{suffix}", text)
        if labelled(split):
            outcomes = family.judge(predictions, split.examples, dataset.labels, threshold)
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
        passport=tuner.run.passport,
        head=configs.to_json(tuner.model.head),
        tokenizer=tuner.run.tokenizer.to_json(),
    )
