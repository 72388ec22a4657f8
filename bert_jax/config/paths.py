"""Paths that a user gives: local, or `gs://BUCKET/PATH` in Google Cloud Storage.

A path of gs:// is an `etils.epath.Path`, which has the methods of a local path. A file of gs:// is
written as a whole and cannot grow, and there are no locks, links or directories. The functions of
this module hide these differences.
"""

import contextlib
import importlib.util
import logging
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from bert_jax.errors import BertJaxError, CheckpointError, ConfigError, TemporaryError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
"""Start of a path such as s3://bucket/key, which `Path` shortens to s3:/bucket/key."""

_CLIENTS = ("gcsfs", "google", "aiohttp", "requests")
"""Packages that talk to gs://."""

_REMOTE = re.compile(r"gs://?([a-z0-9][a-z0-9_.-]{1,220}[a-z0-9](/(?!\.\.?(/|\Z))[^/*?#\[\]]+)+)/?")
"""A path of gs:// without the characters that gcsfs reads as patterns or as versions. TensorStore
refuses other names of buckets, but only when it writes the first checkpoint."""

COMMITTED = "commit_success.txt"
"""The last file that orbax writes into the directory of a step. In gs://, this directory has its
final name from the start, so only this file says that the step is complete."""


def check_path(given: str | Path, *, name: str, local: bool = False) -> str:
    """Checks a path of a config. Returns BUCKET/PATH of a path of gs://, and "" of a local path.

    A config is read on machines that cannot open its paths, so gcsfs need not be installed.

    Raises:
      ConfigError: the path has another scheme than gs://, or any scheme if `local` is True.
    """
    found = _REMOTE.fullmatch(str(given))
    if _SCHEME.match(str(given)) and (local or not found):
        accepted = "a local path" if local else "a local path or gs://BUCKET/PATH"
        raise ConfigError(f"{name} is {str(given)!r}; accepted: {accepted}")
    return found[1] if found else ""


def open_path(given: str | Path, *, name: str, local: bool = False) -> Path:
    """Returns the path that a user gave as `name`, a flag or a field. `~` is the home directory.

    Raises:
      ConfigError: see `check_path`; or the path is in gs://, and gcsfs is not installed.
    """
    remote = check_path(given, name=name, local=local)
    if not remote:
        return Path(os.path.expanduser(str(given)))
    if importlib.util.find_spec("gcsfs") is None:
        raise ConfigError(
            f"{name} is {str(given)!r}, but gcsfs is not installed; accepted: a local path, or "
            "pip install -e '.[gcs]'"
        )
    return _remote(remote)


def _remote(bucket_and_name: str) -> Path:
    os.environ.setdefault("EPATH_USE_TF", "false")  # else etils uses TensorFlow if it is installed
    from etils import epath
    from fsspec.config import conf

    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it also raises each error that it logs
    # A cached list would hide what other processes write.
    conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)
    return cast(Path, epath.Path(f"gs://{bucket_and_name}"))


def is_remote(path: Path) -> bool:
    """Returns whether a path of `open_path` is in gs://."""
    return str(path).startswith("gs://")


def filesystem() -> Any:
    """Returns gcsfs's file system, which copies files between gs:// and the local disk."""
    import fsspec

    return fsspec.filesystem("gcs")


def failure_of_remote(error: BaseException | None) -> Exception | None:
    """Returns the error of a library that talks to gs:// which is `error` or led to it, or None.

    Of several such errors, it is the one that was raised first. A file that does not exist is a
    FileNotFoundError of Python instead.
    """
    failed = None
    while error:
        client = type(error).__module__.partition(".")[0] in _CLIENTS
        # gcsfs raises this OSError if the server answers with the status 403.
        if client or type(error) is OSError and str(error).startswith("Forbidden: "):
            failed = cast(Exception, error)
        error = error.__cause__
    return failed


def is_outage(error: BaseException) -> bool:
    """Returns whether `error` came about because gs:// did not answer, which may pass.

    Missing or refused credentials do not pass.
    """
    failed = failure_of_remote(error)
    if failed is None or type(failed) is OSError:
        return False
    if type(failed).__module__ == "google.auth.exceptions":
        no_answer = type(failed).__name__ in ("TransportError", "TimeoutError")
        return no_answer or getattr(failed, "retryable", False)
    code = str(getattr(failed, "code", ""))
    return not code.startswith("4") or code in ("408", "429")


def describe_failure(error: BaseException) -> str | None:
    """Returns a line about the failure of gs:// which is `error` or led to it, or None."""
    failed = failure_of_remote(error)
    if failed is None:
        return None
    said = f"({type(failed).__name__}: {failed}); accepted: "
    if is_outage(error):
        return f"gs:// does not answer {said}the same command or call, later"
    return f"gs:// cannot be read or written {said}a bucket that exists, and credentials for it"


@contextlib.contextmanager
def typed_failures() -> Iterator[None]:
    """Turns a failure of gs:// into a TemporaryError, or a CheckpointError if it will not pass."""
    try:
        yield
    except Exception as error:
        said = describe_failure(error)
        if isinstance(error, BertJaxError) or said is None:
            raise
        raise (TemporaryError if is_outage(error) else CheckpointError)(said) from error


def cache_directory() -> Path:
    """Returns the directory where bert_jax keeps files that it can make or download again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bert_jax"


def files_below(directory: Path) -> list[Path]:
    """Returns all files in a directory and its subdirectories, sorted by path."""
    if is_remote(directory):
        return [_remote(name) for name in sorted(filesystem().find(str(directory)))]
    return [path for path in sorted(directory.rglob("*")) if path.is_file()]


def last_written(path: Path) -> float:
    """Returns the time of the last write to a file or directory, in seconds since 1970.

    In gs://, the files of the directory and the parts of the file (`parts_of`) count, too.
    """
    if not is_remote(path):
        return path.stat().st_mtime
    written = [filesystem().find(str(one), detail=True) for one in (path, parts_of(path))]
    return max(one["mtime"].timestamp() for found in written for one in found.values())


def parts_of(file: Path) -> Path:
    """Returns the directory of the parts of a file in gs:// that grows (`run_files.RowsFile`)."""
    return file.with_name(f"{file.name}.parts")


def make_directory(directory: Path) -> None:
    """Makes a directory with its parents. gs:// has no directories."""
    if not is_remote(directory):
        directory.mkdir(parents=True, exist_ok=True)


def move_directory(source: Path, target: Path) -> None:
    """Renames a directory. In gs://, all its files are copied and then deleted."""
    make_directory(target.parent)
    if is_remote(source):
        filesystem().copy(str(source), str(target), recursive=True)
        filesystem().rm(str(source), recursive=True)
    else:
        source.rename(target)


class LocalFiles:
    """A local directory for files that grow. `copy` copies them to `path` in gs://.

    If `path` is local, the directory is `path` itself, and `copy` does nothing.
    """

    def __init__(self, path: Path):
        self._path, self._copied = path, {}
        self._temporary = tempfile.TemporaryDirectory() if is_remote(path) else None
        self.directory = Path(self._temporary.name) if self._temporary else path
        self.directory.mkdir(parents=True, exist_ok=True)

    def copy(self) -> None:
        """Copies the files whose size has changed since the last call."""
        for file in files_below(self.directory) if self._temporary else ():
            if self._copied.get(file) != (size := file.stat().st_size):
                target = self._path / file.relative_to(self.directory)
                filesystem().put_file(str(file), str(target))
                self._copied[file] = size
