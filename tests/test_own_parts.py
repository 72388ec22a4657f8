"""An experiment may define its model, objective and optimizer; no command runs them unasked."""

import ast
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import assert_one_line, run_command
from flax import linen as nn
from same_run import assert_same_run

from bert_jax import config
from bert_jax.config import config_hash, from_json, load_experiment, override, to_json
from bert_jax.errors import CheckpointError, ConfigError, UnknownCodeError
from bert_jax.models.bert import BertForPretraining
from bert_jax.training.checkpoint import check_workdir
from bert_jax.training.experiment import Experiment
from bert_jax.training.optim import learning_rate_schedule, make_optimizer
from bert_jax.training.state import example_batch, unboxed_params
from bert_jax.training.step import accumulate_gradients

ROOT = Path(__file__).parents[1]
OWN_PARTS = ROOT / "experiments" / "own_parts"
ALIBI, LION, PRE_NORM = (OWN_PARTS / f"{name}.py" for name in ("alibi", "lion", "pre_norm"))

BOTH = """
import json
import sys

sys.path.insert(0, {folder!r})
from alibi import AlibiConfig
from lion import LionConfig

from bert_jax.config import from_json, override
from bert_jax.training.experiment import Experiment


def get_config():
    base = from_json(Experiment, json.loads({base!r}))
    model, optimizer = AlibiConfig(**vars(base.model)), LionConfig(**vars(base.optimizer))
    return override(base, {{"model": model, "optimizer": optimizer}})


def sweep():
    for slope_range in (4, 8):
        yield {{"model.slope_range": slope_range}}
"""

Z_LOSS = """
from dataclasses import dataclass

import jax

from bert_jax.training.losses import ObjectiveConfig
from bert_jax.training.metrics import Mean


@dataclass(frozen=True, kw_only=True)
class ZLossConfig(ObjectiveConfig):
    z: float = 1e-4

    def build(self):
        plain = super().build()

        def loss(mlm, nsp, weights, *, token_logits, mask_weights):
            found = plain(mlm, nsp, weights, token_logits=token_logits, mask_weights=mask_weights)
            squares = Mean.of(jax.nn.logsumexp(token_logits, axis=-1) ** 2, mask_weights)
            return found + self.z * squares.total / weights.mlm

        return loss
"""


@pytest.fixture(scope="module")
def file(experiment, tmp_path_factory):
    """An experiment file with ALiBi and Lion, of tiny sizes."""
    path = tmp_path_factory.mktemp("own_parts") / "both.py"
    base = override(experiment, {"mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2})
    path.write_text(BOTH.format(folder=str(ALIBI.parent), base=json.dumps(to_json(base))))
    return path


# ---- Configs -------------------------------------------------------------------------------------


def test_a_stored_config_names_the_classes_of_its_own_parts_and_their_file(file, experiment):
    own = load_experiment(file)
    stored = json.loads(json.dumps(to_json(own)))
    again = from_json(Experiment, stored)
    assert again == own and type(again.model).__name__ == "AlibiConfig"
    assert stored["model"]["class"].startswith("alibi.py:AlibiConfig@")
    assert "class" not in stored["objective"] and "class" not in to_json(experiment)["model"]
    plain = {"model": experiment.model, "optimizer": experiment.optimizer}
    assert config_hash(override(own, plain)) != config_hash(own)


def test_an_own_class_has_its_own_fields_and_checks(file):
    own = load_experiment(file)
    assert override(own, {"model.slope_range": "4"}).model.slope_range == 4.0
    with pytest.raises(ConfigError, match="model.slope_range is -1.0; accepted: above 0"):
        override(own, {"model.slope_range": -1.0})
    with pytest.raises(ConfigError, match="unknown field 'model.slopes'"):
        override(own, {"model.slopes": 1})


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("evil.py:Model@" + "0" * 64, "model.class is Model of evil.py"),
        ("../evil.py:Model@" + "0" * 64, "model.class is '../evil.py"),
        ("os:system", "model.class is 'os:system'; accepted: ModernConfig, FILE.py"),
        (7, "model.class is 7; accepted"),
    ],
)
def test_reading_a_config_finds_no_class_of_a_file_that_was_not_run(experiment, name, said):
    stored = to_json(experiment)
    stored["model"]["class"] = name
    with pytest.raises(ConfigError) as refused:
        from_json(Experiment, stored)
    assert said in str(refused.value)
    assert isinstance(refused.value, UnknownCodeError) == ("SHA-256" in str(refused.value))


