"""The record of the process that works in a directory of gs://, where there are no locks.

The holder writes `.holder.json` and changes it every few seconds. A record that does not change
belongs to a process that was killed.
"""

import contextlib
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bert_jax.errors import CheckpointError, ConfigError
from bert_jax.files import read_json, write_json

RECORD_FILE = ".holder.json"

BEAT_SECONDS = 10.0
"""Time between two changes of the record."""

LOST_SECONDS = 60.0
"""A record that has not changed for this time has no holder."""

SETTLING_SECONDS = 2.0
"""Time after which a new holder reads its record again. Of several processes that start together,
the process that wrote last is the holder."""


@contextlib.contextmanager
def holding(directory: Path, *, flag: str, tell: Callable[[int, str], None]) -> Iterator[None]:
    """Makes this process the holder of a directory in gs:// during the `with` statement.

    If another process becomes the holder, this process ends with status 2. Before, `tell` gets this
    status and the error, for the other processes of the run.

    Raises:
      CheckpointError: another process holds the directory.
      ConfigError: the directory cannot be read or written.
    """
    file = directory / RECORD_FILE
    record = {"id": uuid.uuid4().hex, "beat": 0, "process": os.getpid()}
    record |= {"host": socket.gethostname(), "machine": _machine()}
    try:
        _wait_until_free(file, flag)
        write_json(file, record)
        time.sleep(SETTLING_SECONDS)
        if (found := _read(file)).get("id") != record["id"]:
            raise _busy(file, found, flag)
    except CheckpointError:
        raise
    except Exception as error:  # gcsfs and google.auth raise many classes
        said = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"{flag}={directory} cannot be written ({type(error).__name__}: {said}); accepted: a "
            "bucket that exists, and credentials to write there"
        ) from error
    done = threading.Event()
    thread = threading.Thread(target=_beat, args=(file, record, done, tell), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        if _read(file).get("id") == record["id"]:
            file.unlink()


def _read(file: Path) -> dict[str, Any]:
    return read_json(file) if file.exists() else {}


def _machine() -> list[str]:
    """Returns what identifies this machine and the namespace of its process numbers."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return [boot, os.readlink("/proc/self/ns/pid")]


def _wait_until_free(file: Path, flag: str) -> None:
    record = _read(file)
    here = record.get("machine") == _machine()
    process = record.get("process")
    if not record or here and (process == os.getpid() or not Path(f"/proc/{process}").exists()):
        return  # there was no holder, or it has ended
    print(f"{_name(record)} holds {file.parent}; waiting for a sign of life", file=sys.stderr)
    deadline = time.monotonic() + LOST_SECONDS
    while time.monotonic() < deadline and (found := _read(file)):
        if found != record:
            raise _busy(file, found, flag)
        time.sleep(BEAT_SECONDS / 4)


def _busy(file: Path, record: dict[str, Any], flag: str) -> CheckpointError:
    said = f"{_name(record)} is at work in {file.parent}"
    return CheckpointError(f"{said}; accepted: another {flag}")


def _name(record: dict[str, Any]) -> str:
    return f"process {record.get('process')} on {record.get('host')}"


def _beat(
    file: Path,
    record: dict[str, Any],
    done: threading.Event,
    tell: Callable[[int, str], None],
) -> None:
    """Changes the record until `done`. Ends this process if another process is now the holder."""
    while not done.wait(BEAT_SECONDS):
        try:
            found = _read(file)
            if found.get("id", record["id"]) != record["id"]:
                said = f"{_name(found)} has taken over {file.parent}"
                print(f"error: {said}", file=sys.stderr, flush=True)
                tell(2, said)
                os._exit(2)
            record["beat"] += 1
            write_json(file, record)
        except Exception as error:  # the next beat tries again
            print(f"{file} cannot be written ({error!r})", file=sys.stderr, flush=True)
