"""Properties of the model: sizes, initial parameters, attention, padding, dropout, dtypes."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from bert_jax.data.batch import Batch
from bert_jax.errors import ConfigError
from bert_jax.models import bert
from bert_jax.models.attention import attention_mask
from bert_jax.models.bert import Bert, BertForPretraining, EncoderLayer, num_parameters
from bert_jax.models.config import BertConfig, TaskHeadConfig
from bert_jax.models.embeddings import Embeddings
from bert_jax.models.heads import MaskedTokenHead
from bert_jax.models.layers import LayerNorm
from bert_jax.models.task import BertForTask, example_ids
from bert_jax.training.losses import cross_entropy
from bert_jax.training.state import unboxed_params

TINY = {
    "vocab_size": 300,  # 84 rows short of a multiple of 128
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 4,
    "max_positions": 32,
}
CONFIG = BertConfig(**TINY)
MASK_ID = 4
HEAD: dict = {
    **{"family": "classification", "labels": ("a", "b"), "outputs": 2},
    **{"unit": "text", "representation": "cls"},
}
# This level halves the compile time.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def make_batch(lengths=((6, 5), (4, 8)), length=16, seed=0) -> Batch:
    """Returns two-segment rows of random ids, with [MASK] at positions 2 and 3 and padding id 0."""
    rng = np.random.default_rng(seed)
    rows = len(lengths)
    columns = np.arange(length)
    ends = np.array([[a, a + b] for a, b in lengths])
    pack_ids = (columns < ends[:, 1:]).astype(np.int32)
    token_ids = np.zeros((rows, length), np.int32)
    for row, end in enumerate(ends[:, 1]):  # row by row, so padding does not change the draws
        token_ids[row, :end] = rng.integers(5, 300, size=end)
    positions = np.tile(np.array([2, 3, 0], np.int32), (rows, 1))
    labels = np.take_along_axis(token_ids, positions, 1)
    token_ids[:, 2:4] = MASK_ID
    return Batch(
        token_ids=token_ids,
        segment_ids=((columns >= ends[:, :1]) * pack_ids).astype(np.int32),
        pack_ids=pack_ids,
        mask_positions=positions,
        mask_labels=labels,
        mask_weights=np.tile(np.array([1, 1, 0], np.float32), (rows, 1)),
        cls_positions=np.zeros((rows, 1), np.int32),
        pair_labels=np.ones((rows, 1), np.int32),
        pair_weights=np.ones((rows, 1), np.float32),
    )


def init(config: BertConfig, seed: int = 0):
    model = BertForPretraining(config)
    return nn.unbox(jit(model.init)(jax.random.key(seed), make_batch())["params"])


@pytest.fixture(scope="module")
def params():
    return init(CONFIG)


@pytest.fixture(scope="module")
def apply():
    """Logits of a batch, compiled once for each shape."""
    return jit(lambda params, batch: BertForPretraining(CONFIG).apply({"params": params}, batch))


@pytest.fixture(scope="module")
def encode():
    """Outputs of the encoder for the input fields of a batch."""

    def encode(params, batch):
        return Bert(CONFIG).apply({"params": params["bert"]}, *inputs(batch))

    return jit(encode)


def inputs(batch):
    return batch.token_ids, batch.segment_ids, batch.pack_ids, batch.cls_positions


def leaves_by_path(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


# ---- Sizes ----------------------------------------------------------------------------------


def test_a_model_for_the_shortest_rows_can_be_initialized():
    """Rows have at least 5 tokens, so the example batch must not be longer."""
    config = BertConfig(**TINY | {"max_positions": 5})
    for model, inputs in (
        (BertForPretraining(config), ()),
        (BertForTask(config, TaskHeadConfig(**HEAD)), example_ids()),
    ):
        params = jax.eval_shape(lambda m=model, i=inputs: unboxed_params(m, 0, *i))
        assert params["bert"]["embeddings"]["position"].shape == (5, 32)


BASE = BertConfig()
LARGE = BertConfig(hidden_size=1024, num_layers=24, num_heads=16)


@pytest.mark.parametrize(
    ("config", "encoder", "pretraining"),
    [(BASE, 109_482_240, 110_106_428), (LARGE, 335_141_888, 336_226_108)],
    ids=["base", "large"],
)
def test_parameter_counts_equal_those_of_the_published_checkpoints(config, encoder, pretraining):
    """Counts the encoder with pooler, then with both heads; vocabulary padding is not counted."""

    def count(model, *arguments):
        abstract = jax.eval_shape(lambda: model.init(jax.random.key(0), *arguments))
        return num_parameters(nn.unbox(abstract)["params"], config)

    batch = make_batch()
    assert count(Bert(config), *inputs(batch)) == encoder
    assert count(BertForPretraining(config), batch) == pretraining


def test_input_longer_than_the_position_table_is_refused():
    batch = make_batch(length=33)
    with pytest.raises(ConfigError, match="33 positions; accepted: at most .*32"):
        jax.eval_shape(BertForPretraining(CONFIG).init, jax.random.key(0), batch)
    jax.eval_shape(BertForPretraining(CONFIG).init, jax.random.key(0), make_batch(length=32))


# ---- Initial parameters ---------------------------------------------------------------------


def test_initial_parameters_have_the_mean_and_deviation_of_the_recipe(params):
    """Kernels and tables are normal, truncated at two deviations; biases are 0, scales are 1."""
    kernels = 0
    for path, values in leaves_by_path(params).items():
        assert values.dtype == np.float32, path
        if path == "bert/embeddings/token":
            values = values[: CONFIG.vocab_size]
        if path.endswith("bias"):
            assert not values.any(), path
        elif path.endswith("scale"):
            assert np.all(values == 1), path
        else:
            kernels += 1
            # Truncation at two deviations leaves 0.8796 of a normal's deviation. From n values, the
            # standard error is below 0.6 / sqrt(n) of the deviation, and 1 / sqrt(n) for the mean.
            # Five standard errors are 9% for 1,024 values. An untruncated normal is 14% off.
            root = values.size**0.5
            assert values.std() == pytest.approx(0.8796 * 0.02, rel=3 / root), path
            assert abs(values.mean()) < 5 * 0.0176 / root, path
            assert abs(values).max() <= 0.04 * (1 + 1e-6), path  # float32 rounding
    assert kernels == 3 + 6 + 3  # tables; kernels of a layer; kernels of pooler and heads


def test_layers_and_kernels_start_with_different_values(params):
    for path, values in leaves_by_path(params["bert"]["layers"]).items():
        if path.endswith("kernel"):
            assert np.mean(values[0] == values[1]) < 0.01, path
    attention = params["bert"]["layers"]["attention"]
    assert np.mean(attention["query"]["kernel"] == attention["key"]["kernel"]) < 0.01
    # Another seed gives other parameters.
    other = init(CONFIG, seed=1)["bert"]["embeddings"]["position"]
    assert np.mean(other == params["bert"]["embeddings"]["position"]) < 0.01


# ---- Embeddings -----------------------------------------------------------------------------


def embedding_sums(params, token_ids, segment_ids):
    """Returns the sums of the three embeddings: the input of the embeddings' LayerNorm."""
    seen = []

    def record(call, arguments, keywords, context):
        if isinstance(context.module, LayerNorm) and context.method_name == "__call__":
            seen.append(np.asarray(arguments[0]))
        return call(*arguments, **keywords)

    with nn.intercept_methods(record):
        Embeddings(CONFIG).apply(
            {"params": params["bert"]["embeddings"]},
            np.array(token_ids),
            np.array(segment_ids),
            train=False,
        )
    (sums,) = seen
    return sums


