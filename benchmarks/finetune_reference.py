r"""Repeats a text classification with Hugging Face's BERT in torch, and compares the accuracies.

Run it in the environment of tests/reference, which `bash launch/test.sh --reference` makes:

    .venv-reference/bin/python benchmarks/finetune_reference.py --run=runs/movie_sentiment \
      --weights=all-MiniLM-L6-v2 --output=huggingface.json

The program reads `config.json` (hyper-parameters, data sets, seeds) and `result.json` (accuracies)
of the run, and imports nothing of bert_jax.

Both programs use the same weights, data sets, order of the examples and batches. Both compute the
mean over positions and one dense layer, with the same dropout rates. AdamW, its schedule, the
parameters without decay and the clipping are the same, and so are the evaluations on dev and the
choice of the checkpoint. Only the random numbers of the output layer and of dropout differ.

A seed takes some minutes on one core. If --output holds seeds, the same command skips them.
"""

import copy
import csv
import hashlib
import json
import math
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from absl import app, flags
from torch import nn

FLAGS = flags.FLAGS
flags.DEFINE_string("run", None, "workdir of a bert_jax fine-tuning")
flags.DEFINE_string("weights", None, "directory of the Hugging Face BERT that the run started from")
flags.DEFINE_string("output", None, "JSON file to write")
flags.mark_flags_as_required(["run", "weights", "output"])

NO_DECAY = ("bias", "LayerNorm.weight")


class Examples(NamedTuple):
    """Word pieces and label number of each text."""

    token_ids: list[list[int]]
    labels: list[int]


class MeanClassifier(nn.Module):
    """BERT, the mean over a text's positions, dropout and one dense layer."""

    def __init__(self, weights: Path, labels: int):
        super().__init__()
        self.bert = transformers.BertModel.from_pretrained(weights, add_pooling_layer=False)
        config = self.bert.config
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, labels)
        nn.init.normal_(self.classifier.weight, std=config.initializer_range)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, token_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        output = self.bert(input_ids=token_ids, attention_mask=mask).last_hidden_state
        weights = mask[..., None].to(output.dtype)
        mean = (output * weights).sum(1) / weights.sum(1)
        return self.classifier(self.dropout(mean))


def read_examples(source: str, task: dict[str, Any], tokenizer: Any) -> Examples:
    """Reads `tsv:FILE`, whose first line names the columns."""
    kind, _, file = source.partition(":")
    if kind != "tsv":
        sys.exit(f"task reads {source}; accepted: tsv:FILE")
    with open(file, encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    texts = [row[task["text"]] for row in rows]
    encoded = tokenizer(texts, truncation=True, max_length=task["max_length"])
    labels = [task["labels"].index(row[task["label"]]) for row in rows]
    return Examples(encoded["input_ids"], labels)


def batch_of(examples: Examples, numbers: Any) -> tuple[torch.Tensor, ...]:
    """Returns ids, mask and labels of examples; rows are padded to the longest example."""
    chosen = [torch.tensor(examples.token_ids[i]) for i in numbers]
    ids = nn.utils.rnn.pad_sequence(chosen, batch_first=True)  # [PAD] is 0
    lengths = torch.tensor([len(one) for one in chosen])
    mask = (torch.arange(ids.shape[1])[None] < lengths[:, None]).long()
    return ids, mask, torch.tensor([examples.labels[i] for i in numbers])


def accuracy(model: nn.Module, examples: Examples) -> float:
    """Returns the fraction of correct predictions, without dropout."""
    model.eval()
    correct = 0
    # Texts of similar length share a batch, which saves padding.
    order = sorted(range(len(examples.labels)), key=lambda i: len(examples.token_ids[i]))
    with torch.no_grad():
        for start in range(0, len(order), 64):
            ids, mask, labels = batch_of(examples, order[start : start + 64])
            correct += int((model(ids, mask).argmax(-1) == labels).sum())
    return correct / len(order)


def make_optimizer(
    model: nn.Module, config: dict[str, Any], *, steps: int, warmup_fraction: float
) -> tuple[torch.optim.Optimizer, Any]:
    """Returns AdamW with bias correction, and a schedule of warm-up and linear decay."""
    decayed, others = [], []
    for name, parameter in model.named_parameters():
        (others if name.endswith(NO_DECAY) else decayed).append(parameter)
    optimizer = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": config["weight_decay"]},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=config["learning_rate"],
        betas=(config["beta1"], config["beta2"]),
        eps=config["epsilon"],
    )
    warmup = min(round(warmup_fraction * steps), steps - 1)
    return optimizer, transformers.get_linear_schedule_with_warmup(optimizer, warmup, steps)


