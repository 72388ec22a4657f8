"""Runs and trains Hugging Face's BERT in torch, the reference for bert_jax.

The module does not import bert_jax. A batch is a dict of int64 arrays in the layout of
`BertForPreTraining`: `input_ids`, `token_type_ids`, `attention_mask`, `labels` (-100 at positions
without prediction) and `next_sentence_label`.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch.nn.utils import clip_grad_norm_
from transformers import get_linear_schedule_with_warmup

# On a busy machine two threads wait for each other and took 240 s; one thread takes 30 s.
torch.set_num_threads(1)

IGNORED = -100
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
# Separate product, mask and softmax as published; a fused kernel would sum in another order.
EAGER = {"attn_implementation": "eager"}


class Recipe(NamedTuple):
    """The AdamW settings of Hugging Face's BERT examples: no decay on biases and LayerNorm."""

    learning_rate: float
    warmup_steps: int
    steps: int
    weight_decay: float = 0.01
    epsilon: float = 1e-8
    max_grad_norm: float = 1.0


class SpecialIds(NamedTuple):
    """The ids of [CLS], [SEP] and [MASK]; [PAD] is 0."""

    cls: int
    sep: int
    mask: int


def draw_batch(
    seed: int, *, vocab_size: int, special_ids: SpecialIds, rows: int, length: int
) -> dict[str, np.ndarray]:
    """Draws two-segment rows of random ids. The first row is full, the others have padding.

    Rows have different numbers of masked words. The first label is 0, because id 0 must be
    predicted like every other id.
    """
    rng = np.random.default_rng(seed)
    batch = {
        "input_ids": np.zeros((rows, length), np.int64),
        "token_type_ids": np.zeros((rows, length), np.int64),
        "attention_mask": np.zeros((rows, length), np.int64),
        "labels": np.full((rows, length), IGNORED, np.int64),
        "next_sentence_label": rng.integers(0, 2, rows),
    }
    lengths = rng.integers(length // 3, length, size=rows)
    lengths[0] = length
    for row, total in enumerate(lengths):
        ids = rng.integers(max(special_ids) + 1, vocab_size, size=total)
        first_end = rng.integers(2, total - 2)
        ids[0], ids[first_end], ids[-1] = special_ids.cls, special_ids.sep, special_ids.sep
        words = np.setdiff1d(np.arange(total), [0, first_end, total - 1])
        count = rng.integers(1, max(2, total // 4))
        masked = rng.choice(words, size=count, replace=False)
        batch["labels"][row, masked] = ids[masked]
        ids[masked] = special_ids.mask
        batch["input_ids"][row, :total] = ids
        batch["token_type_ids"][row, first_end + 1 : total] = 1
        batch["attention_mask"][row, :total] = 1
    first = np.argwhere(batch["labels"] != IGNORED)[0]
    batch["labels"][tuple(first)] = 0
    return batch


def to_torch(batch: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.asarray(value)).long() for name, value in batch.items()}


def encode(model: torch.nn.Module, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Runs a `BertModel`. Returns `pooled_output`, and with padding all other outputs."""
    inputs = to_torch(batch)
    model.set_attn_implementation("eager")  # the others do not return probabilities
    with torch.no_grad():
        output = model(
            input_ids=inputs["input_ids"],
            token_type_ids=inputs["token_type_ids"],
            attention_mask=inputs["attention_mask"],
            output_hidden_states=True,
            output_attentions=True,
        )
    return {
        "sequence_output": output.last_hidden_state.numpy(),
        "pooled_output": output.pooler_output.numpy(),
        "hidden_states": np.stack(output.hidden_states),
        "attentions": np.stack(output.attentions),
    }


def predict(model: torch.nn.Module, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Runs a `BertForPreTraining`. Returns `token_logits` at every position, and `pair_logits`."""
    with torch.no_grad():
        output = model(**to_torch(batch))
    return {
        "token_logits": output.prediction_logits.numpy(),
        "pair_logits": output.seq_relationship_logits.numpy(),
    }


class Gradient(NamedTuple):
    """The loss of a batch, and its gradients under the names of `named_parameters`."""

    loss: float
    by_name: dict[str, np.ndarray]


def gradient(model: torch.nn.Module, batch: dict[str, np.ndarray]) -> Gradient:
    """Returns the sum of both losses and its gradients. A tied table is under its first name."""
    model.zero_grad()
    loss = model(**to_torch(batch)).loss
    loss.backward()
    by_name = {name: p.grad.numpy().copy() for name, p in model.named_parameters()}
    return Gradient(loss.item(), by_name)


def train(model: torch.nn.Module, batches: list[dict[str, np.ndarray]], recipe: Recipe):
    """Updates the model in place once for each batch. Returns the loss before each update."""
    decayed, undecayed = [], []
    for name, parameter in model.named_parameters():
        plain = name.endswith("bias") or "LayerNorm" in name
        (undecayed if plain else decayed).append(parameter)
    optimizer = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": recipe.weight_decay},
            {"params": undecayed, "weight_decay": 0.0},
        ],
        lr=recipe.learning_rate,
        betas=(0.9, 0.999),
        eps=recipe.epsilon,
    )
    schedule = get_linear_schedule_with_warmup(optimizer, recipe.warmup_steps, recipe.steps)
    losses = []
    for batch in batches:
        loss = gradient_step(model, batch, optimizer, recipe.max_grad_norm)
        schedule.step()
        losses.append(loss)
    return losses


def gradient_step(model, batch, optimizer, max_grad_norm: float) -> float:
    optimizer.zero_grad()
    loss = model(**to_torch(batch)).loss
    loss.backward()
    clip_grad_norm_(model.parameters(), max_grad_norm)
    optimizer.step()
    return loss.item()
