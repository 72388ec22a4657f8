"""A checkpoint of TensorFlow opens without TensorFlow and gives TensorFlow's outputs."""

import json
import shutil

import jax
import numpy as np
import pytest
from layouts import GOLDENS

from bert_jax.data.batch import Batch
from bert_jax.errors import CheckpointError, DataError
from bert_jax.interop import tensorflow
from bert_jax.interop.tensorflow import read_bundle
from bert_jax.runs.load import load_run

GOLDEN = GOLDENS / "tf1"


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(GOLDEN, tmp_path / "tf1")


@pytest.fixture(scope="module")
def run():
    return load_run(GOLDEN / "bert_model.ckpt")


@pytest.fixture(scope="module")
def expected():
    return dict(np.load(GOLDEN / "expected.npz"))


def test_outputs_equal_those_of_tensorflow(run, expected):
    ids = expected["token_ids"]
    batch_size, length = ids.shape
    first = np.zeros((batch_size, 1), np.int32)
    batch = Batch(
        token_ids=ids,
        segment_ids=expected["segment_ids"],
        pack_ids=expected["input_mask"],
        mask_positions=np.tile(np.arange(length, dtype=np.int32), (batch_size, 1)),
        mask_labels=ids,
        mask_weights=np.ones(ids.shape, np.float32),
        cls_positions=first,
        pair_labels=first,
        pair_weights=np.ones(first.shape, np.float32),
    )
    with jax.default_matmul_precision("float32"):
        output, state = run.model.apply({"params": run.params}, batch, capture_intermediates=True)
    (encoded,) = state["intermediates"]["bert"]["__call__"]
    found = {
        "sequence_output": encoded.sequence_output,
        "pooled_output": encoded.pooled_output[:, 0],
        "token_logits": output.token_logits[..., : run.tokenizer.vocab_size],
        "pair_logits": output.pair_logits[:, 0],
    }
    assert found.keys() | {"token_ids", "segment_ids", "input_mask"} == expected.keys()
    for name, value in found.items():
        # Float32 sums in another order: the measured difference is 2e-6, for values up to 5.
        np.testing.assert_allclose(value, expected[name], rtol=0, atol=2e-5, err_msg=name)


def test_all_variables_but_those_of_the_optimizer_are_used(run):
    left = {line.split()[0]: line.split(": ")[1] for line in run.loading.unexpected}
    assert left == {
        "bert/embeddings/word_embeddings/adam_m": "a moment of the optimizer",
        "bert/embeddings/word_embeddings/adam_v": "a moment of the optimizer",
        "bert/pooler/dense/bias/adam_m": "a moment of the optimizer",
        "bert/pooler/dense/bias/adam_v": "a moment of the optimizer",
        "global_step": "the step of the optimizer",
    }
    assert not run.loading.missing
    variables = len(read_bundle(GOLDEN / "bert_model.ckpt"))
    assert len(run.loading.used) + len(run.loading.reshaped) + len(left) == variables


def test_the_tokenizer_has_googles_settings(run):
    assert run.tokenizer.lower_case and run.tokenizer.max_word_length == 200
    assert run.tokenizer.pieces[5] == "the"


def test_the_path_of_the_index_file_opens_the_checkpoint(run):
    other = load_run(GOLDEN / "bert_model.ckpt.index")
    for one, two in zip(jax.tree.leaves(run.params), jax.tree.leaves(other.params), strict=True):
        np.testing.assert_array_equal(one, two)


FILES = ("bert_model.ckpt.index", "bert_model.ckpt.data-00000-of-00001")


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_refused_at_any_length(name, copy):
    content = (copy / name).read_bytes()
    for length in (*range(0, len(content), len(content) // 60), len(content) - 1):
        (copy / name).write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=name.split("-")[0]) as error:
            read_bundle(copy / "bert_model.ckpt")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_is_refused_unless_the_byte_is_unused(name, copy):
    content = (copy / name).read_bytes()
    true = read_bundle(GOLDEN / "bert_model.ckpt")
    places = range(0, len(content), len(content) // 60)
    refused = 0
    for i in places:
        (copy / name).write_bytes(content[:i] + bytes([content[i] ^ 4]) + content[i + 1 :])
        try:
            found = read_bundle(copy / "bert_model.ckpt")
        except CheckpointError as error:
            assert name.split("-")[0] in str(error) and "\n" not in str(error)
            refused += 1
        else:  # the byte is unused: padding of the footer, or the index's empty metadata table
            assert {key: t.tobytes() for key, t in found.items()} == {
                key: t.tobytes() for key, t in true.items()
            }
    assert refused >= 0.9 * len(places)


@pytest.mark.parametrize(
    "name", ["bert_model.ckpt.data-00000-of-00001", "bert_config.json", "vocab.txt"]
)
def test_the_error_names_a_missing_file(name, copy):
    (copy / name).unlink()
    with pytest.raises((CheckpointError, DataError), match=name):
        load_run(copy / "bert_model.ckpt")


def test_a_checkpoint_whose_sizes_differ_from_its_config_is_refused(copy):
    config = json.loads((copy / "bert_config.json").read_text())
    (copy / "bert_config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    with pytest.raises(CheckpointError, match="unexpected bert/encoder/layer_1/"):
        load_run(copy / "bert_model.ckpt")
    (copy / "bert_config.json").write_text(json.dumps(config | {"max_position_embeddings": 13}))
    with pytest.raises(CheckpointError, match=r"position_embeddings is \[12, 16\], not \[13, 16\]"):
        load_run(copy / "bert_model.ckpt")


def test_a_model_that_is_larger_than_its_weights_is_refused(copy):
    """A config can describe a model of any size, so memory is taken only for sizes of tensors."""
    config = json.loads((copy / "bert_config.json").read_text())
    for name in ("hidden_size", "num_hidden_layers", "vocab_size", "max_position_embeddings"):
        large = config | {name: 2**30, "num_attention_heads": 1}
        (copy / "bert_config.json").write_text(json.dumps(large))
        with pytest.raises(CheckpointError, match=f"{name} is 1073741824; accepted: at most"):
            load_run(copy / "bert_model.ckpt")


@pytest.mark.parametrize(
    ("blocks", "said"),
    [
        ([[(b"a", b"")], [(b"a", b"")]], "its keys are not sorted"),
        ([[(b"b", b""), (b"a", b"")]], "its keys are not sorted"),
        ([[(b"a" * 513, b"")]], "a name has more than 512 bytes"),
    ],
)
def test_a_table_that_would_be_read_again_and_again_is_refused(blocks, said):
    def varint(number):
        groups = [number >> shift & 127 for shift in range(0, max(number.bit_length(), 1), 7)]
        return bytes([*(group | 128 for group in groups[:-1]), groups[-1]])

    def block(entries):
        pairs = b"".join(
            b"\0" + varint(len(key)) + varint(len(value)) + key + value for key, value in entries
        )
        body = pairs + bytes(4) + b"\1\0\0\0" + b"\0"
        return body + tensorflow._masked_checksum(body).to_bytes(4, "little")

    content, handles = b"", []
    for entries in blocks:
        handle = varint(len(content)) + varint(len(block(entries)) - 5)
        handles.append((b"key", handle))
        content += block(entries)
    index = varint(len(content)) + varint(len(block(handles)) - 5)
    content += block(handles)
    magic = tensorflow.TABLE_MAGIC_NUMBER.to_bytes(8, "little")
    content += (b"\0\0" + index).ljust(40, b"\0") + magic
    with pytest.raises(ValueError, match=said):
        list(tensorflow._read_table(content))
