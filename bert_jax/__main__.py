"""Lists the commands, or runs one of them: `bert_jax NAME` is `python -m bert_jax.NAME`.

The installed program `bert_jax` and `python -m bert_jax` are the same.
"""

import ast
import os
import sys
from pathlib import Path

from bert_jax.config.bounds import nearest

COMMANDS = (
    *("new", "prepare", "pretrain", "sweep", "report", "evaluate", "finetune", "predict"),
    *("convert", "bench", "plan", "config", "verify"),
)
"""The commands, in the order in which they are listed."""


def main() -> None:
    """Replaces this process by the command that the first argument names."""
    name, arguments = (sys.argv[1:] or ["--help"])[0], sys.argv[2:]
    if name in ("--help", "-h", "help"):
        print("bert_jax COMMAND [FLAGS], where COMMAND --help shows the flags. The commands:\n")
        for command in COMMANDS:
            print(f"  {command:10}{_purpose(command)}")
    elif name not in COMMANDS:
        print(f"error: no command {name!r}; {nearest(name, COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    else:
        os.execv(sys.executable, [sys.executable, "-m", f"bert_jax.{name}", *arguments])


def _purpose(command: str) -> str:
    """Returns the first line of a command's docstring, without importing the command."""
    path = Path(__file__).with_name(command)
    file = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    return (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").splitlines()[0]


if __name__ == "__main__":
    main()
