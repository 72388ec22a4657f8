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

from bert_jax.errors import BertJaxError, CheckpointError, ConfigError
from bert_jax.files import parse_json, write_json

RECORD_FILE = ".holder.json"

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

BEAT_SECONDS = 10.0
"""Time between two changes of the record."""

LOST_SECONDS = 60.0
"""A record that has not changed for this time has no holder."""

SETTLING_SECONDS = 2.0
"""Time after which a new holder reads its record again. Of several processes that start together,
the process that wrote last is the holder."""


@contextlib.contextmanager
def holding(directory: Path, *, flag: str, heartbeat: Callable[[], Any]) -> Iterator[None]:
    """Makes this process the holder of a directory in gs:// during the `with` statement.

    If another process becomes the holder, this process ends with status 2. `heartbeat` returns the
    module `faults.heartbeat` if the other processes of the run must end, too, and None otherwise.

    Raises:
      CheckpointError: another process holds the directory.
      DataError: the record is damaged.
      ConfigError: the directory cannot be read or written.
    """
    file, done = directory / RECORD_FILE, threading.Event()
    machine = _machine()
    record = {"id": uuid.uuid4().hex, "machine": machine, "process": os.getpid(), "beat": 0}
    try:
        _wait_until_free(file, machine, flag)
        write_json(file, record)
        time.sleep(SETTLING_SECONDS)
        if (found := _read(file)).get("id") != record["id"]:
            raise _busy(file, found, flag)
    except BertJaxError:
        raise
    except Exception as error:  # gcsfs and google.auth raise many classes
        said = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"{flag}={directory} cannot be written ({type(error).__name__}: {said}); accepted: a "
            "bucket that exists, and credentials to write there"
        ) from error
    thread = threading.Thread(target=_beat, args=(file, record, done, heartbeat), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        try:
            if _read(file).get("id") == record["id"]:
                file.unlink()
        except Exception as error:  # it must not hide an error of the work, or its success
            print(f"{file} cannot be deleted ({error!r})", file=sys.stderr, flush=True)


def _machine() -> str:
    """Returns the host's name, and where its process numbers have a meaning.

    That is the same machine; on Linux, it is also the same boot and the same container.
    """
    try:
        boot = BOOT_ID.read_text().strip()
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except FileNotFoundError:  # only Linux has these files
        return f"{socket.gethostname()} {uuid.getnode():x}"


def _has_ended(process: int) -> bool:
    try:
        os.kill(process, 0)  # sends no signal
    except ProcessLookupError:
        return True
    except PermissionError:  # of another user
        return False
    return process == os.getpid()


def _read(file: Path) -> dict[str, Any]:
    try:
        return parse_json(file.read_text(), place=file)
    except FileNotFoundError:  # the holder may delete it at any time
        return {}


def _name(record: dict[str, Any]) -> str:
    return f"process {record.get('process')} on {record.get('machine', '').partition(' ')[0]}"


def _busy(file: Path, record: dict[str, Any], flag: str) -> CheckpointError:
    said = f"{_name(record)} is at work in {file.parent}"
    return CheckpointError(f"{said}; accepted: another {flag}")


def _wait_until_free(file: Path, machine: str, flag: str) -> None:
    record = _read(file)
    if not record or record.get("machine") == machine and _has_ended(record["process"]):
        return
    print(f"{_name(record)} holds {file.parent}; waiting for a sign of life", file=sys.stderr)
    deadline = time.monotonic() + LOST_SECONDS
    while time.monotonic() < deadline and (found := _read(file)):
        if found != record:
            raise _busy(file, found, flag)
        time.sleep(BEAT_SECONDS / 4)


def _beat(file: Path, record: dict[str, Any], done: threading.Event, heartbeat: Callable) -> None:
    while not done.wait(BEAT_SECONDS):
        try:
            if (found := _read(file) or record)["id"] != record["id"]:
                said = f"{_name(found)} has taken over {file.parent}"
                print(f"error: {said}", file=sys.stderr, flush=True)
                if running := heartbeat():
                    running.leave(2, said)
                os._exit(2)
            record["beat"] += 1
            write_json(file, record)
        except Exception as error:  # the next beat tries again
            print(f"{file} cannot be written ({error!r})", file=sys.stderr, flush=True)
