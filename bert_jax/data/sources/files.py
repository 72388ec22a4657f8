"""Lists, opens, hashes and reads the files of a corpus: local paths or fsspec URLs."""

import glob
import gzip
import hashlib
import io
import os
import zlib
from collections.abc import Iterator

import fsspec

from bert_jax.data.sources.base import MAX_DOCUMENT_BYTES, too_long
from bert_jax.errors import DataError

MAX_LINE_BYTES = 2 * MAX_DOCUMENT_BYTES
"""Maximum length of a line in bytes. A line of JSON is longer than the document in it."""

_BUFFER = 2**20


def list_files(pattern: str, *, spec: str) -> list[tuple[str, int]]:
    """Returns the sorted (path, size in bytes) of the matching files. `**` matches directories.

    Raises:
      DataError: no file matches, a file is empty, or the URL's protocol is not supported.
    """
    if "://" in pattern:
        filesystem, path = _filesystem(pattern)
        found = filesystem.glob(path, detail=True)
        sizes = {
            filesystem.unstrip_protocol(name): int(entry["size"])
            for name, entry in found.items()
            if entry["type"] == "file"
        }
    else:
        found = glob.glob(pattern, recursive=True)
        sizes = {path: os.path.getsize(path) for path in filter(os.path.isfile, found)}
    if not sizes:
        matched, accepted = "no file", "a pattern that matches files"
        if found:
            matched, accepted = "a directory and no file", f"{pattern.rstrip('/')}/*"
        raise DataError(f"corpus {spec!r} matches {matched}; accepted: {accepted}")
    for path, size in sizes.items():
        if not size:
            raise DataError(f"{path}:1 is an empty file; accepted: text, or a pattern without it")
    return sorted(sizes.items())


def open_file(path: str) -> io.BufferedReader:
    """Opens a file for reading in binary, and decompresses a file named `.gz`."""
    stream = _open_raw(path)
    return io.BufferedReader(gzip.GzipFile(fileobj=stream), _BUFFER) if is_gzip(path) else stream


def sha256_of(path: str) -> str:
    """Returns the SHA-256 of the bytes as stored, in hexadecimal."""
    with _open_raw(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def is_gzip(path: str) -> bool:
    """Returns whether the file is gzipped, and so can only be read from its beginning."""
    return path.endswith(".gz")


def lines_from(path: str, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yields offset and bytes of each line that begins at byte `start` or later.

    Raises:
      DataError: a line is too long, the only line ends are carriage returns, or the file is
        damaged gzip.
    """
    with open_file(path) as stream:
        offset = start
        if start:
            stream.seek(start - 1)
            offset += _skip_line(stream) - 1
        while line := _read_line(stream, path=path, offset=offset):
            yield offset, line
            offset += len(line)


def decode_line(line: bytes, *, path: str, offset: int) -> str:
    """Returns the line as text.

    Raises:
      DataError: the line is not UTF-8.
    """
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{line_place(path, offset)} holds byte 0x{line[error.start]:02x} at column "
            f"{error.start + 1}; accepted: UTF-8 text"
        ) from error


def line_place(path: str, offset: int) -> str:
    """Returns `path:line` for a byte offset. Lines are counted only here, for an error message."""
    with open_file(path) as stream:
        newlines = 0
        while offset > 0 and (block := stream.read(min(_BUFFER, offset))):
            newlines += block.count(b"\n")
            offset -= len(block)
    return f"{path}:{newlines + 1}"


def _filesystem(url: str):
    try:
        return fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:  # an unknown protocol, or its library is missing
        raise DataError(f"{url} cannot be opened: {error}") from error


def _open_raw(path: str) -> io.BufferedReader:
    if "://" not in path:
        return io.BufferedReader(io.FileIO(path), _BUFFER)
    filesystem, name = _filesystem(path)
    return io.BufferedReader(filesystem.open(name, "rb"), _BUFFER)


def _skip_line(stream: io.BufferedReader) -> int:
    """Reads to the end of the line and returns the number of bytes read."""
    skipped = 0
    while block := stream.readline(_BUFFER):
        skipped += len(block)
        if block.endswith(b"\n"):
            break
    return skipped


def _read_line(stream: io.BufferedReader, *, path: str, offset: int) -> bytes:
    try:
        line = stream.readline(MAX_LINE_BYTES + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        damage = "is cut short" if isinstance(error, EOFError) else "is damaged, or no gzip file"
        raise DataError(f"{path} {damage} ({error}); accepted: a whole .gz file") from error
    if not offset and b"\r" in line.rstrip() and not line.endswith(b"\n"):
        raise DataError(
            f"{path}:1 has carriage returns and no line feed; accepted: lines that end in a line "
            "feed, or in a carriage return and a line feed"
        )
    if len(line) > MAX_LINE_BYTES:
        raise too_long(line_place(path, offset))
    return line
