"""Each figure of a passport equals an independent count over the written records."""

import dataclasses
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from bert_jax.audit.findings import find_at_once
from bert_jax.data.config import DataConfig, MaskingConfig
from bert_jax.data.passport import load_passport, passport_fingerprint
from bert_jax.data.preparation.engines import Engine
from bert_jax.data.preparation.prepare import prepare_data, train_vocabulary
from bert_jax.data.preparation.summary import summarize
from bert_jax.data.preparation.text_counts import count_text
from bert_jax.data.records import open_split
from bert_jax.data.sentences import split_sentences
from bert_jax.data.sources.corpora import is_held_out, open_corpus, read_documents, read_slice
from bert_jax.data.tokenizers.files import load_tokenizer
from bert_jax.data.tokenizers.wordpiece import SPECIAL_PIECES, WordPiece

TOKENIZER = WordPiece(pieces=(*SPECIAL_PIECES, ".", *(f"w{i}" for i in range(40))), lower_case=True)


@pytest.fixture
def config(tmp_path):
    """Fifty documents; numbers 7 and 30 repeat number 3, and a tenth of the words is unknown."""
    rng = np.random.default_rng(0)
    documents = []
    for _ in range(50):
        words = [f"w{i}" if i < 40 else "unknown" for i in rng.integers(44, size=80)]
        documents.append(".\n".join(" ".join(words[i : i + 8]) for i in range(0, 80, 8)) + ".")
    documents[7] = documents[30] = documents[3]
    (tmp_path / "corpus.txt").write_text("\n\n".join(documents) + "\n")
    return DataConfig(
        directory=str(tmp_path / "prepared"),
        corpus=f"text:{tmp_path}/corpus.txt",
        sequence_length=48,
        dupe_factor=3,
        held_out_fraction=0.2,
        train_shards=3,
    )


def prepare(config, **options):
    return prepare_data(config, **{"tokenizer": TOKENIZER, "engine": Engine(), **options})


def rows_of(config, passport, split):
    source = open_split(config.directory, passport, split=split)
    return source.rows(range(len(source)))


def titles(passport):
    return [finding.title for finding in find_at_once(passport)]


def test_one_sentence_documents_are_found(config, tmp_path):
    config = dataclasses.replace(config, sequence_length=96)
    assert titles(prepare(config)) == [], "documents have ten sentences"
    lines = [line for line in (tmp_path / "corpus.txt").read_text().split("\n") if line]
    # With blank lines between sentences, every line is a document.
    (tmp_path / "lines.txt").write_text("\n\n".join(lines))
    changes = {"corpus": f"text:{tmp_path}/lines.txt", "directory": str(tmp_path / "lines")}
    short, random = find_at_once(prepare(dataclasses.replace(config, **changes)))
    assert short.title == "100% of documents have fewer than three sentences"
    assert random.title == "100.0% of training pairs are random"
    for finding in (short, random):
        assert "put blank lines between documents and not" in finding.remedy.replace("P", "p")
    changes |= {"directory": str(tmp_path / "none"), "pairs": "none"}
    assert titles(prepare(dataclasses.replace(config, **changes))) == [short.title]


@pytest.mark.parametrize(("rate", "found"), [(0.6, 0), (0.602, 1)])
def test_more_than_six_random_pairs_in_ten_are_found(config, rate, found):
    passport = prepare(config)
    train = passport["splits"]["train"]
    train["random_pairs"] = round(rate * train["pairs"])
    assert len(find_at_once(passport)) == found


TURKISH = "Çok güzel. Gün ışığı içeri süzüldü. Bak. Öğretmen hiçbir şey söylemedi. Ve gitti artık."


@pytest.mark.parametrize(
    ("fields", "folded", "short"),
    [
        ({}, 0.28, 0.4),
        ({"strip_accents": False}, 0, 0.4),
        ({"lower_case": False}, 0, 0.4),
        ({"lower_case": False, "strip_accents": True}, 0.28, 0.4),
    ],
)
def test_folded_letters_and_short_sentences_are_counted(fields, folded, short):
    counts = Counter()
    config = DataConfig(directory="", corpus="", language="tr", **fields)
    count_text(counts, TURKISH, split_sentences(TURKISH, "tr"), config=config)
    letters = sum(map(str.isalpha, TURKISH))
    # ç, ü, ğ, ş and ö lose a mark, but the dotless ı does not.
    marked = sum(c in "çüğşö" for c in TURKISH.lower())
    assert counts["letters"] == letters and marked == 14
    assert counts["folded_letters"] == (marked if folded else 0)
    assert counts["short_sentences"] == 2 == short * 5
    assert counts["short_documents"] == 0


