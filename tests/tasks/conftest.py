"""A BERT of random weights over a vocabulary of a few words, and small sets of each family."""

import json

import jax
import pytest

from bert_jax.data.tokenizers.wordpiece import SPECIAL_PIECES, WordPiece
from bert_jax.models.bert import BertForPretraining
from bert_jax.models.config import BertConfig
from bert_jax.training.checkpoint import save_params
from bert_jax.training.state import unboxed_params

WORDS = ("good", "bad", "film", "a", "the", "is", "play", "##ing", "##ed", "very", "who", ".", "?")
MODEL = BertConfig(
    vocab_size=len(SPECIAL_PIECES) + len(WORDS),
    hidden_size=32,
    num_layers=2,
    scan_layers=True,  # compiles one layer
    num_heads=4,
    max_positions=64,
    # Large enough for attention that differs between positions, as in a trained model.
    initializer_stddev=0.2,
)


@pytest.fixture(scope="module", autouse=True)
def hardly_optimized():
    """Turns off most optimizations, because programs compile for seconds and run for a moment.

    The scope is a module: a package fixture would last until the end of the session.
    """
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()  # unoptimized programs round differently


@pytest.fixture(scope="session")
def tokenizer():
    return WordPiece(pieces=(*SPECIAL_PIECES, *WORDS), lower_case=True)


@pytest.fixture(scope="session")
def pretrained(tokenizer, tmp_path_factory):
    """A directory with random weights that `load_run` opens."""
    directory = tmp_path_factory.mktemp("pretrained")
    params = jax.jit(lambda: unboxed_params(BertForPretraining(MODEL), 0))()
    save_params(directory, params, model=MODEL, experiment=None, tokenizer=tokenizer.to_json())
    return directory


@pytest.fixture(scope="session")
def write_set(tmp_path_factory):
    """`write_set(name, lines)` writes JSON lines, or strings as they are, and returns the file."""
    directory = tmp_path_factory.mktemp("sets")

    def write(name, lines):
        text = (line if isinstance(line, str) else json.dumps(line) for line in lines)
        (directory / name).write_text("".join(f"{line}\n" for line in text), encoding="utf-8")
        return directory / name

    return write
