"""Writes tests/goldens/huggingface with torch 2.13.0 and transformers 5.23.0.

    python tests/reference/make_layouts.py

`layouts.json` holds the tensor names and shapes of each class, as saved and as in the state
dictionary in memory, which also names a tied decoder and buffers. `zip.bin` and `legacy.bin` hold
the same state dictionary in both formats of torch.save; `tensors.npz` holds its values.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors import safe_open

DIRECTORY = Path(__file__).parents[1] / "goldens" / "huggingface"
# Sizes differ, except that head size and segment types are both 3, layers and heads both 2.
CONFIG = transformers.BertConfig(
    vocab_size=13,
    hidden_size=6,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=10,
    max_position_embeddings=9,
    type_vocab_size=3,
    num_labels=5,
)
CLASSES = (
    "BertForPreTraining",
    "BertForMaskedLM",
    "BertModel",
    "BertForSequenceClassification",
    "BertForTokenClassification",
    "BertForQuestionAnswering",
)


def layout(name):
    model = getattr(transformers, name)(CONFIG)
    with tempfile.TemporaryDirectory() as directory:
        model.save_pretrained(directory)
        with safe_open(Path(directory) / "model.safetensors", "np") as opened:
            saved = {key: opened.get_slice(key).get_shape() for key in sorted(opened.keys())}
    in_memory = {key: list(value.shape) for key, value in model.state_dict().items()}
    return {"saved": saved, "state_dict": in_memory}


def main():
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    layouts = {name: layout(name) for name in CLASSES}
    described = {"config": CONFIG.to_dict(), "layouts": layouts}
    (DIRECTORY / "layouts.json").write_text(json.dumps(described, indent=1) + "\n")

    torch.manual_seed(0)
    tensors = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4)).state_dict()
    tensors["transposed"] = torch.randn(2, 5).T
    tensors["view"] = torch.randn(12)[3:9].view(2, 3)
    tensors["half"] = torch.randn(3).half()
    tensors["bfloat16"] = torch.randn(3).bfloat16()
    tensors["ids"] = torch.arange(4)[None]
    tensors["parameter"] = torch.nn.Parameter(torch.randn(2))
    torch.save(tensors, DIRECTORY / "zip.bin")
    torch.save(tensors, DIRECTORY / "legacy.bin", _use_new_zipfile_serialization=False)
    wide = {name: value.detach().double().numpy() for name, value in tensors.items()}
    np.savez(DIRECTORY / "tensors.npz", **wide)


if __name__ == "__main__":
    main()
