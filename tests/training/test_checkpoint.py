"""A checkpoint holds everything that a run needs, and other runs cannot restore it."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from bert_jax.config import override, to_json
from bert_jax.data.passport import load_passport
from bert_jax.data.tokenizers.files import load_tokenizer
from bert_jax.errors import BertJaxError, CheckpointError
from bert_jax.faults.activity import Activity
from bert_jax.models.bert import BertForPretraining
from bert_jax.sharding import make_mesh
from bert_jax.training import checkpoint
from bert_jax.training.optim import learning_rate_schedule, make_optimizer
from bert_jax.training.state import abstract_state, state_initializer, state_sharding
from bert_jax.training.train import train


@pytest.fixture(scope="module")
def short(experiment):
    """The session's experiment, whose update is already compiled."""
    return override(
        experiment,
        {"training.checkpoint_every": 4},
    )


@pytest.fixture(scope="module")
def workdir(short, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trained") / "run"
    train(short, workdir)
    return workdir


def abstract_of(experiment):
    model = BertForPretraining(experiment.model, experiment.sharding)
    schedule = learning_rate_schedule(experiment.optimizer, steps=experiment.training.steps)
    optimizer = make_optimizer(experiment.optimizer, schedule)
    initialize = state_initializer(model, optimizer, seed=0)
    mesh = make_mesh(experiment.mesh)
    return abstract_state(
        initialize, state_sharding(initialize, mesh=mesh, rules=experiment.sharding)
    )


def restore(workdir, abstract, experiment, step=12):
    passport = load_passport(experiment.data.directory)
    with checkpoint.open_checkpoints(workdir, read_only=True) as manager:
        return checkpoint.restore(manager, abstract, step=step, passport=passport)


def test_the_newest_checkpoints_are_kept(workdir, short):
    names = {path.name for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()}
    assert short.training.keep_checkpoints == 2 and names == {"8", "12"}


def test_a_checkpoint_holds_state_config_tokenizer_and_passport(workdir, short):
    state, step, spent, pending, written = restore(workdir, abstract_of(short), short)
    assert pending == []  # the step has a row of metrics.jsonl
    assert written.count == len((workdir / "metrics.jsonl").read_text().splitlines())
    assert int(state.step) == step == 12 and spent["updates"] > 0
    moments = [m for m in jax.tree.leaves(state.opt_state) if m.ndim > 0]
    assert len(moments) == 2 * len(jax.tree.leaves(state.params))
    assert all(np.isfinite(np.asarray(m)).all() for m in moments)
    assert sum(float(jnp.abs(m).sum()) for m in moments) > 0
    with checkpoint.open_checkpoints(workdir, read_only=True) as manager:
        _, experiment, tokenizer, passport, head = checkpoint.restore_description(manager, step=12)
    assert head is None  # pretraining has no task head
    assert experiment == short
    assert tokenizer == load_tokenizer(short.data.directory).to_json()
    assert passport == load_passport(short.data.directory)


def test_restored_arrays_are_bitwise_equal_on_any_mesh(workdir, short):
    stored = ocp.PyTreeCheckpointer().restore((workdir / "checkpoints/12/state").absolute())
    many = override(short, {"mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2})
    for experiment in (short, many):
        abstract = abstract_of(experiment)
        state = restore(workdir, abstract, experiment).state
        expected = jax.tree.leaves(stored["params"])
        restored = jax.tree.leaves(state.params)
        for leaf, array, wanted in zip(
            restored, expected, jax.tree.leaves(abstract.params), strict=True
        ):
            assert np.asarray(leaf).tobytes() == np.asarray(array).tobytes()
            assert leaf.sharding == wanted.sharding and leaf.dtype == wanted.dtype


@pytest.mark.parametrize(
    "changes",
    [{}, {"optimizer.bias_correction": True, "optimizer.name": "lamb"}],
    ids=["uncorrected-adamw", "corrected-lamb"],
)
def test_the_state_of_every_optimizer_is_restored_bitwise(changes, short, tmp_path):
    """Both kinds of optimizer state are restored, and the wrong kind is refused."""
    experiment = override(short, changes)
    passport = load_passport(experiment.data.directory)
    abstract = abstract_of(experiment)
    numbers = iter(range(1, 1000))  # fills every leaf with a different number
    state = jax.tree.map(
        lambda leaf: jax.device_put(np.full(leaf.shape, next(numbers), leaf.dtype), leaf.sharding),
        abstract,
    )
    with checkpoint.open_checkpoints(tmp_path) as manager:
        checkpoint.save(
            manager,
            3,
            state,
            activity=Activity(),
            experiment=experiment,
            tokenizer=load_tokenizer(experiment.data.directory),
            passport=passport,
        )
    with checkpoint.open_checkpoints(tmp_path, read_only=True) as manager:
        found = checkpoint.restore(manager, abstract, step=3, passport=passport).state
        other = abstract_of(override(experiment, {"optimizer.bias_correction": not changes}))
        with pytest.raises(CheckpointError, match="missing opt_state/1/"):
            checkpoint.restore(manager, other, step=3, passport=passport)
    assert jax.tree.structure(found) == jax.tree.structure(state)
    for leaf, saved in zip(jax.tree.leaves(found), jax.tree.leaves(state), strict=True):
        assert np.asarray(leaf).tobytes() == np.asarray(saved).tobytes()
        assert leaf.sharding == saved.sharding


def changed_params(abstract, change):
    params = jax.tree.map(lambda leaf: leaf, abstract.params)
    change(params)
    return abstract.replace(params=params)


def rename(params):
    params["bert"]["pooler"]["dens"] = params["bert"]["pooler"].pop("dense")


def halve(params):
    head = params["next_sentence_head"]["dense"]
    head["kernel"] = jax.ShapeDtypeStruct(
        head["kernel"].shape, jnp.bfloat16, sharding=head["kernel"].sharding
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            rename,
            [
                "missing params/bert/pooler/dens/kernel",
                "missing params/bert/pooler/dens/bias",
                "unexpected params/bert/pooler/dense/kernel",
                "unexpected params/bert/pooler/dense/bias",
            ],
        ),
        (halve, ["params/next_sentence_head/dense/kernel is float32[32, 2], not bfloat16[32, 2]"]),
    ],
    ids=["renamed", "other-dtype"],
)
def test_the_error_names_every_array_that_does_not_fit(change, said, workdir, short):
    with pytest.raises(CheckpointError) as error:
        restore(workdir, changed_params(abstract_of(short), change), short)
    wrong = str(error.value).split("is of another model: ")[1].split("; ")
    assert sorted(wrong) == sorted(said)


def test_the_error_names_arrays_of_another_width_with_both_shapes(workdir, short):
    wide = override(short, {"model.hidden_size": 64})
    with pytest.raises(CheckpointError) as error:
        restore(workdir, abstract_of(wide), short)
    said = str(error.value)
    assert "params/bert/embeddings/segment is float32[2, 32], not float32[2, 64]" in said
    assert said.count("bert/embeddings/segment") == 3  # the parameter and its two moments


def test_data_with_another_fingerprint_are_refused(workdir, short):
    other = load_passport(short.data.directory)
    other["splits"]["train"]["bytes_read"] += 1
    with checkpoint.open_checkpoints(workdir, read_only=True) as manager:
        with pytest.raises(CheckpointError, match="data have changed"):
            checkpoint.restore(manager, abstract_of(short), step=12, passport=other)


@pytest.mark.parametrize("missing", ["position", "state/_METADATA"])
def test_a_checkpoint_with_missing_files_does_not_resume(missing, workdir, short, tmp_path):
    shutil.copytree(workdir, tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / "12" / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(CheckpointError, match=r"checkpoints/12 cannot be read \("):
        restore(tmp_path / "run", abstract_of(short), short)


@pytest.mark.parametrize(
    ("field", "value", "resumable"),
    [
        ("mesh.data", 2, True),
        ("mesh.fsdp", 4, True),
        ("training.log_every", 1, True),
        ("training.eval_every", 3, True),
        ("training.checkpoint_every", 3, True),
        ("training.keep_checkpoints", 5, True),
        ("evaluation.probe", "probe.py", True),
        ("training.steps", 7, False),
        ("evaluation.batch_size", 8, False),
        ("data.batch_size", 8, False),
        ("data.evaluation_masking.rate", 0.2, False),
        ("model.num_layers", 3, False),
        ("optimizer.weight_decay", 0.0, False),
        ("seed", 1, False),
    ],
)
def test_on_resume_only_fields_without_effect_on_numbers_may_change(
    field, value, resumable, short, workdir
):
    changed = override(short, {field: value})
    if resumable:
        checkpoint.check_workdir(workdir, changed)
    else:
        with pytest.raises(CheckpointError, match=field):
            checkpoint.check_workdir(workdir, changed)


def test_a_list_instead_of_a_tuple_is_the_same_experiment(short, tmp_path):
    """An experiment file may write `split=[...]`, and JSON restores a tuple."""
    masking = dataclasses.replace(short.data.masking, split=[0.8, 0.1, 0.1])
    written = dataclasses.replace(short, data=dataclasses.replace(short.data, masking=masking))
    (tmp_path / "config.json").write_text(json.dumps(to_json(written)))
    checkpoint.check_workdir(tmp_path, written)


def test_a_file_is_no_checkpoint(workdir, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "20").touch()
    assert checkpoint.latest_step(tmp_path) == 0
    (tmp_path / "checkpoints" / "12" / "state").mkdir(parents=True)
    assert checkpoint.latest_step(tmp_path) == 12 == checkpoint.latest_step(workdir)


def test_a_directory_of_prepared_data_is_refused(short):
    with pytest.raises(
        CheckpointError, match="lies in the prepared data of .*; accepted: another --wor"
    ):
        checkpoint.check_workdir(Path(short.data.directory), short)


def test_an_unreadable_config_is_refused(short, tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(BertJaxError, match="config.json"):
        checkpoint.check_workdir(tmp_path, short)
