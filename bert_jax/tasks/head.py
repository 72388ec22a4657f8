"""The layer that a task adds to the encoder: what a checkpoint and a conversion know of it."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class TaskHeadConfig:
    """The one output layer that a task adds."""

    family: str
    """Of bert_jax.tasks.families."""
    labels: tuple[str, ...]
    """Their names by number; empty for a family without."""
    outputs: int
    unit: Literal["text", "token"]
    """Whether a row has logits, or each of its positions."""
    representation: str
    """What the layer sees: see `bert_jax.tasks.config.TaskConfig`."""
    dropout: bool = True
    """Before the layer, at the encoder's rate; not in question answering."""
