"""Every layout that transformers saves opens. Missing or extra tensors are reported or refused."""

import re

import numpy as np
import pytest
from layouts import CONFIG, LAYOUTS, PIECES, random_tensors, write_directory

from bert_jax.errors import CheckpointError
from bert_jax.interop.huggingface import write_huggingface
from bert_jax.interop.names import NAMES
from bert_jax.interop.tensor_files import read_safetensors
from bert_jax.runs.load import load_run
from bert_jax.training.initial import flatten_params

LACKING = {
    "BertForPreTraining": (),
    "BertForMaskedLM": ("bert/pooler", "next_sentence_head"),
    "BertModel": ("masked_token_head", "next_sentence_head"),
    "BertForSequenceClassification": ("masked_token_head", "next_sentence_head"),
    "BertForTokenClassification": ("bert/pooler", "masked_token_head", "next_sentence_head"),
    "BertForQuestionAnswering": ("bert/pooler", "masked_token_head", "next_sentence_head"),
}
SIZE, HEADS, HEAD_DIM = CONFIG["hidden_size"], CONFIG["num_attention_heads"], 3


def with_prefix(tensors):
    return {name if "." in name[:5] else f"bert.{name}": t for name, t in tensors.items()}


def check_encoder(params, tensors):
    """Compares the encoder's parameters with the tensors; each transposition is written out."""
    bert = params["bert"]
    table = np.asarray(bert["embeddings"]["token"])
    assert table.shape == (128, SIZE) and not table[13:].any()
    np.testing.assert_array_equal(table[:13], tensors["bert.embeddings.word_embeddings.weight"])
    positions = tensors["bert.embeddings.position_embeddings.weight"]
    np.testing.assert_array_equal(bert["embeddings"]["position"], positions)
    for i in range(2):
        where = f"bert.encoder.layer.{i}"
        for name in ("query", "key", "value"):
            ours = bert["layers"]["attention"][name]
            weight = tensors[f"{where}.attention.self.{name}.weight"]  # [outputs, inputs]
            for head in range(HEADS):
                rows = slice(head * HEAD_DIM, (head + 1) * HEAD_DIM)
                np.testing.assert_array_equal(ours["kernel"][i][:, head], weight[rows].T)
                bias = tensors[f"{where}.attention.self.{name}.bias"][rows]
                np.testing.assert_array_equal(ours["bias"][i][head], bias)
        ours = bert["layers"]["attention"]["output"]["kernel"][i]
        weight = tensors[f"{where}.attention.output.dense.weight"]
        for head in range(HEADS):
            columns = slice(head * HEAD_DIM, (head + 1) * HEAD_DIM)
            np.testing.assert_array_equal(ours[head], weight[:, columns].T)
        for ours, theirs in (("intermediate", "intermediate"), ("output", "output")):
            kernel = bert["layers"]["feed_forward"][ours]["kernel"][i]
            np.testing.assert_array_equal(kernel, tensors[f"{where}.{theirs}.dense.weight"].T)
        for ours, theirs in (
            ("attention_layer_norm", "attention.output"),
            ("feed_forward_layer_norm", "output"),
        ):
            norm = bert["layers"][ours]
            weight = tensors[f"{where}.{theirs}.LayerNorm.weight"]
            np.testing.assert_array_equal(norm["scale"][i], weight)
            bias = tensors[f"{where}.{theirs}.LayerNorm.bias"]
            np.testing.assert_array_equal(norm["bias"][i], bias)


@pytest.mark.parametrize("kind", ["saved", "state_dict"])
@pytest.mark.parametrize("name", LACKING)
def test_a_layout_opens_if_its_missing_parts_are_allowed(name, kind, tmp_path):
    tensors = random_tensors(LAYOUTS[name], kind)
    directory = write_directory(tmp_path / "hf", tensors)
    lacking = LACKING[name]
    if lacking:
        with pytest.raises(CheckpointError) as error:
            load_run(directory)
        said = re.findall(r"accepted: allow (\S+), which", str(error.value))
        assert said == list(lacking) and "\n" not in str(error.value)
    run = load_run(directory, allow=lacking)
    check_encoder(run.params, with_prefix(tensors))
    missing = {line.split()[0] for line in run.loading.missing}
    assert missing == {n.path for n in NAMES if lacking and n.path.startswith(lacking)}
    # The report names each tensor once; tied tensors and heads of tasks are listed as unexpected.
    lines = run.loading.used + run.loading.reshaped + run.loading.unexpected
    assert sorted(line.split()[0].rstrip(":") for line in lines) == sorted(tensors)
    extra = [n for n in tensors if re.search("decoder|classifier|qa_outputs", n)]
    assert sorted(line.split()[0].rstrip(":") for line in run.loading.unexpected) == sorted(extra)
    assert str(run.loading) in run.report()


