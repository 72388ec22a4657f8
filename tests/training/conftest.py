"""Fixtures: a tiny BERT, random batches, and a compiled update on any mesh."""

from functools import cache, partial
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from bert_jax.data.batch import Batch
from bert_jax.models.bert import BertForPretraining
from bert_jax.models.config import BertConfig
from bert_jax.sharding import MeshConfig, ShardingRules, make_mesh, named_sharding
from bert_jax.training.build import place_batch
from bert_jax.training.losses import ObjectiveConfig
from bert_jax.training.optim import OptimizerConfig, learning_rate_schedule, make_optimizer
from bert_jax.training.state import TrainState, make_state, state_initializer, state_sharding
from bert_jax.training.step import train_step

SEED = 7
STEPS = 20
# Every named dimension divides by 8 along `fsdp` and by 4 along `tensor`.
CONFIG = BertConfig(vocab_size=300, hidden_size=32, num_layers=2, num_heads=4, max_positions=32)


class Trainer(NamedTuple):
    """The tiny BERT on a mesh, with its initialization and its update."""

    mesh: jax.sharding.Mesh
    model: BertForPretraining
    sharding: TrainState
    initialize: Any
    update: Any
    """The jitted update; it donates the state."""

    def place(self, batch: Batch) -> Batch:
        rows = named_sharding(
            ("batch",),
            rules=ShardingRules(),
            mesh=self.mesh,
            shape=(batch.token_ids.shape[0],),
            what="rows",
        )
        return place_batch(batch, sharding=rows)

    def step(self, state: TrainState, batch: Batch):
        with jax.set_mesh(self.mesh):
            return self.update(state, self.place(batch))


@cache
def make_trainer(data: int, fsdp: int, tensor: int) -> Trainer:
    mesh = make_mesh(MeshConfig(data=data, fsdp=fsdp, tensor=tensor))
    rules = ShardingRules()
    model = BertForPretraining(CONFIG, rules)
    # With one warm-up step the second update has the full rate, so the losses show a wrong update.
    optimizer_config = OptimizerConfig(learning_rate=1e-3, warmup_steps=1)
    schedule = learning_rate_schedule(optimizer_config, steps=STEPS)
    optimizer = make_optimizer(optimizer_config, schedule)
    initialize = state_initializer(model, optimizer, seed=SEED)
    sharding = state_sharding(initialize, mesh=mesh, rules=rules)
    update = partial(
        train_step,
        model=model,
        optimizer=optimizer,
        schedule=schedule,
        objective=ObjectiveConfig(),
        seed=SEED,
    )
    update = jax.jit(
        update,
        out_shardings=(sharding, None),
        donate_argnums=0,
        # A compile takes 5 s instead of 12 s.
        compiler_options={"xla_backend_optimization_level": 0},
    )
    return Trainer(mesh, model, sharding, initialize, update)


@pytest.fixture(scope="session")
def trainer_on():
    """`trainer_on(data, fsdp, tensor)` returns the Trainer of this mesh, which is made once."""
    return make_trainer


@pytest.fixture(scope="session")
def first_state() -> TrainState:
    """The initial state of the tiny BERT, made on one device and stored on the host."""
    trainer = make_trainer(1, 1, 1)
    return jax.device_get(make_state(trainer.initialize, trainer.sharding))


@pytest.fixture(scope="session")
def random_batch():
    """`random_batch(rows=16, filler_rows=0)` returns rows of 16 positions and 4 predictions.

    Rows have different numbers of tokens and of masked words (1 to 4), so shards of rows have
    different weights.
    """
    return make_random_batch


def make_random_batch(rows: int = 16, filler_rows: int = 0, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    length, predictions = 16, 4
    columns, slots = np.arange(length), np.arange(predictions)
    real_rows = np.arange(rows)[:, None] < rows - filler_rows
    lengths = rng.integers(9, length + 1, size=(rows, 1))
    pack_ids = (real_rows & (columns < lengths)).astype(np.int32)
    segment_ids = ((columns >= 5) * pack_ids).astype(np.int32)
    counts = 1 + np.arange(rows)[:, None] * predictions // rows
    weights = (real_rows & (slots < counts)).astype(np.float32)
    positions = np.sort([1 + rng.permutation(8)[:predictions] for _ in range(rows)], axis=1)
    return Batch(
        token_ids=(rng.integers(5, 300, size=(rows, length)) * pack_ids).astype(np.int32),
        segment_ids=segment_ids,
        pack_ids=pack_ids,
        mask_positions=(positions * (weights > 0)).astype(np.int32),
        mask_labels=(rng.integers(0, 300, size=(rows, predictions))).astype(np.int32),
        mask_weights=weights,
        cls_positions=np.zeros((rows, 1), np.int32),
        pair_labels=rng.integers(0, 2, size=(rows, 1)).astype(np.int32),
        pair_weights=real_rows.astype(np.float32),
    )
