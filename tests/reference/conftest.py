"""Fixtures that open real weights once, with Hugging Face's BERT and with bert_jax."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from download import WEIGHTS
from huggingface import EAGER, NO_DROPOUT, SpecialIds, draw_batch
from transformers import BertConfig, BertForPreTraining, BertModel

from bert_jax import load_run
from bert_jax.models import config as ours


class Pair(NamedTuple):
    """The same weights in torch and bert_jax without dropout, and batches of two-segment rows."""

    directory: Path
    torch_model: torch.nn.Module
    config: ours.BertConfig
    params: Any
    batches: list[dict[str, np.ndarray]]


@cache
def directory_of(name: str) -> Path:
    directory = WEIGHTS[name]
    if not directory.is_dir():
        pytest.fail(f"{directory} is missing: run python tests/reference/download.py")
    return directory


@pytest.fixture(scope="session")
def weights():
    """`weights(name)` returns the directory of the downloaded weights `name`."""
    return directory_of


def open_both(name: str, model_class: type, *, allow: tuple[str, ...], ids: SpecialIds) -> Pair:
    directory = directory_of(name)
    # The config.json of rxnfp names no model type, so AutoModel cannot read it.
    config = BertConfig.from_pretrained(directory, **NO_DROPOUT)
    model, loading = model_class.from_pretrained(
        directory, config=config, output_loading_info=True, **EAGER
    )
    assert not any(loading.values()), loading
    run = load_run(directory, allow=allow)
    batches = [
        draw_batch(seed, vocab_size=config.vocab_size, special_ids=ids, rows=4, length=48)
        for seed in range(20)
    ]
    # `scan_layers` compiles one layer for all: an eighth of the time, and the same numbers.
    without_dropout = {"dropout": 0.0, "attention_dropout": 0.0, "scan_layers": True}
    return Pair(directory, model, replace(run.model.config, **without_dropout), run.params, batches)


@pytest.fixture(scope="session")
def rxnfp() -> Pair:
    """A `BertForPreTraining`, 12 x 256. Its vocabulary is not WordPiece, so ids are random."""
    ids = SpecialIds(cls=12, sep=13, mask=14)
    return open_both("rxnfp", BertForPreTraining, allow=(), ids=ids)


@pytest.fixture(scope="session")
def minilm() -> Pair:
    """A bare `BertModel`, 6 x 384, with the English vocabulary of 30,522."""
    ids = SpecialIds(cls=101, sep=102, mask=103)
    allow = ("masked_token_head", "next_sentence_head")
    return open_both("minilm", BertModel, allow=allow, ids=ids)
