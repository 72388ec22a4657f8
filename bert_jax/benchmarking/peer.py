"""Hugging Face's BertForPreTraining in torch, trained as an experiment says.

Each update does the same work as `training.step.train_step`: the same batch, dropout rates and
dtype, the same AdamW (with or without bias correction), parameters without weight decay, and
clipping by the global norm. There are two forms:

  stock      the model's own loss, which computes logits at every position
  strongest  logits at masked positions only, no attention mask for rows without padding, and on
             CUDA torch.compile if it makes an update faster

Both have SDPA (torch's fused attention) and the fused AdamW. The dropout bits are those of torch.
One more thing differs: in Hugging Face's model the embedding of [PAD] gets no gradient.

The module imports torch only when it is used, and never jax. As a program, it is the other side of
`benchmarking.comparison`; it prints one line of JSON:

  python -m bert_jax.benchmarking.peer update REQUEST.json FORM SECONDS
  python -m bert_jax.benchmarking.peer ceiling DTYPE

Reference: transformers 5.23.0, models/bert/modeling_bert.py.
"""

import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from bert_jax.benchmarking import timing
from bert_jax.interop.names import TIED

FORMS = ("stock", "strongest")
IGNORED = -100
"""Label of positions without a prediction."""

NO_DECAY = ("bias", "LayerNorm.weight")
"""Ends of the names of parameters without weight decay."""

TRIALS = 5
"""Number of updates that decide for or against torch.compile."""

Tensors = dict[str, Any]


def import_torch() -> Any:
    """Imports torch. It uses all cores that the process may use, or OMP_NUM_THREADS."""
    import torch  # pyright: ignore[reportMissingImports]

    chosen = os.environ.get("OMP_NUM_THREADS")
    torch.set_num_threads(int(chosen) if chosen else len(os.sched_getaffinity(0)))
    return torch


