"""What tests of commands share: the check of a mistake, and a port for several processes."""

import socket
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
