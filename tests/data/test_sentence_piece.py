"""SentencePiece: special ids, decoding, offsets, word starts, files and accepted models."""

import base64
import io
import json
import pickle
import unicodedata
from itertools import chain, pairwise

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from bert_jax.data.config import MaskingConfig
from bert_jax.data.masking import BatchForm, masked_batch
from bert_jax.data.pairs import Pair
from bert_jax.data.sentences import split_sentences
from bert_jax.data.sources.corpora import read_documents
from bert_jax.data.tokenizers.files import load_tokenizer, save_tokenizer, tokenizer_from_json
from bert_jax.data.tokenizers.sentencepiece import SPACE, SentencePiece
from bert_jax.data.tokenizers.train_sentencepiece import count_pretokens, train_sentencepiece
from bert_jax.data.tokenizers.wordpiece import SPECIAL_PIECES
from bert_jax.errors import DataError

SPELLED = [
    *SPECIAL_PIECES,
    "<pad>",
    "<unk>",
    "▁",
    "▁▁a",
    "\ud800",
    "\udfff",
    "\x00",
    "\ufffd",
    "½…",
]
TEXT = st.lists(st.one_of(st.text(st.characters(), max_size=9), st.sampled_from(SPELLED))).map(
    "".join
)


@pytest.fixture(scope="module")
def sentences():
    texts = [document.text for document in read_documents("embedded:sotu")][::12]
    return list(chain.from_iterable(map(split_sentences, texts)))


@pytest.fixture(scope="module", params=[True, False], ids=["uncased", "cased"])
def tokenizer(request, sentences):
    counts = count_pretokens(sentences, lower_case=request.param)
    trained = train_sentencepiece(counts, vocab_size=1500, lower_case=request.param)
    assert trained.lower_case == request.param
    return trained


def train_model(text="lower lowest newer wide widest LOW [MASK]", **options):
    """Trains a model on a few words and returns its bytes."""
    model = io.BytesIO()
    settings = {"vocab_size": 40, "pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1}
    settings |= {"control_symbols": ["[CLS]", "[SEP]", "[MASK]"], "hard_vocab_limit": False}
    settings |= {"minloglevel": 2, "num_threads": 1, "model_writer": model}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([text] * 50), **settings | options
    )
    return model.getvalue()


def is_special(tokenizer, i):
    ids = (tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id)
    return i in ids


def test_special_pieces_come_first_and_vocab_size_is_exact(tokenizer):
    assert tokenizer.pieces[:5] == SPECIAL_PIECES
    assert tokenizer.vocab_size == len(tokenizer.pieces) == len(set(tokenizer.pieces)) == 1500
    ids = ("pad_id", "unk_id", "cls_id", "sep_id", "mask_id")
    assert [getattr(tokenizer, name) for name in ids] == [0, 1, 2, 3, 4]


@given(text=TEXT)
@settings(max_examples=500, deadline=None)
def test_any_text_is_encoded_without_special_ids(tokenizer, text):
    ids, offsets = tokenizer.encode_with_offsets(text)
    assert ids == tokenizer.encode(text)
    assert all(0 <= i < tokenizer.vocab_size and not is_special(tokenizer, i) for i in ids)
    assert len(ids) == len(offsets)
    assert all(0 <= start <= end <= len(text) for start, end in offsets)
    assert all(before[0] <= after[0] for before, after in pairwise(offsets))
    assert isinstance(tokenizer.decode(ids), str)
    assert not any(is_special(tokenizer, i) for i in tokenizer.encode_continuation(text))


def test_decoding_returns_the_normalized_text(tokenizer, sentences):
    """Sentences with unknown characters are left out; there are almost none."""
    known = [s for s in sentences if tokenizer.unk_id not in tokenizer.encode(s)]
    assert len(known) > 0.99 * len(sentences)
    for sentence in known:
        text = unicodedata.normalize("NFKC", sentence)
        text = text.casefold() if tokenizer.lower_case else text
        assert tokenizer.decode(tokenizer.encode(sentence)).split() == text.split()


