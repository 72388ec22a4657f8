"""The modern encoder: packing, windows, rotary positions, size and FLOPs."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.config import from_json, load_experiment, load_module, override, to_json
from bert_jax.errors import ConfigError
from bert_jax.models.bert import BertForPretraining, num_parameters
from bert_jax.models.config import BertConfig, ModernConfig
from bert_jax.models.modern import rotate, wavenumbers
from bert_jax.planning.timeline import phase_flops
from bert_jax.training.experiment import Experiment, phases
from bert_jax.training.state import example_batch, unboxed_params

CONFIG = ModernConfig(
    vocab_size=100, hidden_size=32, num_layers=4, num_heads=2, intermediate_size=48,
    max_positions=64, local_window=4, initializer_stddev=0.3, scan_layers=True,
)  # fmt: skip
LENGTHS = (9, 13)


@pytest.fixture(scope="module")
def params():
    return jax.jit(lambda: unboxed_params(BertForPretraining(CONFIG), 0))()["bert"]


def test_a_packed_pair_is_encoded_like_a_pair_in_its_own_row(params):
    """Positions restart at each pair, and windows end at its borders."""
    rng = np.random.default_rng(0)
    pairs = [rng.integers(1, 100, length) for length in LENGTHS]
    first, both = LENGTHS[0], sum(LENGTHS)
    ids, packs = np.zeros((3, 24), np.int32), np.zeros((3, 24), np.int32)
    for row, (texts, numbers) in enumerate([(pairs, (1, 2)), (pairs[:1], (1,)), (pairs[1:], (1,))]):
        flat = np.concatenate(texts)
        ids[row, : len(flat)] = flat
        packs[row, : len(flat)] = np.repeat(numbers, [len(text) for text in texts])
    cls = np.array([[0, first], [0, 0], [0, 0]], np.int32)
    run = jax.jit(lambda *inputs: CONFIG.build().apply({"params": params}, *inputs))
    output = run(ids, packs, packs, cls)
    packed, *alone = np.asarray(output.sequence_output)
    # Only the order of float32 sums differs.
    np.testing.assert_allclose(packed[:first], alone[0][:first], rtol=0, atol=1e-5)
    np.testing.assert_allclose(packed[first:both], alone[1][: LENGTHS[1]], rtol=0, atol=1e-5)
    np.testing.assert_allclose(output.pooled_output[0], output.pooled_output[1:, 0], atol=1e-5)


def test_a_local_layer_sees_its_window_and_a_global_layer_sees_all(params):
    inputs = (np.ones((1, 24), np.int32),) * 3

    def reach(config):
        model = config.build()
        layers = jax.tree.map(lambda leaf: leaf[: config.num_layers], params["layers"])
        cut = params | {"layers": layers}
        maps = model.apply(
            {"params": cut}, *inputs, np.zeros((1, 1), np.int32), keep_attentions=True
        )
        return np.asarray(maps.attentions[:, 0, 0] > 0)

    seen = reach(CONFIG)
    near = np.abs(np.arange(24)[:, None] - np.arange(24)) <= 2
    for layer, expected in enumerate(
        (np.ones((24, 24), bool), near, near, np.ones((24, 24), bool))
    ):
        np.testing.assert_array_equal(seen[layer], expected)


def test_rotated_products_depend_on_the_distance_alone():
    query, key = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 8))
    numbers = wavenumbers(8, 100.0)
    assert numbers[0] == 1 and numbers[-1] == pytest.approx(100 ** -(6 / 8))

    def score(i, j):
        rotated = [rotate(x, jnp.array([[n]]) * numbers) for x, n in ((query, i), (key, j))]
        return float((rotated[0] * rotated[1]).sum())

    assert score(3.0, 8.0) == pytest.approx(score(40.0, 45.0), abs=1e-5)
    assert abs(score(3.0, 8.0) - score(3.0, 9.0)) > 1e-3
    assert score(5.0, 5.0) == pytest.approx(float((query * key).sum()), abs=1e-5)


def test_the_published_size_has_the_published_number_of_parameters():
    """answerdotai/ModernBERT-base with its masked-token head, as its safetensors file counts."""
    config = ModernConfig()
    params = jax.eval_shape(lambda: unboxed_params(BertForPretraining(config), 0))
    assert num_parameters(params, config) == 149_655_232
    assert not any("bias" in path for path in paths(params) if "masked_token_head" not in path)


def paths(params):
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return [jax.tree_util.keystr(path) for path, _ in leaves]


@pytest.mark.parametrize("window", [2, 4, 16])
def test_flops_count_the_keys_in_the_window(window):
    config = replace(CONFIG, local_window=window)
    lengths = (9, 13)
    keys = sum(
        abs(i - j) <= window // 2 or layer % config.global_every == 0
        for layer in range(config.num_layers)
        for length in lengths
        for i in range(length)
        for j in range(length)
    )
    dense = 4 * sum(lengths) * 2 * (4 * 32 * 32 + 3 * 32 * 48)
    assert config.forward_flops(lengths) == dense + 4 * 32 * keys


def test_a_stored_config_names_the_class_and_the_pair_loss_is_refused(experiment):
    fields = {name: getattr(experiment.model, name) for name in ("vocab_size", "hidden_size")}
    model = ModernConfig(
        **fields, num_layers=2, num_heads=4, intermediate_size=64, max_positions=64
    )
    with pytest.raises(ConfigError, match="objective.next_sentence is True; accepted: False"):
        replace(experiment, model=model)
    objective = replace(experiment.objective, next_sentence=False)
    modern = replace(experiment, model=model, objective=objective)
    stored = to_json(modern)
    assert stored["model"]["class"] == "ModernConfig"
    assert from_json(Experiment, stored) == modern
    assert type(from_json(BertConfig, to_json(model, BertConfig))) is ModernConfig
    batch = example_batch(batch_size=1, length=8, predictions=1)
    output = jax.eval_shape(
        lambda: BertForPretraining(model).apply(
            {"params": unboxed_params(BertForPretraining(model), 0)}, batch
        )
    )
    assert output.pair_logits.shape == (1, 1, 2)


def test_the_ablation_compares_equal_flops():
    path = Path(__file__).parents[2] / "experiments" / "ablations" / "modern.py"
    base, module = load_experiment(path), load_module(path)
    flops = [sum(map(phase_flops, phases(override(base, point)))) for point in module.sweep_model()]
    assert flops[1] == pytest.approx(flops[0], rel=0.01)


def test_a_kernel_is_refused():
    with pytest.raises(ConfigError, match="model.attention is 'splash'; accepted: einsum"):
        ModernConfig(attention="splash")
