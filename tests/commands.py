"""The check of every command whose user made a mistake."""

from subprocess import CompletedProcess


def assert_one_line(result: CompletedProcess[str], *said: str) -> None:
    """Checks for exit status 2 and a single line on stderr that contains each of `said`."""
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1 and result.stderr.startswith("error: "), result.stderr
    for part in said:
        assert part in result.stderr
