"""A linear probe: a linear model on the representations of the frozen encoder."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np

from bert_jax.data.tokenizers.files import Tokenizer
from bert_jax.errors import DataError, require
from bert_jax.models.config import BertConfig
from bert_jax.models.task import BertForTask
from bert_jax.tasks.config import FineTuningConfig
from bert_jax.tasks.datasets import compute_metrics, encode_examples, load_dataset
from bert_jax.tasks.families.batches import chunks, padded_length, shuffled, stack
from bert_jax.tasks.families.family import Example, Row
from bert_jax.tasks.families.metrics import check_installed
from bert_jax.tasks.state import make_model

FAMILIES = ("classification", "regression")
TRAIN_EXAMPLES, DEV_EXAMPLES = 1000, 500
"""Maximum numbers of examples; a probe of this size takes seconds."""


def make_probe(
    config: FineTuningConfig, encoder: BertConfig, tokenizer: Tokenizer
) -> Callable[[Any], dict[str, float]]:
    """Returns a probe: a function of pretraining parameters for `training.train.train(probes=...)`.

    The function returns `eval/probe_METRIC`: the main metric on dev of a logistic or ridge
    regression, fitted to standardized representations of training examples. The metric is nan if a
    representation is not finite.

    Raises:
      ConfigError, DataError: the task cannot be probed; raised before any compile.
    """
    family, count = config.task.family, jax.process_count()
    require(family in FAMILIES, "task.family of evaluation.probe", family, ", ".join(FAMILIES))
    require(count == 1, "the number of processes", count, "1 with evaluation.probe")
    check_installed()
    dataset = load_dataset(config.task)
    encoder = replace(encoder, attention="einsum")  # the kernels refuse rows of some lengths
    model = make_model(config, encoder, dataset.family, dataset.labels)
    train = sample(dataset.splits["train"].examples, TRAIN_EXAMPLES)
    dev = sample(dataset.splits["dev"].examples, DEV_EXAMPLES)
    gold, regression = np.array([example.gold for example in train]), family == "regression"
    several = regression or len(np.unique(gold)) > 1
    accepted = f"two or more in a sample of {TRAIN_EXAMPLES:,}"
    require(several, "the number of labels in task.train", 1, accepted, error=DataError)
    rows = [encode_examples(examples, config.task, tokenizer) for examples in (train, dev)]
    length = padded_length(sum(rows, []), config.task.max_length)
    features = jax.jit(partial(model.apply, method=BertForTask.features))
    size = config.training.evaluation_batch_size
    shape = {"batch_size": size, "length": length, "pad_id": tokenizer.pad_id}

    def represent(params: Any, rows: Sequence[Row]) -> np.ndarray:
        found = []
        for some in chunks(rows, size):
            batch = stack(some, family=dataset.family, **shape)
            ids = (batch.token_ids[:, 0], batch.segment_ids[:, 0], batch.pack_ids[:, 0])
            found.append(np.asarray(features({"params": params}, *ids))[: len(some), 0])
        return np.concatenate(found).astype(np.float64)

    def probe(params: Any) -> dict[str, float]:
        name = f"eval/probe_{dataset.metric}"
        of_train, of_dev = (represent({"bert": params["bert"]}, of_split) for of_split in rows)
        if not np.isfinite([of_train.sum(), of_dev.sum()]).all():
            return {name: math.nan}
        predictions = fit_and_predict(of_train, gold, of_dev, regression=regression)
        outcomes = dataset.family.score(predictions.tolist(), dev, dataset.labels)
        metrics = compute_metrics(dataset.family, outcomes)
        return {name: metrics[dataset.metric]}

    return probe


def sample(examples: Sequence[Example], count: int) -> list[Example]:
    """Returns at most `count` of the examples, the same at every call."""
    chosen = sorted(shuffled(len(examples), seed=0, epoch=0)[:count].tolist())
    return [examples[i] for i in chosen]


def fit_and_predict(
    train: np.ndarray, gold: np.ndarray, dev: np.ndarray, *, regression: bool
) -> np.ndarray:
    """Fits a linear model to the training rows and returns its predictions for dev."""
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    linear = Ridge() if regression else LogisticRegression(C=0.1, max_iter=1000)
    return make_pipeline(StandardScaler(), linear).fit(train, gold).predict(dev)
