"""One seed of a fine-tuning: from the first state to checkpoint, predictions and result."""

import json
import math
import time
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from rich.progress import Progress

from bert_jax.config import to_json
from bert_jax.files import write_array, write_atomically, write_json
from bert_jax.models.task import BertForTask
from bert_jax.runs.fine_tuned import write_fine_tuning
from bert_jax.runs.run import Run
from bert_jax.sharding import num_parts
from bert_jax.tasks.config import FineTuningConfig, TaskTrainingConfig
from bert_jax.tasks.datasets import Dataset, Split, compute_metrics
from bert_jax.tasks.families import batches
from bert_jax.tasks.families.batches import LENGTH_STEP, padded_length
from bert_jax.tasks.families.family import Row, TaskBatch
from bert_jax.tasks.prediction import batch_outputs, row_outputs
from bert_jax.tasks.state import norm_of
from bert_jax.training.checkpoint import save_params
from bert_jax.training.metrics import Mean, merge
from bert_jax.training.state import TrainState, random_stream


class Setup(NamedTuple):
    """The data, model and jitted functions that all seeds of a fine-tuning share."""

    config: FineTuningConfig
    dataset: Dataset
    run: Run
    """The pretrained run."""
    model: BertForTask
    encoder: Any
    """The encoder's pretrained parameters, placed on the devices."""
    first_state: Callable[[jax.Array, Any], TrainState]
    """(key, encoder parameters) -> the first state of a seed."""
    update: Callable[[TrainState, TaskBatch, jax.Array], tuple[TrainState, dict[str, Mean]]]
    """(state, batch, key) -> (state, metrics); the state is donated."""
    mesh: Mesh
    batch_sharding: NamedSharding
    length: int
    """The padded length of the training rows, in tokens."""
    steps: int
    """The number of updates of a seed."""


def run_seed(setup: Setup, seed: int, directory: Path, progress: Progress) -> None:
    """Trains one seed and writes its checkpoint, metrics, predictions and, last, result.json.

    If the loss or the parameters of a seed become infinite or nan, the seed ends at its next
    evaluation, and its result holds only the seed and the first step with such a value.
    """
    dataset, training = setup.dataset, setup.config.training
    started = time.monotonic()
    state = setup.first_state(random_stream(seed, "init"), setup.encoder)
    dropout_rng = random_stream(seed, "dropout")
    evaluations = evaluation_steps(setup.steps, training)
    best_score, best_step, best_params = -math.inf, 0, None
    window, log = [], []
    order = {"seed": seed, "size": training.batch_size, "by_length": training.group_by_length}
    epochs = (
        batches.epoch_batches(dataset.splits["train"].rows, epoch=epoch, **order)
        for epoch in range(training.epochs)
    )
    # `rich.progress.track` waits for its thread when Python ends, after that thread has ended.
    bar = progress.add_task(f"seed {seed}", total=setup.steps)
    for step, rows in enumerate(chain.from_iterable(epochs), start=1):
        progress.advance(bar)
        length = setup.length
        if training.group_by_length:
            length = padded_length(rows, setup.length, multiple=LENGTH_STEP)
        batch = place_batch(setup, rows, training.batch_size, length)
        state, metrics = setup.update(state, batch, dropout_rng)
        window.append(metrics)
        if step not in evaluations:
            continue
        row = {f"train/{name}": value for name, value in merge(window).items()}
        diverged = diverged_at(window, step, state.params)
        window = []
        scores = {} if diverged else evaluate(setup, state.params, dataset.splits["dev"])
        row |= {f"dev/{name}": value for name, value in scores.items()}
        row = {name: value if math.isfinite(value) else None for name, value in row.items()}
        log.append(json.dumps({"seed": seed, "step": step} | row) + "\n")
        write_atomically(directory / "metrics.jsonl", "".join(log))
        if diverged:
            write_json(directory / "result.json", {"seed": seed, "diverged_at_step": diverged})
            return
        score = scores[dataset.metric]
        progress.console.print(
            f"seed {seed} step {step:7,}  train loss {row['train/loss']:.3f}  "
            f"dev {dataset.metric} {score:.4f}  {time.monotonic() - started:.0f} s"
        )
        if score > best_score:  # keeps the first of several equal checkpoints
            best_score, best_step, best_params = score, step, jax.device_get(state.params)
    result: dict[str, Any] = {"seed": seed, "steps": setup.steps, "best_step": best_step}
    result |= write_predictions(setup, best_params, directory)
    save_params(
        directory,
        best_params,
        model=setup.run.model.config,
        experiment=None,
        passport=setup.run.passport,
        head=to_json(setup.model.head),
        tokenizer=setup.run.tokenizer.to_json(),
    )
    write_fine_tuning(directory, setup.config, result.get("threshold"))
    result["seconds"] = round(time.monotonic() - started, 1)
    write_json(directory / "result.json", result)


