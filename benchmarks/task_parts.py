"""Functions that all labelled sets share: parts, folds, and reading the members of an archive."""

import hashlib
import json
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

PARTS = ("train", "dev", "test")
FOLDS = 10
Written = dict[str, str]
"""Content of each file of a set, by file name."""


def part_of(text: str, fold: int = 0) -> str:
    """Chooses train, dev or test by a hash of the text. About a tenth is dev, and a tenth test.

    A text that is in test of a fold is in dev of the previous fold.
    """
    number = int(hashlib.sha256(normalized(text).lower().encode()).hexdigest()[:8], 16) - fold
    return {0: "test", 1: "dev"}.get(number % FOLDS, "train")


def normalized(text: str) -> str:
    """Returns the text with single spaces."""
    return " ".join(text.split())


def archive_member(archive: Path, name: str) -> bytes:
    """Returns the content of a file in a tar archive."""
    with tarfile.open(archive) as files:
        member = files.extractfile(name)
        assert member is not None  # a regular file, by its name
        return member.read()


def json_lines(archive: Path, name: str) -> Iterator[dict]:
    """Yields the objects of a JSON Lines file in a zip archive."""
    with zipfile.ZipFile(archive) as files:
        for line in files.read(name).decode("utf-8").splitlines():
            if line.strip():
                yield json.loads(line)
