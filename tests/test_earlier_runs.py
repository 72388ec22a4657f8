"""Runs that earlier code wrote can be opened, give the same outputs and can be resumed.

`goldens/runs/make.sh` made these runs. On the same machine the outputs are bitwise equal. The
tolerances allow for other machines, whose vector instructions add in another order.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bert_jax import command, load_run
from bert_jax.config import from_json, override, to_json
from bert_jax.errors import CheckpointError
from bert_jax.finetuning.finetune import finetune, keep_dropout_bits
from bert_jax.models.config import BertConfig
from bert_jax.tasks.config import FineTuningConfig

GOLDENS = Path(__file__).parent / "goldens" / "runs"
TEXTS = ["the senate and the house of representatives", "peace with all nations"]


@pytest.fixture(scope="module")
def earlier(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("earlier")
    shutil.unpack_archive(GOLDENS / "runs.tar.xz", directory)
    return directory


@pytest.fixture(scope="module")
def outputs(earlier) -> dict[str, np.ndarray]:
    return dict(np.load(earlier / "outputs.npz"))


def check_equal(found, expected):
    """Compares with a relative tolerance of 1e-5: float32 sums of about a hundred terms."""
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["one_phase", "two_phases"])
def test_an_earlier_run_gives_the_same_outputs(name, earlier, outputs):
    run = load_run(earlier / name)
    check_equal(run.embed(TEXTS, pooling="mean"), outputs[f"{name}/embed"])
    check_equal(run.embed(TEXTS, pooling="pooled"), outputs[f"{name}/pooled"])
    check_equal(run.next_sentence(*TEXTS), outputs[f"{name}/next_sentence"])
    best = run.fill_mask("the house of [MASK].", top_k=5)[0]
    assert [piece for piece, _ in best] == list(outputs[f"{name}/fill_mask_pieces"])
    check_equal([probability for _, probability in best], outputs[f"{name}/fill_mask"])


def test_an_earlier_fine_tuned_seed_gives_the_same_outputs(earlier, outputs):
    run = load_run(earlier / "finetuned" / "seed-0")
    check_equal(run.embed(TEXTS, pooling="cls"), outputs["finetuned/embed"])


def test_a_fine_tuning_keeps_the_dropout_bits_of_its_earlier_seeds(earlier, tmp_path):
    """The checkpoint of a seed has a model's config alone, without an experiment."""
    seed = load_run(earlier / "finetuned" / "seed-0")
    assert seed.model.config.dropout_bits == "threefry"
    today = seed.model.clone(config=override(seed.model.config, {"dropout_bits": "hash"}))
    today = replace(seed, model=today)
    assert keep_dropout_bits(today, earlier / "finetuned").model == seed.model
    assert keep_dropout_bits(today, tmp_path) is today


@pytest.mark.parametrize(
    "damaged",
    [
        "config",
        "tokenizer",
        "state",
        "state/_METADATA",
        "state/d",
        "state/manifest.ocdbt",
        "state/ocdbt.process_0/d",
    ],
)
def test_a_checkpoint_with_missing_files_is_refused(damaged, earlier, tmp_path):
    shutil.copytree(earlier / "one_phase", tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / "8" / damaged
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(
        CheckpointError, match=r"checkpoints/8 cannot be read \(.*; accepted: a whole"
    ):
        load_run(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one_phase", "two_phases"])
def test_an_earlier_run_resumes_with_the_same_losses(name, earlier, tmp_path):
    """Resumes at step 4 of 8, so the two-phase run enters its second phase after step 5.

    The command gets the experiment with today's defaults, as its experiment file gives it now.
    """
    shutil.copytree(earlier, tmp_path / "runs")
    workdir = tmp_path / "runs" / name
    for later in ("5", "8"):
        shutil.rmtree(workdir / "checkpoints" / later, ignore_errors=True)
    (workdir / "result.json").unlink()
    experiment = command.load(str(workdir / "config.json"))
    assert experiment.model.dropout_bits == "threefry"
    today = to_json(override(experiment, {"model.dropout_bits": BertConfig().dropout_bits}))
    (tmp_path / "runs" / "today.json").write_text(json.dumps(today))
    arguments = ["-m", "bert_jax.pretrain", "--experiment", "today.json", "--workdir", name]
    result = subprocess.run(
        [sys.executable, *arguments],
        cwd=tmp_path / "runs",
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "model.dropout_bits stays 'threefry', its default when the run began" in result.stderr
    rows, before = (
        [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        for path in (workdir, earlier / name)
    )
    assert [row["step"] for row in rows] == [row["step"] for row in before]
    for row, old in zip(rows, before, strict=True):
        for field, value in old.items():
            if field.startswith(("train/", "eval/")):
                check_equal(row[field], value)


def test_an_earlier_fine_tuning_keeps_its_hash_and_its_losses(earlier, tmp_path, monkeypatch):
    shutil.copytree(earlier, tmp_path / "runs")
    monkeypatch.chdir(tmp_path / "runs")  # the paths in the config are relative to it
    before, workdir = earlier / "finetuned", Path("finetuned")
    config = from_json(FineTuningConfig, json.loads((before / "config.json").read_text()))
    stored = json.loads((before / "result.json").read_text())
    again = finetune(config, Path("one_phase"), workdir)
    assert (again["config_hash"], again["seeds"]) == (stored["config_hash"], stored["seeds"])
    other = override(config, {"training.epochs": 3})
    with pytest.raises(CheckpointError, match="holds a fine-tuning with training.epochs 2, this"):
        finetune(other, Path("one_phase"), workdir)

    (workdir / "seed-0" / "result.json").unlink()
    (seed,) = finetune(config, Path("one_phase"), workdir)["seeds"]
    assert seed["dev"] == stored["seeds"][0]["dev"]
    rows, expected = (
        [json.loads(line) for line in (path / "seed-0/metrics.jsonl").read_text().splitlines()]
        for path in (workdir, before)
    )
    for row, old in zip(rows, expected, strict=True):
        del old["train/param_norm"]  # is no longer computed
        assert row.keys() == old.keys()
        check_equal(list(row.values()), list(old.values()))
