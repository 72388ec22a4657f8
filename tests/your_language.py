"""Runs the commands of docs/your-language.md on Finnish text.

The text is 25 kB from the Finnish translation of JupyterLab (the package
jupyterlab-language-pack-fi-FI, BSD-3-Clause).
"""

import importlib.resources
import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "your-language.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^```bash\n(.*?)\n```", PAGE, re.M | re.S)

PROGRAMS = {
    "python": f"""
case "$*" in
  *bert_jax.prepare*) set -- "$@" --workers=1 ;;
  *bert_jax.pretrain*) set -- "$@" --set training.steps=6 --set optimizer.warmup_steps=2 ;;
esac
exec {sys.executable} "$@"
""",
    "hf": 'echo "$@" > uploaded.txt',
}
"""Programs that replace those of the page: the training is short, and nothing is uploaded."""


def finnish_lines() -> list[str]:
    """Returns about 800 texts of the user interface, of a word or of several sentences."""
    package = importlib.resources.files("jupyterlab_language_pack_fi_FI")
    found = set()
    for name in ("jupyterlab", "notebook"):
        file = package / "locale" / "fi_FI" / "LC_MESSAGES" / f"{name}.json"
        translations = json.loads(file.read_text(encoding="utf-8"))
        for english, texts in translations.items():
            if english and texts and isinstance(texts, list) and texts[0] not in ("", english):
                found.add(" ".join(texts[0].split()))
    return sorted(found)


def write_corpus(directory: Path) -> None:
    """Writes two files. A document has the texts that follow each other in the alphabet."""
    lines = finnish_lines()
    documents = ["\n".join(lines[start : start + 8]) for start in range(0, len(lines), 8)]
    directory.mkdir(parents=True)
    for number in range(2):
        text = "\n\n".join(documents[number::2]) + "\n"
        (directory / f"{number}.txt").write_text(text, encoding="utf-8")


def run_page(directory: Path) -> list[subprocess.CompletedProcess[str]]:
    """Runs the five commands in a directory with a corpus. Returns what they said."""
    write_corpus(directory / "corpora" / "fi")
    programs = directory / "programs"
    programs.mkdir()
    for name, code in PROGRAMS.items():
        (programs / name).write_text(f"#!/usr/bin/env bash\n{code}\n")
        (programs / name).chmod(0o755)
    variables = {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    variables["XLA_FLAGS"] = ""  # one device, not the eight of other tests
    return [
        subprocess.run(
            ["bash", "-euc", command],
            cwd=directory,
            env=os.environ | variables,
            capture_output=True,
            text=True,
            check=False,
        )
        for command in COMMANDS
    ]
