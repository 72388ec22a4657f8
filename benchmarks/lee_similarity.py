r"""How well cosines of a model's embeddings rank 1,225 pairs of news as people do.

  python benchmarks/lee_similarity.py --run=mini=runs/mini --run=minilm=all-MiniLM-L6-v2 \
    --output=lee.json

Fifty short news texts of 2002, each pair rated by some ten students (Lee, Pincombe and Welsh 2005,
"An empirical evaluation of models of text document similarity"). The score is Spearman's rank
correlation of cosine and rating, for each pooling, of each --run and of an untrained model of the
first one's shape and vocabulary.

The interval is a 95 % percentile bootstrap over documents, not pairs: a pair shares each of its
documents with 48 others, so that pairs are not independent and intervals from resampled pairs come
out too narrow. A draw takes 50 documents with replacement and every pair of them, but for those of
a document with itself, whose similarity nobody rated. All rows use the same draws.

The texts are in the wheel of gensim (LGPL-2.1), pinned by SHA-256, read without installing it and
kept under $XDG_CACHE_HOME/bert_jax/assets (~/.cache); they are not part of this repository.
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
from scipy.stats import spearmanr

from bert_jax import command, environment
from bert_jax.errors import ConfigError, DataError
from bert_jax.files import write_json

FLAGS = flags.FLAGS
FORMAT_VERSION = 1

WHEEL = "gensim-4.4.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl"
SHA256 = "91a7fa5e814e7b1bad4b2dffa8d62c1e55410d5cbdf930714c1997ffb4404db8"
# The same wheel whatever the machine: only its texts are read.
PLATFORM = ["--platform=manylinux_2_28_x86_64", "--python-version=3.11", "--implementation=cp"]
DOCUMENTS, RATINGS = "gensim/test/test_data/lee.cor", "gensim/test/test_data/similarities0-1.txt"

POOLINGS = ("cls", "pooled", "mean")
DRAWS = 2000
SEED = 0


class Lee(NamedTuple):
    """The rated texts."""

    documents: list[str]
    ratings: Float[np.ndarray, "documents documents"]
    """Mean rating of each pair, symmetric; 1 is the same."""


def fetch(cache: Path) -> Path:
    """Returns the wheel, downloaded unless it is in the cache.

    Raises:
      DataError: it cannot be had, or is not the file that was pinned.
    """
    wheel = cache / WHEEL
    if not wheel.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as directory:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *PLATFORM]
            pip += ["--only-binary=:all:", f"--dest={directory}", "gensim==4.4.0"]
            result = subprocess.run(pip, capture_output=True, text=True, check=False)
            if result.returncode or not (Path(directory) / WHEEL).exists():
                raise DataError(f"{WHEEL} cannot be had: {result.stderr[-300:]}")
            os.replace(Path(directory) / WHEEL, wheel)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != SHA256:
        raise DataError(f"{wheel} has SHA-256 {digest}; accepted: {SHA256}; delete it")
    return wheel


def read(wheel: Path) -> Lee:
    """Returns texts and ratings; only the upper half of the file's matrix is filled."""
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
    """Spearman's correlation over the pairs of these documents, repeated ones counted as often."""
    first, second = np.triu_indices(len(documents), 1)
    first, second = documents[first], documents[second]
    rated = first != second
    first, second = first[rated], second[rated]
    return float(np.asarray(spearmanr(cosines[first, second], ratings[first, second]))[0])


def evaluate(vectors: Float[np.ndarray, "documents embed"], ratings: np.ndarray) -> dict[str, Any]:
    """Returns Spearman's correlation and its interval."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit.astype(np.float64) @ unit.T.astype(np.float64)
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
        raise ConfigError("--run and --output are needed; see --help")
    paths = dict(named(one) for one in FLAGS.run)
    import jax

    from bert_jax.interop.names import OPTIONAL_PARTS
    from bert_jax.runs import inference
    from bert_jax.runs.run import load_run
    from bert_jax.training.initial import fingerprint_params
    from bert_jax.training.state import unboxed_params

    lee = read(fetch(cache_directory()))
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
        cut = sum(
            list(pair.a) != run.tokenizer.encode(text)
            for pair, text in zip(pairs, lee.documents, strict=True)
        )
        models[name] = {
            "step": run.step if name != "untrained" else None,
            "model": dataclasses.asdict(run.model.config),
            "parameters_sha256": fingerprint_params(run.params),
            "truncated_documents": cut,
            **{
                p: evaluate(inference.embed(texts, pairs, pooling=p), lee.ratings) for p in POOLINGS
            },
        }
    described = environment.describe()
    write_json(
        Path(FLAGS.output),
        {
            "format_version": FORMAT_VERSION,
            "source": f"{WHEEL} {SHA256}",
            "pairs": len(lee.documents) * (len(lee.documents) - 1) // 2,
            "interval": f"95 %, {DRAWS} draws of documents, seed {SEED}",
            **{name: described[name] for name in ("commit", "uncommitted_changes", "versions")},
            "models": models,
        },
    )
    print(f"| model | {' | '.join(POOLINGS)} |\n|---|{'---|' * len(POOLINGS)}")
    for name, result in models.items():
        cells = [
            f"{result[p]['spearman']:.3f} [{result[p]['interval'][0]:.3f}, "
            f"{result[p]['interval'][1]:.3f}]"
            for p in POOLINGS
        ]
        print(f"| {name} | {' | '.join(cells)} |")


def named(assignment: str) -> tuple[str, str]:
    """Splits NAME=PATH."""
    name, equals, path = assignment.partition("=")
    if not (name and equals and path) or name == "untrained":
        raise ConfigError(
            f"--run={assignment}; accepted: NAME=PATH, of another name than untrained"
        )
    return name, path


def cache_directory() -> Path:
    """Where downloads are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "bert_jax/assets"


if __name__ == "__main__":
    flags.DEFINE_multi_string(
        "run", [], "NAME=PATH of a run or weights from elsewhere; may be repeated."
    )
    flags.DEFINE_string("output", None, "JSON file to write.")
    command.run(main)