# Rounding of sums of three float32 numbers below 0.04, and of differences of such sums.
CLOSE = {"atol": 2e-8, "rtol": 0}


def test_a_word_in_both_texts_differs_only_by_segment_and_position(params):
    """Compares both "I like" in [CLS] I like cats [SEP] I like dogs [SEP]."""
    i, like, cats, dogs, cls, sep = 10, 11, 12, 13, 1, 2
    token_ids = [[cls, i, like, cats, sep, i, like, dogs, sep]]
    segment_ids = [[0, 0, 0, 0, 0, 1, 1, 1, 1]]
    (sums,) = embedding_sums(params, token_ids, segment_ids)
    tables = params["bert"]["embeddings"]
    segment, position = np.asarray(tables["segment"]), np.asarray(tables["position"])
    for first, second in ((1, 5), (2, 6)):
        expected = segment[1] - segment[0] + position[second] - position[first]
        np.testing.assert_allclose(sums[second] - sums[first], expected, **CLOSE)
        assert np.linalg.norm(segment[1] - segment[0]) > 0.01
        assert np.linalg.norm(position[second] - position[first]) > 0.01


def test_the_same_position_of_two_rows_gets_the_same_embedding(params):
    """Compares [CLS] Hello world [SEP] with [CLS] Hi there [SEP]."""
    token_ids = np.array([[1, 20, 21, 2], [1, 22, 23, 2]])
    sums = embedding_sums(params, token_ids, np.zeros_like(token_ids))
    tables = jax.tree.map(np.asarray, params["bert"]["embeddings"])
    positions = sums - tables["token"][token_ids] - tables["segment"][0]
    np.testing.assert_allclose(positions[0], positions[1], **CLOSE)
    np.testing.assert_allclose(positions[0], tables["position"][:4], **CLOSE)


