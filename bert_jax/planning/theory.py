"""Estimates the bytes that a device sends along each mesh axis in an update (ring collectives).

Gradients are summed in float32. With `fsdp`, each microbatch gathers the parameters once for the
forward and once for the backward pass, in the type of the activations. With `tensor`, each layer
sums activations over devices twice in the forward and twice in the backward pass. Sums of scalars
and of activations outside the layers are not counted.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from bert_jax.training.experiment import Experiment


def wire_bytes(
    experiment: Experiment, state: Sequence[Mapping[str, Any]], mesh: Mapping[str, int]
) -> dict[str, float]:
    """Returns the bytes that a device sends along each mesh axis with more than one device.

    `state` describes the arrays of the training state; `compile_update` returns it as `state`.
    """
    data, fsdp, tensor = mesh["data"], mesh["fsdp"], mesh["tensor"]
    activation_size = {"float32": 4, "bfloat16": 2}[experiment.model.dtype]
    microbatches = experiment.training.microbatches
    sent = dict.fromkeys(mesh, 0.0)
    for leaf in state:
        if not leaf["path"].startswith("params/"):
            continue
        gradient = leaf["bytes"] / (tensor if "tensor" in leaf["mesh_axes"] else 1)
        if "fsdp" in leaf["mesh_axes"]:
            gathers = 2 * microbatches * gradient * activation_size / 4
            sent["fsdp"] += (gathers + gradient) * (fsdp - 1) / fsdp
            sent["data"] += 2 * gradient / fsdp * (data - 1) / data
        else:  # every device along data and fsdp has the whole gradient
            total = 2 * gradient * (data * fsdp - 1) / (data * fsdp)
            sent["fsdp" if data == 1 else "data"] += total
    rows = experiment.data.batch_size / (data * fsdp)
    activations = rows * experiment.data.sequence_length * experiment.model.hidden_size
    sums = 4 * experiment.model.num_layers * activations * activation_size
    sent["tensor"] += 2 * sums * (tensor - 1) / tensor
    return {axis: sent[axis] for axis in mesh if mesh[axis] > 1}