@pytest.mark.parametrize(
    ("text", "folded", "letters", "short"),
    [
        ("The naïve café. Fine for now.", 2, 22, 0),
        ("THE LOUD CAPITALS. ARE NOT COUNTED.", 0, 28, 0),
        ("नमस्ते दुनिया यहाँ", 4, 13, 0),  # vowel signs without width are marks too
        ("这是一个句子。好。", 0, 7, 1),
        ("e\u0301te\u0301 en ville", 2, 12, 0),
    ],
)
def test_marks_in_other_scripts_and_forms_are_counted(text, folded, letters, short):
    counts = Counter()
    config = DataConfig(directory="", corpus="", language="zh")
    count_text(counts, text, split_sentences(text, "zh"), config=config)
    assert (counts["folded_letters"], counts["letters"]) == (folded, letters)
    assert counts["short_sentences"] == short and counts["short_documents"] == 1


def test_shards_of_earlier_code_give_a_passport_without_text_rates(config):
    passport = prepare(config)
    assert passport["text"] == {
        "folded_letter_rate": 0.0,
        "short_sentence_rate": passport["text"]["short_sentence_rate"],
        "short_document_rate": 0.0,
    }
    fingerprint = passport_fingerprint(passport)
    path = next(Path(config.directory).glob("train-*.json"))
    statistics = json.loads(path.read_text())
    del statistics["text"]
    path.write_text(json.dumps(statistics))
    earlier = prepare(config)
    assert earlier["text"] is None and passport_fingerprint(earlier) == fingerprint


def test_a_shard_without_documents_hides_no_text_rates(config):
    config = dataclasses.replace(config, corpus=f"{config.corpus}@0.02", dupe_factor=1)
    passport = prepare(config)
    assert 0 in [shard["examples"] for shard in passport["splits"]["train"]["shards"]]
    assert passport["text"]["short_document_rate"] == 0


@pytest.mark.parametrize("pairs_per_row", [1, 3])
def test_lengths_and_rates_equal_those_of_the_records(pairs_per_row, config):
    config = dataclasses.replace(
        config, pairs_per_row=pairs_per_row, short_sequence_probability=0.9
    )
    passport = prepare(config)
    for split, summary in passport["splits"].items():
        rows = rows_of(config, passport, split)
        lengths = [sum(len(pair.a) + len(pair.b) + 3 for pair in row) for row in rows]
        assert summary["lengths"] == np.bincount(lengths, minlength=49).tolist()
        assert len(summary["lengths"]) == 49 and sum(summary["lengths"]) == summary["examples"]
        pairs = [pair for row in rows for pair in row]
        tokens = np.concatenate([np.r_[pair.a, pair.b] for pair in pairs])
        special = 3 * len(pairs)
        assert summary["special_token_rate"] == round(special / (special + len(tokens)), 6)
        unknown = (tokens == TOKENIZER.unk_id).mean()
        assert summary["unknown_token_rate"] == round(unknown, 6) and 0.05 < unknown < 0.15
        random_pairs = np.mean([pair.label for pair in pairs])
        assert summary["random_pair_rate"] == round(random_pairs, 6)


def test_data_without_pairs_have_no_random_pairs(config):
    splits = prepare(dataclasses.replace(config, pairs="none"))["splits"]
    assert splits["train"]["random_pair_rate"] == 0 == splits["train"]["pairs"]


def test_repeated_documents_are_counted_across_shards(config):
    splits = prepare(config)["splits"]
    slices = open_corpus(config.corpus).slices(3)
    texts = [[document.text for document, _ in read_slice(one)] for one in slices]
    repeated = next(text for text in texts[0] if sum(part.count(text) for part in texts) == 3)
    assert [part.count(repeated) for part in texts] == [2, 1, 0]  # in two shards
    document = next(d for d in read_documents(config.corpus) if d.text == repeated)
    held_out = is_held_out(document, fraction=config.held_out_fraction)
    expected = {"train": 0 if held_out else 2, "eval": 2 if held_out else 0}
    assert {name: split["identical_documents"] for name, split in splits.items()} == expected


