"""Files that a reader sees as they were or as they will be, never in between."""

import hashlib
import json
from pathlib import Path
from typing import Any


def write_atomically(file: Path, content: str | bytes) -> None:
    """Writes under a temporary name beside the file, then renames; text as UTF-8."""
    temporary = file.with_name(file.name + ".tmp")
    temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    temporary.replace(file)


def write_json(file: Path, value: dict[str, Any]) -> None:
    """Writes a JSON file atomically; a number that is not finite is a ValueError."""
    write_atomically(file, json.dumps(value, indent=1, allow_nan=False) + "\n")


def sha256_of_file(path: Path) -> str:
    """In hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
