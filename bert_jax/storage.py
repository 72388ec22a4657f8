"""Paths that a user gives: local, or `gs://BUCKET/PATH` in Google Cloud Storage."""

import re
from pathlib import Path

from bert_jax.errors import ConfigError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
"""Start of a path such as s3://bucket/key, which `Path` shortens to s3:/bucket/key."""


def open_path(given: str | Path, *, name: str) -> Path:
    """Returns the path that a user gave as `name`, a flag or a field.

    Raises:
      ConfigError: the path has a scheme, such as s3://.
    """
    if _SCHEME.match(str(given)):
        raise ConfigError(f"{name} is {str(given)!r}; accepted: a local path")
    return Path(given)
