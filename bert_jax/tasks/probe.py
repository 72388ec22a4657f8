"""A linear probe: what a line through the frozen encoder's representations can tell apart."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from bert_jax.data.tokenizers.files import Tokenizer
from bert_jax.errors import ConfigError
from bert_jax.models.config import BertConfig
from bert_jax.models.task import BertForTask
from bert_jax.tasks.config import FineTuningConfig
from bert_jax.tasks.datasets import Dataset, Split, encode_split, load_dataset
from bert_jax.tasks.families.encoding import chunks, row_length, shuffled, stack
from bert_jax.tasks.families.family import Row
from bert_jax.tasks.families.metrics import check_installed
from bert_jax.tasks.state import make_model

FAMILIES = ("classification", "regression")
TRAIN_EXAMPLES, DEV_EXAMPLES = 1000, 500
"""Of a set's own examples, drawn once and for all: a probe takes seconds, not minutes."""


def make_probe(
    config: FineTuningConfig, encoder: BertConfig, tokenizer: Tokenizer
) -> Callable[[Any], dict[str, float]]:
    """Returns a function of a pretraining's parameters, for `training.train.train(probes=...)`.

    It gives `eval/probe_METRIC`: on dev, of a logistic or ridge regression on the representations
    of training examples, both standardized.

    Raises:
      ConfigError, DataError: a task that cannot be probed, before any compile.
    """
    if config.task.family not in FAMILIES:
        raise ConfigError(
            f"evaluation.probe has task.family {config.task.family!r}; accepted: "
            f"{', '.join(FAMILIES)}"
        )
    if jax.process_count() > 1:
        raise ConfigError(f"evaluation.probe needs one process; there are {jax.process_count()}")
    check_installed()
    dataset = load_dataset(config.task)
    model = make_model(config, encoder, dataset.family, dataset.labels)
    train = drawn(dataset.splits["train"], TRAIN_EXAMPLES)
    dev = drawn(dataset.splits["dev"], DEV_EXAMPLES)
    train, dev = (encode_split(split, config.task, tokenizer) for split in (train, dev))
    length = row_length([*train.rows, *dev.rows], config.task.max_length)
    features = jax.jit(partial(model.apply, method=BertForTask.features))
    lay_out = partial(
        stack,
        family=dataset.family,
        batch_size=config.training.evaluation_batch_size,
        length=length,
        pad_id=tokenizer.pad_id,
    )

    def represent(params: Any, rows: Sequence[Row]) -> np.ndarray:
        found = []
        for part in chunks(rows, config.training.evaluation_batch_size):
            batch = lay_out(part)
            ids = (batch.token_ids[:, 0], batch.segment_ids[:, 0], batch.pack_ids[:, 0])
            found.append(np.asarray(features({"params": params}, *ids))[: len(part), 0])
        return np.concatenate(found).astype(np.float64)

    def probe(params: Any) -> dict[str, float]:
        encoder_params = {"bert": params["bert"]}
        predictions = fit_and_predict(
            represent(encoder_params, train.rows),
            np.array([example.gold for example in train.examples]),
            represent(encoder_params, dev.rows),
            regression=config.task.family == "regression",
        )
        return {f"eval/probe_{dataset.metric}": measured(dataset, dev, predictions)}

    return probe


def drawn(split: Split, count: int) -> Split:
    """Returns the same examples of a split at every call, at most `count`."""
    chosen = sorted(shuffled(len(split.examples), seed=0, epoch=0)[:count].tolist())
    return Split(
        name=split.name,
        examples=[split.examples[i] for i in chosen],
        sha256=split.sha256,
        rows=[],
    )


def fit_and_predict(
    train: np.ndarray, gold: np.ndarray, dev: np.ndarray, *, regression: bool
) -> np.ndarray:
    """Returns predictions for dev of a linear model of the training rows."""
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    linear = Ridge() if regression else LogisticRegression(C=0.1, max_iter=1000)
    return make_pipeline(StandardScaler(), linear).fit(train, gold).predict(dev)


def measured(dataset: Dataset, split: Split, predictions: np.ndarray) -> float:
    """Returns the main metric of the predictions."""
    family = dataset.family
    outcomes = family.judge(predictions.tolist(), split.examples, dataset.labels, None)
    value = family.metrics[dataset.metric](outcomes)
    assert value is not None  # of these families every metric has a value
    return value
