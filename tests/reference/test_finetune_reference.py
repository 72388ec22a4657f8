"""benchmarks/finetune_reference.py repeats a fine-tuning: same losses, same accuracies.

The output layer starts equal and there is no dropout, so no random number differs.
"""

import json

import jax
import numpy as np
import pytest
import torch
from flax import linen as nn
from scripts import load_script
from transformers import AutoTokenizer

from bert_jax.config import to_json
from bert_jax.data.tokenizers.wordpiece import SPECIAL_PIECES, WordPiece
from bert_jax.finetuning.finetune import finetune
from bert_jax.models.bert import BertForPretraining
from bert_jax.models.config import BertConfig
from bert_jax.runs.load import load_run
from bert_jax.runs.save import save_run
from bert_jax.sharding import MeshConfig
from bert_jax.tasks.config import FineTuningConfig, TaskConfig, TaskTrainingConfig
from bert_jax.training.checkpoint import save_params
from bert_jax.training.optim import OptimizerConfig
from bert_jax.training.state import random_stream, unboxed_params

WORDS = ("good", "bad", "film", "the", "is", "play", "##ing", "very", ".", "fine", "poor")


@pytest.fixture(scope="module")
def reference():
    return load_script("finetune_reference")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A Hugging Face directory with dropout 0."""
    directory = tmp_path_factory.mktemp("weights")
    model = BertConfig(
        vocab_size=len(SPECIAL_PIECES) + len(WORDS),
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        max_positions=32,
        dropout=0.0,
        attention_dropout=0.0,
        initializer_stddev=0.2,
    )
    tokenizer = WordPiece(pieces=(*SPECIAL_PIECES, *WORDS), lower_case=True).to_json()
    params = jax.jit(lambda: unboxed_params(BertForPretraining(model), 0))()
    save_params(directory / "ours", params, model=model, experiment=None, tokenizer=tokenizer)
    (directory / "theirs").mkdir()
    save_run(load_run(directory / "ours"), directory / "theirs", to="huggingface")
    return directory / "theirs"


def write_tsv(file, count, seed):
    """Writes sentences of up to 14 words, some of which are cut; kind words have the label yes."""
    rng = np.random.default_rng(seed)
    lines = ["text\tlabel"]
    for _ in range(count):
        words = list(rng.choice([*WORDS[2:9], "playing"], size=rng.integers(1, 14)))
        kind = bool(rng.integers(2))
        words.insert(0, str(rng.choice(["good", "fine"] if kind else ["bad", "poor"])))
        lines.append(f"{' '.join(words).replace('##', '')}\t{'yes' if kind else 'no'}")
    file.write_text("\n".join(lines) + "\n")
    return f"tsv:{file}"


def test_it_repeats_a_fine_tuning(reference, weights, tmp_path):
    files = {
        name: write_tsv(tmp_path / f"{name}.tsv", count, seed)
        for seed, (name, count) in enumerate({"train": 74, "dev": 40, "test": 40}.items())
    }
    config = FineTuningConfig(
        task=TaskConfig(
            family="classification",
            **files,
            labels=("no", "yes"),
            max_length=12,
            representation="mean",
        ),
        training=TaskTrainingConfig(epochs=2, batch_size=8, evaluations_per_epoch=2),
        optimizer=OptimizerConfig(
            learning_rate=1e-3,
            warmup_steps=0,
            decay_from="warmup_end",
            bias_correction=True,
            weight_decay=0.5,  # large, so that an error in the decayed parameters shows
        ),
        mesh=MeshConfig(data=1),
    )
    ours = finetune(config, weights, tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run/seed-0/metrics.jsonl").open()]

    described = json.loads(json.dumps(to_json(config)))
    tokenizer = AutoTokenizer.from_pretrained(weights)
    splits = {
        name: reference.read_examples(source, described["task"], tokenizer)
        for name, source in files.items()
    }
    model = reference.MeanClassifier(weights, 2)
    give_first_output_layer(model, tmp_path / "run/seed-0")
    theirs = reference.train_seed(model, 0, described, splits)
    assert [row["step"] for row in theirs["log"]] == [row["step"] for row in rows]
    for name in ("train/loss", "dev/accuracy"):
        found, expected = ([row[name] for row in log] for log in (rows, theirs["log"]))
        assert len(set(expected)) > 1
        # 20 updates with float32 sums in another order: 1e-6 was measured.
        np.testing.assert_allclose(found, expected, rtol=1e-5, err_msg=name)
    assert theirs["best_step"] == ours["seeds"][0]["best_step"]
    assert theirs["test"] == ours["seeds"][0]["test"]["accuracy"]


def test_means_agree_within_the_pooled_deviation(reference):
    theirs = [{"dev": value, "test": value} for value in (0.7, 0.8, 0.9)]  # deviation 0.1
    near = {"mean": 0.85, "standard_deviation": 0.02}  # pooled 0.072
    far = {"mean": 0.72, "standard_deviation": 0.02}
    ours = {"summary": {"dev": {"accuracy": near}, "test": {"accuracy": far}}}
    compared = reference.compare(theirs, ours)
    assert compared["dev"]["within_one_standard_deviation"]
    assert not compared["test"]["within_one_standard_deviation"]
    assert compared["test"]["difference"] == pytest.approx(-0.08)


def give_first_output_layer(model, directory):
    """Copies the first output layer of our seed 0 into a torch model."""
    run = load_run(directory)
    init_rng = random_stream(0, "init")
    ids = np.zeros((1, 8), np.int32)
    init = jax.jit(lambda: nn.unbox(run.model.init(init_rng, ids, ids, ids)["params"]["output"]))
    first = jax.device_get(init())
    with torch.no_grad():
        model.classifier.weight.copy_(torch.tensor(first["kernel"].T))
        model.classifier.bias.copy_(torch.tensor(first["bias"]))
