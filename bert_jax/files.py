"""Hashes of files, and atomic writes: no process ever reads a half-written file."""

import hashlib
import json
from pathlib import Path
from typing import Any


def write_atomically(file: Path, content: str | bytes) -> None:
    """Writes a temporary file beside the target and renames it. Text is written as UTF-8."""
    temporary = file.with_name(file.name + ".tmp")
    temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    temporary.replace(file)


def write_json(file: Path, value: dict[str, Any]) -> None:
    """Writes a JSON file atomically. A NaN or an infinity raises ValueError."""
    write_atomically(file, json.dumps(value, indent=1, allow_nan=False) + "\n")


def sha256_of_file(path: Path) -> str:
    """Returns the SHA-256 of a file in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
