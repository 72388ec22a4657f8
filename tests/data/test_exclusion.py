"""Documents that contain an evaluation text are found and used for nothing."""

import dataclasses
import gzip
import hashlib
import json
import random
import tracemalloc

import numpy as np
import pytest

from bert_jax.data.config import DataConfig
from bert_jax.data.preparation.engines import Engine
from bert_jax.data.preparation.exclusion import NOTHING, _runs_of, open_exclusion
from bert_jax.data.preparation.prepare import prepare_data, train_vocabulary
from bert_jax.data.records import open_split
from bert_jax.data.tokenizers.files import load_tokenizer
from bert_jax.errors import DataError

WORDS = [f"{first}{second}" for first in "bdfgklmnprst" for second in ("ade", "ilo", "umi", "eno")]
PASSAGE = (
    "The café's owner, Mr. O'Neill, couldn't say - not even in 1987 - whether the \u201cold\u201d "
    "mill had stood there before his grandfather bought the land from the parish."
)
SHORT_QUESTION = "Who wrote the first letter to the parish council?"  # 9 words


@pytest.fixture
def excluding(tmp_path):
    """`excluding(*lines)` opens an exclusion file with these lines."""

    def open_lines(*lines):
        (tmp_path / "texts").write_text("\n".join(lines), encoding="utf-8")
        return open_exclusion([str(tmp_path / "texts")])

    return open_lines


@pytest.mark.parametrize(
    "document",
    [
        PASSAGE,
        f"Some words before.\n{PASSAGE}\nAnd after.",
        PASSAGE.upper(),
        PASSAGE.replace(" ", "\n  "),
        # Spaces around punctuation, as in the Brown corpus, and other quotation marks.
        "The cafe ' s owner , Mr. O ' Neill , couldn ' t say -- not even in 1987 -- whether the "
        "`` old '' mill had stood there before his grandfather bought the land from the parish .",
        "whether the old mill had stood there before his grandfather bought the land ...",  # 13
        "The cafe\u0301\u2019s owner, Mr. O\u2019Neill, couldn\u2019t say not even in",  # 13 words
    ],
)
def test_a_document_with_thirteen_common_words_is_dropped(document, excluding):
    assert excluding("another text of no less than eight words there", PASSAGE).drops(document)


@pytest.mark.parametrize(
    "document",
    [
        "",
        "!",
        "unlike anything",
        "the old mill had stood there before his grandfather bought the land",  # 12 words
        # 13 words with an inserted word, and 13 words with a changed word.
        "the old mill had once stood there before his grandfather bought the land from",
        "the old mill had stood there before her grandfather bought the land from the",
    ],
)
def test_a_document_with_fewer_common_words_is_kept(document, excluding):
    assert not excluding(PASSAGE).drops(document)


def test_texts_of_8_to_12_words_match_as_a_whole_and_shorter_texts_never(excluding):
    exclusion = excluding("Yes", SHORT_QUESTION, "", "  ", "seven words are too few for it")
    assert (exclusion.texts, exclusion.short_texts) == (3, 2)
    assert exclusion.drops(f"He asked: {SHORT_QUESTION.lower()} Nobody knew.")
    assert not exclusion.drops(SHORT_QUESTION.replace("council", "clerk"))
    assert not exclusion.drops("yes. yes! seven words are too few for it")


@pytest.mark.parametrize(
    "text",
    [
        "我們在北京大學學習語言和計算機科學",
        "きのうともだちとカラオケにいきました",
        "นายกรฐมนตรของประเทศไทย",
    ],
    ids=["Chinese", "kana", "Thai"],
)
def test_characters_count_as_words_in_scripts_without_spaces(text, excluding):
    exclusion = excluding(text)
    assert exclusion.short_texts == 0
    assert exclusion.drops(f"昨天ア,{text[:13]}กア!")
    assert not exclusion.drops(f"昨天ア,{text[:12]}กア!")


def test_a_long_text_without_spaces_is_not_remembered(excluding):
    rng = random.Random(0)
    text = "".join(rng.choices("あいうえおかきくけこ", k=20))
    runs = _runs_of(excluding(text).files)
    sentences = ["".join(rng.choices("さしすせそたちつてと", k=100)) for _ in range(300)]
    tracemalloc.start()
    assert not any(map(runs.occur_in, sentences))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 50_000  # the ids of all characters would take 300 * 100 * 8 bytes
    assert runs.occur_in(sentences[0] + text)