# ---- Layers ---------------------------------------------------------------------------------


def layer_params(params, layer):
    return {"params": jax.tree.map(lambda stacked: stacked[layer], params["bert"]["layers"])}


def test_layers_are_post_ln_and_are_applied_in_order(params, encode):
    """Each initial layer gives mean 0 and variance 1; the last layer's output is the encoder's."""
    batch = make_batch()
    embed = jit(partial(Embeddings(CONFIG).apply, train=False))
    x = embed({"params": params["bert"]["embeddings"]}, batch.token_ids, batch.segment_ids)
    mask, ids = attention_mask(batch.pack_ids), batch.pack_ids
    layer = jit(lambda params, x: EncoderLayer(CONFIG).apply(params, x, mask, ids, False)[0])
    for number in range(CONFIG.num_layers):
        x = layer(layer_params(params, number), x)
        # Float32 rounding of 32 numbers up to 4.
        np.testing.assert_allclose(x.mean(-1), 0, atol=1e-6)
        np.testing.assert_allclose(x.var(-1), 1, atol=1e-5)
    # The same operations, but XLA fuses them differently.
    np.testing.assert_allclose(x, encode(params, batch).sequence_output, atol=1e-5)


def test_every_layer_norm_uses_the_epsilon_of_the_config(params):
    """An epsilon of 1 reduces the output of each LayerNorm visibly, by about a half."""
    config = BertConfig(**TINY, layer_norm_epsilon=1.0)
    batch = make_batch()

    def run(params):
        seen = []

        def record(call, arguments, keywords, context):
            output = call(*arguments, **keywords)
            if isinstance(context.module, LayerNorm) and context.method_name == "__call__":
                seen.append((arguments[0], output))
            return output

        tables = params["bert"]["embeddings"]
        with nn.intercept_methods(record):
            x = Embeddings(config).apply(
                {"params": tables}, batch.token_ids, batch.segment_ids, train=False
            )
            layer, ids = layer_params(params, 0), batch.pack_ids
            x, _ = EncoderLayer(config).apply(layer, x, attention_mask(ids), ids, False)
            head = {"params": params["masked_token_head"]}
            MaskedTokenHead(config).apply(head, x, tables["token"])
        return seen

    seen = jit(run)(params)
    scales = [path for path in leaves_by_path(params) if path.endswith("scale")]
    assert len(seen) == len(scales) == 4  # embeddings: 1, layer: 2, masked-token head: 1
    for given, output in seen:
        given = np.asarray(given, np.float64)
        centred = given - given.mean(-1, keepdims=True)
        expected = centred / np.sqrt(given.var(-1, keepdims=True) + 1.0)
        # Float32 rounding of numbers below 3. With epsilon 1e-12 the variance would be 1.
        np.testing.assert_allclose(output, expected, atol=2e-6)
        assert np.asarray(output).var() < 0.7


