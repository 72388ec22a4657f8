"""Random weights of transformers' ModernBERT: outputs, gradients, and both directions.

The tolerances are those of BERT (test_real_weights.py).
"""

import json

import jax
import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    ModernBertConfig,
    ModernBertForMaskedLM,
)

from bert_jax import load_run
from bert_jax.data.batch import Batch
from bert_jax.data.tokenizers.train_wordpiece import train_wordpiece
from bert_jax.interop import modernbert
from bert_jax.interop.tensors import from_parameters
from bert_jax.interop.tokenizer_files import write_tokenizer
from bert_jax.models.config import ModernConfig
from bert_jax.runs.save import save_run
from bert_jax.training.initial import flatten_params
from bert_jax.training.losses import ObjectiveConfig
from bert_jax.training.step import pretraining_loss

ABSOLUTE = 2e-5  # of hidden states, probabilities and logits
IGNORED = -100
ROWS, LENGTH = 4, 48
MASKED = 6


@pytest.fixture(scope="module")
def tokenizer():
    counts = {word: 100 - n for n, word in enumerate("the of and to in that it is was for".split())}
    words = {"lower_case": True, "strip_accents": True, "max_word_length": 100}
    return train_wordpiece(counts, vocab_size=50, **words)


@pytest.fixture(scope="module")
def theirs(tokenizer, tmp_path_factory):
    """A random ModernBERT of 7 layers with a window of 8 tokens, as transformers saves it."""
    torch.manual_seed(0)
    config = ModernBertConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=64, intermediate_size=96, num_hidden_layers=7,
        num_attention_heads=4, local_attention=8, max_position_embeddings=64,
        pad_token_id=tokenizer.pad_id, cls_token_id=tokenizer.cls_id, sep_token_id=tokenizer.sep_id,
        initializer_range=0.2,
    )  # fmt: skip
    model = ModernBertForMaskedLM._from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():  # norms are 1 and the bias 0 in a new model
        for name, parameter in model.named_parameters():
            if "norm" in name or name == "decoder.bias":
                parameter.add_(0.3 * torch.randn_like(parameter))
    directory = tmp_path_factory.mktemp("modernbert")
    model.save_pretrained(directory)
    write_tokenizer(directory, tokenizer, max_positions=64)
    return model, directory


@pytest.fixture(scope="module")
def batch(tokenizer):
    rng = np.random.default_rng(0)
    ids = rng.integers(5, tokenizer.vocab_size, (ROWS, LENGTH))
    lengths = np.array([LENGTH, 40, 31, 17])
    real = np.arange(LENGTH) < lengths[:, None]
    positions = np.stack([np.sort(rng.choice(17, MASKED, replace=False)) for _ in lengths])
    pair = np.zeros((ROWS, 1), np.int32)
    return Batch(
        token_ids=np.where(real, ids, 0).astype(np.int32),
        segment_ids=np.zeros((ROWS, LENGTH), np.int32),
        pack_ids=real.astype(np.int32),
        mask_positions=positions.astype(np.int32),
        mask_labels=rng.integers(5, tokenizer.vocab_size, (ROWS, MASKED)).astype(np.int32),
        mask_weights=np.ones((ROWS, MASKED), np.float32),
        cls_positions=pair,
        pair_labels=pair,
        pair_weights=pair.astype(np.float32),
    )


def inputs_of(batch):
    labels = np.full((ROWS, LENGTH), IGNORED)
    np.put_along_axis(labels, batch.mask_positions, batch.mask_labels, axis=1)
    arrays = {"input_ids": batch.token_ids, "attention_mask": batch.pack_ids, "labels": labels}
    return {name: torch.tensor(np.asarray(array)).long() for name, array in arrays.items()}


def test_the_config_is_read(theirs):
    run = load_run(theirs[1])
    config = run.model.config
    assert type(config) is ModernConfig
    assert (config.num_layers, config.local_window, config.global_every) == (7, 8, 3)
    assert (config.global_theta, config.local_theta) == (160_000, 10_000)
    assert config.num_heads == 4 and config.feed_forward_size == 96
    assert not run.loading.missing


