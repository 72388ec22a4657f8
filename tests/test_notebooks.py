"""The notebooks run from top to bottom on a short run, and are committed with their outputs."""

import os
from pathlib import Path

import nbformat
import pytest

from bert_jax.training.train import train

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def run(experiment, tmp_path_factory) -> Path:
    """The workdir of a short run. The notebooks only read it."""
    workdir = tmp_path_factory.mktemp("notebooks") / "run"
    train(experiment, workdir)
    return workdir


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_a_notebook_runs(path, run, monkeypatch):
    from nbclient import NotebookClient  # here, because it would slow down every collection

    monkeypatch.setitem(os.environ, "RUN", str(run))
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(ROOT)}})
    executed = client.execute()
    text = "".join(str(cell.get("outputs", "")) for cell in executed.cells)
    assert "image/png" in text
    if path.stem.startswith("01"):
        assert "none missing, unexpected or reshaped" in text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_a_committed_notebook_holds_its_outputs(path):
    """The committed outputs come from one complete execution without errors."""
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)
