"""Sharding: strict dimension names, arrays placed by the rules, the same result on any mesh."""

import re

import jax
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import PartitionSpec

from bert_jax.config import override
from bert_jax.errors import ConfigError
from bert_jax.sharding import (
    MeshConfig,
    ShardingRules,
    constrain,
    make_mesh,
    named_sharding,
    resolve,
)
from bert_jax.training.build import assemble, batch_sharding
from bert_jax.training.experiment import phases
from bert_jax.training.state import make_state, state_sharding

MESHES = [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 1, 4)]

# The number of parts of each dimension on mesh 2 x 2 x 2, written by hand and not from the rules:
# `fsdp` cuts embed, and `tensor` cuts heads, mlp and vocab. All other dimensions are whole.
PARTS = {
    "embeddings/token": (2, 2),
    "embeddings/position": (1, 2),
    "embeddings/segment": (1, 2),
    "attention/query/kernel": (1, 2, 2, 1),
    "attention/query/bias": (1, 2, 2),
    "attention/key/kernel": (1, 2, 2, 1),
    "attention/key/bias": (1, 2, 2),
    "attention/value/kernel": (1, 2, 2, 1),
    "attention/value/bias": (1, 2, 2),
    "attention/output/kernel": (1, 2, 1, 2),
    "attention/output/bias": (1, 2),
    "attention_layer_norm/scale": (1, 2),
    "attention_layer_norm/bias": (1, 2),
    "feed_forward/intermediate/kernel": (1, 2, 2),
    "feed_forward/intermediate/bias": (1, 4),
    "feed_forward/output/kernel": (1, 2, 2),
    "feed_forward/output/bias": (1, 2),
    "feed_forward_layer_norm/scale": (1, 2),
    "feed_forward_layer_norm/bias": (1, 2),
    "embeddings/layer_norm/scale": (2,),
    "embeddings/layer_norm/bias": (2,),
    "pooler/dense/kernel": (2, 2),
    "pooler/dense/bias": (4,),
    "masked_token_head/transform/kernel": (2, 2),
    "masked_token_head/transform/bias": (4,),
    "masked_token_head/layer_norm/scale": (2,),
    "masked_token_head/layer_norm/bias": (2,),
    "masked_token_head/bias": (4,),
    "next_sentence_head/dense/kernel": (2, 1),
    "next_sentence_head/dense/bias": (2,),
}


def leaves_by_path(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def test_resolve_gives_each_dimension_its_rule():
    assert resolve(("embed", None, "heads", "head_dim"), ShardingRules()) == PartitionSpec(
        "fsdp", None, "tensor", None
    )
    assert resolve(("batch", "length"), ShardingRules(embed=None)) == PartitionSpec(
        ("data", "fsdp"), None
    )


def test_a_dimension_without_a_rule_is_refused():
    with pytest.raises(ConfigError, match=r"'channels'.*known: .*embed.*heads"):
        resolve(("embed", "channels"), ShardingRules())


@pytest.mark.parametrize(
    ("names", "rules", "axis"),
    [
        (("vocab", "mlp"), ShardingRules(), "tensor"),
        (("batch", "embed"), ShardingRules(), "fsdp"),
        (("heads", "embed"), ShardingRules(embed="tensor"), "tensor"),
    ],
)
def test_two_dimensions_on_one_mesh_axis_are_refused(names, rules, axis):
    first, second = names
    with pytest.raises(ConfigError, match=rf"'{first}' and '{second}'.*'{axis}'"):
        resolve(names, rules)


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({"length": "fsdp"}, "'batch' and 'length' .* 'fsdp'; change sharding.batch or sharding.l"),
        ({"predictions": "tensor"}, "'predictions' and 'activation_vocab' .* 'tensor'"),
    ],
)
def test_rules_that_no_activation_can_follow_are_refused_with_the_config(rules, said, experiment):
    """Tracing the update would find it too, but then the run directory exists already."""
    with pytest.raises(ConfigError, match=said):
        override(experiment, {f"sharding.{name}": axis for name, axis in rules.items()})


def test_a_rule_with_an_unknown_mesh_axis_is_refused():
    with pytest.raises(ConfigError, match=r"sharding\.embed is 'model'; accepted: data, fsdp"):
        ShardingRules(embed="model")


