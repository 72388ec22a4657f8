"""Runs in a process of its own: damages the file of a reader again and again, and reads it."""

import random
import resource
import signal
import tempfile
import time
from pathlib import Path

from mutations import mutate
from readers import READERS

from bert_jax.errors import BertJaxError

ADDRESS_SPACE = 6 * 2**30
"""Bytes that the process may reserve beyond what it has when it starts."""

MEMORY = 200 * 2**20
"""Resident memory that the damaged files of one reader may take, in bytes."""

SECONDS = 10.0
"""Time limit for one damaged file."""


class TimeLimit(BaseException):
    """A reader took too long. It is no Exception, so no reader turns it into its own error."""


def start(directory: str) -> None:
    """Limits the memory of this process, so that no reader can take that of the machine.

    Temporary files are made in `directory`.
    """
    tempfile.tempdir = directory
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + ADDRESS_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    def stop(*_):
        raise TimeLimit(f"more than {SECONDS} s")

    signal.signal(signal.SIGALRM, stop)


def damaged(name: str, valid: bytes, seed: int, case: int) -> bytes:
    """Returns the damaged file of a case."""
    reader, rng = READERS[name], random.Random(f"{seed}/{case}")
    if reader.unpack and reader.pack and rng.random() < 0.7:
        inner = mutate(reader.unpack(valid), rng, form=reader.inner_form)
        return reader.pack(valid, inner)
    return mutate(valid, rng, form=reader.form)


def fuzz(name: str, seed: int, seconds: float, first: int = 0) -> int:
    """Reads damaged files for some seconds and returns their number.

    Raises:
      AssertionError: a reader raised anything but a BertJaxError of one line that names its
        directory, or took too much memory or time. The message has the seed and the case.
    """
    reader, case = READERS[name], first
    with tempfile.TemporaryDirectory() as directory:
        file = reader.write(Path(directory))
        valid = file.read_bytes()
        reader.read(file)
        memory, end = peak(), time.monotonic() + seconds
        while case == first or time.monotonic() < end:
            file.unlink()
            file.write_bytes(damaged(name, valid, seed, case))
            where = f"{name}, seed {seed}, case {case}"
            Path(tempfile.gettempdir(), "case").write_text(where)  # read if this process crashes
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            try:
                reader.read(file)
            except BertJaxError as error:
                said = str(error)
                fits = directory in said and "\n" not in said and len(said) < 1000
                assert fits, f"{where}: {said!r:.1000}"
            except BaseException as error:
                raise AssertionError(f"{where}: {error!r:.1000}") from error
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            taken = peak() - memory
            assert taken < MEMORY, f"{where}: {taken / 2**20:.0f} MiB were taken"
            case += 1
    return case - first


def peak() -> int:
    """Returns the largest resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
