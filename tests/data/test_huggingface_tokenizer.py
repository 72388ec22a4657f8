"""A tokenizer.json runs through the tokenizers library, with the properties of the others."""

import json
import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from bert_jax.config import override
from bert_jax.data.config import DataConfig
from bert_jax.data.pipeline import evaluation_batches
from bert_jax.data.preparation.engines import Engine
from bert_jax.data.preparation.prepare import prepare_data
from bert_jax.data.tokenizers.base import SPECIAL_PIECES
from bert_jax.data.tokenizers.files import load_tokenizer, save_tokenizer
from bert_jax.data.tokenizers.huggingface import HuggingFace
from bert_jax.errors import ConfigError, DataError

TEXTS = ["the cat sat on the mat. hello, world! 12 covid19 thesis été", "the theses of the cats"]
ROBERTA = ["<pad>", "<unk>", "<s>", "</s>", "<mask>"]


def byte_level(**changes):
    library = tokenizers.Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    library.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=ROBERTA, initial_alphabet=alphabet, show_progress=False
    )
    library.train_from_iterator(TEXTS * 10, trainer)
    return json.loads(library.to_str()) | changes


def unigram():
    library = tokenizers.Tokenizer(models.Unigram())
    library.normalizer = normalizers.Lowercase()
    library.pre_tokenizer, library.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=40, special_tokens=[*SPECIAL_PIECES], unk_token="[UNK]", show_progress=False
    )
    library.train_from_iterator(TEXTS * 10, trainer)
    return json.loads(library.to_str())


def wordpiece():
    pieces = [*SPECIAL_PIECES, "the", "##s", "##is", "a", "."]
    library = tokenizers.Tokenizer(
        models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]")
    )
    library.pre_tokenizer, library.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
    return json.loads(library.to_str())


KINDS = {"bpe": byte_level, "unigram": unigram, "wordpiece": wordpiece}


@pytest.fixture(params=KINDS)
def tokenizer(request):
    return HuggingFace.from_content(KINDS[request.param]())


def pieces_of(tokenizer, text):
    return [tokenizer.pieces[i] for i in tokenizer.encode(text)]


def test_a_tokenizer_is_kept_whole(tokenizer, tmp_path):
    save_tokenizer(tokenizer, tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded == tokenizer and loaded.fingerprint() == tokenizer.fingerprint()
    assert pickle.loads(pickle.dumps(tokenizer)) == tokenizer
    assert len(pickle.dumps(tokenizer)) < 2 * len(tokenizer.description)
    assert [tokenizer.pieces[i] for i in tokenizer.special_ids.values()] == [*SPECIAL_PIECES]
    assert loaded.encode("The theses.") == tokenizer.encode("The theses.")


def test_special_pieces_in_the_text_are_text(tokenizer):
    names = [*SPECIAL_PIECES, *ROBERTA]
    special = {i for piece, i in tokenizer.special_ids.items() if piece != "[UNK]"}
    assert not special & set(tokenizer.encode(" ".join(names) + "".join(names)))
    assert tokenizer.decode([tokenizer.mask_id, tokenizer.cls_id]) == "[MASK] [CLS]"


def test_offsets_are_those_of_the_pieces(tokenizer):
    text = "the thesis  the."
    found = tokenizer.encode_with_offsets(text)
    assert found.ids == tokenizer.encode(text)
    spans = [text[start:end] for start, end in found.offsets]
    assert spans[0][:3] == "the" and not any(span[:1].isspace() for span in spans)
    assert "".join(spans) == text.replace(" ", "")
    assert tokenizer.encode("a\ud83d")  # half of a surrogate pair


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("bpe", ["the", "thesis", ",", "the", ".", "ca"]),
        ("unigram", ["the", "thesis", ",", "the", ".", "ca"]),
        ("wordpiece", ["the", "thesis", "the", ".", "a"]),
    ],
)
def test_words_are_groups_of_pieces(kind, words):
    tokenizer = HuggingFace.from_content(KINDS[kind]())
    text = {"wordpiece": "the thesis the . a"}.get(kind, "the thesis, the. ca")
    ids = tokenizer.encode(text)
    starts = [n for n, i in enumerate(ids) if tokenizer.word_starts[i]]
    offsets = tokenizer.encode_with_offsets(text).offsets
    ends = [*starts[1:], len(ids)]
    groups = [text[offsets[a][0] : offsets[b - 1][1]] for a, b in zip(starts, ends, strict=True)]
    assert groups == words
    assert tokenizer.word_starts[[*tokenizer.special_ids.values()]].all()


def test_the_pieces_of_a_character_of_several_bytes_start_no_word():
    tokenizer = HuggingFace.from_content(byte_level())
    ids = tokenizer.encode("a中")
    assert len(ids) == 5 and not tokenizer.word_starts[ids[-3:]].any()