def test_the_search_agrees_with_a_plain_search(excluding):
    """Compares with a plain search; a vocabulary of two words gives many near matches."""
    rng = random.Random(0)
    texts = [" ".join(rng.choices("ab", k=rng.randint(8, 15))) for _ in range(60)]
    exclusion = excluding(*texts)
    runs = {
        tuple(words[i : i + 13])
        for words in map(str.split, texts)
        for i in range(max(1, len(words) - 12))
    }
    found = 0
    for _ in range(300):
        words = rng.choices("ab", k=rng.randint(1, 60))
        expected = any(
            tuple(words[i : i + length]) in runs
            for length in range(8, 14)
            for i in range(len(words) - length + 1)
        )
        assert exclusion.drops(" ".join(words)) == expected
        found += expected
    assert 50 < found < 250


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"good text\nbad \xff\n", r"texts:2 holds byte 0xff at column 5; accepted: UTF-8"),
        (b"", "holds 0 texts, none of 8 words or more; accepted: a file with one text per line"),
        (b"yes\nno\n", "holds 2 texts, none of 8 words or more"),
    ],
    ids=["encoding", "empty", "short"],
)
def test_a_file_that_excludes_nothing_is_refused(content, said, tmp_path):
    (tmp_path / "texts").write_bytes(content)
    with pytest.raises(DataError, match=said):
        open_exclusion([str(tmp_path / "texts")])


def test_the_fingerprint_depends_on_the_texts_and_not_on_paths(tmp_path):
    paths = [tmp_path / name for name in ("a", "b", "c")]
    for path, text in zip(paths, (PASSAGE, SHORT_QUESTION, PASSAGE), strict=True):
        path.write_text(text, encoding="utf-8")
    a, b, c = map(str, paths)
    assert NOTHING.fingerprint() is None and NOTHING.to_json() is None
    assert open_exclusion([]) == NOTHING
    one, both = open_exclusion([a]), open_exclusion([a, b])
    assert one.fingerprint() == open_exclusion([c]).fingerprint() != both.fingerprint()
    assert both.fingerprint() == open_exclusion([b, c]).fingerprint()
    assert both.drops(SHORT_QUESTION) and not one.drops(SHORT_QUESTION)