def test_offsets_delimit_the_pieces_in_the_text(tokenizer, sentences):
    """`text[start:end]`, after the same normalization, is the piece."""
    count = 0
    for sentence in sentences[::5]:
        ids, offsets = tokenizer.encode_with_offsets(sentence)
        for i, (start, end) in zip(ids, offsets, strict=True):
            if i != tokenizer.unk_id:
                part = unicodedata.normalize("NFKC", sentence[start:end])
                part = part.casefold() if tokenizer.lower_case else part
                assert part == tokenizer.pieces[i].removeprefix(SPACE), (sentence, start, end)
                count += 1
    assert count > 10_000


def test_offsets_count_characters_of_the_original_text(tokenizer):
    def located(text):
        ids, offsets = tokenizer.encode_with_offsets(text)
        return [
            (tokenizer.pieces[i], text[start:end])
            for i, (start, end) in zip(ids, offsets, strict=True)
        ]

    assert located("  of \u3000the…") == [
        ("▁of", "of"),
        ("▁the", "the"),
        *[(".", "…")] * 3,  # normalized to three full stops
    ]
    assert located("of 東 ﬂow")[-1][1].endswith("w")
    assert ("[UNK]", "東") in located("of 東 of") and located("of 東 of")[-1] == ("▁of", "of")
    assert [piece for piece, _ in located("of\ud800of")] == ["▁of", "▁of"]


def test_decoding_keeps_special_pieces(tokenizer):
    ids = [tokenizer.cls_id, *tokenizer.encode("of the"), tokenizer.mask_id, tokenizer.sep_id]
    assert tokenizer.decode(ids) == "[CLS] of the [MASK] [SEP]"
    assert tokenizer.decode(np.array(ids)) == "[CLS] of the [MASK] [SEP]"
    assert tokenizer.decode([]) == ""


def test_a_continuation_has_no_space_in_front(tokenizer):
    def pieces(ids):
        return [tokenizer.pieces[i] for i in ids]

    assert pieces(tokenizer.encode_continuation(" of")) == ["▁of"]
    assert pieces(tokenizer.encode_continuation(", of")) == [",", "▁of"]
    assert pieces(tokenizer.encode_continuation("ing")) == ["ing"]
    assert tokenizer.encode_continuation("") == tokenizer.encode_continuation("  ") == []


def test_words_start_at_spaces_punctuation_and_ideographs(tokenizer):
    starts = dict(zip(tokenizer.pieces, tokenizer.word_starts.tolist(), strict=True))
    assert all(starts[piece] for piece in (*SPECIAL_PIECES, "▁the", "▁", ",", ".", "'"))
    assert not any(starts[piece] for piece in ("ing", "ed", "s", "1"))
    assert not tokenizer.word_starts.flags.writeable
    for document in ("It was: the people's (own).", "Of 1,000 of them"):
        ids = tokenizer.encode(document)
        assert tokenizer.word_starts[ids[0]]


@pytest.mark.parametrize("text", ["明月光，疑是。", "はい。そうです", "ภาษาไทย"])
def test_each_piece_of_a_script_without_spaces_is_a_word(text):
    tokenizer = SentencePiece(model=train_model(text))
    starts = dict(zip(tokenizer.pieces, tokenizer.word_starts.tolist(), strict=True))
    assert all(starts.values()) and len(starts) > 10


@pytest.mark.parametrize("unit", ["word", "span"])
def test_no_word_is_partly_masked(tokenizer, sentences, unit):
    encoded = [ids for s in sentences[:3000] if 4 <= len(ids := tokenizer.encode(s)) <= 30]
    pairs = [Pair(a, b, 0) for a, b in zip(encoded[::2], encoded[1::2], strict=False)]
    config = MaskingConfig(unit=unit, max_predictions=20, split=(1.0, 0.0, 0.0))
    batch = masked_batch(
        [[pair] for pair in pairs],
        form=BatchForm(batch_size=len(pairs), sequence_length=64, tokenizer=tokenizer),
        addresses=[(0, index) for index in range(len(pairs))],
        seed=0,
        config=config,
    )
    whole = several = 0
    for row, pair in enumerate(pairs):
        masked = set(batch.mask_positions[row][batch.mask_weights[row] > 0].tolist())
        for first, text in ((1, pair.a), (len(pair.a) + 2, pair.b)):
            bounds = [i for i in range(len(text)) if i == 0 or tokenizer.word_starts[text[i]]]
            for start, end in pairwise([*bounds, len(text)]):
                hit = masked & set(range(first + start, first + end))
                assert len(hit) in (0, end - start), "a word is masked whole or not at all"
                whole += bool(hit)
                several += end - start > 1 and bool(hit)
    assert whole > 3 * len(pairs) and several > 50


