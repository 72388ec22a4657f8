"""Parameters of weights of Hugging Face or Google."""

from collections.abc import Collection
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding

from bert_jax.interop.source import Source
from bert_jax.interop.tensors import LoadingReport, to_parameters
from bert_jax.models.bert import BertForPretraining
from bert_jax.training.initial import flatten_params
from bert_jax.training.state import abstract_params, unboxed_params


def cpu() -> Any:
    """Returns the device to which runs are loaded."""
    return jax.local_devices(backend="cpu")[0]


def foreign_params(
    model: BertForPretraining, source: Source, allow: Collection[str]
) -> tuple[Any, LoadingReport]:
    """Returns the parameters of a model from foreign tensors, and how each tensor was used.

    Raises:
      CheckpointError: a tensor is missing or unknown and `allow` does not name it, or does not fit.
    """
    abstract = abstract_params(model, SingleDeviceSharding(cpu()))
    shapes = {name: leaf.shape for name, leaf in flatten_params(abstract).items()}
    initialize = partial(_initialize, model)
    parameters, loading = to_parameters(source, shapes, initialize=initialize, allow=allow)
    params = jax.tree.unflatten(jax.tree.structure(abstract), [parameters[name] for name in shapes])
    return jax.device_put(params, cpu()), loading


def _initialize(model: BertForPretraining, paths: Collection[str]) -> dict[str, np.ndarray]:
    """Returns random initial values for the parameters in `paths`, drawn with seed 0."""

    def initialize() -> dict[str, jax.Array]:
        params = flatten_params(unboxed_params(model, 0))
        return {path: params[path] for path in paths}

    with jax.default_device(cpu()):
        return jax.device_get(jax.jit(initialize)())