def reference_logits(params, batch, config):
    """BERT in NumPy and float64. Computes each sequence and each head separately."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    erf = np.vectorize(math.erf)

    def norm(x, q):
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt(x.var(-1, keepdims=True) + 1e-12) * q["scale"] + q["bias"]

    def dense(x, q):
        return x @ q["kernel"] + q["bias"]

    def gelu(x):
        return x * 0.5 * (1 + erf(x / np.sqrt(2)))

    token_logits, pair_logits = [], []
    for row in range(len(batch.token_ids)):
        count = int((batch.pack_ids[row] > 0).sum())  # padding is removed instead of masked
        ids, segments = batch.token_ids[row, :count], batch.segment_ids[row, :count]
        tables = p["bert"]["embeddings"]
        x = tables["token"][ids] + tables["segment"][segments] + tables["position"][:count]
        x = norm(x, tables["layer_norm"])
        for number in range(config.num_layers):
            q = jax.tree.map(lambda leaf, n=number: leaf[n], p["bert"]["layers"])
            attention, attended = q["attention"], q["attention"]["output"]["bias"]
            for head in range(config.num_heads):
                query, key, value = (
                    x @ attention[name]["kernel"][:, head] + attention[name]["bias"][head]
                    for name in ("query", "key", "value")
                )
                scores = np.exp(query @ key.T / np.sqrt(config.head_dim))
                context = scores / scores.sum(-1, keepdims=True) @ value
                attended = attended + context @ attention["output"]["kernel"][head]
            x = norm(x + attended, q["attention_layer_norm"])
            fed = dense(
                gelu(dense(x, q["feed_forward"]["intermediate"])), q["feed_forward"]["output"]
            )
            x = norm(x + fed, q["feed_forward_layer_norm"])
        head = p["masked_token_head"]
        picked = x[batch.mask_positions[row]]
        picked = norm(gelu(dense(picked, head["transform"])), head["layer_norm"])
        logits = picked @ tables["token"].T + head["bias"]
        token_logits.append(logits[:, : config.vocab_size])
        pooled = np.tanh(dense(x[0], p["bert"]["pooler"]["dense"]))
        pair_logits.append(dense(pooled, p["next_sentence_head"]["dense"])[None])
    return np.array(token_logits), np.array(pair_logits)


def random_like(params, seed=0):
    """Returns parameters of order 1: small initial values and zero biases could hide an error."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: (0.3 * rng.normal(size=leaf.shape)).astype(np.float32), params)


def test_logits_equal_those_of_a_plain_numpy_bert(params, apply):
    batch, wild = make_batch(), random_like(params)
    token_logits, pair_logits = reference_logits(wild, batch, CONFIG)
    output = apply(wild, batch)
    # Float32 rounding through two layers, for logits of order 1 to 5.
    np.testing.assert_allclose(output.token_logits[..., :300], token_logits, atol=2e-5)
    np.testing.assert_allclose(output.pair_logits, pair_logits, atol=2e-5)


# ---- Attention and padding ------------------------------------------------------------------


def dependence(params, token_ids, pack_ids, cls_positions):
    """Returns gradient norms of each output position, and of each [CLS], for each input position.

    All ids of the row differ, so each row of the token table stands for one input position.
    """
    assert len(set(token_ids)) == len(token_ids)
    rng = np.random.default_rng(1)
    directions = rng.normal(size=(len(token_ids) + len(cls_positions), 32))
    token_ids, pack_ids = np.array([token_ids]), np.array([pack_ids])

    def outputs(table):
        embeddings = params["bert"]["embeddings"] | {"token": table}
        output = Bert(CONFIG).apply(
            {"params": params["bert"] | {"embeddings": embeddings}},
            token_ids,
            np.zeros_like(token_ids),
            pack_ids,
            np.array([cls_positions]),
        )
        both = jnp.concatenate([output.sequence_output[0], output.pooled_output[0]])
        return (both * directions).sum(-1)

    jacobian = jit(jax.jacrev(outputs))(params["bert"]["embeddings"]["token"])
    norms = np.linalg.norm(np.asarray(jacobian)[:, token_ids[0]], axis=-1)
    return norms[: token_ids.size], norms[token_ids.size :]


def test_each_position_depends_on_every_token_and_on_no_padding(params):
    real = 9
    pack_ids = [1] * real + [0] * 3
    # Padding positions hold ids of real words: the mask depends on the position, not on the id.
    sequence, pooled = dependence(params, list(range(10, 22)), pack_ids, [0])
    # With initial weights of deviation 0.0176 the smallest gradient norm is above 1e-4. A masked
    # probability is exactly 0, and so is its gradient.
    assert np.all(sequence[:real, :real] > 1e-6)
    assert np.all(pooled[:, :real] > 1e-6)
    assert np.all(sequence[:real, real:] == 0)
    assert np.all(pooled[:, real:] == 0)


