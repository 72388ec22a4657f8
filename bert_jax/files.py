"""Reads and writes files: JSON of a known form, atomic writes, hashes.

No process ever reads a half-written file. Nothing is written through a symbolic link.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TextIO

import msgspec
import numpy as np

from bert_jax.config.paths import failure_of_remote, is_remote
from bert_jax.errors import BertJaxError, CheckpointError, DataError, OutOfMemoryError

Sha256 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
"""Type of a SHA-256 in hexadecimal, for `read_json`. It is also the name of a cached directory."""

FileName = Annotated[str, msgspec.Meta(pattern=r"\A[\w-][\w.-]*\Z")]
"""Type of the name of a file in the same directory, for `read_json`: no slash, no `..`."""

FilePath = Annotated[
    str, msgspec.Meta(pattern=r"\A(?!\.\.?(/|\Z))[^/\0]+(/(?!\.\.?(/|\Z))[^/\0]+)*\Z")
]
"""Type of the path of a file within the same directory, for `read_json`: it never leads outside."""

Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
"""Type of a count, for `read_json`: 0 to 2**62."""

_POINTER = b"version https://git-lfs.github.com/spec/"

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


# ---- Writing -------------------------------------------------------------------------------------


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Yields the path of a new, empty file beside `file`, and renames it to `file` at the end.

    After an error, the new file is deleted and `file` is as before. A symbolic link with the name
    of one of the two files is replaced; the file that it points to stays as it is.
    """
    temporary = file.with_name(file.name + ".tmp")
    temporary.unlink(missing_ok=True)  # a file of a killed process, or a link
    temporary.open("xb").close()  # O_EXCL: fails if a link was made meanwhile
    try:
        yield temporary
        synchronize(temporary)  # after a power failure, `file` is as before or whole
        temporary.replace(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomically(file: Path, content: str | bytes) -> None:
    """Writes a temporary file beside the target and renames it. Text is written as UTF-8.

    An object of gs:// is written as a whole, without a temporary file.
    """
    content = content.encode("utf-8") if isinstance(content, str) else content
    if is_remote(file):
        file.write_bytes(content)
        return
    with replacing(file) as temporary, naming(file):
        temporary.write_bytes(content)


def write_json(file: Path, value: dict[str, Any]) -> None:
    """Writes a JSON file atomically. A NaN or an infinity raises ValueError."""
    write_atomically(file, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_array(array: np.ndarray, *, path: Path) -> None:
    """Writes a `.npy` file atomically."""
    with replacing(path) as temporary, naming(path), open(temporary, "wb") as stream:
        np.save(stream, array)


def open_to_append(file: Path) -> TextIO:
    """Opens a file to append UTF-8 text. The file is made if it does not exist.

    Raises:
      CheckpointError: the file is a symbolic link.
    """

    def open_without_links(path: str, flags: int) -> int:
        # With O_NONBLOCK, a pipe is an error. Without, opening it would wait for a reader.
        return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)

    try:
        return open(file, "a", encoding="utf-8", opener=open_without_links)
    except OSError as problem:
        if problem.errno != errno.ELOOP:
            raise
        raise CheckpointError(f"{file} is a symbolic link; accepted: a file") from problem


def append(file: Path, content: bytes) -> None:
    """Appends bytes to a file. An error names the file.

    Raises:
      CheckpointError: the file is a symbolic link.
    """
    with naming(file), open_to_append(file) as stream:
        stream.buffer.write(content)


def synchronize(file: Path) -> None:
    """Waits until the content of a file is on the disk."""
    with naming(file), file.open("rb") as stream:
        os.fsync(stream.fileno())


@contextlib.contextmanager
def naming(file: Path) -> Iterator[None]:
    """Adds the name of the file to an OSError without a name, such as the error of a full disk."""
    try:
        yield
    except OSError as problem:
        if problem.filename is None:
            problem.filename = str(file)
        raise


# ---- Reading -------------------------------------------------------------------------------------


@contextlib.contextmanager
def parsing(
    file: Path | str, *, accepted: str, error: type[BertJaxError] = DataError
) -> Iterator[None]:
    """Turns every exception of the body into an error that names the file.

    A parser can raise any exception if the bytes are damaged. The body should only read and parse
    the file. Otherwise, a mistake in other code would be reported as a damaged file. A BertJaxError
    of the body stays as it is.

    Args:
      file: the file, or the file and the place within the file.
      accepted: what a file must be, for the message, such as "a whole Parquet file".
      error: class of the error.
    """
    try:
        yield
    except BertJaxError:
        raise
    except MemoryError as problem:
        raise OutOfMemoryError(
            f"{file} needs more memory than there is ({problem}); accepted: {accepted}, and memory "
            "for its content"
        ) from problem
    except Exception as problem:
        said = str(problem)
        if isinstance(problem, OSError) and problem.strerror:
            elsewhere = problem.filename not in (None, file, str(file))
            said = problem.strerror + (f": {problem.filename}" if elsewhere else "")
        if isinstance(file, Path):
            check_not_pointer(file, error=error)
        reason = " ".join(said.split())[:200] or type(problem).__name__
        raise error(f"{file} cannot be read ({reason}); accepted: {accepted}") from problem


def read_bytes(file: Path, *, error: type[BertJaxError] = DataError, advice: str = "") -> bytes:
    """Returns the content of a file. `advice` ends the error's message.

    Raises:
      error: the file cannot be read, or is a device or a pipe, which may have no end.
    """
    if not is_remote(file):
        file = Path(os.path.expanduser(file))
    try:
        if not is_remote(file) and file.exists() and not (file.is_file() or file.is_dir()):
            raise error(
                f"{file} cannot be read (it is a device or a pipe); accepted: a file{advice}"
            )
        content = file.read_bytes()
    except OSError as problem:
        if failure_of_remote(problem):  # it says nothing about the file
            raise
        reason = problem.strerror or type(problem).__name__  # gcsfs gives no strerror
        said = f"{file} cannot be read ({reason}); accepted: a file{advice}"
        raise error(said) from problem
    if content.startswith(_POINTER):
        check_not_pointer(file, error=error)
    return content


def check_not_pointer(file: Path, *, error: type[BertJaxError]) -> None:
    """Raises `error` if a file is the pointer that git-lfs leaves in place of a large file."""
    with contextlib.suppress(OSError), file.open("rb") as stream:
        if stream.read(len(_POINTER)) == _POINTER:
            raise error(
                f"{file} is a git-lfs pointer, not the file itself; accepted: the file that "
                "`git lfs pull` puts in its place"
            )


def read_text(file: Path, *, error: type[BertJaxError] = DataError, advice: str = "") -> str:
    """Returns the text of a UTF-8 file without its byte order mark. `advice` ends the message.

    Raises:
      error: see `read_bytes`; or the file is not UTF-8.
    """
    try:
        return read_bytes(file, error=error, advice=advice).decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        said = f"{file} is not UTF-8 at byte {problem.start}; accepted: UTF-8{advice}"
        raise error(said) from problem


def read_json(
    file: Path,
    kind: Any = dict[str, Any],
    *,
    error: type[BertJaxError] = DataError,
    advice: str = "",
) -> Any:
    """Returns the JSON object in a file, whose fields were checked against a type.

    Args:
      file: a file in UTF-8.
      kind: a type for `msgspec.convert`: a TypedDict, or dict[str, float] and the like. Nothing is
        converted. Fields that the type does not name stay as they are, without a check.
      error: class of the error.
      advice: end of the error's message, such as "; prepare the data again".

    Raises:
      error: the file cannot be read, is not JSON, or has another type. The message names the file
        and the line or the field.
    """
    text = read_text(file, error=error, advice=advice)
    return parse_json(text, kind, place=file, error=error, advice=advice)


def read_json_if_whole(file: Path, kind: Any = dict[str, Any]) -> dict[str, Any]:
    """Returns the JSON object in a file, or {} if the file does not exist or is damaged.

    If the file is damaged, a line on stderr says so.
    """
    if not file.exists():
        return {}
    try:
        return read_json(file, kind)
    except DataError as problem:
        print(f"damaged file, which counts as missing: {problem}", file=sys.stderr)
        return {}


def parse_json(
    text: str,
    kind: Any = dict[str, Any],
    *,
    place: Path | str,
    error: type[BertJaxError] = DataError,
    advice: str = "",
    surrogates: bool = False,
) -> Any:
    """Returns the JSON object in a text; see `read_json`.

    Args:
      text: the content of a file, or a line of it.
      kind: see `read_json`, like `error` and `advice`.
      place: the file, or `file:line`.
      surrogates: whether half of a surrogate pair, which is not UTF-8, is accepted.
    """
    try:
        value = json.loads(text)
        if not surrogates and _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as problem:  # also 5,000 digits or 1,000 brackets
        where, said = place, str(problem)
        if not isinstance(place, str) and isinstance(problem, json.JSONDecodeError):
            where, said = f"{place}:{problem.lineno}", problem.msg
        raise error(f"{where} is not JSON ({said}); accepted: JSON{advice}") from problem
    check_json(value, kind, place=place, error=error, advice=advice)
    return value


def check_json(
    value: Any,
    kind: Any,
    *,
    place: Path | str,
    error: type[BertJaxError] = DataError,
    advice: str = "",
) -> None:
    """Raises `error` if a JSON value is not an object whose fields have the type `kind`."""
    if not isinstance(value, dict):
        found = type(value).__name__
        raise error(f"{place} holds a {found}; accepted: a JSON object{advice}")
    try:
        msgspec.convert(value, kind)
    except (msgspec.ValidationError, RecursionError) as problem:
        # For example: Expected `int`, got `str` - at `$.splits.train.shards[0].examples`
        said, _, where = str(problem).replace("`", "").partition(" - at ")
        expected, _, found = said.removeprefix("Expected ").partition(", got ")
        if " matching regex " in expected:
            is_hash = "[0-9a-f]{64}" in expected
            expected = (
                "a SHA-256 in hexadecimal" if is_hash else "the name of a file in this directory"
            )
        if said.startswith("Expected "):
            said = f"is {found or 'another value'}; accepted: {expected}"
        said = said.replace("Object missing required", "lacks the")
        said = said.replace("Object contains unknown", "has the unknown")
        where = where.replace("$.", "").replace("$", "") or "the object"
        raise error(f"{place}: {where} {said}{advice}") from problem


def read_array(path: Path, *, dtype: np.typing.DTypeLike) -> np.ndarray:
    """Returns the array of a `.npy` file as a read-only memory map.

    Raises:
      DataError: the file is missing or damaged, is shorter than its header says, or has another
        dtype.
    """
    accepted = f"a whole .npy file of {np.dtype(dtype)}; prepare the data again"
    with parsing(path, accepted=accepted):
        array = np.lib.format.open_memmap(path, mode="r")
        if array.dtype != dtype:
            raise ValueError(f"it holds {array.dtype}")
        return array


def sha256_of_file(path: Path) -> str:
    """Returns the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
