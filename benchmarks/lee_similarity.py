r"""Measures how well cosines of a model's embeddings rank 1,225 pairs of news texts.

  python benchmarks/lee_similarity.py --run=mini=runs/mini --run=minilm=all-MiniLM-L6-v2 \
    --output=docs/runs/lee_similarity.jsonl

The texts are fifty short news articles of 2002. About ten students rated each pair (Lee, Pincombe
and Welsh 2005, "An empirical evaluation of models of text document similarity"). The score is
Spearman's rank correlation between cosine and rating. It is measured for each pooling, for each
--run, and for an untrained model with the shape and vocabulary of the first --run.

The interval is a 95 % percentile bootstrap over documents. Intervals from resampled pairs would be
too narrow, because pairs are not independent: a pair shares each of its documents with 48 other
pairs. Each draw takes 50 documents with replacement and all pairs of two different documents, since
a document has no rating with itself. All models and poolings use the same draws.

--output is a record (docs/runs/README.md) with the cosine of every pair.

The texts come from the wheel of gensim (LGPL-2.1), whose SHA-256 is pinned. The wheel is read
without installing it and is kept under $XDG_CACHE_HOME/bert_jax/assets (~/.cache). The texts are
not part of this repository.
"""

import dataclasses
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from jaxtyping import Float
from record import FORMAT_VERSION, pack, write_record
from scipy.stats import spearmanr

from bert_jax import command, environment
from bert_jax.config.paths import cache_directory
from bert_jax.errors import ConfigError, DataError

FLAGS = flags.FLAGS

WHEEL = "gensim-4.4.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl"
SHA256 = "91a7fa5e814e7b1bad4b2dffa8d62c1e55410d5cbdf930714c1997ffb4404db8"
# Only the texts of the wheel are read, so every machine takes the same wheel.
PLATFORM = ["--platform=manylinux_2_28_x86_64", "--python-version=3.11", "--implementation=cp"]
DOCUMENTS, RATINGS = "gensim/test/test_data/lee.cor", "gensim/test/test_data/similarities0-1.txt"

POOLINGS = ("cls", "pooled", "mean")
DRAWS = 2000
SEED = 0


class Lee(NamedTuple):
    """Texts and the ratings of their pairs."""

    documents: list[str]
    ratings: Float[np.ndarray, "documents documents"]
    """Mean rating of each pair, from 0 to 1; symmetric, with 1 on the diagonal."""


def fetch(cache: Path) -> Path:
    """Returns the path of the wheel. Downloads the wheel unless it is in the cache.

    Raises:
      DataError: the download fails, or the file does not have the pinned SHA-256.
    """
    wheel = cache / WHEEL
    if not wheel.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as directory:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *PLATFORM]
            pip += ["--only-binary=:all:", f"--dest={directory}", "gensim==4.4.0"]
            result = subprocess.run(pip, capture_output=True, text=True, check=False)
            if result.returncode or not (Path(directory) / WHEEL).exists():
                raise DataError(f"{WHEEL} cannot be downloaded: {result.stderr[-300:]}")
            os.replace(Path(directory) / WHEEL, wheel)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != SHA256:
        raise DataError(f"{wheel} has SHA-256 {digest}; accepted: {SHA256}; delete it")
    return wheel


def read(wheel: Path) -> Lee:
    """Returns texts and ratings. The file has each rating once, above the diagonal."""
    with zipfile.ZipFile(wheel) as files:
        documents = files.read(DOCUMENTS).decode("latin-1").strip().split("\n")  # pound signs
        rows = [line.split() for line in files.read(RATINGS).decode("ascii").splitlines()]
    upper = np.triu(np.array(rows, np.float64), 1)
    return Lee(documents, upper + upper.T + np.eye(len(documents)))


def agreement(
    cosines: Float[np.ndarray, "documents documents"],
    ratings: Float[np.ndarray, "documents documents"],
    documents: np.ndarray,
) -> float:
    """Returns Spearman's correlation over all pairs of two different documents.

    A document that is repeated in `documents` counts as often as it is repeated.
    """
    first, second = np.triu_indices(len(documents), 1)
    first, second = documents[first], documents[second]
    rated = first != second
    first, second = first[rated], second[rated]
    return float(np.asarray(spearmanr(cosines[first, second], ratings[first, second]))[0])


