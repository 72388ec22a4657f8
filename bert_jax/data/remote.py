"""Prepared data in gs://. array_record and numpy's memory maps open only local files."""

import base64
import contextlib
import hashlib
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from bert_jax.config.paths import cache_directory, files_below, filesystem, is_remote, open_path
from bert_jax.errors import DataError
from bert_jax.files import naming, sha256_of_file


def local_file(directory: str | Path, name: str, *, sha256: str, check: bool = False) -> Path:
    """Returns the local path of a file of prepared data.

    A file of gs:// is downloaded into `cache_directory()`, once for each hash.

    Args:
      check: whether the hash of a local file or copy is checked. A damaged copy is downloaded
        again. The hash of a download is always checked.

    Raises:
      DataError: the file is missing, or has another hash than `sha256`.
    """
    path = open_path(directory, name="data.directory") / name
    remote = is_remote(path)
    copy = cache_directory() / "data" / sha256 / name if remote else path
    if remote and copy.exists() and not (check and sha256_of_file(copy) != sha256):
        return copy
    if not path.exists():
        raise DataError(f"{path} is missing; accepted: every file that the passport names")
    if remote:
        with _copied(path, copy) as temporary:
            _check_hash(path, sha256_of_file(temporary), sha256)
    elif check:
        _check_hash(path, sha256_of_file(path), sha256)
    return copy


def _check_hash(path: Path, found: str, wanted: str) -> None:
    if found != wanted:
        raise DataError(
            f"{path} has SHA-256 {found[:12]}; passport.json names {wanted[:12]}; run the prepare "
            "command again to replace the file"
        )


@contextlib.contextmanager
def _copied(path: Path, copy: Path) -> Iterator[Path]:
    """Yields a temporary copy of a file in gs://, and renames it to `copy` at the end."""
    copy.parent.mkdir(parents=True, exist_ok=True)
    # Other processes may download the same file, so each has a temporary file of its own.
    temporary = copy.with_name(f".{copy.name}.{uuid.uuid4().hex}.tmp")
    try:
        with naming(copy):
            filesystem().get_file(str(path), str(temporary))
        yield temporary
        temporary.replace(copy)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def worked_on_locally(directory: str, *, last: str) -> Iterator[str]:
    """Yields the directory, or a local directory with the files of a directory in gs://.

    `~` is the home directory. At the end, the files that have changed are uploaded, and the file
    named `last` after all others. The local directory is kept, so the same command can continue
    after an error. If `last` in gs:// differs, another machine wrote it: local files are deleted.
    """
    remote = open_path(directory, name="data.directory")
    if not is_remote(remote):
        yield str(remote)
        return
    key = hashlib.sha256(str(remote).encode()).hexdigest()[:16]
    local = cache_directory() / "prepare" / key
    if (remote / last).exists() and not _is_same(local / last, remote / last):
        shutil.rmtree(local, ignore_errors=True)
    local.mkdir(parents=True, exist_ok=True)
    for file in files_below(remote):
        copy = local / file.name
        if file.parent == remote and not file.name.startswith(".") and not copy.exists():
            with _copied(file, copy):
                pass
    yield str(local)
    files = [file for file in local.iterdir() if file.is_file() and not file.name.startswith(".")]
    for file in sorted(files, key=lambda file: (file.name == last, file.name)):
        if not _is_same(file, remote / file.name):
            filesystem().put_file(str(file), str(remote / file.name))


def _is_same(file: Path, target: Path) -> bool:
    if not (file.exists() and target.exists()):
        return False
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "md5").digest()
    return filesystem().info(str(target)).get("md5Hash") == base64.b64encode(digest).decode()