def device_of(torch: Any) -> str:
    """Returns "cuda" if there is a GPU, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


class Peer:
    """The model and its optimizer. `request` is what `comparison.request_of` writes."""

    def __init__(self, request: Mapping[str, Any], form: str):
        import transformers  # pyright: ignore[reportMissingImports]

        self.torch = import_torch()
        self.device, self.form = device_of(self.torch), form
        self.settings, self.dtype = request["optimizer"], request["dtype"]
        self.num_updates = 0
        if form == "strongest":  # as jax: products of float32 may use TF32 on a GPU
            self.torch.set_float32_matmul_precision("high")
        self.torch.manual_seed(request["seed"])
        config = transformers.BertConfig(**request["model"], attn_implementation="sdpa")
        self.model = transformers.BertForPreTraining(config)
        if request["weights"]:
            tensors = safetensors.numpy.load_file(request["weights"])
            loaded = {name: self.torch.from_numpy(array) for name, array in tensors.items()}
            tied = {second: loaded[first] for second, first in TIED.items() if first in loaded}
            self.model.load_state_dict(loaded | tied)
        self.model.train().to(self.device)
        self.compute = self.stock_loss if form == "stock" else self.strongest_loss
        self.optimizer = self.make_optimizer()

    def make_optimizer(self) -> Any:
        """Returns the fused AdamW, with one group of parameters that decay and one without."""
        named = list(self.model.named_parameters())
        exempt = self.settings["decay_excludes"] == "bias_and_layer_norm"
        undecayed = [p for name, p in named if exempt and name.endswith(NO_DECAY)]
        decayed = [p for name, p in named if not (exempt and name.endswith(NO_DECAY))]
        return self.torch.optim.AdamW(
            [{"params": decayed}, {"params": undecayed, "weight_decay": 0.0}],
            betas=(self.settings["beta1"], self.settings["beta2"]),
            fused=True,
        )

    def tensors(self, batch: Mapping[str, np.ndarray]) -> Tensors:
        """Returns the arrays of a `data.batch.Batch` as the inputs of both forms."""
        arrays = {
            name: array if array.dtype == np.float32 else array.astype(np.int64)
            for name, array in batch.items()
        }
        mask = (arrays["pack_ids"] > 0).astype(np.int64)
        labels = np.full_like(arrays["token_ids"], IGNORED)
        rows, slots = np.nonzero(arrays["mask_weights"])
        labels[rows, arrays["mask_positions"][rows, slots]] = arrays["mask_labels"][rows, slots]
        arrays |= {"attention_mask": mask, "labels": labels}
        moved = {
            name: self.torch.from_numpy(array).to(self.device) for name, array in arrays.items()
        }
        if self.form == "strongest" and mask.all():
            moved["attention_mask"] = None
        return moved

    def stock_loss(self, batch: Tensors) -> Any:
        """Returns the sum of both losses. The head computes logits at every position."""
        return self.model(
            input_ids=batch["token_ids"],
            token_type_ids=batch["segment_ids"],
            attention_mask=batch["attention_mask"],
            labels=batch["labels"],
            next_sentence_label=batch["pair_labels"],
        ).loss

    def strongest_loss(self, batch: Tensors) -> Any:
        """Returns the sum of both losses. The head computes logits at masked positions only."""
        output = self.model.bert(
            input_ids=batch["token_ids"],
            token_type_ids=batch["segment_ids"],
            attention_mask=batch["attention_mask"],
        )
        mlm_losses = self.masked_losses(output.last_hidden_state, batch)
        weights = batch["mask_weights"].flatten()
        pair_logits = self.model.cls.seq_relationship(output.pooler_output).float()
        cross_entropy = self.torch.nn.functional.cross_entropy
        nsp_loss = cross_entropy(pair_logits, batch["pair_labels"].flatten())
        return (mlm_losses * weights).sum() / weights.sum().clamp(min=1) + nsp_loss

    def masked_losses(self, sequence_output: Any, batch: Tensors) -> Any:
        """Returns the loss at each position of `mask_positions`, [rows * predictions]."""
        hidden = sequence_output.shape[-1]
        index = batch["mask_positions"][..., None].expand(-1, -1, hidden)
        logits = self.model.cls.predictions(sequence_output.gather(1, index).view(-1, hidden))
        cross_entropy = self.torch.nn.functional.cross_entropy
        return cross_entropy(logits.float(), batch["mask_labels"].flatten(), reduction="none")

    def loss(self, batch: Tensors) -> Any:
        """Returns the loss in the experiment's dtype."""
        bfloat16 = self.dtype == "bfloat16"
        with self.torch.autocast(self.device, self.torch.bfloat16, enabled=bfloat16):
            return self.compute(batch)

    def update(self, batch: Tensors, rate: float) -> Any:
        """Makes one update at a learning rate. Returns the loss before the update."""
        self.num_updates += 1
        for group in self.optimizer.param_groups:
            decay = self.settings["weight_decay"] if group is self.optimizer.param_groups[0] else 0
            group.update(adamw_settings(self.settings, self.num_updates, rate, decay))
        loss = self.loss(batch)
        loss.backward()
        norm = self.settings["max_grad_norm"]
        self.torch.nn.utils.clip_grad_norm_(self.model.parameters(), norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def wait(self, result: Any) -> None:
        """Waits until the GPU has computed everything. A CPU computes at once."""
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def compile_if_faster(self, batch: Tensors, rate: float) -> bool:
        """On CUDA, compiles the loss and keeps it if an update is then faster. Returns whether."""
        if self.device != "cuda" or self.form != "strongest":
            return False
        eager, compiled = self.compute, self.torch.compile(self.compute)
        seconds = {}
        for compute in (eager, compiled):
            self.compute = compute
            seconds[compute] = timing.best_seconds(
                lambda: self.wait(self.update(batch, rate)), rounds=TRIALS
            )
        self.compute = min(seconds, key=lambda compute: seconds[compute])
        return self.compute is compiled


def adamw_settings(
    settings: Mapping[str, Any], count: int, rate: float, decay: float
) -> dict[str, float]:
    """Returns torch's `lr`, `eps` and `weight_decay` for the update number `count` (from 1).

    torch divides the moments by 1 - beta**count. An experiment without `bias_correction` does not;
    these values then cancel the division, so the update is that of `training.optim`.
    """
    mean, root = 1.0, 1.0
    if not settings["bias_correction"]:
        mean = 1 - settings["beta1"] ** count
        root = (1 - settings["beta2"] ** count) ** 0.5
    return {
        "lr": rate * mean / root,
        "eps": settings["epsilon"] / root,
        "weight_decay": decay * root / mean,
    }


def time_peer(request: Mapping[str, Any], form: str, seconds: float) -> dict[str, Any]:
    """Times the updates of a form; see `timing.time_updates` for the result."""
    peer = Peer(request, form)
    torch, rate = peer.torch, request["rate"]
    with np.load(request["batch"]) as arrays:
        batch = peer.tensors(dict(arrays))
    start = time.perf_counter()
    compiled = peer.compile_if_faster(batch, rate)
    compile_seconds = time.perf_counter() - start
    if peer.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    timed = timing.time_updates(lambda: peer.update(batch, rate), peer.wait, seconds=seconds)
    cuda = peer.device == "cuda"
    return timed | {
        "compiled": compiled,
        "compile_seconds": compile_seconds,
        "peak_bytes": torch.cuda.max_memory_allocated() if cuda else timed["resident_bytes"],
        "device_kind": torch.cuda.get_device_name() if cuda else "cpu",
        "threads": torch.get_num_threads(),
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers")},
    }


def product_rate(dtype: str) -> float:
    """Returns the FLOPs per second of the fastest matrix product on one device."""
    torch = import_torch()
    device = device_of(torch)
    torch.set_float32_matmul_precision("high")

    def make_product(size: int) -> Callable[[], Any]:
        x = torch.ones((size, size), dtype=getattr(torch, dtype), device=device)
        if device == "cpu":
            return lambda: torch.matmul(x, x)
        return lambda: (torch.matmul(x, x), torch.cuda.synchronize())

    return timing.product_rate(device, make_product)


def main(what: str, *arguments: str) -> dict[str, Any]:
    """Returns what the program prints."""
    if what == "ceiling":
        return {"flops_per_second": product_rate(*arguments)}
    file, form, seconds = arguments
    request = json.loads(Path(file).read_text(encoding="utf-8"))
    return time_peer(request, form, float(seconds))


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
