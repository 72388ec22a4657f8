"""Errors of a user. A command prints them in one line, and exits with status 2 or 75."""

import contextlib
from collections.abc import Iterator
from pathlib import Path


class BertJaxError(Exception):
    """Base class of all errors about the inputs of bert_jax."""

    status = 2
    """Exit status of a command."""


class ConfigError(BertJaxError, ValueError):
    """An experiment, an override or a combination of fields is not valid."""


class UnknownCodeError(ConfigError):
    """A stored config names a class of a user's own file, and this file was not run."""


class DataError(BertJaxError, ValueError):
    """A corpus, a vocabulary or prepared data is missing, malformed, or not as configured."""


class MissingDataError(DataError):
    """A directory has no prepared data. A command's message says how to prepare them."""


class UnfinishedError(DataError):
    """Preparation stopped before its end, e.g. on a full disk. The same command resumes it."""


class CheckpointError(BertJaxError, ValueError):
    """A run directory or a checkpoint is missing, incomplete, or does not fit the config."""


class TemporaryError(BertJaxError, RuntimeError):
    """A process or a service did not come or answer. The same command may succeed later."""

    status = 75  # the scripts in launch/ run the command again


class DivergenceError(BertJaxError, ArithmeticError):
    """A loss, a gradient or a held-out metric is NaN or infinite."""


class OutOfMemoryError(BertJaxError, MemoryError):
    """A program needs more memory than a device or this machine has."""


def require(
    ok: object, name: str, value: object, accepted: str, *, error: type[BertJaxError] = ConfigError
) -> None:
    """Raises `error` about a field or flag, its value and the accepted values, unless `ok` is true.

    A flag whose value is None or empty is missing.
    """
    if not ok:
        missing = name.startswith("--") and value in (None, "")
        raise error(f"{name} is {'missing' if missing else repr(value)}; accepted: {accepted}")


@contextlib.contextmanager
def needing(what: str, extra: str, *, error: type[BertJaxError] = DataError) -> Iterator[None]:
    """Raises `error` if the body cannot import a library that `what` needs.

    `extra` is the extra of bert_jax that installs the library.
    """
    try:
        yield
    except ImportError as problem:
        if (problem.name or "").startswith("bert_jax"):
            raise
        missing = problem.name or problem  # a shared library has no name
        raise error(f"{what} needs {missing}: pip install -e '.[{extra}]'") from problem


@contextlib.contextmanager
def located(where: str | Path) -> Iterator[None]:
    """Puts `where`, such as a file or the line of a text, before the message of a BertJaxError."""
    try:
        yield
    except BertJaxError as error:
        raise type(error)(f"{where}: {error}") from error