# ---- Files and descriptions ----------------------------------------------------------------------


def test_saving_and_pickling_preserve_the_tokenizer(tokenizer, tmp_path, sentences):
    save_tokenizer(tokenizer, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["spiece.model", "tokenizer.json"]
    loaded = load_tokenizer(tmp_path)
    assert loaded == tokenizer == SentencePiece.from_model_file(tmp_path / "spiece.model")
    tokenizer.encode("warm")
    unpickled = pickle.loads(pickle.dumps(tokenizer))
    assert unpickled == tokenizer and hash(unpickled) == hash(tokenizer)
    assert loaded.fingerprint() == unpickled.fingerprint() == tokenizer.fingerprint()
    for sentence in sentences[:50]:
        assert loaded.encode(sentence) == unpickled.encode(sentence) == tokenizer.encode(sentence)
    assert json.loads((tmp_path / "tokenizer.json").read_text())["lower_case"] == loaded.lower_case


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "format_version is 2; accepted: 1"),
        ({"lower_case": None}, "lower_case is None; accepted: its model's, (True|False)"),
        ({"model": "!"}, "model is not base64"),
        ({"model": 7}, "model is not base64"),
        ({"model": ""}, "a model of 0 bytes cannot be read"),
        ({"model": base64.b64encode(b"no model").decode()}, "a model of 8 bytes cannot be read"),
        ({"pieces": []}, r"pieces is \[\]; accepted: its model's, None"),
    ],
)
def test_malformed_description_is_refused(tokenizer, change, message):
    with pytest.raises(DataError, match=message) as error:
        tokenizer_from_json(tokenizer.to_json() | change)
    assert "\n" not in str(error.value)


def test_the_error_names_a_file_that_is_not_a_model(tmp_path):
    with pytest.raises(DataError, match=r"none\.model cannot be read \(No such file"):
        SentencePiece.from_model_file(tmp_path / "none.model")
    path = tmp_path / "vocab.txt"
    for content in (b"", b"[PAD]\n[UNK]\n", train_model()[:-7]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"vocab\.txt: a model of \d+ bytes cannot be read"):
            SentencePiece.from_model_file(path)


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
@pytest.mark.parametrize(
    "symbols", [("[CLS]", "[SEP]", "[MASK]"), ("<s>", "<cls>", "<sep>", "</s>", "<mask>")]
)
def test_special_pieces_of_published_models_are_found_by_name(symbols, model_type):
    """The special pieces may have the names of ALBERT or XLNet."""
    tokenizer = SentencePiece(
        model=train_model(control_symbols=list(symbols), model_type=model_type)
    )
    assert tokenizer.pieces[:2] == ("[PAD]", "[UNK]")
    for piece, i in (("[CLS]", tokenizer.cls_id), ("[MASK]", tokenizer.mask_id)):
        assert tokenizer.pieces[i] == piece and tokenizer.pieces.count(piece) == 1
    ids = tokenizer.encode("lower [MASK]<mask> widest [CLS]")
    assert ids and not any(is_special(tokenizer, i) for i in ids)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"control_symbols": [], "eos_id": 2}, r"lacks \[CLS\], \[SEP\], \[MASK\]; accepted"),
        ({"pad_id": -1}, r"lacks \[PAD\]; accepted: control symbols \[PAD\], .* or <pad>"),
        (
            {"control_symbols": ["[CLS]", "[SEP]"], "user_defined_symbols": ["[MASK]"]},
            r"'\[MASK\]' is no control symbol, so text could contain it; accepted",
        ),
    ],
    ids=["t5", "pad", "user_defined"],
)
def test_a_model_without_the_special_pieces_is_refused(options, message):
    with pytest.raises(DataError, match=message) as error:
        SentencePiece(model=train_model(**options))
    assert "\n" not in str(error.value)


def test_the_bytes_of_a_character_start_no_word():
    """A model with byte fallback encodes unknown characters as bytes."""
    tokenizer = SentencePiece(model=train_model(byte_fallback=True, vocab_size=300))
    ids = tokenizer.encode("lower 東")
    assert tokenizer.unk_id not in ids and tokenizer.decode(ids) == "lower 東"
    assert not any(tokenizer.word_starts[i] for i in ids[-3:])