def test_allowing_one_part_does_not_allow_another(tmp_path):
    tensors = random_tensors(LAYOUTS["BertModel"])
    directory = write_directory(tmp_path / "hf", tensors)
    with pytest.raises(CheckpointError, match="allow next_sentence_head"):
        load_run(directory, allow=["masked_token_head"])


def test_missing_heads_are_initialized_as_in_training(tmp_path):
    tensors = random_tensors(LAYOUTS["BertModel"])
    directory = write_directory(tmp_path / "hf", tensors)
    heads = ("masked_token_head", "next_sentence_head")
    first, second = (load_run(directory, allow=heads).params for _ in range(2))
    kernel = np.asarray(first["masked_token_head"]["transform"]["kernel"])
    assert 0 < np.abs(kernel).max() <= 0.04  # truncated at two deviations of 0.02
    np.testing.assert_array_equal(kernel, second["masked_token_head"]["transform"]["kernel"])
    assert not np.asarray(first["masked_token_head"]["bias"]).any()


def test_older_tensor_names_and_bare_encoders_are_read(pretraining, tmp_path):
    older = {
        re.sub(r"LayerNorm\.weight$", "LayerNorm.gamma", re.sub("Norm.bias$", "Norm.beta", name)): t
        for name, t in pretraining.items()
    }
    assert older.keys() != pretraining.keys()
    older["bert.embeddings.position_ids"] = np.arange(9)[None]
    bare = {name.removeprefix("bert."): tensor for name, tensor in older.items()}
    for i, tensors in enumerate((older, bare)):
        run = load_run(write_directory(tmp_path / str(i), tensors))
        check_encoder(run.params, pretraining)
        assert len(run.loading.unexpected) == 1 and "buffer" in run.loading.unexpected[0]


def test_float64_and_the_prefixes_of_wrappers_are_read(pretraining, tmp_path):
    wide = {name: tensor.astype(np.float64) for name, tensor in pretraining.items()}
    wide["cls.chain.weight"] = np.zeros(3)
    for prefix in ("module.", "model.", "module.model.", "_orig_mod."):
        tensors = {f"{prefix}{name}": tensor for name, tensor in wide.items()}
        directory = write_directory(tmp_path / prefix, tensors)
        run = load_run(directory, allow=[f"{prefix}cls.chain"])
        check_encoder(run.params, pretraining)
        assert not run.loading.used and "float64[2]" in run.loading.reshaped[-1]


def test_a_lone_decoder_bias_is_read_as_the_output_bias(pretraining, tmp_path):
    bias = pretraining.pop("cls.predictions.bias")
    pretraining["cls.predictions.decoder.bias"] = bias
    run = load_run(write_directory(tmp_path / "hf", pretraining))
    np.testing.assert_array_equal(run.params["masked_token_head"]["bias"][:13], bias)


