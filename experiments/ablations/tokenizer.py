"""Ablation of the tokenizer: WordPiece or SentencePiece, with as many pieces.

Question: does a unigram SentencePiece model help the encoder more than BERT's WordPiece?

    python benchmarks/task_sets.py --output=data/tasks --only=movie_sentiment
    for tokenizer in wordpiece sentencepiece; do
      python -m bert_jax.prepare --experiment=experiments/ablations/tokenizer.py:$tokenizer
    done
    python -m bert_jax.sweep --experiment=experiments/ablations/tokenizer.py --workdir=DIR

Cost: 6 runs of about 2e13 FLOPs each. A run has half of the updates of both_losses.py: 1,500 with
short rows and 1,000 with long rows. After each, 300 sentences are scored, and a probe is fitted.

A loss for each token means something else for each vocabulary, so the table does not compare the
losses. It compares the bits per character of held-out sentences, which are the same for both. Each
piece is predicted from all others, also from those of its own word. This favours the tokenizer that
cuts words into more pieces (Kauf and Ivanova 2023). The probe on the sentiment of sentences does
not have this flaw.

The vocabulary of WordPiece is trained by byte-pair encoding, and that of SentencePiece as a unigram
model. A longer piece also covers more text, so a run with longer pieces sees more text.

Published: the unigram model matches or outperforms byte-pair encoding on the tasks of Bostrom and
Durrett (2020), in English and Japanese.

References:
  https://arxiv.org/abs/2004.03720
  https://arxiv.org/abs/2305.10588
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from bert_jax import Experiment
from bert_jax.config import load_experiment, override

EXPERIMENTS = Path(__file__).parents[1]


def get_config(variant: Literal["wordpiece", "sentencepiece"] = "wordpiece") -> Experiment:
    """Returns the experiment of both_losses.py with half of its updates and a tokenizer."""
    base = load_experiment(EXPERIMENTS / "both_losses.py")
    return override(base, {"training.steps": 2500, "phases.0.steps": 1000} | changes(variant))


def changes(tokenizer: str) -> dict:
    """Returns the tokenizer and the directory of its data."""
    return {"data.tokenizer": tokenizer, "data.directory": f"data/tokenizer-{tokenizer}"}


def sweep_tokenizer() -> Iterator[dict]:
    """Yields the two tokenizers."""
    for tokenizer in ("wordpiece", "sentencepiece"):
        yield changes(tokenizer)


def evaluations() -> dict[str, str]:
    """Returns the bits per character of held-out sentences, and a probe."""
    return {
        "held_out": "bits_per_character:300",
        "movies_probe": f"probe:{EXPERIMENTS / 'finetune' / 'movie_sentiment.py'}",
    }


def sweep_seed() -> Iterator[dict]:
    """Yields three seeds."""
    for seed in range(3):
        yield {"seed": seed}