def test_texts_in_both_splits_are_counted_once_each(config, tmp_path):
    """A corpus may name its held-out documents, and their text may occur in training again."""
    passport = prepare(config)
    assert passport["shared_documents"] == 0 and passport["identical_shards"] == []
    statistics = [
        json.loads(path.read_text()) for path in sorted(Path(config.directory).glob("*-of-*.json"))
    ]
    evaluation, *training = statistics
    evaluation = evaluation | {"documents_file": training[0]["documents_file"]}
    found = summarize(Path(config.directory), training=training, evaluation=[evaluation])
    hashes = np.load(Path(config.directory) / training[0]["documents_file"])
    assert found["shared_documents"] == len(set(hashes.tolist())) > 3


def test_the_passport_names_shards_with_the_same_documents(config, tmp_path):
    """Two files have the same text; only the random draws of their rows differ."""
    text = (tmp_path / "corpus.txt").read_text()
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(text)
    corpus = f"text:{tmp_path}/[ab].txt"
    passport = prepare(dataclasses.replace(config, corpus=corpus, train_shards=2))
    shards = [shard["file"] for shard in passport["splits"]["train"]["shards"]]
    assert len({shard["sha256"] for shard in passport["splits"]["train"]["shards"]}) == 2
    assert passport["identical_shards"] == [shards]
    train = passport["splits"]["train"]
    assert train["identical_documents"] >= train["documents"] // 2


def test_the_passport_names_shards_with_the_same_bytes(config):
    passport = prepare(config)
    statistics = [
        json.loads(path.read_text()) for path in sorted(Path(config.directory).glob("*-of-*.json"))
    ]
    evaluation, *training = statistics
    training[2]["sha256"] = training[0]["sha256"]
    found = summarize(Path(config.directory), training=training, evaluation=[evaluation])
    assert found["identical_shards"] == [[training[0]["file"], training[2]["file"]]]
    assert found["splits"]["eval"] == passport["splits"]["eval"]


@pytest.mark.parametrize(
    "masking",
    [
        MaskingConfig(),
        MaskingConfig(rate=0.4, split=(0.2, 0.5, 0.3)),
        MaskingConfig(rate=0.3, rate_points=((1.0, 0.1),), unit="span", split=(0.5, 0.25, 0.25)),
    ],
    ids=["bert", "other", "annealed-spans"],
)
def test_measured_masks_agree_with_the_masking_config(masking, config):
    config = dataclasses.replace(config, masking=masking, dupe_factor=30)
    measured = prepare(config)["masking"]
    assert measured["rows"] == 2000 < load_passport(config.directory)["splits"]["train"]["examples"]
    assert measured["config"] == {
        "unit": masking.unit,
        "rate": masking.rate,
        "split": list(masking.split),
    }
    # Rounding and words that do not fit change it by at most half a token per row of about 40.
    assert measured["rate"] == pytest.approx(masking.rate, abs=0.015)
    shares = [measured[f"{name}_share"] for name in ("mask", "random", "kept")]
    assert sum(shares) == pytest.approx(1, abs=2e-6)  # each share is rounded to six digits
    # A random word is the word itself or [MASK] with probability 1/46 each. About 12,000
    # predictions in spans of about four equal draws vary by one per cent.
    mask, random, kept = masking.split
    same = random / TOKENIZER.vocab_size
    assert shares == pytest.approx([mask + same, random - 2 * same, kept + same], abs=0.03)


def test_the_masking_does_not_change_the_fingerprint_of_the_data(config):
    """A run can resume after another experiment has prepared the same data with its own masking."""
    before = prepare(config)
    changed = dataclasses.replace(config, masking=MaskingConfig(rate=0.4))
    after = prepare(changed)
    assert before["masking"] != after["masking"]
    assert passport_fingerprint(before) == passport_fingerprint(after)
    assert passport_fingerprint(before | {"shared_documents": 1}) != passport_fingerprint(after)


def test_the_passport_has_the_licence_of_a_source(config, tmp_path):
    """The embedded corpus has a licence, and no document is in both splits."""
    config = dataclasses.replace(
        config, corpus="embedded:sotu", dupe_factor=1, train_shards=1, sequence_length=128
    )
    tokenizer = train_vocabulary(config, vocab_size=300, engine=Engine())
    passport = prepare(config, tokenizer=tokenizer)
    (source,) = passport["corpus"]["sources"]
    assert "PDDL-1.0" in source["licence"]
    assert passport["shared_documents"] == 0
    assert load_tokenizer(config.directory).fingerprint() == passport["tokenizer_fingerprint"]
    assert passport == load_passport(config.directory)
