"""Lists, opens, hashes and reads the files of a corpus: local paths or fsspec URLs."""

import bz2
import contextlib
import glob
import gzip
import hashlib
import io
import lzma
import os
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec

from bert_jax.data.sources.base import MAX_DOCUMENT_BYTES, ByteRange, too_long
from bert_jax.errors import DataError, needing
from bert_jax.files import parsing, read_bytes

MAX_LINE_BYTES = 2 * MAX_DOCUMENT_BYTES
"""Maximum length of a line in bytes. A line of JSON is longer than the document in it."""

CARRIAGE_RETURNS = (
    "{}:1 has carriage returns and no line feed; accepted: lines that end in a line feed, or in a "
    "carriage return and a line feed"
)

_BUFFER = 2**20

LARGEST_RATIO, SMALL = 100, 2**26
"""Limits of a file that is read as a whole: it may inflate to 100 times its size, or to 64 MiB if
this is more. Text inflates tenfold."""

COMPRESSIONS = {
    "gz": re.compile(rb"\x1f\x8b\x08"),
    "bz2": re.compile(rb"BZh[1-9]1AY&SY"),
    "xz": re.compile(rb"\xfd7zXZ\x00"),
    "zst": re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),
}
"""The first bytes of a compressed file, by the usual end of its name. The name decides nothing."""


def list_files(pattern: str, *, spec: str) -> list[tuple[str, int]]:
    """Returns the sorted (path, size in bytes) of the matching files. `**` matches directories.

    If nothing matches, `[` stands for itself. A URL of the Hugging Face Hub names the commit of its
    revision, so that the files stay the same.

    Raises:
      DataError: no file matches, a file is empty, or the URL's protocol is not supported.
    """
    if "://" in pattern:
        if pattern.startswith("hf://"):
            pattern = _pin_revision(pattern)
        filesystem, path = _filesystem(pattern)
        try:
            found = filesystem.glob(path, detail=True)
            found = found or filesystem.glob(path.replace("[", "[[]"), detail=True)
        except FileNotFoundError:  # the hub has no such folder
            found = {}
        sizes = {
            filesystem.unstrip_protocol(name): int(entry["size"])
            for name, entry in found.items()
            if entry["type"] == "file"
        }
    else:
        pattern = os.path.expanduser(pattern)
        found = [pattern] if os.path.isfile(pattern) else glob.glob(pattern, recursive=True)
        found = found or glob.glob(pattern.replace("[", "[[]"), recursive=True)
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


def _pin_revision(url: str) -> str:
    """Returns a URL of the Hugging Face Hub with the commit of its revision."""
    with needing(url, "hub"):
        from huggingface_hub import HfApi, HfFileSystem
    with parsing(url, accepted="hf://datasets/OWNER/NAME[@REVISION]/PATH that the hub has"):
        named: Any = HfFileSystem().resolve_path(url)
        info = HfApi().repo_info(named.repo_id, repo_type="dataset", revision=named.revision)
    return f"hf://datasets/{named.repo_id}@{info.sha}/{named.path_in_repo}"


def open_file(path: str) -> io.BufferedReader:
    """Opens a file for reading in binary, and decompresses it while it is read."""
    return _unpack(open_raw(path), path)


def read_whole(path: Path) -> bytes:
    """Returns the content of a local file, decompressed.

    Raises:
      DataError: the file cannot be read, or it is compressed and damaged, or inflates too much.
    """
    stored = read_bytes(path)
    packed: Any = io.BytesIO(stored)
    limit = max(SMALL, LARGEST_RATIO * len(stored))
    with _unpack(io.BufferedReader(packed), str(path)) as stream, _refusing_damage(str(path)):
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise DataError(
            f"{path} inflates from {len(stored):,} to more than {limit:,} bytes; accepted: 64 MiB "
            f"or {LARGEST_RATIO} times its size, or the file without compression"
        )
    return content


def _unpack(stream: io.BufferedReader, path: str) -> io.BufferedReader:
    kind = _compression_of(stream)
    if kind is None:
        return stream
    if kind == "zst":
        with needing(path, "corpora"):
            import pyarrow
        unpacked = pyarrow.CompressedInputStream(stream, "zstd")
    else:
        unpacked = {"gz": gzip.open, "bz2": bz2.open, "xz": lzma.open}[kind](stream)
    return io.BufferedReader(unpacked, _BUFFER)  # pyright: ignore[reportArgumentType]


def sha256_of(path: str) -> str:
    """Returns the SHA-256 of the bytes as stored, in hexadecimal."""
    with open_raw(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def compression_of(path: str) -> str | None:
    """Returns the key of `COMPRESSIONS`, or None. A compressed file is read from its beginning."""
    with open_raw(path) as stream:
        return _compression_of(stream)


def _compression_of(stream: io.BufferedReader) -> str | None:
    first = stream.peek(10)
    return next((name for name, magic in COMPRESSIONS.items() if magic.match(first)), None)


def lines_from(path: str, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yields offset and bytes of each line that begins at byte `start` or later.

    A line of more than `MAX_LINE_BYTES` is cut, and `decode_line` refuses it.

    Raises:
      DataError: the only line ends are carriage returns, or a compressed file is damaged.
    """
    with open_file(path) as stream:
        offset = start
        if start:
            stream.seek(start - 1)
            offset += _skip_line(stream) - 1
        while line := _read_line(stream, path=path, offset=offset):
            yield offset, line
            offset += len(line)
            if len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
                with _refusing_damage(path):
                    offset += _skip_line(stream)


def decode_line(line: bytes, *, place: Callable[[], str]) -> str:
    """Returns a line of `lines_from` as text. Raises DataError if it is too long or not UTF-8."""
    if len(line) > MAX_LINE_BYTES:
        raise too_long(place())
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{place()} holds byte 0x{line[error.start]:02x} at column "
            f"{error.start + 1}; accepted: UTF-8 text"
        ) from error


def record_place(byte_range: ByteRange, offset: int) -> str:
    """Returns `path:line`; or `path@offset`, without counting lines, if bad records are skipped."""
    path = byte_range.file.path
    return line_place(path, offset) if byte_range.on_bad_record == "stop" else f"{path}@{offset}"


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


def open_raw(path: str) -> io.BufferedReader:
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
    with _refusing_damage(path):
        line = stream.readline(MAX_LINE_BYTES + 1)
    if not offset and b"\r" in line.rstrip() and not line.endswith(b"\n"):
        raise DataError(CARRIAGE_RETURNS.format(path))
    return line


@contextlib.contextmanager
def _refusing_damage(path: str) -> Iterator[None]:
    """Raises DataError if the body finds that a compressed file is damaged."""
    try:
        yield
    except (EOFError, OSError, lzma.LZMAError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno:
            raise  # an error of the disk
        cut = isinstance(error, EOFError) or "Truncated" in str(error)
        damage, kind = "is cut short" if cut else "is damaged", compression_of(path)
        raise DataError(f"{path} {damage} ({error}); accepted: a whole .{kind} file") from error
