"""What is asked of every command whose user made a mistake."""

from subprocess import CompletedProcess


def assert_one_line(result: CompletedProcess[str], *said: str) -> None:
    """Exit status 2, and a line on stderr that says all these."""
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1 and result.stderr.startswith("error: "), result.stderr
    for part in said:
        assert part in result.stderr
