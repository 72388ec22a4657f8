"""Makes pretraining data of raw text: a vocabulary, then shards of sentence pairs.

  python -m bert_jax.prepare --experiment=experiments/quickstart.py
  python -m bert_jax.prepare --experiment=experiments/bert.py:base --workers=16

What to make, from which corpus and where to is the experiment's `data` and `model.vocab_size`.
The output does not depend on the number of workers. A run that was interrupted goes on with the
shards that are missing; finished data are left as they are.
"""

import os
from pathlib import Path

from absl import flags
from rich.console import Console
from rich.progress import Progress

from bert_jax import command


def main() -> None:
    """Runs the command."""
    from bert_jax.data import shards
    from bert_jax.data.passport import check_tokenizer
    from bert_jax.data.tokenizers import Tokenizer, load_tokenizer
    from bert_jax.data.vocabulary import count_words, train_wordpiece

    experiment = command.experiment_from_flags()
    data, vocab_size = experiment.data, experiment.model.vocab_size
    console = Console(stderr=True, highlight=False)

    def vocabulary() -> Tokenizer:
        if (Path(data.directory) / "tokenizer.json").exists():
            tokenizer = load_tokenizer(data.directory)
            check_tokenizer(tokenizer, data, vocab_size=vocab_size)
            console.print(f"the vocabulary is that of {data.directory}/tokenizer.json")
            return tokenizer
        console.print(f"training a vocabulary of {vocab_size:,} on {data.corpus}")
        counts = count_words(shards.training_texts(data), lower_case=data.lower_case)
        return train_wordpiece(
            counts,
            vocab_size=vocab_size,
            lower_case=data.lower_case,
            max_word_length=data.max_word_length,
        )

    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("shards", total=data.train_shards + 1)
        passport = shards.prepare_data(
            data,
            tokenizer=vocabulary(),
            workers=flags.FLAGS.workers,
            on_shard_done=lambda _: progress.advance(task),
        )
    for split, summary in passport["splits"].items():
        print(
            f"{data.directory}: {split:5} {summary['examples']:>9,} pairs"
            f" of {summary['documents']:,} documents, {summary['tokens']:,} tokens,"
            f" {summary['random_pairs'] / summary['examples']:.1%} random pairs"
        )


if __name__ == "__main__":
    flags.adopt_module_key_flags(command)
    flags.DEFINE_integer(
        "workers", os.cpu_count() or 1, "Processes that make shards.", lower_bound=1
    )
    command.run(main)