def test_the_error_names_a_dimension_that_the_mesh_does_not_divide():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    arguments = {"rules": ShardingRules(), "mesh": mesh, "what": "query/kernel"}
    with pytest.raises(ConfigError, match=r"query/kernel: dimension 'heads' has size 3.* 2 "):
        named_sharding(("embed", "heads", "head_dim"), shape=(32, 3, 8), **arguments)
    arguments["mesh"] = make_mesh(MeshConfig(data=2, tensor=3))
    with pytest.raises(
        ConfigError, match=r"'vocab' has size 640.* 3 .*, or model.vocab_multiple=384"
    ):
        named_sharding(("vocab", "embed"), shape=(640, 32), **arguments)
    named_sharding(("vocab", "embed"), shape=(768, 32), **arguments)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"training.microbatches": 3}, "batch_size is 16; accepted: a multiple of .* 3"),
        ({"training.microbatches": 4}, "accepted: data.batch_size=32 .* x mesh.fsdp=4"),
        ({"data.batch_size": 20}, "accepted: data.batch_size=16 .* x mesh.fsdp=4"),
        ({"data.batch_size": 3}, "accepted: data.batch_size=8 .* x mesh.fsdp=1"),
    ],
)
def test_rows_that_microbatches_or_the_mesh_do_not_divide_are_refused(changes, said, experiment):
    mesh, rows = make_mesh(MeshConfig(data=8)), {"data.batch_size": 16, "evaluation.batch_size": 4}
    assert batch_sharding(override(experiment, rows), mesh).spec == PartitionSpec(("data", "fsdp"))
    with pytest.raises(ConfigError, match=said):
        batch_sharding(override(experiment, rows | changes), mesh)


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ((-1, 1, 1), (8, 1, 1)),
        ((-1, 2, 2), (2, 2, 2)),
        ((1, -1, 4), (1, 2, 4)),
        ((2, 1, -1), (2, 1, 4)),
        ((2, 1, 1), (2, 1, 1)),  # six of the eight devices are unused
    ],
)
def test_a_mesh_takes_the_remaining_or_the_given_number_of_devices(sizes, shape):
    mesh = make_mesh(MeshConfig(**dict(zip(("data", "fsdp", "tensor"), sizes, strict=True))))
    assert dict(mesh.shape) == dict(zip(("data", "fsdp", "tensor"), shape, strict=True))
    assert len(set(mesh.devices.flat)) == np.prod(shape)


@pytest.mark.parametrize("sizes", [(16, 1, 1), (3, 1, -1), (-1, 16, 1), (3, 3, 1)])
def test_a_mesh_that_does_not_fit_the_devices_is_refused(sizes):
    data, fsdp, tensor = sizes
    with pytest.raises(ConfigError, match=rf"{data} x {fsdp} x {tensor}.*there are 8 devices"):
        make_mesh(MeshConfig(data=data, fsdp=fsdp, tensor=tensor))


@pytest.mark.parametrize(
    ("sizes", "slices"),
    [
        ((4, 2, 1), [[0, 2, 4, 6], [1, 3, 5, 7]]),
        ((2, 2, 2), [[0, 2, 4, 6], [1, 3, 5, 7]]),
        ((4, 1, 2), [[0, 4], [1, 5], [2, 6], [3, 7]]),
    ],
)
def test_only_the_data_axis_crosses_slices(sizes, slices):
    config = MeshConfig(**dict(zip(("data", "fsdp", "tensor"), sizes, strict=True)))
    mesh = make_mesh(config, slice_of_device=lambda device: device.id % len(slices))
    inner = mesh.devices.reshape(len(slices), -1)
    assert [[device.id for device in row] for row in inner] == slices


@pytest.mark.parametrize(
    ("sizes", "remedy"),
    [
        ((1, 8, 1), (2, 4, 1)),
        ((1, 2, 4), (2, 1, 4)),
        ((1, 1, 8), (2, 1, 4)),
        ((1, 6, 1), (2, 3, 1)),
    ],
)
def test_a_mesh_whose_other_axes_would_cross_slices_is_refused(sizes, remedy):
    def mesh(sizes):
        config = MeshConfig(**dict(zip(("data", "fsdp", "tensor"), sizes, strict=True)))
        return make_mesh(config, slice_of_device=lambda device: device.id % 2)

    said = "multiple of 2, because only this axis .* such as {} x {} x {}$".format(*remedy)
    with pytest.raises(ConfigError, match=said):
        mesh(sizes)
    assert mesh(remedy).devices.shape == remedy