def train_seed(
    model: nn.Module, seed: int, config: dict[str, Any], splits: dict[str, Examples]
) -> dict[str, Any]:
    """Trains one seed and returns the accuracies of the best checkpoint on dev."""
    training, started = config["training"], time.monotonic()
    count, size = len(splits["train"].labels), training["batch_size"]
    steps = training["epochs"] * math.ceil(count / size)
    optimizer, schedule = make_optimizer(
        model, config["optimizer"], steps=steps, warmup_fraction=training["warmup_fraction"]
    )
    total = training["epochs"] * training["evaluations_per_epoch"]
    evaluations = {math.ceil(i * steps / total) for i in range(1, total + 1)}
    log, losses, best, step = [], [], (-1.0, 0, {}), 0
    for epoch in range(training["epochs"]):
        order = np.random.default_rng((seed, epoch)).permutation(count)
        for start in range(0, count, size):
            ids, mask, labels = batch_of(splits["train"], order[start : start + size])
            model.train()
            loss = nn.functional.cross_entropy(model(ids, mask), labels)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), config["optimizer"]["max_grad_norm"])
            optimizer.step()
            schedule.step()
            losses.append((loss.item(), len(labels)))
            step += 1
            if step in evaluations:
                found = accuracy(model, splits["dev"])
                mean = sum(a * b for a, b in losses) / sum(b for _, b in losses)
                log.append({"step": step, "train/loss": mean, "dev/accuracy": found})
                print(f"seed {seed}: {log[-1]}", flush=True)
                losses = []
                if found > best[0]:
                    best = (found, step, copy.deepcopy(model.state_dict()))
    model.load_state_dict(best[2])
    return {
        "seed": seed,
        "steps": steps,
        "best_step": best[1],
        "dev": best[0],
        "test": accuracy(model, splits["test"]),
        "log": log,
        "seconds": round(time.monotonic() - started, 1),
    }


def check(config: dict[str, Any]) -> None:
    """Exits if the run uses an option that this program does not have."""
    training = config["training"]
    wanted = {
        "task.family": (config["task"]["family"], "classification"),
        "task.text_pair": (config["task"]["text_pair"], ""),
        "task.representation": (config["task"]["representation"], "mean"),
        "training.layer_decay": (training.get("layer_decay", 1.0), 1.0),
        "training.dropout": (training.get("dropout"), None),
        "training.frozen": (training["frozen"], False),
        "training.group_by_length": (training.get("group_by_length", False), False),
        "training.patience": (training.get("patience"), None),
        "training.reinitialize_layers": (training.get("reinitialize_layers", 0), 0),
        "optimizer.name": (config["optimizer"]["name"], "adamw"),
        "optimizer.bias_correction": (config["optimizer"]["bias_correction"], True),
        "optimizer.decay_from": (config["optimizer"]["decay_from"], "warmup_end"),
        "optimizer.decay_excludes": (config["optimizer"]["decay_excludes"], "bias_and_layer_norm"),
    }
    for name, (found, accepted) in wanted.items():
        if found != accepted:
            sys.exit(f"{FLAGS.run}/config.json: {name} is {found!r}; accepted here: {accepted!r}")


def compare(seeds: list[dict], ours: dict[str, Any]) -> dict[str, Any]:
    """Returns the mean accuracies of both programs, their deviations, and whether the means agree.

    The means agree if their difference is at most the pooled standard deviation: the square root of
    the mean of both variances over seeds.
    """
    compared = {}
    for split in ("dev", "test"):
        theirs = [one[split] for one in seeds]
        summary = ours["summary"][split]["accuracy"]
        deviations = [statistics.stdev(theirs), summary["standard_deviation"]]
        pooled = math.sqrt(sum(one**2 for one in deviations) / 2)
        difference = summary["mean"] - statistics.mean(theirs)
        compared[split] = {
            "huggingface_mean": statistics.mean(theirs),
            "huggingface_standard_deviation": deviations[0],
            "bert_jax_mean": summary["mean"],
            "bert_jax_standard_deviation": summary["standard_deviation"],
            "difference": difference,
            "pooled_standard_deviation": pooled,
            "within_one_standard_deviation": abs(difference) <= pooled,
        }
    return compared


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Writes a file atomically."""
    unfinished = file.with_name(f"{file.name}.unfinished")
    unfinished.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(unfinished, file)


def main(_: list[str]) -> None:
    torch.set_num_threads(1)
    run, weights, output = Path(FLAGS.run), Path(FLAGS.weights), Path(FLAGS.output)
    config = json.loads((run / "config.json").read_text())
    ours = json.loads((run / "result.json").read_text())
    check(config)
    tokenizer = transformers.AutoTokenizer.from_pretrained(weights)
    splits = {
        name: read_examples(config["task"][name], config["task"], tokenizer)
        for name in ("train", "dev", "test")
    }
    inputs = {
        "config_hash": ours["config_hash"],
        "weights_sha256": hashlib.sha256((weights / "model.safetensors").read_bytes()).hexdigest(),
        "sets_sha256": {
            name: hashlib.sha256(
                Path(config["task"][name].partition(":")[2]).read_bytes()
            ).hexdigest()
            for name in splits
        },
    }
    done = json.loads(output.read_text()) if output.exists() else {"seeds": []} | inputs
    for name, value in inputs.items():
        if done[name] != value:
            sys.exit(
                f"{output} holds seeds with another {name}; accepted: the same, or another file"
            )
    seeds = done["seeds"]
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    for seed in [one["seed"] for one in ours["seeds"]][len(seeds) :]:
        torch.manual_seed(seed)
        model = MeanClassifier(weights, len(config["task"]["labels"]))
        seeds.append(train_seed(model, seed, config, splits))
        write_json(output, versions | inputs | {"seeds": seeds})
    compared = compare(seeds, ours)
    write_json(output, versions | inputs | {"seeds": seeds, "accuracy": compared})
    print(json.dumps(compared, indent=1))


if __name__ == "__main__":
    app.run(main)