def test_a_class_must_be_defined_in_a_file_and_be_of_the_right_kind(experiment, tmp_path):
    kind = type(experiment.model)
    local = type("Local", (kind,), {"__module__": __name__})
    with pytest.raises(ConfigError, match="Local is not defined at the top of a file"):
        override(experiment, {"model": local()})
    (tmp_path / "z_loss.py").write_text(Z_LOSS)
    module = config.load_module(tmp_path / "z_loss.py")
    stored = to_json(override(experiment, {"objective": module.ZLossConfig()}))
    stored["model"]["class"] = stored["objective"]["class"]
    with pytest.raises(ConfigError, match="accepted: a subclass of BertConfig"):
        from_json(Experiment, stored)


# ---- What they compute ---------------------------------------------------------------------------


def test_alibi_prefers_near_keys_and_has_no_position_table(file):
    model = BertForPretraining(load_experiment(file).model)
    batch = example_batch(batch_size=1, length=8, predictions=1)
    batch = batch._replace(pack_ids=np.ones((1, 8), np.int32))
    params = model.init(jax.random.key(0), batch)["params"]
    assert "position" not in params["bert"]["embeddings"]
    inputs = (batch.token_ids, batch.segment_ids, batch.pack_ids, batch.cls_positions)
    encoder = model.config.build()
    output = encoder.apply({"params": params["bert"]}, *inputs, keep_attentions=True)
    # All tokens are equal, so that only the distance decides.
    logs = jnp.log(output.attentions[0, 0, :, 0])
    slopes = 2.0 ** (-8.0 * np.arange(1, 5) / 4)
    np.testing.assert_allclose(jnp.diff(logs, axis=-1), -np.outer(slopes, np.ones(7)), atol=1e-5)


def test_blocks_of_a_pre_norm_encoder_add_to_an_input_that_is_normalized_at_the_end():
    config = replace(load_experiment(PRE_NORM).model, hidden_size=32, vocab_size=64)
    batch = example_batch(batch_size=1, length=8, predictions=1)
    inputs = (np.arange(8)[None], batch.segment_ids, np.ones((1, 8), np.int32), batch.cls_positions)
    encoder = config.build()
    params = jax.jit(partial(encoder.init, keep_hidden_states=True))(jax.random.key(0), *inputs)
    params = nn.unbox(params)["params"]
    for block in ("attention", "feed_forward"):  # Without their outputs, the input does not change.
        output = params["layers"][block]["output"]
        params["layers"][block]["output"] = jax.tree.map(jnp.zeros_like, output)
    params["embeddings"]["layer_norm"]["scale"] *= 3
    found = encoder.apply({"params": params}, *inputs, keep_hidden_states=True)
    for layer in found.hidden_states:
        np.testing.assert_array_equal(layer, found.embedding_output)
    assert jnp.std(found.embedding_output, axis=-1).mean() > 2
    np.testing.assert_allclose(jnp.std(found.sequence_output, axis=-1), 1, atol=1e-3)


def test_lion_takes_the_sign_and_keeps_its_state_if_a_step_is_not_finite(file):
    own = load_experiment(file).optimizer
    optimizer = make_optimizer(own, learning_rate_schedule(own, steps=12))
    params = {"kernel": jnp.ones(3), "bias": jnp.ones(3)}
    state = optimizer.init(params)
    gradients = {"kernel": jnp.array([1e-3, -2e-3, 0.0]), "bias": jnp.array([0.0, 1e-3, -1e-3])}
    _, state = optimizer.update(gradients, state, params)
    updates, after = optimizer.update(gradients, state, params)
    rate = own.learning_rate / own.warmup_steps
    decay = own.weight_decay
    expected = {"kernel": [-1 - decay, 1 - decay, -decay], "bias": [0, -1, 1]}
    for name, value in expected.items():
        np.testing.assert_allclose(updates[name], rate * np.array(value), rtol=1e-5, atol=1e-12)
    broken = {name: leaf * jnp.nan for name, leaf in gradients.items()}
    kept = optimizer.update(broken, state, params, finite=False)[1]
    same = jax.tree.leaves(jax.tree.map(np.array_equal, kept, state))
    assert same.count(False) == 1  # the count of the schedule
    assert not np.array_equal(*(jax.tree.leaves(one)[1] for one in (after, state)))