def test_packed_pairs_do_not_attend_to_each_other(params):
    pack_ids = [1] * 5 + [2] * 4 + [0] * 3
    sequence, pooled = dependence(params, list(range(10, 22)), pack_ids, [0, 5])
    first, second, padding = slice(0, 5), slice(5, 9), slice(9, 12)
    for own, other, of_pair in ((first, second, pooled[0]), (second, first, pooled[1])):
        assert np.all(sequence[own, own] > 1e-6)
        assert np.all(sequence[own, other] == 0)
        assert np.all(sequence[own, padding] == 0)
        assert np.all(of_pair[own] > 1e-6)
        assert np.all(of_pair[other] == 0)
        assert np.all(of_pair[padding] == 0)


def test_attention_mask_has_one_block_per_pair_and_no_padding_key():
    mask = np.asarray(attention_mask(np.array([[1, 1, 2, 0]])))[0, 0]
    np.testing.assert_array_equal(
        mask,
        [
            [True, True, False, False],
            [True, True, False, False],
            [False, False, True, False],
            [True, True, True, False],  # a padding query attends to the row, as in published BERT
        ],
    )


def test_longer_padding_changes_no_output(params, encode, apply):
    wild = random_like(params)
    short, long = make_batch(length=16), make_batch(length=32)
    first, second = encode(wild, short), encode(wild, long)
    for row, end in enumerate((11, 12)):
        # Sums over 32 keys instead of 16, in another order; the additional terms are exactly 0.
        np.testing.assert_allclose(
            first.sequence_output[row, :end], second.sequence_output[row, :end], atol=2e-6
        )
    np.testing.assert_allclose(first.pooled_output, second.pooled_output, atol=2e-6)
    for logits, same in zip(apply(wild, short), apply(wild, long), strict=True):
        np.testing.assert_allclose(logits, same, atol=1e-5)


def test_ids_and_segments_at_padding_change_no_output_bitwise(params, encode):
    batch = make_batch()
    padding = batch.pack_ids == 0
    other = batch._replace(
        token_ids=np.where(padding, 77, batch.token_ids),
        segment_ids=np.where(padding, 1, batch.segment_ids),
    )
    first, second = encode(params, batch), encode(params, other)
    np.testing.assert_array_equal(
        np.asarray(first.sequence_output)[~padding], np.asarray(second.sequence_output)[~padding]
    )
    np.testing.assert_array_equal(first.pooled_output, second.pooled_output)


def test_a_row_without_tokens_gives_finite_numbers(params, apply):
    """Empty rows that fill a batch have weight 0, but 0 x nan would be nan."""
    batch = make_batch()
    empty = batch._replace(pack_ids=np.zeros_like(batch.pack_ids))
    output = apply(params, empty)
    assert np.all(np.isfinite(output.token_logits[..., :300]))
    assert np.all(np.isfinite(output.pair_logits))


def test_labels_and_weights_do_not_change_the_logits(params, apply):
    batch = make_batch()
    other = batch._replace(
        mask_labels=(batch.mask_labels + 17) % 300,
        mask_weights=1 - batch.mask_weights,
        pair_labels=1 - batch.pair_labels,
        pair_weights=1 - batch.pair_weights,
    )
    for logits, same in zip(apply(params, batch), apply(params, other), strict=True):
        np.testing.assert_array_equal(logits, same)


# ---- Masked-token head ----------------------------------------------------------------------


def test_padding_rows_of_the_vocabulary_are_never_predicted_or_trained(params, apply):
    assert CONFIG.padded_vocab_size == 384
    first = np.asarray(params["bert"]["embeddings"]["token"])
    assert first.shape[0] == 384
    assert np.all(first[300:] == 0) and np.all(np.any(first[:300] != 0, axis=-1))
    head = params["masked_token_head"]
    tempting = np.where(np.arange(384) < 300, 0.0, 1e9).astype(np.float32)
    biased = params | {"masked_token_head": head | {"bias": tempting}}
    logits = apply(biased, make_batch()).token_logits
    assert np.all(logits[..., 300:] == -np.inf)
    assert np.all(np.isfinite(logits[..., :300]))
    assert np.all(np.argmax(logits, -1) < 300)

    def loss(params):
        batch = make_batch()
        logits = BertForPretraining(CONFIG).apply({"params": params}, batch).token_logits
        return cross_entropy(logits, batch.mask_labels).sum()

    gradients = jit(jax.grad(loss))(biased)
    table = np.asarray(gradients["bert"]["embeddings"]["token"])
    bias = np.asarray(gradients["masked_token_head"]["bias"])
    assert np.all(np.isfinite(table)) and np.all(np.isfinite(bias))
    assert np.all(table[300:] == 0) and np.all(bias[300:] == 0)
    assert np.all(np.any(table[:300] != 0, axis=-1)) and np.all(bias[:300] != 0)


