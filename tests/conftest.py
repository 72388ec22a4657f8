"""Eight simulated devices, one compilation cache, and a small prepared corpus for all tests."""

import json
import os
import subprocess
import sys
from pathlib import Path

from commands import xla_flags

CACHE = Path(__file__).parent.parent / ".pytest_cache" / "xla"

# These must be set before jax is imported. The commands that tests start inherit them.
os.environ["JAX_PLATFORMS"] = "cpu"
# XLA's own width of vectors. Without it, the first test that calls load_run would set ours.
os.environ["XLA_FLAGS"] = f"{xla_flags(devices=8)} --xla_cpu_prefer_vector_width=256"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
# This must be set before gcsfs is imported. Else each call asks Google about the bucket.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"

import fsspec  # noqa: E402
import pytest  # noqa: E402

from bert_jax.config import override, to_json  # noqa: E402
from bert_jax.data.config import DataConfig, MaskingConfig  # noqa: E402
from bert_jax.data.preparation.engines import Engine  # noqa: E402
from bert_jax.data.preparation.prepare import prepare_data, train_vocabulary  # noqa: E402
from bert_jax.data.sources.corpora import read_documents  # noqa: E402
from bert_jax.data.tokenizers.files import load_tokenizer  # noqa: E402
from bert_jax.models.config import BertConfig  # noqa: E402
from bert_jax.sharding import MeshConfig  # noqa: E402
from bert_jax.training.config import EvaluationConfig, TrainingConfig  # noqa: E402
from bert_jax.training.experiment import Experiment, phases  # noqa: E402
from bert_jax.training.optim import OptimizerConfig  # noqa: E402

VOCAB_SIZE = 500


def pytest_addoption(parser):
    """Adds the lengths of the tests in tests/faults and tests/fuzz."""
    parser.addoption("--fuzz_seconds", type=float, help="Seconds for each reader of tests/fuzz.")
    parser.addoption("--fuzz_seed", type=int, default=0, help="Seed of tests/fuzz.")
    parser.addoption("--kills", type=int, default=2, help="Times that a command is killed.")
    parser.addoption("--soak_steps", type=int, default=500, help="Updates of the long run.")
    parser.addoption("--fault_seed", type=int, default=0, help="Seed of the times of the kills.")


# tests/reference needs torch. `bash launch/test.sh --reference` runs it in its own environment.
collect_ignore = ["reference"]


@pytest.fixture(scope="session")
def bucket(tmp_path_factory):
    """Returns gs://BUCKET of an emulator of Google Cloud Storage, also for processes of tests."""
    from gcs_emulator import emulator

    with emulator("tests") as variables, pytest.MonkeyPatch.context() as patch:
        variables["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
        for name, value in variables.items():
            patch.setenv(name, value)
        patch.setitem(fsspec.config.conf, "gcs", json.loads(variables["FSSPEC_GCS"]))
        yield "gs://tests"


@pytest.fixture(scope="session")
def data_config(tmp_path_factory) -> DataConfig:
    """Twenty early State of the Union addresses, prepared: some hundred pairs of 32 tokens."""
    directory = tmp_path_factory.mktemp("corpus")
    documents = list(read_documents("embedded:sotu"))[:20]
    text = "\n\n".join(document.text[:6000] for document in documents)
    (directory / "corpus.txt").write_text(text, encoding="utf-8")
    masking = MaskingConfig(max_predictions=6)
    config = DataConfig(
        corpus=f"text:{directory}/corpus.txt",
        directory=str(directory / "prepared"),
        batch_size=16,
        sequence_length=32,
        dupe_factor=1,
        held_out_fraction=0.1,
        train_shards=3,
        masking=masking,
        evaluation_masking=masking,
    )
    tokenizer = train_vocabulary(config, vocab_size=VOCAB_SIZE, engine=Engine())
    prepare_data(config, tokenizer=tokenizer, engine=Engine())
    return config


@pytest.fixture(scope="session")
def experiment(data_config) -> Experiment:
    """A BERT of 2 layers of width 32 on one device, 12 updates, dropout on."""
    return Experiment(
        data=data_config,
        model=BertConfig(
            vocab_size=VOCAB_SIZE, hidden_size=32, num_layers=2, num_heads=4, max_positions=64
        ),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=2),
        training=TrainingConfig(steps=12, log_every=2, eval_every=6, checkpoint_every=6),
        evaluation=EvaluationConfig(batch_size=16),
        mesh=MeshConfig(data=1),
    )


@pytest.fixture(scope="session")
def two_phases(experiment) -> Experiment:
    """A run of 12 updates whose last 4 have rows of 48 tokens, their own schedule, zeroed moments.

    Checkpoints within each phase (5, 10) and where they meet (8).
    """
    changed = override(
        experiment,
        {
            "phases": [
                {
                    "steps": 4,
                    "own_schedule": True,
                    "moments": "zeroed",
                    "changes": {
                        "data.sequence_length": 48,
                        "data.batch_size": 8,
                        "data.masking.max_predictions": 8,
                        "data.evaluation_masking.max_predictions": 8,
                        "optimizer.learning_rate": 5e-4,
                        "optimizer.warmup_steps": 1,
                    },
                }
            ],
            "training.log_every": 3,
            "training.eval_every": 5,
            "training.checkpoint_every": 5,
            "training.keep_checkpoints": 9,
        },
    )
    config = phases(changed)[1].experiment.data
    tokenizer = load_tokenizer(experiment.data.directory)
    prepare_data(config, tokenizer=tokenizer, engine=Engine())
    return changed


@pytest.fixture(scope="session")
def two_phase_run(two_phases, tmp_path_factory) -> tuple[Path, dict]:
    """The workdir and the result of a run of both phases that was never interrupted."""
    from bert_jax.training.train import train

    workdir = tmp_path_factory.mktemp("two_phases") / "run"
    return workdir, train(two_phases, workdir)


@pytest.fixture(scope="session")
def two_phase_command(two_phases, tmp_path_factory) -> tuple[Path, Path]:
    """The config file and the workdir of the same run, made by the command with its XLA flags."""
    directory = tmp_path_factory.mktemp("two_phase_command")
    file, workdir = directory / "config.json", directory / "run"
    file.write_text(json.dumps(to_json(two_phases)))
    command = ["-m", "bert_jax.pretrain", f"--experiment={file}", f"--workdir={workdir}"]
    result = subprocess.run(
        [sys.executable, *command],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return file, workdir