def evaluate(vectors: Float[np.ndarray, "documents embed"], ratings: np.ndarray) -> dict[str, Any]:
    """Returns Spearman's correlation, its interval, and the packed cosine of each pair."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit.astype(np.float64) @ unit.T.astype(np.float64)
    above = cosines[np.triu_indices(len(cosines), 1)]
    return score(symmetric(above), ratings) | {"cosines": pack(above)}


def symmetric(above: Float[np.ndarray, "pairs"]) -> Float[np.ndarray, "documents documents"]:
    """Returns the symmetric matrix with these values above the diagonal, and 1 on the diagonal."""
    count = round((1 + np.sqrt(1 + 8 * len(above))) / 2)
    matrix = np.zeros((count, count))
    matrix[np.triu_indices(count, 1)] = above
    return matrix + matrix.T + np.eye(count)


def score(
    cosines: Float[np.ndarray, "documents documents"],
    ratings: Float[np.ndarray, "documents documents"],
) -> dict[str, Any]:
    """Returns Spearman's correlation and its interval."""
    count = len(ratings)
    rng = np.random.default_rng(SEED)
    draws = [agreement(cosines, ratings, rng.integers(0, count, count)) for _ in range(DRAWS)]
    low, high = np.quantile(draws, [0.025, 0.975])
    whole = agreement(cosines, ratings, np.arange(count))
    return {"spearman": whole, "interval": [float(low), float(high)]}


def main() -> None:
    """Runs the command."""
    environment.configure_jax()
    if not FLAGS.run or not FLAGS.output:
        missing = "output" if FLAGS.run else "run"
        raise ConfigError(f"--{missing} is missing; accepted: --run=NAME=PATH and --output=FILE")
    paths = dict(named(one) for one in FLAGS.run)
    lee = read(fetch(cache_directory() / "assets"))
    models = measure(paths, lee)
    described = environment.describe()
    line = {
        "format_version": FORMAT_VERSION,
        "kind": "similarity",
        "source": f"{WHEEL} {SHA256}",
        "pairs": len(lee.documents) * (len(lee.documents) - 1) // 2,
        "interval": f"95 %, {DRAWS} draws of documents, seed {SEED}",
        **{name: described[name] for name in ("commit", "uncommitted_changes", "versions")},
        "models": models,
    }
    write_record(Path(FLAGS.output), [line])
    print(f"| model | {' | '.join(POOLINGS)} |\n|---|{'---|' * len(POOLINGS)}")
    for name, result in models.items():
        cells = [
            f"{result[p]['spearman']:.3f} [{result[p]['interval'][0]:.3f}, "
            f"{result[p]['interval'][1]:.3f}]"
            for p in POOLINGS
        ]
        print(f"| {name} | {' | '.join(cells)} |")


def measure(paths: dict[str, str], lee: Lee) -> dict[str, Any]:
    """Returns the scores of each model and of an untrained model, with the model's description."""
    import jax

    from bert_jax.interop.names import OPTIONAL_PARTS
    from bert_jax.runs import inference
    from bert_jax.runs.load import load_run
    from bert_jax.training.initial import fingerprint_params
    from bert_jax.training.state import unboxed_params

    runs = {}
    for name, path in paths.items():
        is_run = (Path(path) / "checkpoints").is_dir()
        runs[name] = load_run(path, allow=() if is_run else OPTIONAL_PARTS)
    first = next(iter(runs.values()))
    untrained = jax.jit(lambda: unboxed_params(first.model, SEED))()
    runs["untrained"] = dataclasses.replace(first, params=untrained)
    models = {}
    for name, run in runs.items():
        texts = run.text_model
        pairs = [inference.encode_text(texts, text, truncate=True) for text in lee.documents]
        truncated = sum(
            list(pair.a) != run.tokenizer.encode(text)
            for pair, text in zip(pairs, lee.documents, strict=True)
        )
        models[name] = {
            "step": run.step if name != "untrained" else None,
            "model": dataclasses.asdict(run.model.config),
            "parameters_sha256": fingerprint_params(run.params),
            "truncated_documents": truncated,
            **{
                p: evaluate(inference.embed(texts, pairs, pooling=p), lee.ratings) for p in POOLINGS
            },
        }
    return models


def named(assignment: str) -> tuple[str, str]:
    """Splits NAME=PATH."""
    name, equals, path = assignment.partition("=")
    if not (name and equals and path) or name == "untrained":
        raise ConfigError(f"--run={assignment}; accepted: NAME=PATH with any NAME but untrained")
    return name, path


if __name__ == "__main__":
    flags.DEFINE_multi_string(
        "run", [], "NAME=PATH of a run or of foreign weights. May be repeated."
    )
    flags.DEFINE_string("output", None, "Record to write (JSON Lines).")
    command.run(main)