def evaluation_steps(steps: int, training: TaskTrainingConfig) -> set[int]:
    """Returns the steps after which dev is evaluated, including the last step of each epoch."""
    count = training.epochs * training.evaluations_per_epoch
    return {math.ceil(i * steps / count) for i in range(1, count + 1)}


def diverged_at(window: Sequence[dict[str, Mean]], last: int, params: Any) -> int | None:
    """Returns the first step whose loss or gradient is infinite or nan, if any.

    `window` holds the metrics of the steps up to `last`; `params` are those after `last`. An update
    can fail although its gradient is finite. The loss of the next step then shows it, and after
    `last` the parameters do.
    """
    for step, metrics in enumerate(jax.device_get(window), start=last - len(window) + 1):
        if not all(math.isfinite(metrics[name].total) for name in ("loss", "grad_norm")):
            return step
    return None if math.isfinite(norm_of(params)) else last


def evaluate(setup: Setup, params: Any, split: Split) -> dict[str, float]:
    """Evaluates a split. If the family has a threshold, it is chosen on this split."""
    family, dataset = setup.dataset.family, setup.dataset
    _, predictions = predict(setup, params, split)
    threshold = family.choose_threshold(predictions, split.examples, dataset.metric)
    predictions = family.apply_threshold(predictions, threshold)
    return compute_metrics(family, family.score(predictions, split.examples, dataset.labels))


def place_batch(setup: Setup, rows: Sequence[Row], batch_size: int, length: int) -> TaskBatch:
    """Stacks rows, pads them to (batch_size, length) and puts them on the devices."""
    batch = batches.stack(
        rows,
        family=setup.dataset.family,
        batch_size=batch_size,
        length=length,
        pad_id=setup.run.tokenizer.pad_id,
    )
    return jax.device_put(batch, setup.batch_sharding)


def predict(setup: Setup, params: Any, split: Split) -> tuple[list[np.ndarray], list[Any]]:
    """Returns the outputs of the rows, and the predictions before any threshold is applied."""
    size, task = setup.config.training.evaluation_batch_size, setup.config.task
    parts = num_parts(setup.batch_sharding)
    whole = -(-size // parts) * parts  # with filler rows

    def run_batch(rows: Sequence[Row], length: int) -> np.ndarray:
        batch = place_batch(setup, rows, whole, length)
        return jax.device_get(batch_outputs(setup.model, params, batch))

    outputs = row_outputs(split.rows, run_batch, size=size, longest=task.max_length)
    return outputs, setup.dataset.family.decode(outputs, split.rows, split.examples, task)


def write_predictions(setup: Setup, params: Any, directory: Path) -> dict[str, Any]:
    """Writes predictions and outcomes of dev and test, and returns their metrics.

    If the family has a threshold, it is chosen on dev and used on dev and test.
    """
    family, dataset = setup.dataset.family, setup.dataset
    result: dict[str, Any] = {}
    threshold = None
    for name, split in dataset.splits.items():
        if name == "train":
            continue
        outputs, predictions = predict(setup, params, split)
        if name == "dev":
            threshold = family.choose_threshold(predictions, split.examples, dataset.metric)
            if threshold is not None:
                outcomes = family.score(predictions, split.examples, dataset.labels)
                result["threshold"] = threshold
                result["dev_without_threshold"] = compute_metrics(family, outcomes)
        predictions = family.apply_threshold(predictions, threshold)
        suffix, text = family.write_predictions(predictions, split.examples, dataset.labels)
        write_atomically(directory / f"predictions_{name}.{suffix}", text)
        rows, examples = split.rows, split.examples
        answers = family.answers(dataset.labels, predictions, outputs, rows, examples)
        text = describe_answers(answers, split, dataset)
        write_atomically(directory / f"predictions_{name}.jsonl", text)
        if split.labelled:
            outcomes = family.score(predictions, split.examples, dataset.labels)
            write_array(outcomes, path=directory / f"outcomes_{name}.npy")
            result[name] = compute_metrics(family, outcomes)
    return result


def describe_answers(answers: Sequence[dict[str, Any]], split: Split, dataset: Dataset) -> str:
    """Returns a line of JSON for each example: id, texts, label, prediction and probability."""
    lines = []
    for answer, (_, texts, gold, name, _) in zip(answers, split.examples, strict=True):
        label = None if gold is None else dataset.family.gold(gold, dataset.labels)
        row = ({"id": name} if name else {}) | {"texts": texts, "gold": label} | answer
        row.pop("probabilities", None)
        lines.append(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
    return "".join(lines)