def test_reading_and_writing_huggingface_is_bitwise(pretraining, tmp_path):
    special = pretraining["bert.embeddings.word_embeddings.weight"]
    special.view(np.uint32)[0, :3] = [0x80000000, 1, 0x7F7FFFFF]  # -0, the least and the largest
    run = load_run(write_directory(tmp_path / "hf", pretraining))
    (tmp_path / "back").mkdir()
    write_huggingface(
        tmp_path / "back",
        {path: np.asarray(leaf) for path, leaf in flatten_params(run.params).items()},
        config=run.model.config,
        tokenizer=run.tokenizer,
    )
    back = read_safetensors(tmp_path / "back" / "model.safetensors")
    assert back.keys() == pretraining.keys()
    for name, tensor in pretraining.items():
        assert back[name].dtype == tensor.dtype and back[name].shape == tensor.shape
        assert back[name].tobytes() == tensor.tobytes(), name
    again = load_run(tmp_path / "back")
    assert again.model.config == run.model.config
    assert again.tokenizer.to_json() == run.tokenizer.to_json()


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("bert.pooler.dense.bias", None, "missing bert.pooler.dense.bias"),
        ("cls.seq_relationship.bias", None, "missing cls.seq_relationship.bias"),
        ("bert.encoder.layer.1.output.dense.bias", None, "missing bert.encoder.layer.1.output"),
        ("bert.extra.weight", lambda _: np.zeros(3), "unexpected bert.extra.weight"),
        (
            "bert.encoder.layer.2.output.dense.bias",
            lambda _: np.zeros(6, np.float32),
            "unexpected bert.encoder.layer.2.output.dense.bias",
        ),
        (
            "bert.encoder.layer.0.intermediate.dense.weight",
            lambda tensor: tensor.T.copy(),
            r"intermediate.dense.weight is \[6, 10\], not \[10, 6\]",
        ),
        (
            "bert.embeddings.word_embeddings.weight",
            lambda tensor: tensor[:12],
            r"word_embeddings.weight is \[12, 6\], not \[13, 6\]",
        ),
        ("cls.predictions.bias", lambda tensor: tensor.astype(int), "is int64, not float32"),
        ("cls.predictions.bias", lambda t: t * np.nan, "predictions.bias holds a NaN or an inf"),
        ("bert.pooler.dense.bias", lambda t: t + np.inf, "pooler.dense.bias holds a NaN or"),
        ("bert.pooler.dense.bias", lambda t: np.full(6, 1e39), "pooler.dense.bias holds a NaN or"),
        (
            "cls.predictions.decoder.weight",
            lambda _: np.ones((13, 6), np.float32),
            "decoder.weight differs from bert.embeddings.word_embeddings.weight",
        ),
        ("embeddings.word_embeddings.weight", lambda _: np.zeros((13, 6)), "two names of one"),
    ],
)
def test_an_inconsistent_tensor_is_refused_by_name(name, change, says, pretraining, tmp_path):
    """Refused even if `allow` names every part, because a head may not be missing by half."""
    before = pretraining.pop(name, None)
    if change:
        pretraining[name] = np.ascontiguousarray(change(before))
    directory = write_directory(tmp_path / "hf", pretraining)
    with pytest.raises(CheckpointError, match=says) as error:
        load_run(directory, allow=("bert/pooler", "masked_token_head", "next_sentence_head"))
    assert "\n" not in str(error.value) and str(directory) in str(error.value)


@pytest.mark.parametrize("allow", ["cls.chain.0.weight", "cls.chain.0", "cls.chain"])
def test_an_unexpected_tensor_is_left_out_if_allow_names_it(allow, pretraining, tmp_path):
    pretraining["cls.chain.0.weight"] = np.zeros(3)
    directory = write_directory(tmp_path / "hf", pretraining)
    run = load_run(directory, allow=[allow])
    assert run.loading.unexpected == ["cls.chain.0.weight float64[3]: allowed"]
    with pytest.raises(
        CheckpointError, match=f"allow has {allow}x; accepted.*unexpected cls.chain"
    ):
        load_run(directory, allow=[f"{allow}x"])


def test_a_safetensors_file_that_is_cut_short_is_refused(pretraining, tmp_path):
    directory = write_directory(tmp_path / "hf", pretraining)
    file = directory / "model.safetensors"
    content = file.read_bytes()
    for length in (*range(0, len(content), 97), len(content) - 1):
        file.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match="model.safetensors cannot be read"):
            load_run(directory)


def test_every_parameter_has_one_name_in_each_convention(pretraining, tmp_path):
    run = load_run(write_directory(tmp_path / "hf", pretraining))
    assert sorted(name.path for name in NAMES) == sorted(flatten_params(run.params))
    for field in ("path", "huggingface", "google"):
        assert len({getattr(name, field) for name in NAMES}) == len(NAMES)
    assert len(PIECES) == run.model.config.vocab_size
