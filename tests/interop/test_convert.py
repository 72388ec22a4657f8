"""`convert` reads every format, writes both formats completely or not at all, and reports."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from layouts import GOLDENS, LAYOUTS, random_tensors, write_directory

import bert_jax
from bert_jax.errors import CheckpointError
from bert_jax.interop.tensor_files import read_safetensors
from bert_jax.runs.load import load_run

ROOT = Path(bert_jax.__file__).parents[1]


def convert(source, output, *arguments):
    command = ["-m", "bert_jax.convert", f"--source={source}", f"--output={output}", *arguments]
    return subprocess.run(
        [sys.executable, *command],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert np.asarray(left).tobytes() == np.asarray(right).tobytes()


def test_hugging_face_to_ours_to_hugging_face_is_bitwise(pretraining, tmp_path):
    source = write_directory(tmp_path / "hf", pretraining)
    ours, back = tmp_path / "deep" / "ours", tmp_path / "back"
    first = convert(source, ours, "--to=bert_jax")
    assert first.returncode == 0, first.stderr
    second = convert(ours, back, "--to=huggingface")
    assert second.returncode == 0, second.stderr
    tensors = read_safetensors(back / "model.safetensors")
    assert tensors.keys() == pretraining.keys()
    for name, tensor in pretraining.items():
        assert tensors[name].tobytes() == tensor.tobytes(), name

    run, converted = load_run(source), load_run(ours)
    same(run.params, converted.params)
    assert converted.config is None and converted.model.config == run.model.config
    assert converted.tokenizer.to_json() == run.tokenizer.to_json()
    assert converted.fill_mask("a [MASK]") == run.fill_mask("a [MASK]")
    # The report is saved, and shown again by the converted run. One line names its file.
    assert first.stdout == f"{ours}: written for bert_jax; report: {ours}/conversion.txt\n"
    assert "The training data are not known." in (back / "README.md").read_text()
    for line in str(run.loading).splitlines():
        assert line in converted.report()
        assert line in (ours / "conversion.txt").read_text()
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["ours"]


def test_google_to_hugging_face(tmp_path):
    checkpoint, directory = GOLDENS / "tf1" / "bert_model.ckpt", tmp_path / "hf"
    result = convert(checkpoint, directory, "--to=huggingface")
    assert result.returncode == 0, result.stderr
    source, run = load_run(checkpoint), load_run(directory)
    same(run.params, source.params)
    assert run.tokenizer.to_json() == source.tokenizer.to_json()
    # transformers cannot follow Google's limit of 200 characters a word.
    assert "the limit of this tokenizer is 200" in (directory / "conversion.txt").read_text()


def test_missing_parts_that_allow_names_are_initialized(tmp_path):
    source = write_directory(tmp_path / "hf", random_tensors(LAYOUTS["BertModel"]))
    heads = ["--allow=masked_token_head", "--allow=next_sentence_head"]
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to("out")
    result = convert(source, tmp_path / "link", *heads)
    assert result.returncode == 0, result.stderr
    same(load_run(tmp_path / "out").params, load_run(source, allow=[h[8:] for h in heads]).params)


def test_a_huggingface_directory_has_no_checkpoint_steps(pretraining, tmp_path):
    source = write_directory(tmp_path / "hf", pretraining)
    with pytest.raises(CheckpointError, match="no checkpoint 3"):
        load_run(source, 3)