def test_an_own_objective_adds_to_the_loss_of_every_microbatch_alike(experiment, tmp_path):
    (tmp_path / "z_loss.py").write_text(Z_LOSS)
    objective = config.load_module(tmp_path / "z_loss.py").ZLossConfig(z=0.1)
    one_layer = replace(experiment.model, num_layers=1, dropout=0.0, attention_dropout=0.0)
    model = BertForPretraining(one_layer)
    batch = example_batch(batch_size=4, length=8, predictions=3)
    weights = np.array([[1, 1, 0], [1, 0, 0], [1, 1, 1], [1, 1, 0]], np.float32)
    batch = batch._replace(pack_ids=np.ones((4, 8), np.int32), mask_weights=weights)
    params = jax.jit(lambda: unboxed_params(model, 0))()
    losses = {}
    for kind, parts in ((objective, 1), (objective, 2), (experiment.objective, 1)):
        step = partial(accumulate_gradients, model=model, objective=kind, microbatches=parts)
        _, metrics = jax.jit(step)(params, batch, jax.random.key(1))
        losses[type(kind).__name__, parts] = float(metrics["loss"].total)
    assert losses["ZLossConfig", 1] == pytest.approx(losses["ZLossConfig", 2], rel=1e-5)
    # The logits of a new model are near 0, so logsumexp is near log(500), and z-loss near 3.86.
    added = losses["ZLossConfig", 1] - losses["ObjectiveConfig", 1]
    assert added == pytest.approx(0.1 * np.log(500) ** 2, rel=0.02)


@pytest.mark.parametrize("path", [ALIBI, LION, PRE_NORM])
def test_the_examples_stay_short(path):
    assert len(path.read_text().splitlines()) <= 80
    ast.parse(path.read_text())


# ---- Runs ----------------------------------------------------------------------------------------


def load_elsewhere(code):
    """Runs code in a new process, which has not run the files of the parts."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )


@pytest.mark.slow
def test_own_parts_are_trained_resumed_opened_benched_and_swept(file, tmp_path):
    alone, resumed = tmp_path / "alone", tmp_path / "resumed"
    done = run_command("pretrain", f"--experiment={file}", f"--workdir={alone}")
    assert done.returncode == 0, done.stderr
    assert "'data': 2, 'fsdp': 2, 'tensor': 2" in done.stderr
    for name, original in (("alibi.py", ALIBI), ("lion.py", LION)):
        assert (alone / "code" / name).read_bytes() == original.read_bytes()

    # Resumed from the checkpoint at the middle, it ends with the same bits.
    shutil.copytree(alone, resumed)
    shutil.rmtree(resumed / "checkpoints" / "12")
    (resumed / "result.json").unlink()
    stored = f"--experiment={resumed}/config.json"
    refused = run_command("pretrain", stored, f"--workdir={resumed}")
    assert_one_line(refused, "model.class is AlibiConfig of alibi.py", "--code=FILE", "copy")
    again = run_command("pretrain", f"--experiment={file}", f"--workdir={resumed}")
    assert again.returncode == 0 and "going on from step 6" in again.stderr, again.stderr
    assert_same_run(alone, resumed, step=12)

    # A notebook opens it only if it trusts the copies, and only if they are the files of the run.
    opened = f"from bert_jax import load_run; run = load_run({str(alone)!r}"
    found = load_elsewhere(f"{opened})")
    assert "CheckpointError" in found.stderr and "AlibiConfig of alibi.py" in found.stderr
    found = load_elsewhere(f"{opened}, trust_code=True); print(run.fill_mask('a [MASK]')[0][0])")
    assert "Filling(" in found.stdout, found.stderr
    (resumed / "code" / "alibi.py").write_text("raise SystemExit('was run')")
    found = load_elsewhere(f"{opened.replace(str(alone), str(resumed))}, trust_code=True)")
    assert "code/alibi.py has SHA-256" in found.stderr and "was run" not in found.stderr

    codes = [f"--code={alone}/code/{name}" for name in ("alibi.py", "lion.py")]
    named = run_command("bench", f"--experiment={alone}/config.json", *codes, "--steps=1", "--json")
    assert named.returncode == 0 and json.loads(named.stdout)["model_flops"] > 0, named.stderr
    exported = [f"--source={alone}", f"--output={tmp_path}/exported", "--to=huggingface"]
    refused = run_command("convert", *exported, *codes)
    assert_one_line(refused, "AlibiConfig", "transformers does not have")

    swept = run_command("sweep", f"--experiment={file}", f"--workdir={tmp_path}/sweep")
    assert swept.returncode == 0, swept.stderr
    assert "slope_range" in (tmp_path / "sweep" / "table.csv").read_text()


def test_an_edited_file_does_not_continue_the_run(file, tmp_path):
    """The run names the hash of its file, so that another model never continues it."""
    own = load_experiment(file)
    stored = to_json(own)
    digest = stored["model"]["class"].partition("@")[2]
    stored["model"]["class"] = stored["model"]["class"].replace(digest, digest[::-1])
    (tmp_path / "config.json").write_text(json.dumps(stored))
    with pytest.raises(CheckpointError, match="a file of SHA-256 .* that was not run"):
        check_workdir(tmp_path, own)
