r"""Compares WordPiece with Hugging Face's `tokenizers` on one thread: ids and speed.

  python benchmarks/tokenizer_speed.py --corpus='text:corpora/mix/news.txt' --vocabulary=vocab.txt

Needs the package `tokenizers`, which .venv-reference has (bash launch/test.sh --reference). Both
tokenizers encode the sentences that `prepare` would encode. They take turns, round by round, after
a first round that is not timed.
"""

import os
import statistics
import time
from itertools import islice

os.environ["RAYON_NUM_THREADS"] = "1"  # read when tokenizers is imported
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from absl import flags

from bert_jax import command
from bert_jax.data.sentences import split_sentences
from bert_jax.data.sources.corpora import read_documents
from bert_jax.data.tokenizers.wordpiece import WordPiece
from bert_jax.errors import ConfigError

FLAGS = flags.FLAGS


def main() -> None:
    """Runs the comparison."""
    try:
        from tokenizers import BertWordPieceTokenizer  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError(
            "the package tokenizers is missing; accepted: the environment of "
            "`bash launch/test.sh --reference`"
        ) from error
    sentences = list(islice(_sentences(FLAGS.corpus), FLAGS.sentences))
    size = sum(len(sentence.encode()) for sentence in sentences) / 1e6
    ours = WordPiece.from_vocabulary_file(FLAGS.vocabulary, lower_case=True)
    theirs = BertWordPieceTokenizer(FLAGS.vocabulary, lowercase=True)

    def encode_ours() -> list[list[int]]:
        return [ours.encode(sentence) for sentence in sentences]

    def encode_theirs() -> list[list[int]]:
        return [encoded.ids for encoded in theirs.encode_batch(sentences, add_special_tokens=False)]

    differ = sum(a != b for a, b in zip(encode_ours(), encode_theirs(), strict=True))
    print(f"{len(sentences):,} sentences, {size:.1f} MB; ids differ in {differ} sentences")
    speeds = {"bert_jax": [], "tokenizers": []}
    for _ in range(FLAGS.rounds):
        for name, encode in (("bert_jax", encode_ours), ("tokenizers", encode_theirs)):
            start = time.perf_counter()
            encode()
            speeds[name].append(size / (time.perf_counter() - start))
    for name, found in speeds.items():
        print(
            f"{name:10}  best {max(found):5.2f} MB/s, median {statistics.median(found):5.2f} MB/s"
        )
    ratios = [a / b for a, b in zip(*speeds.values(), strict=True)]
    print(
        f"speed of bert_jax / tokenizers in a round: median {statistics.median(ratios):.2f}, "
        f"minimum {min(ratios):.2f}"
    )


def _sentences(corpus: str):
    for document in read_documents(corpus):
        yield from split_sentences(document.text)


if __name__ == "__main__":
    flags.DEFINE_string("corpus", "embedded:sotu", "Corpus, for example text:FILE.")
    flags.DEFINE_string("vocabulary", None, "Path of a vocab.txt.", required=True)
    flags.DEFINE_integer("sentences", 100_000, "Number of sentences.", lower_bound=1)
    flags.DEFINE_integer("rounds", 5, "Number of timed rounds.", lower_bound=1)
    command.run(main)
