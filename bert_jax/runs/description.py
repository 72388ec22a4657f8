"""Describes an opened model: in one line, as a table in notebooks, and with every array."""

import shlex
from collections.abc import Sequence
from html import escape
from textwrap import shorten
from typing import Any

from bert_jax.faults.damage import standing
from bert_jax.files import read_json_if_whole
from bert_jax.models.bert import num_parameters
from bert_jax.tasks.families.registry import FAMILIES
from bert_jax.training.experiment import phases
from bert_jax.training.initial import flatten_params


def describe(run: Any) -> dict[str, str]:
    """Returns what a `Run` is: model, size, vocabulary, updates, and the loss of its step.

    In place of updates and loss, a fine-tuned model has its labels and its main metric on dev.
    """
    config, head = run.model.config, getattr(run.model, "head", None)
    plural = "s" if config.num_layers > 1 else ""
    source = "pretrained BERT" if run.config else "BERT, converted from other weights"
    found = {
        "model": f"BERT fine-tuned for {head.family}" if head else source,
        "size": f"{config.num_layers} layer{plural} of width {config.hidden_size}, "
        f"{num_parameters(run.params, config):,} parameters",
        "vocabulary": f"{run.tokenizer.vocab_size:,} pieces ({run.tokenizer.to_json()['kind']})",
    }
    if head:
        task = run.fine_tuning and run.fine_tuning.task
        metric = task and (task.metric or next(iter(FAMILIES[task.family].metrics)))
        value = read_json_if_whole(run.path / "result.json").get("dev", {}).get(metric)
        labels = shorten(", ".join(head.labels), 60, placeholder=" ...") or "none"
        return found | {
            "labels": labels,
            f"dev {metric or 'metric'}": "not known" if value is None else f"{value:.4f}",
        }
    held_out = standing(run.path / "checkpoints" / str(run.step))["held_out"]
    return found | {
        "updates": f"{run.step:,}" if run.step else "not known",  # a copy of a run has step 0
        "held-out loss": f"{held_out['loss']:.3f}" if held_out else "not known",
    }


def trained_length(run: Any) -> int | None:
    """Returns the longest row of a `Run`'s updates up to its step, or None if it is not known."""
    config = run.config
    if not config or config.training.init_from:  # the initial weights may know longer rows
        return None
    # A copy of a run has step 0.
    seen = [p for p in phases(config) if p.first_step < (run.step or p.last_step)]
    return max(phase.experiment.data.sequence_length for phase in seen)


def why_untrained(run: Any, parts: Sequence[str]) -> str | None:
    """Returns why a `Run` cannot use one of the parts, such as `bert/pooler`, and what can."""
    head = getattr(run.model, "head", None)
    missing = run.loading.missing if run.loading else []
    untrained = not run.model.config.pair_head
    untrained |= bool(run.config) and not run.config.objective.next_sentence
    for part in parts:
        accepted = f"accepted: weights with a trained {part}"
        if head and not (part == "bert/pooler" and head.representation == "pooled"):
            what = f"{head.family} on {head.representation!r}"
            return f"was fine-tuned for {what}, without {part}; {accepted}"
        if any(line.startswith(part) for line in missing):
            return f"came without {part}, which was initialized; {accepted}"
        if untrained and part in ("bert/pooler", "next_sentence_head"):
            return f"was trained with objective.next_sentence False, without {part}; {accepted}"
    return None


def chosen_experiment(run: Any) -> str:
    """Returns the flags of the command of a run that choose its experiment and its fields."""
    command = read_json_if_whole(run.path / "environment.json").get("command", ())
    names = ("--experiment", "--set")
    chosen = [
        shlex.join([flag, value] if flag in names else [flag])
        for flag, value in zip(command, [*command[1:], ""], strict=False)
        if flag.partition("=")[0] in names
    ]
    return " ".join(chosen) or "not known"


def one_line(run: Any) -> str:
    """Returns the description as a line: `<Run 'runs/base': pretrained BERT; size: ...>`."""
    what, *parts = describe(run).items()
    return f"<Run {str(run.path)!r}: {'; '.join([what[1], *map(': '.join, parts)])}>"


def html_table(run: Any) -> str:
    """Returns the description as an HTML table."""
    rows = [("path", str(run.path)), *describe(run).items()]
    cells = (f"<tr><th>{name}</th><td>{escape(value)}</td></tr>" for name, value in rows)
    return f"<table>{''.join(cells)}</table>"


def report(run: Any) -> str:
    """Returns a text that lists the loaded arrays and the tensors that were not used."""
    leaves = flatten_params(run.params)
    count = num_parameters(run.params, run.model.config)
    lines = [
        f"{run.path}, step {run.step}: {len(leaves)} arrays, {count:,} parameters",
        *(f"  {path:60} {leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves.items()),
    ]
    strict = "tensors: all of the checkpoint used; none missing, unexpected or reshaped"
    lines.append(str(run.loading or strict))
    conversion = run.path / "conversion.txt"
    if conversion.is_file():
        lines += ["converted from", conversion.read_bytes().decode("utf-8", "replace")]
    return "\n".join(lines)
