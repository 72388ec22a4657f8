"""Writes tests/goldens/tiny_bert: a tiny BertForPreTraining, its outputs and its training losses.

    .venv-reference/bin/python tests/reference/make_goldens.py [DIRECTORY]

The directory is a Hugging Face model directory with two more files. `expected.npz` holds the
batches and the outputs for the first batch; `expected.json` holds scalars, versions and the recipe.
NumPy draws weights and batches, so they are the same on every machine.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from huggingface import EAGER, Recipe, SpecialIds, draw_batch, encode, gradient, predict, train
from transformers import BertConfig, BertForPreTraining

DIRECTORY = Path(__file__).parents[1] / "goldens" / "tiny_bert"
SEED = 20181011
VOCAB_SIZE = 60
# After 4 warm-up updates, the other 16 show errors in decay, moments and clipping.
RECIPE = Recipe(learning_rate=2e-3, warmup_steps=4, steps=20)


def tiny_bert() -> BertForPreTraining:
    """Returns a model with two layers of width 32, no dropout and random tensors.

    The standard deviation is 0.2, ten times BERT's. With 0.02, attention would be almost uniform
    and logits almost constant at this width, so a wrong mask or scale would hardly show.
    """
    config = BertConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **EAGER,
    )
    model = BertForPreTraining(config).eval()
    rng = np.random.default_rng(SEED)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = 0.2 * rng.standard_normal(tuple(parameter.shape), np.float32)
            if name.endswith("LayerNorm.weight"):
                values += 1
            parameter.copy_(torch.from_numpy(values))
    return model


def vocabulary() -> list[str]:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces += [chr(ord("a") + i) for i in range(26)] + ["##" + chr(ord("a") + i) for i in range(26)]
    return pieces + [".", ",", "?"]


def batches() -> list[dict[str, np.ndarray]]:
    return [
        draw_batch(
            SEED + step,
            vocab_size=VOCAB_SIZE,
            special_ids=SpecialIds(cls=2, sep=3, mask=4),
            rows=4,
            length=24,
        )
        for step in range(RECIPE.steps)
    ]


def make(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    model, drawn = tiny_bert(), batches()
    model.save_pretrained(directory)
    (directory / "vocab.txt").write_text("\n".join(vocabulary()) + "\n", encoding="utf-8")

    arrays = {name: np.stack([batch[name] for batch in drawn]) for name in drawn[0]}
    encoded = encode(model.bert, drawn[0])
    outputs = {name: encoded[name] for name in ("sequence_output", "pooled_output")}
    outputs |= predict(model, drawn[0])
    at_first = gradient(model, drawn[0])
    before = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
    training_losses = train(model, drawn, RECIPE)
    expected = {
        "made_by": f"tests/reference/{Path(__file__).name}",
        "versions": {
            "numpy": np.__version__,
            "torch": torch.__version__.partition("+")[0],
            "transformers": transformers.__version__,
        },
        "loss": at_first.loss,
        "gradient_norms": {name: norm(value) for name, value in at_first.by_name.items()},
        "recipe": RECIPE._asdict(),
        "training_losses": training_losses,
        "distance_trained": {
            name: norm(p.detach().numpy() - before[name]) for name, p in model.named_parameters()
        },
    }
    np.savez_compressed(
        directory / "expected.npz",
        **{name: array.astype(np.int32) for name, array in arrays.items()},
        **outputs,
    )
    text = json.dumps(expected, indent=1)
    (directory / "expected.json").write_text(text + "\n", encoding="utf-8")


def norm(array: np.ndarray) -> float:
    return float(np.linalg.norm(array.astype(np.float64)))


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else DIRECTORY)
