"""Every command in README runs as printed, in bash and in zsh, in a fresh clone.

A block that begins with ```bash or ```python is run. A block that is only indented is not.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def blocks(language: str) -> list[str]:
    """Returns README's code blocks in a language, in order."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """A clone with the files of the working tree and an environment that needs no installation.

    The clone has its own `.venv`, as a reader's clone has, which also finds the packages of the
    environment that runs the tests. If the quick start has been run in this tree, as in .ci/run,
    the clone has its files, and its command only goes on to the end.
    """
    directory = tmp_path_factory.mktemp("readme") / "bert_jax"
    subprocess.run(["git", "clone", "--quiet", ROOT, directory], check=True)
    copy = 'git ls-files -z | xargs -0 cp --parents --target-directory="$0"'
    subprocess.run(["bash", "-euc", copy, directory], cwd=ROOT, check=True)
    for made in ("data/quickstart", "runs/quickstart"):
        if (ROOT / made).exists():
            shutil.copytree(ROOT / made, directory / made)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory / ".venv"], check=True)
    packages = sysconfig.get_path("purelib", vars={"base": str(directory / ".venv")})
    (Path(packages) / "installed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return directory


def run(command: list[str], script: Path, directory: Path) -> None:
    """Runs a script in the clone, without the variables that tests/conftest.py sets."""
    ours = ("JAX_", "XLA_", "PYTHON", "VIRTUAL_ENV", "RUN", "ENVIRONMENT")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    result = subprocess.run(
        [*command, script],
        cwd=directory,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1000,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-5000:]


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_the_commands_of_readme_run_as_printed(shell, clone, tmp_path):
    """All blocks run in one session. zsh runs them again in the clone after bash."""
    script = tmp_path / f"session.{shell}"
    script.write_text("".join(blocks("bash")), encoding="utf-8")
    (clone / "mine.py").unlink(missing_ok=True)  # bash has made it, and `new` overwrites no file
    run([shell, "-e", "-x"], script, clone)


@pytest.mark.slow
def test_the_python_of_readme_runs_as_printed(clone, tmp_path):
    """The Python blocks open the runs that the commands have made."""
    script = tmp_path / "session.py"
    script.write_text("\n".join(blocks("python")), encoding="utf-8")
    run([".venv/bin/python"], script, clone)


def test_readme_has_the_expected_commands():
    text = "".join(blocks("bash"))
    for command in ("launch/quickstart.sh", "bert_jax.prepare", "bert_jax.pretrain"):
        assert command in text
    # The slow suite runs these blocks, so a block with a suite would never end.
    assert "launch/test.sh" not in text


def test_a_command_can_be_pasted_into_zsh():
    """In zsh, # is a command if a user types it, and unquoted [ and = are expanded."""
    for block in blocks("bash"):
        assert "#" not in block, block


def test_readme_takes_three_minutes_and_its_commands_have_at_most_two_flags():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 600
    for line in "".join(blocks("bash")).splitlines():
        assert line.count(" --") <= 2 + ("bert_jax.new" in line), line