def prepending():
    """The normalizer puts the space before a text, and the file has no pre-tokenizer."""
    content = unigram()
    del content["pre_tokenizer"]
    steps = [{"type": "Prepend", "prepend": "▁"}]
    steps.append({"type": "Replace", "pattern": {"String": " "}, "content": "▁"})
    return content | {"normalizer": {"type": "Sequence", "normalizers": steps}}


@pytest.mark.parametrize(("make", "space"), [(byte_level, "Ġ"), (unigram, "▁"), (prepending, "▁")])
def test_a_continuation_has_no_space(make, space):
    tokenizer = HuggingFace.from_content(make())
    assert pieces_of(tokenizer, "thesis")[0].startswith(space)
    after = [tokenizer.pieces[i] for i in tokenizer.encode_continuation("thesis")]
    assert not after[0].startswith(space) and "".join(after) == "thesis"
    assert tokenizer.encode_continuation(" the") == tokenizer.encode(" the")


def test_tokens_that_were_added_are_found_in_the_text():
    content = wordpiece()
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    content["added_tokens"].append({"id": 10, "content": "[E1]", **flags, "special": True})
    tokenizer = HuggingFace.from_content(content)
    assert pieces_of(tokenizer, "the [E1] a") == ["the", "[E1]", "a"]
    content["added_tokens"][-1]["id"] = 12
    with pytest.raises(DataError, match=r"added token '\[E1\]' has id 12; accepted: 10, the next"):
        HuggingFace.from_content(content)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c["model"].update(dropout=0.1), "model.dropout is 0.1; accepted: null"),
        (lambda c: c["model"].update(type="Bpe"), "a tokenizer.json cannot be read"),
        (lambda c: c["model"].pop("merges"), "a tokenizer.json cannot be read"),
        (lambda c: c["model"].update(vocab=5), "a tokenizer.json cannot be read"),
        (lambda c: c.pop("model"), "a tokenizer.json cannot be read"),
        (
            lambda c: (c["model"]["vocab"].pop("<mask>"), c["added_tokens"].pop()),
            r"lacks \[MASK\] or <mask>; accepted: a tokenizer that was trained with",
        ),
    ],
)
def test_a_file_that_cannot_be_followed_is_refused(change, says, tmp_path):
    content = byte_level()
    change(content)
    (tmp_path / "mine.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=says) as error:
        HuggingFace.from_file(tmp_path / "mine.json")
    assert "mine.json: " in str(error.value) and "\n" not in str(error.value)


def test_a_tokenizer_that_does_not_tell_words_can_mask_tokens_only():
    tokenizer = HuggingFace.from_content(byte_level(decoder=None))
    assert tokenizer.encode("the")
    with pytest.raises(DataError, match=r"do not tell where words start; accepted: data\.masking"):
        _ = tokenizer.word_starts


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"data.tokenizer": "bpe"}, "data.tokenizer is 'bpe'; accepted: wordpiece, sentencepiece"),
        ({"data.tokenizer": "file:"}, "data.tokenizer is 'file:'; accepted: wordpiece"),
        ({"data.tokenizer": "huggingface"}, "data.tokenizer is 'huggingface'; accepted"),
        ({"data.strip_accents": True}, "data.strip_accents is True with data.tokenizer 'file:a"),
        ({"data.max_word_length": 100}, "data.max_word_length is 100 with .*; accepted: 200"),
    ],
)
def test_settings_that_a_file_does_not_follow_are_refused(changes, says, experiment):
    with pytest.raises(ConfigError, match=says):
        override(experiment, {"data.tokenizer": "file:a.json"} | changes)


def test_data_are_prepared_and_whole_words_are_masked(data_config, tmp_path):
    (tmp_path / "mine.json").write_text(json.dumps(byte_level()))
    masking = replace(data_config.evaluation_masking, unit="word")
    config = replace(
        data_config,
        directory=str(tmp_path / "data"),
        tokenizer=f"file:{tmp_path}/mine.json",
        lower_case=False,
        evaluation_masking=masking,
    )
    tokenizer = HuggingFace.from_file(tmp_path / "mine.json")
    passport = prepare_data(config, tokenizer=tokenizer, engine=Engine())
    assert passport["tokenizer_fingerprint"] == load_tokenizer(config.directory).fingerprint()
    batch = next(iter(evaluation_batches(config, batch_size=4)))
    labels = batch.mask_labels[batch.mask_weights > 0]
    assert len(labels) and not np.isin(labels, list(tokenizer.special_ids.values())).any()
    with pytest.raises(DataError, match="data.lower_case False, not True"):
        prepare_data(replace(config, lower_case=True), tokenizer=tokenizer, engine=Engine())


def test_the_workers_of_prepare_import_no_jax():
    code = (
        "import sys, bert_jax.data.tokenizers.huggingface as h\n"
        "assert 'tokenizers' not in sys.modules\n"
        "import tokenizers\nassert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert DataConfig.tokenizer == "wordpiece"