def test_slices_of_unequal_sizes_are_refused():
    with pytest.raises(ConfigError, match="have 2, 6 devices; accepted: the same number"):
        make_mesh(MeshConfig(), slice_of_device=lambda device: device.id // 6)


@pytest.mark.parametrize(
    ("mesh", "remedies"),
    [
        ("6x1x1", [("data.batch_size", 18)]),
        ("6x1x1", [("mesh.data x mesh.fsdp", 2)]),
        ("1x5x1", [("data.batch_size", 15), ("mesh.fsdp", 1)]),
        ("1x1x3", [("mesh.tensor", 1)]),
        ("1x1x3", [("model.vocab_multiple", 384), ("mesh.tensor", 1)]),
    ],
)
def test_the_remedies_of_a_refused_mesh_work_when_followed(mesh, remedies, experiment):
    data, fsdp, tensor = map(int, mesh.split("x"))
    changed = override(experiment, {"mesh": MeshConfig(data=data, fsdp=fsdp, tensor=tensor)})
    for name, value in remedies:
        with pytest.raises(ConfigError, match=rf"accepted: .*{name}={value}( |$)"):
            assemble(phases(changed)[0], make_mesh(changed.mesh))
        changed = override(changed, {name.split(" x ")[0]: value})
    assemble(phases(changed)[0], make_mesh(changed.mesh))


@pytest.mark.parametrize("sizes", [{"data": 0}, {"data": -1, "fsdp": -1}, {"tensor": -2}])
def test_invalid_mesh_sizes_are_refused(sizes):
    with pytest.raises(ConfigError, match="accepted: sizes of at least 1, one of them -1"):
        MeshConfig(**sizes)


def test_constrain_without_rules_or_mesh_does_nothing():
    x = np.ones((2, 3))
    assert constrain(x, ("batch", "length"), None) is x
    assert constrain(x, ("batch", "length"), ShardingRules()) is x


def test_every_parameter_and_moment_is_sharded_by_its_rule(trainer_on, first_state):
    trainer = trainer_on(2, 2, 2)
    state = make_state(trainer.initialize, trainer.sharding)
    params = leaves_by_path(state.params)
    found = {}
    for path, array in params.items():
        shards = array.addressable_shards
        assert len({shard.device for shard in shards}) == 8
        share = shards[0].data.shape
        assert all(shard.data.shape == share for shard in shards)
        parts = tuple(full // part for full, part in zip(array.shape, share, strict=True))
        # The pieces differ; an array that is copied to every device would have only one.
        assert len({str(shard.index) for shard in shards}) == np.prod(parts)
        found[re.sub(r"^bert/(layers/)?", "", path)] = parts
    assert found == PARTS

    moments = leaves_by_path(state.opt_state)
    for path, array in params.items():
        of_this = [leaf for name, leaf in moments.items() if name.endswith("/" + path)]
        # No path of a parameter ends with another parameter's path, so these are mean and square.
        assert len(of_this) == 2, path
        for moment in of_this:
            assert moment.sharding.is_equivalent_to(array.sharding, array.ndim), path
            assert moment.addressable_shards[0].data.shape == array.addressable_shards[0].data.shape
    counters = [leaf for leaf in moments.values() if leaf.ndim == 0]
    assert len(moments) == 2 * len(params) + len(counters)
    for whole in (*counters, state.step):
        assert whole.sharding.is_fully_replicated

    # The same seed gives bitwise the same parameters with any sharding.
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), first_state)


def test_the_error_names_a_parameter_that_the_mesh_does_not_divide(trainer_on):
    trainer = trainer_on(1, 1, 1)
    mesh = make_mesh(MeshConfig(data=1, fsdp=1, tensor=8))  # the model has four heads
    with pytest.raises(ConfigError, match=r"attention/\w+/\w+: dimension 'heads' has size 4"):
        state_sharding(trainer.initialize, mesh=mesh, rules=ShardingRules())


@pytest.fixture(scope="module")
def one_device(trainer_on, first_state, random_batch):
    """The metrics of two updates on one device."""
    return updates(trainer_on(1, 1, 1), first_state, random_batch())


def updates(trainer, first_state, batch):
    state = jax.device_put(first_state, trainer.sharding)
    rows = []
    for _ in range(2):
        state, metrics = trainer.step(state, batch)
        del metrics["finite"]
        rows.append({name: float(value.compute()) for name, value in metrics.items()})
    layouts = jax.tree.map(lambda leaf, where: leaf.sharding == where, state, trainer.sharding)
    assert all(jax.tree.leaves(layouts)), "an update changed the sharding of the state"
    return rows


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param(sizes, marks=[pytest.mark.slow] * (sizes in ((8, 1, 1), (1, 8, 1))))
        for sizes in MESHES
    ],
    ids=lambda sizes: "x".join(map(str, sizes)),
)
def test_updates_with_dropout_are_the_same_on_any_mesh(
    sizes, trainer_on, first_state, random_batch, one_device
):
    rows = updates(trainer_on(*sizes), first_state, random_batch())
    for row, expected in zip(rows, one_device, strict=True):
        # Float32 sums in another order: the measured difference is 2e-6 at these sizes. Other
        # dropout masks change the third digit of the loss.
        assert row == pytest.approx(expected, rel=1e-5)


def test_dimension_names_of_all_parameters_have_rules(trainer_on):
    abstract = jax.eval_shape(trainer_on(1, 1, 1).initialize).params
    for names in jax.tree.leaves(
        nn.get_partition_spec(abstract), is_leaf=lambda x: isinstance(x, PartitionSpec)
    ):
        assert len(resolve(tuple(names), ShardingRules())) == len(names)
