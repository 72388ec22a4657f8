"""Writes model directories with the names and shapes of transformers and random values."""

import json
from pathlib import Path

import numpy as np
import safetensors.numpy

GOLDENS = Path(__file__).parents[1] / "goldens"
DESCRIBED = json.loads((GOLDENS / "huggingface" / "layouts.json").read_text())
CONFIG = DESCRIBED["config"]
LAYOUTS = DESCRIBED["layouts"]
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefg", "##h"]


def random_tensors(layout, kind="saved"):
    """Returns random tensors for a layout; tied tensors are equal, as in the model."""
    rng = np.random.default_rng(0)
    tensors = {
        name: rng.normal(size=shape).astype(np.float32) for name, shape in layout[kind].items()
    }
    for second, first in (
        ("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"),
        ("cls.predictions.decoder.bias", "cls.predictions.bias"),
    ):
        if second in tensors:
            tensors[second] = tensors[first]
    return tensors


def write_directory(directory, tensors, *, pieces=PIECES, **config):
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(CONFIG | config))
    (directory / "vocab.txt").write_text("\n".join(pieces) + "\n")
    safetensors.numpy.save_file(tensors, directory / "model.safetensors")
    return directory