@pytest.mark.parametrize(
    ("size", "multiple", "rows"),
    [(30522, 128, 30592), (128, 128, 128), (129, 128, 256), (1, 128, 128), (30522, 384, 30720)],
)
def test_the_token_table_has_a_multiple_of_vocab_multiple_rows(size, multiple, rows):
    assert BertConfig(vocab_size=size, vocab_multiple=multiple).padded_vocab_size == rows
    assert BertConfig().vocab_multiple == 128


def test_logits_are_products_with_the_token_table(params, apply):
    """A change of an absent word's row in the table changes this word's logits and no others."""
    batch = make_batch()
    word = 299
    assert word not in batch.token_ids
    embeddings = params["bert"]["embeddings"]
    table = np.array(embeddings["token"])
    table[word] += np.random.default_rng(0).normal(size=32)
    changed = params | {"bert": params["bert"] | {"embeddings": embeddings | {"token": table}}}
    before, after = apply(params, batch).token_logits, apply(changed, batch).token_logits
    assert np.all(np.abs(after - before)[..., word] > 1e-3)
    others = np.arange(300) != word
    np.testing.assert_array_equal(before[..., :300][..., others], after[..., :300][..., others])


# ---- Dropout and dtype ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rates", "sites"),
    [
        # After the embeddings, and in each layer after attention and the feed-forward block.
        ({"dropout": 0.1, "attention_dropout": 0.0}, 3),
        ({"dropout": 0.0, "attention_dropout": 0.1}, 1),
        ({"dropout": 0.1, "attention_dropout": 0.1}, 4),
        ({"dropout": 0.0, "attention_dropout": 0.0}, 0),
    ],
)
def test_dropout_acts_at_the_places_of_the_recipe_and_only_in_training(rates, sites, params):
    model = BertForPretraining(BertConfig(**TINY, **rates))

    def draws(train):
        def run(params, key):
            return model.apply({"params": params}, make_batch(), train=train, rngs={"dropout": key})

        # The layers are one body in a scan, so it is traced once.
        return str(jax.make_jaxpr(run)(params, jax.random.key(0))).count("random_bits[")

    assert draws(train=False) == 0
    assert draws(train=True) == sites


@pytest.mark.parametrize("rate", ["dropout", "attention_dropout"])
def test_each_dropout_alone_changes_the_output_and_depends_on_the_key(rate, params, apply):
    rates = {"dropout": 0.0, "attention_dropout": 0.0, rate: 0.5}
    model = BertForPretraining(BertConfig(**TINY, **rates))
    batch, wild = make_batch(), random_like(params)

    @jit
    def run(key):
        return model.apply({"params": wild}, batch, train=True, rngs={"dropout": key}).token_logits

    evaluated = np.asarray(apply(wild, batch).token_logits)[..., :300]
    first, again, other = (np.asarray(run(jax.random.key(seed)))[..., :300] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    # Half of the activations or probabilities are dropped, so differences exceed rounding.
    assert np.abs(first - evaluated).max() > 0.1
    assert np.abs(first - other).max() > 0.1


def test_each_layer_and_each_place_draws_its_own_dropout_mask(params):
    """The gradient of an output bias is exactly 0 at dropped places, so it shows the mask."""
    model = Bert(BertConfig(**TINY, dropout=0.5, attention_dropout=0.0))
    one_token = [np.ones((1, 1), np.int32)] * 3 + [np.zeros((1, 1), np.int32)]
    direction = np.random.default_rng(0).normal(size=32)

    def output(params, key):
        arguments = {"train": True, "rngs": {"dropout": key}}
        return model.apply({"params": params}, *one_token, **arguments).sequence_output @ direction

    gradients = jit(jax.grad(lambda *arguments: output(*arguments).sum()))
    layers = gradients(random_like(params)["bert"], jax.random.key(0))["layers"]
    biases = (layers["attention"]["output"]["bias"], layers["feed_forward"]["output"]["bias"])
    masks = [tuple(np.asarray(bias[layer]) != 0) for bias in biases for layer in range(2)]
    # Two independent masks of 32 places at rate 1/2 are equal with probability 2^-32.
    assert len(set(masks)) == 4
    # 64 of 128 places are kept on average. The bound is 5 deviations of 5.7.
    assert abs(np.sum(masks) - 64) < 29


def test_bfloat16_logits_equal_float32_logits_up_to_rounding(params, apply):
    batch, wild = make_batch(), random_like(params)
    config = BertConfig(**TINY, dtype="bfloat16")
    run = jit(lambda params: BertForPretraining(config).apply({"params": params}, batch))
    output, expected = run(wild), apply(wild, batch)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(init(config)))
    for found, reference in zip(output, expected, strict=True):
        assert found.dtype == jnp.float32
        real = np.isfinite(reference)
        rounded = found[real].astype(jnp.bfloat16)
        assert np.any(found[real] != rounded), "logits are rounded before the loss"
        np.testing.assert_array_equal(np.isfinite(found), real)
        difference = np.linalg.norm((found - reference)[real]) / np.linalg.norm(reference[real])
        # About 30 successive roundings of about 2^-9 with random signs: sqrt(30) x 2^-9 = 1%, so
        # 3% leaves room. The lower bound shows that the products are bfloat16.
        assert 1e-4 < difference < 0.03