def test_all_layers_and_probabilities_agree(theirs, batch):
    model, directory = theirs
    run = load_run(directory)
    with torch.no_grad():
        inputs = inputs_of(batch)
        expected = model(**inputs, output_hidden_states=True, output_attentions=True)
    encoder = run.model.config.build()
    output = encoder.apply(
        {"params": run.params["bert"]}, batch.token_ids, batch.segment_ids, batch.pack_ids,
        batch.cls_positions, keep_hidden_states=True, keep_attentions=True,
    )  # fmt: skip
    real = np.asarray(batch.pack_ids) > 0
    states = [output.embedding_output, *output.hidden_states[:-1], output.sequence_output]
    assert len(states) == len(expected.hidden_states)
    for ours, other in zip(states, expected.hidden_states, strict=True):
        np.testing.assert_allclose(np.asarray(ours)[real], other.numpy()[real], 0, ABSOLUTE)
    for ours, other in zip(output.attentions, expected.attentions, strict=True):
        ours, other = np.asarray(ours).swapaxes(1, 2), other.numpy().swapaxes(1, 2)
        np.testing.assert_allclose(ours[real], other[real], 0, ABSOLUTE)


def test_logits_loss_and_every_gradient_agree(theirs, batch):
    model, directory = theirs
    run = load_run(directory)
    output = run.model.apply({"params": run.params}, batch)
    model.zero_grad()
    expected = model(**inputs_of(batch))
    logits = np.take_along_axis(
        expected.logits.detach().numpy(), np.asarray(batch.mask_positions)[..., None], axis=1
    )
    found = np.asarray(output.token_logits)[..., : logits.shape[-1]]
    np.testing.assert_allclose(found, logits, 0, ABSOLUTE)
    expected.loss.backward()
    objective = ObjectiveConfig(next_sentence=False)
    (loss, _), gradients = jax.value_and_grad(pretraining_loss, has_aux=True)(
        run.params, batch, model=run.model, objective=objective
    )
    assert float(loss) == pytest.approx(expected.loss.item(), rel=1e-5)
    arrays = {path: np.asarray(leaf) for path, leaf in flatten_params(gradients).items()}
    assert not arrays["bert/layers/attention_norm/scale"][0].any()  # the first has no effect
    config = run.model.config
    tensors = from_parameters(arrays, vocab_size=config.vocab_size, names=modernbert.NAMES)
    ours, others = modernbert.fuse(tensors), dict(model.named_parameters())
    assert ours.keys() == others.keys() and len(ours) == 3 + 6 * 7 - 1 + 4 - 1
    for name, parameter in others.items():
        other = parameter.grad.numpy()
        assert np.linalg.norm(ours[name] - other) < 1e-4 * np.linalg.norm(other), name


def test_to_our_format_and_back_is_bitwise(theirs, tmp_path, tokenizer):
    model, directory = theirs
    first, second = tmp_path / "ours", tmp_path / "theirs"
    for path in (first, second):
        path.mkdir()
    save_run(load_run(directory), first, to="bert_jax")
    save_run(load_run(first), second, to="huggingface")
    opened, loading = AutoModelForMaskedLM.from_pretrained(second, output_loading_info=True)
    assert isinstance(opened, ModernBertForMaskedLM) and not any(loading.values()), loading
    expected = model.state_dict()
    for name, tensor in opened.state_dict().items():
        assert tensor.numpy().tobytes() == expected[name].numpy().tobytes(), name
    for name in (*modernbert.FIELDS.values(), "layer_types", "rope_parameters", "norm_bias"):
        if name in model.config.to_dict():  # earlier releases had other names
            assert getattr(opened.config, name) == getattr(model.config, name), name
    rows = AutoTokenizer.from_pretrained(second)("the of and")
    expected = [tokenizer.cls_id, *tokenizer.encode("the of and"), tokenizer.sep_id]
    assert rows["input_ids"] == expected
    assert rows.keys() == {"input_ids", "attention_mask"}  # the model's inputs in every release


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"norm_bias": True}, "norm_bias is True; accepted: False"),
        ({"layer_types": ["full_attention"] * 6 + ["sliding_attention"]}, "layer_types is"),
        ({"hidden_activation": "relu"}, "hidden_activation is 'relu'"),
        ({"local_attention": 7.5}, "local_attention is 7.5; accepted: int"),
        ({"num_hidden_layers": 10**6, "layer_types": None}, "num_hidden_layers is 1000000"),
    ],
)
def test_another_variant_ends_in_one_line(theirs, tmp_path, change, said):
    for file in theirs[1].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    content = json.loads((tmp_path / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="config.json") as refused:
        load_run(tmp_path)
    assert said in str(refused.value)
