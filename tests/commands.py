"""What tests of commands share: the check of a mistake, and a port for several processes."""

import contextlib
import resource
import socket
from collections.abc import Iterator
from subprocess import CompletedProcess


def assert_one_line(result: CompletedProcess[str], *said: str) -> None:
    """Checks for exit status 2 and a single line on stderr that contains each of `said`."""
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1 and result.stderr.startswith("error: "), result.stderr
    for part in said:
        assert part in result.stderr


def free_port() -> int:
    """Returns a port of this machine that no process uses."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    """Makes a write fail that would make a file longer, as a write to a full disk fails.

    A limit of the process needs no rights. Python ignores the signal that comes with it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