def test_bfloat16_logits_of_a_task_are_not_rounded():
    model = BertForTask(BertConfig(**TINY, dtype="bfloat16"), TaskHeadConfig(**HEAD))
    variables = {"params": unboxed_params(model, 0, *example_ids())}
    ids = (np.arange(64, dtype=np.int32).reshape(8, 8), *(np.ones((8, 8), np.int32),) * 2)
    logits = np.asarray(jit(model.apply)(variables, *ids))
    assert logits.dtype == np.float32
    assert np.any(logits != logits.astype(jnp.bfloat16))


@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_scanned_layers_equal_unrolled_layers(params, rate):
    """Parameters and dropout keys are the same; only the compiled program differs."""
    outputs = []
    for scan_layers in (True, False):
        config = BertConfig(**TINY, dropout=rate, attention_dropout=rate, scan_layers=scan_layers)
        run = jit(partial(bert.apply, BertForPretraining(config)))
        outputs.append(run(params, make_batch(), dropout_rng=jax.random.key(1)))
    for scanned, unrolled in zip(*outputs, strict=True):
        # The same float32 operations, but XLA fuses them differently. Logits are below 1.
        np.testing.assert_allclose(scanned, unrolled, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("platform", "layers", "value", "loop"),
    [
        ("cpu", 12, None, False),
        ("tpu", 12, None, True),
        ("gpu", 8, None, False),
        ("cpu", 12, True, True),
        ("tpu", 12, False, False),
    ],
)
def test_layers_loop_on_accelerators_if_there_are_many(platform, layers, value, loop):
    config = BertConfig(num_layers=layers, scan_layers=value)
    assert config.layers_loop(platform) is loop


@pytest.mark.parametrize("scan_layers", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_rematerialized_layers_have_equal_gradients_and_store_less(params, scan_layers):
    batch, compiled, gradients = make_batch(), [], []
    for remat in ("none", "full"):
        rates = {"dropout": 0.1, "attention_dropout": 0.1}
        model = BertForPretraining(
            BertConfig(**TINY, **rates, scan_layers=scan_layers, remat=remat)
        )

        def loss(params, model=model):
            logits = bert.apply(model, params, batch, dropout_rng=jax.random.key(1))
            return jax.nn.logsumexp(logits.token_logits).sum() + logits.pair_logits.sum()

        compiled.append(jit(jax.grad(loss)).lower(params).compile())
        gradients.append(compiled[-1](params))
    for plain, again in zip(*map(jax.tree.leaves, gradients), strict=True):
        # The same float32 operations, but XLA fuses them differently.
        np.testing.assert_allclose(again, plain, rtol=1e-4, atol=1e-6)
    if scan_layers:  # XLA:CPU merges the repeated operations of unrolled layers with the first
        first, second = (one.memory_analysis().temp_size_in_bytes for one in compiled)
        assert second < 0.8 * first
