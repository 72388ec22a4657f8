"""`find` reports each problem of prepared data once, and nothing about data without problems."""

import copy

import pytest

from bert_jax.audit.findings import find, find_at_once, row_fill
from bert_jax.audit.shortcut import Classifier, Estimate, Shortcut

SPLIT = {
    "examples": 1000,
    "documents": 100,
    "pairs": 1000,
    "random_pairs": 530,
    "positions": 31_000,
    "unknown_token_rate": 0.001,
    "identical_documents": 0,
}


PASSPORT = {
    "preparation": {"pairs": "next_sentence", "sequence_length": 32, "pairs_per_row": 1},
    "corpus": {"sources": []},
    "text": {"folded_letter_rate": 0.004, "short_sentence_rate": 0.04, "short_document_rate": 0.5},
    "shared_documents": 0,
    "identical_shards": [],
    "splits": {"train": SPLIT, "eval": dict(SPLIT)},
}


def shortcut(accuracy, *, ranking=0.5):
    one = Classifier(
        name="words and overlap",
        sees="words",
        accuracy=Estimate(accuracy, accuracy - 0.02, accuracy + 0.02),
        ranking=Estimate(ranking, ranking - 0.02, ranking + 0.02),
    )
    return Shortcut(train_pairs=5000, held_out_pairs=1000, majority=0.53, classifiers=(one,))


NONE = shortcut(0.52)


def titles(passport, *, unused_share=0.02, shortcut=NONE):
    return [one.title for one in find(passport, unused_share=unused_share, shortcut=shortcut)]


def changed(path, value):
    passport = copy.deepcopy(PASSPORT)
    *parents, last = path.split("/")
    inner = passport
    for name in parents:
        inner = inner[name]
    inner[last] = value
    return passport


@pytest.mark.parametrize("language", ["en", "de", "fi", "tr", "ar"])
def test_languages_with_a_high_f1_give_no_finding(language):
    """English is the default, and loses one sentence of 20."""
    assert titles(changed("preparation/language", language)) == []


def test_data_without_problems_have_no_findings():
    assert titles(PASSPORT) == []
    assert titles(PASSPORT, shortcut=None) == []


def test_a_passport_of_an_older_version_may_lack_fields():
    passport = copy.deepcopy(PASSPORT)
    del passport["shared_documents"], passport["identical_shards"], passport["text"]
    for summary in passport["splits"].values():
        del summary["unknown_token_rate"], summary["identical_documents"]
    assert titles(passport) == []


@pytest.mark.parametrize(
    ("path", "value", "title"),
    [
        ("shared_documents", 1, "1 document in training and in evaluation"),
        ("splits/train/identical_documents", 1200, "1,200 repeated documents in training"),
        ("splits/eval/identical_documents", 1, "1 repeated document in evaluation"),
        ("splits/train/unknown_token_rate", 0.0123, "[UNK] is 1.2% of training"),
        ("splits/eval/unknown_token_rate", 0.02, "[UNK] is 2.0% of evaluation"),
        ("splits/train/random_pairs", 811, "81.1% of training pairs are random"),
        ("splits/train/random_pairs", 300, "30.0% of training pairs are random"),
        ("splits/train/positions", 20_000, "Training rows are 62.5% full"),
        (
            "preparation/language",
            "hi",
            "The F1 of sentences in data.language 'hi' is 0.71 ",
        ),
        ("preparation/language", "sw", "The F1 of sentences in data.language 'sw' was never mea"),
        ("text/folded_letter_rate", 0.03, "3.0% of letters lose an accent or another mark"),
        ("text/short_sentence_rate", 0.06, "6.0% of sentences have fewer than three words"),
        ("text/short_document_rate", 0.6, "60% of documents have fewer than three sentences"),
        ("splits/eval/documents", 12, "Held-out rows come from 12 documents"),
    ],
)
def test_each_problem_gives_one_finding(path, value, title):
    (found,) = titles(changed(path, value))
    assert found.startswith(title)


