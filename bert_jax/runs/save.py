"""Writes an opened model in the format of bert_jax or Hugging Face."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from bert_jax.config import to_json
from bert_jax.data.tokenizers.files import save_tokenizer
from bert_jax.interop.huggingface import write_huggingface
from bert_jax.models.task import BertForTask
from bert_jax.runs.fine_tuned import write_fine_tuning
from bert_jax.runs.run import Run
from bert_jax.training import checkpoint
from bert_jax.training.initial import flatten_params


def save_run(run: Run, directory: Path, *, to: Literal["bert_jax", "huggingface"]) -> None:
    """Writes a model to an empty directory. `load_run` can open it."""
    head = run.model.head if isinstance(run.model, BertForTask) else None
    if to == "huggingface":
        parameters = {path: np.asarray(leaf) for path, leaf in flatten_params(run.params).items()}
        config, tokenizer = run.model.config, run.tokenizer
        write_huggingface(directory, parameters, config=config, tokenizer=tokenizer, head=head)
        if run.fine_tuning and head:
            task = replace(run.fine_tuning.task, labels=head.labels)
            sets = {name: getattr(task, name) for name in ("train", "dev", "test")}
            # The directories of this machine tell those who download the model nothing.
            names = {name: re.sub(r"^(?!tfds)(\w+:).*/", r"\1", one) for name, one in sets.items()}
            task = replace(task, **names)
            write_fine_tuning(directory, replace(run.fine_tuning, task=task), run.threshold)
        return
    checkpoint.save_params(
        directory,
        run.params,
        model=run.model.config,
        experiment=run.config,
        tokenizer=run.tokenizer.to_json(),
        passport=run.passport,
        head=to_json(head) if head else None,
    )
    save_tokenizer(run.tokenizer, directory)
    if run.fine_tuning:
        write_fine_tuning(directory, run.fine_tuning, run.threshold)
