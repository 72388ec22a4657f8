"""Datasets of the Hugging Face Hub, from a server on loopback that answers like it."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import serve

pytest.importorskip("huggingface_hub", reason="needs pip install -e '.[hub]'")
pyarrow = pytest.importorskip("pyarrow", reason="needs pip install -e '.[corpora]'")
parquet = pytest.importorskip("pyarrow.parquet", reason="needs pip install -e '.[corpora]'")

ROOT = Path(__file__).parents[3]
OLD, NEW = "a" * 40, "b" * 40
READ = """
import sys
from bert_jax.data.sources.corpora import open_corpus, read_slice
from bert_jax.errors import DataError
for spec in sys.argv[1:]:
    try:
        corpus = open_corpus(spec)
        texts = [d.text for part in corpus.slices(2) for d, _ in read_slice(part)]
        print(*(file.path for file in corpus.sources[0].files), texts)
    except DataError as error:
        print(error)
"""


def packed(*texts):
    stream = io.BytesIO()
    parquet.write_table(pyarrow.table({"text": list(texts)}), stream)
    return stream.getvalue()


def read(endpoint, home, *specs):
    environment = os.environ | {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "PYTHONPATH": str(ROOT),
        "NO_PROXY": "127.0.0.1",
    }
    command = [sys.executable, "-c", READ, *specs]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


@pytest.mark.slow
def test_files_are_read_from_the_hub_at_the_commit_of_their_revision(tmp_path):
    commits = {
        OLD: {"data/0.parquet": packed("old")},
        NEW: {
            "data/0.parquet": packed("one", "two"),
            "data/1.parquet": packed("three"),
            "more.jsonl": (json.dumps({"text": "four"}) + "\n").encode(),
        },
    }
    revisions = {"main": NEW, "v1": OLD}
    at = "hf://datasets/someone/poems"
    with serve("someone/poems", revisions=revisions, commits=commits) as (endpoint, asked):
        newest, old, jsonl, *wrong = read(
            endpoint,
            tmp_path,
            f"parquet:{at}/data/*.parquet",
            f"parquet:{at}@v1/data/0.parquet",
            f"jsonl:{at}/more.jsonl:text",
            f"parquet:{at}@v2/data/*.parquet",
            "parquet:hf://datasets/someone/prose/*.parquet",
            f"parquet:{at}/nothing/*.parquet",
            "parquet:hf://someone",
        )
    assert newest == f"{at}@{NEW}/data/0.parquet {at}@{NEW}/data/1.parquet ['one', 'two', 'three']"
    assert old == f"{at}@{OLD}/data/0.parquet ['old']"
    assert jsonl == f"{at}@{NEW}/more.jsonl ['four']"
    for line, said in zip(
        wrong, ("@v2/data", "someone/prose", "matches no file", "hf://someone cannot"), strict=True
    ):
        assert said in line and "; accepted: " in line
    assert any(path.startswith("/api/datasets/someone/poems") for path in asked)