@pytest.mark.parametrize(
    ("files", "size", "kind", "found"),
    [(20, 5000, "TextFile", 0), (19, 5000, "TextFile", 1), (19, 5000, "WholeFile", 0)]
    + [(1, 5000, "TextFile", 0), (19, 2**25, "TextFile", 0)],
)
def test_files_that_were_perhaps_meant_as_documents_are_found(files, size, kind, found):
    """The passport has 200 documents."""
    file = {"path": "a.txt", "bytes": size, "read_as": {"kind": kind}}
    passport = changed("corpus/sources", [{"files": [file] * files}])
    assert len(find_at_once(passport)) == found == len(titles(passport))
    if found:
        assert "files:GLOB in place of text:GLOB" in find_at_once(passport)[0].remedy


@pytest.mark.parametrize(
    ("name", "compression", "title"),
    [
        ("a.txt", None, None),
        ("a.gz", "gz", None),
        ("a.zstd", "zst", None),
        ("A.GZ", "gz", None),
        ("gz/part-1", None, None),
        ("a.txt", "bz2", "a.txt is a .bz2 file"),
        ("a.xz", "gz", "a.xz is a .gz file"),
        ("a.gz", None, "a.gz is not compressed"),
    ],
)
def test_a_file_whose_name_contradicts_its_content_is_found(name, compression, title):
    file = {"path": name, "bytes": 9, "compression": compression, "read_as": {"kind": "JsonlFile"}}
    assert titles(changed("corpus/sources", [{"files": [file]}])) == ([title] if title else [])


def test_skipped_records_are_found():
    assert titles(changed("skipped", {"count": 0, "records": []})) == []
    passport = changed("skipped", {"count": 1200, "records": ["a.jsonl@7 is not JSON", "b"]})
    assert titles(passport) == ["1,200 bad records skipped, first a.jsonl@7 is not JSON"]


def test_a_finding_names_each_group_of_identical_shards():
    passport = changed("identical_shards", [["a", "b", "c"], ["d", "e"]])
    one, other = find(passport, unused_share=0, shortcut=NONE)
    assert (one.title, other.title) == ("3 identical shards", "2 identical shards")
    assert one.explanation.startswith("a, b, c hold the same documents, so each document is used 3")


def test_a_shortcut_is_reported_by_the_lower_end_of_its_interval():
    assert titles(PASSPORT, shortcut=shortcut(0.549)) == []
    (title,) = titles(PASSPORT, shortcut=shortcut(0.56))
    assert title == "A classifier without word order gets 56.0% of pairs right"


def test_a_ranking_reveals_a_shortcut_that_accuracy_hides():
    (finding,) = find(PASSPORT, unused_share=0, shortcut=shortcut(0.53, ranking=0.78))
    assert finding.title == "A classifier without word order can distinguish the pairs"
    assert "78%" in finding.explanation and "53.0%" in finding.explanation


def test_the_remedy_fits_the_pair_task():
    passport = changed("preparation/pairs", "sentence_order")
    passport["splits"]["train"]["random_pairs"] = 800
    one, other = find(passport, unused_share=0, shortcut=shortcut(0.7))
    assert "sentence_order" not in one.remedy
    assert (
        other.title == "80.0% of training pairs are swapped" and "swapped with" in other.explanation
    )
    (one,) = find(PASSPORT, unused_share=0, shortcut=shortcut(0.7))
    assert "sentence_order" in one.remedy


def test_a_vocabulary_that_is_too_large_is_found():
    assert titles(PASSPORT, unused_share=0.25) == ["25% of the vocabulary never occurs in training"]


def test_single_texts_have_no_finding_about_label_balance():
    passport = changed("preparation/pairs", "none")
    for summary in passport["splits"].values():
        summary |= {"pairs": 0, "random_pairs": 0}
    assert titles(passport, shortcut=None) == []


def test_row_fill_is_the_share_of_filled_positions():
    assert row_fill(PASSPORT, split="train") == 31 / 32
    assert row_fill(changed("splits/train/examples", 0), split="train") == 0
