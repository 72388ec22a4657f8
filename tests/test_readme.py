"""Every bash block of the README runs, the long ones in a reduced form."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"^```bash\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)

# A model and a run that take seconds; the data are those of the quick start.
REDUCED = " ".join(
    f"--set {assignment}"
    for assignment in (
        "training.steps=4",
        "training.eval_every=4",
        "optimizer.warmup_steps=2",
        "second_phase.steps=0",
        "model.hidden_size=32",
        "model.num_heads=2",
        "evaluation.max_examples=64",
    )
)


def reduced(block: str, directory: Path) -> str:
    """The block with shorter training, its runs below `directory` and no tests in tests."""
    block = block.replace("\\\n", " ").replace("runs/", f"{directory}/")
    lines = []
    for line in block.splitlines():
        if line.startswith("bash launch/test.sh"):
            line += " --collect-only -q tests/test_config.py"
        elif "quickstart.sh" in line or "bert_jax.pretrain" in line or "bert_jax.bench" in line:
            line += f" {REDUCED}"
        elif "bert_jax.sweep" in line:
            line += " --dry_run"
        lines.append(line)
    return "\n".join(lines)


@pytest.mark.parametrize("block", BLOCKS, ids=[block.split("\n")[0][:60] for block in BLOCKS])
def test_a_block_of_the_readme_runs(block, tmp_path):
    environment = os.environ | {
        "RUN": str(tmp_path / "quickstart"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "XLA_FLAGS": "",
    }
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", reduced(block, tmp_path)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, f"{result.stdout[-3000:]}\n{result.stderr[-3000:]}"


def test_the_readme_has_the_commands_it_is_there_for():
    text = "\n".join(BLOCKS)
    for command in (
        "launch/quickstart.sh",
        "launch/test.sh",
        "bert_jax.prepare",
        "bert_jax.pretrain",
    ):
        assert command in text
