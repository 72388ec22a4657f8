"""Writes tests/goldens/tiny_bert/flax_model.msgpack with transformers 4.57.3 and flax 0.10.2.

    python tests/reference/make_flax.py

transformers 5 has no Flax models, so this needs an environment of its own:
`pip install transformers==4.57.3 jax==0.4.38 flax==0.10.2 safetensors`. The values are those of
`model.safetensors` beside it, under Flax's names and with the kernels as [inputs, outputs].
"""

from pathlib import Path

import flax
import numpy as np
import safetensors.numpy
from transformers import BertConfig, FlaxBertForPreTraining

DIRECTORY = Path(__file__).parents[1] / "goldens" / "tiny_bert"


def value(path, tensors):
    """Returns the value of a parameter of Flax from the tensors of torch."""
    *parents, name = path
    kinds = {"kernel": "weight", "embedding": "weight", "scale": "weight"}
    tensor = tensors[".".join((*parents, kinds.get(name, name)))]
    return tensor.T if name == "kernel" else tensor


def main():
    tensors = safetensors.numpy.load_file(DIRECTORY / "model.safetensors")
    model = FlaxBertForPreTraining(BertConfig.from_json_file(DIRECTORY / "config.json"))
    flat = flax.traverse_util.flatten_dict(model.params)
    found = {path: np.ascontiguousarray(value(path, tensors)) for path in flat}
    assert all(found[path].shape == leaf.shape for path, leaf in flat.items())
    assert len(found) == len(tensors)
    params = flax.traverse_util.unflatten_dict(found)
    (DIRECTORY / "flax_model.msgpack").write_bytes(flax.serialization.to_bytes(params))


if __name__ == "__main__":
    main()