# ---- Prepared data -------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path):
    """Sixty documents. Every third contains an excluded text, and each contains its own number."""
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS, k=30)) for _ in range(20)]
    documents = []
    for number in range(60):
        sentences = [" ".join(rng.choices(WORDS, k=9)) + f" {number}{number}." for _ in range(8)]
        if number % 3 == 0:
            sentences.insert(4, texts[number // 3].capitalize().replace(" ", " , ", 5))
        documents.append("\n".join(sentences))
    (tmp_path / "corpus.txt").write_text("\n\n".join(documents) + "\n")
    (tmp_path / "texts.txt").write_text("\n".join(texts) + "\nno\n")
    return DataConfig(
        directory=str(tmp_path / "prepared"),
        corpus=f"text:{tmp_path}/corpus.txt",
        sequence_length=32,
        dupe_factor=2,
        held_out_fraction=0.3,
        train_shards=2,
        pairs="none",
        preparation_seed=2,
    )


def prepare(config, *, exclusion, workers=1):
    settings = {"engine": Engine(workers=workers), "exclusion": exclusion}
    tokenizer = train_vocabulary(config, vocab_size=200, **settings)
    return prepare_data(config, tokenizer=tokenizer, **settings)


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def text_of(config, passport, split):
    source = open_split(config.directory, passport, split=split)
    rows = source.rows(range(len(source)))
    return load_tokenizer(config.directory).decode(np.concatenate([text.a for (text,) in rows]))


def test_dropped_documents_are_in_no_split_and_not_in_the_vocabulary(config, tmp_path):
    whole = prepare(config, exclusion=NOTHING)
    assert whole["exclusion"] is None and whole["exclusion_fingerprint"] is None
    exclusion = open_exclusion([str(tmp_path / "texts.txt")])
    config = dataclasses.replace(config, directory=str(tmp_path / "excluding"))
    passport = prepare(config, exclusion=exclusion)
    dropped = 0
    for split, summary in passport["splits"].items():
        before = whole["splits"][split]
        assert before["excluded_documents"] == 0 < summary["excluded_documents"]
        assert summary["documents"] + summary["excluded_documents"] == before["documents"]
        dropped += summary["excluded_documents"]
        numbers = {word for word in text_of(config, passport, split).split() if word.isdigit()}
        assert len(numbers) == summary["documents"]
        assert not numbers & {f"{number}{number}" for number in range(0, 60, 3)}
    assert dropped == 20
    # The vocabulary equals that of a corpus without the dropped documents.
    kept = (tmp_path / "corpus.txt").read_text().split("\n\n")
    (tmp_path / "kept.txt").write_text("\n\n".join(t for i, t in enumerate(kept) if i % 3))
    without = dataclasses.replace(
        config, corpus=f"text:{tmp_path}/kept.txt", directory=str(tmp_path / "without")
    )
    expected = prepare(without, exclusion=NOTHING)["tokenizer_fingerprint"]
    assert passport["tokenizer_fingerprint"] == expected != whole["tokenizer_fingerprint"]
    content = (tmp_path / "texts.txt").read_bytes()
    assert passport["exclusion"] == {
        "files": [{"path": f"{tmp_path}/texts.txt", "sha256": hashlib.sha256(content).hexdigest()}],
        "texts": 21,
        "short_texts": 1,
        "run_words": 13,
        "min_words": 8,
    }


def test_workers_compression_and_a_kill_do_not_change_the_result(config, tmp_path):
    exclusion = open_exclusion([str(tmp_path / "texts.txt")])
    prepare(config, exclusion=exclusion)
    directory = tmp_path / "prepared"
    whole = contents(directory)
    pooled = dataclasses.replace(config, directory=str(tmp_path / "pooled"))
    prepare(pooled, exclusion=exclusion, workers=2)
    assert contents(tmp_path / "pooled") == whole
    # A kill during the last shard: only the survey knows the documents to drop.
    (directory / "passport.json").unlink()
    (directory / "train-00001-of-00002.json").unlink()
    prepare(config, exclusion=exclusion)
    assert contents(directory) == whole
    (tmp_path / "texts.gz").write_bytes(gzip.compress((tmp_path / "texts.txt").read_bytes()))
    zipped = dataclasses.replace(config, directory=str(tmp_path / "zipped"))
    passport = prepare(zipped, exclusion=open_exclusion([str(tmp_path / "texts.gz")]))
    assert passport["splits"]["train"] == json.loads(whole["passport.json"])["splits"]["train"] | {
        "shards": passport["splits"]["train"]["shards"]
    }
    assert [one["sha256"] for one in passport["splits"]["train"]["shards"]] == [
        one["sha256"] for one in json.loads(whole["passport.json"])["splits"]["train"]["shards"]
    ]


def test_a_corpus_that_moves_after_the_survey_loses_the_same_documents(config, tmp_path):
    exclusion = open_exclusion([str(tmp_path / "texts.txt")])
    whole = prepare(config, exclusion=exclusion)
    config = dataclasses.replace(config, directory=str(tmp_path / "again"))
    settings = {"engine": Engine(), "exclusion": exclusion}
    tokenizer = train_vocabulary(config, vocab_size=200, **settings)
    (tmp_path / "corpus.txt").rename(tmp_path / "moved.txt")
    config = dataclasses.replace(config, corpus=f"text:{tmp_path}/moved.txt")
    passport = prepare_data(config, tokenizer=tokenizer, **settings)
    assert passport["splits"] == whole["splits"]


def test_only_the_field_that_contains_a_text_is_dropped(config, tmp_path):
    """Records have a question and an answer; every third answer contains an excluded text."""
    answers = (tmp_path / "corpus.txt").read_text().strip().split("\n\n")
    rng = random.Random(1)
    questions = [" ".join(rng.choices(WORDS, k=40)) for _ in answers]
    records = [{"q": q, "a": a} for q, a in zip(questions, answers, strict=True)]
    (tmp_path / "both.jsonl").write_text("\n".join(map(json.dumps, records)))
    corpus = f"jsonl:{tmp_path}/both.jsonl:q,jsonl:{tmp_path}/both.jsonl:a"
    config = dataclasses.replace(config, corpus=corpus, train_shards=1)
    passport = prepare(config, exclusion=open_exclusion([str(tmp_path / "texts.txt")]))
    splits = passport["splits"].values()
    assert sum(split["excluded_documents"] for split in splits) == 20
    assert sum(split["documents"] for split in splits) == 60 + 40


def test_a_prepared_directory_refuses_another_exclusion(config, tmp_path):
    exclusion = open_exclusion([str(tmp_path / "texts.txt")])
    prepare(config, exclusion=exclusion)
    before = contents(tmp_path / "prepared")
    (tmp_path / "more.txt").write_text(PASSAGE)
    more = open_exclusion([str(tmp_path / "texts.txt"), str(tmp_path / "more.txt")])
    for other in (NOTHING, more):
        with pytest.raises(DataError, match="made with exclusion_fingerprint .*, not "):
            prepare(config, exclusion=other)
    assert contents(tmp_path / "prepared") == before
    (tmp_path / "texts.txt").rename(tmp_path / "moved.txt")
    prepare(config, exclusion=open_exclusion([str(tmp_path / "moved.txt")]))


def test_an_exclusion_that_leaves_no_document_is_refused(config, tmp_path):
    lines = [" ".join(t.split()) for t in (tmp_path / "corpus.txt").read_text().split("\n\n")]
    (tmp_path / "texts.txt").write_text("\n".join(lines))
    everything = open_exclusion([str(tmp_path / "texts.txt")])
    with pytest.raises(DataError, match="0 documents are left of .* .--exclude drops 60"):
        prepare(config, exclusion=everything)
    assert list((tmp_path / "prepared").iterdir()) == []
