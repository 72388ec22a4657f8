"""The page of `prepare --audit` agrees with the passport, is reproducible and self-contained."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from commands import assert_one_line

import bert_jax
from bert_jax.audit.page import write_page
from bert_jax.data.config import DataConfig
from bert_jax.data.passport import load_token_counts
from bert_jax.data.preparation.engines import Engine
from bert_jax.data.preparation.prepare import prepare_data
from bert_jax.data.tokenizers.wordpiece import SPECIAL_PIECES, WordPiece
from bert_jax.errors import DataError

ROOT = Path(bert_jax.__file__).parents[1]
WORDS_PER_DOCUMENT, DOCUMENTS = 6, 60
TOKENIZER = WordPiece(
    pieces=(
        *(*SPECIAL_PIECES, ".", "<b>never</b>"),
        *(f"w{i}" for i in range(WORDS_PER_DOCUMENT * DOCUMENTS)),
    ),
    lower_case=True,
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Sixty documents that share no words, so a random B has no word in common with A."""
    rng = random.Random(0)
    documents = []
    for number in range(DOCUMENTS):
        words = [f"w{WORDS_PER_DOCUMENT * number + i}" for i in range(WORDS_PER_DOCUMENT)]
        sentences = [" ".join(rng.choices(words, k=rng.randint(2, 6))) + "." for _ in range(40)]
        documents.append("\n".join(sentences))
    path = tmp_path_factory.mktemp("corpus") / "topics & <i>words.txt"
    path.write_text("\n\n".join(documents) + "\n")
    return path


def prepare(directory, corpus, **settings):
    config = DataConfig(
        directory=str(directory),
        corpus=f"text:{corpus}",
        sequence_length=32,
        dupe_factor=2,
        held_out_fraction=0.25,
        train_shards=3,
        **settings,
    )
    return prepare_data(config, tokenizer=TOKENIZER, engine=Engine(workers=1))


@pytest.fixture(scope="module")
def prepared(corpus, tmp_path_factory):
    directory = tmp_path_factory.mktemp("prepared") / "topics"
    prepare(directory, corpus)
    return directory


@pytest.fixture
def copied(prepared, tmp_path):
    """A copy of the prepared directory; a test may change it."""
    ignore = shutil.ignore_patterns("audit.html")
    return Path(shutil.copytree(prepared, tmp_path / "copy", ignore=ignore))


def html_of(directory):
    return write_page(directory).path.read_text(encoding="utf-8")


def text_of(html):
    """The text of the page that a reader sees, with single spaces."""
    html = re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split())


def change_passport(directory, change):
    path = directory / "passport.json"
    passport = json.loads(path.read_text())
    change(passport)
    path.write_text(json.dumps(passport))
    return passport


def audit(*arguments, without=None):
    """Runs the command, as if the library `without` were not installed."""
    command = ["-m", "bert_jax.prepare"]
    if without:
        start = "import runpy; runpy.run_module('bert_jax.prepare', run_name='__main__')"
        command = ["-c", f"import sys; sys.modules['{without}'] = None; {start}"]
    return subprocess.run(
        [sys.executable, *command, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


# ---- Content -------------------------------------------------------------------------------------


def test_documents_without_common_words_reveal_random_pairs(prepared):
    found = write_page(prepared)
    assert found.shortcut is not None
    lengths, words, overlap = found.shortcut.classifiers
    # Every random B comes from another document and shares only the full stop with A.
    assert overlap.accuracy.low > 0.95
    # Held-out words never occur in training, so the words alone carry no information.
    assert words.accuracy.value < overlap.accuracy.value - 0.2
    assert found.shortcut.best == overlap
    title = f"A classifier without word order gets {overlap.accuracy.value:.1%} of pairs right"
    assert title in [finding.title for finding in found.findings]
    text = text_of(found.path.read_text())
    assert f"exceeds {overlap.accuracy.value:.1%}, the best figure here" in text
    for one in (lengths, words, overlap):
        interval = f"{one.accuracy.low * 100:.1f} – {one.accuracy.high * 100:.1f}%"
        assert f"{one.accuracy.value:.1%} {interval}" in text


def test_the_page_shows_the_figures_of_the_passport(prepared):
    passport = json.loads((prepared / "passport.json").read_text())
    html = html_of(prepared)
    text = text_of(html)
    for split in passport["splits"].values():
        for name in ("examples", "documents", "sentences", "tokens", "pairs", "random_pairs"):
            assert f"{split[name]:,}" in text, name
        for shard in split["shards"]:
            assert shard["file"] in text
            assert f'title="{shard["sha256"]}"' in html and shard["sha256"][:12] in text
    (source,) = passport["corpus"]["sources"]
    (file,) = source["files"]
    assert source["spec"] in text and file["path"] in text and f'title="{file["sha256"]}"' in html
    for name in ("tokenizer_fingerprint", "corpus_fingerprint"):
        assert f'title="{passport[name]}"' in html
    for name, value in passport["preparation"].items():
        assert f"data.{name} {value}" in text


def test_the_page_names_the_most_frequent_and_counts_the_unused_pieces(prepared):
    counts = np.load(prepared / "token_counts.npy")
    text = text_of(html_of(prepared))
    for i in np.argsort(-counts, kind="stable")[:5]:
        assert f"{TOKENIZER.pieces[i]} {counts[i] / counts.sum():.2%}" in text
    special = len(SPECIAL_PIECES)
    unused = int((counts[special:] == 0).sum())
    share = unused / (len(counts) - special)
    assert unused > 1  # words that only held-out documents contain
    assert f"{unused} pieces ({share:.1%} of all that are not special) never occur" in text


NEW = {
    "lengths": [0] * 20 + [3] * 13,
    "special_token_rate": 0.0987,
    "unknown_token_rate": 0.0345,
    "identical_documents": 17,
    "excluded_documents": 23,
}


def test_optional_passport_fields_appear_only_if_present(copied):
    said = ("Row lengths", "special tokens", "unknown tokens", "repeated", "excluded", "Masks")

    def bare(passport):
        for split in passport["splits"].values():
            for name in NEW:
                split.pop(name, None)
        for name in ("shared_documents", "masking", "exclusion"):
            passport.pop(name, None)

    def full(passport):
        for split in passport["splits"].values():
            split |= NEW
        passport["shared_documents"] = 5
        passport["masking"] = {
            **{"rows": 1234, "rate": 0.1511, "mask_share": 0.807},
            **{"random_share": 0.095, "kept_share": 0.098},
            "config": {"unit": "span", "rate": 0.1497, "split": [0.8, 0.1, 0.1]},
        }
        passport["exclusion"] = {
            "files": [{"path": "held/glue.txt", "sha256": "f" * 64}],
            **{"texts": 4321, "short_texts": 12},
        }

    change_passport(copied, bare)
    text = text_of(html_of(copied))
    assert not [words for words in said if words in text]
    change_passport(copied, full)
    html = html_of(copied)
    text = text_of(html)
    assert not [words for words in said if words not in text]
    for words in (
        "9.87%",
        "3.45%",
        "documents in both splits 5",
        "In 1,234 training rows",
        "unit of masking is the span",
        "15.11%",
        "14.97%",
        "80.7%",
    ):
        assert words in text, words
    for words in ("held/glue.txt", "one of 4,321 evaluation texts (12 of them too short"):
        assert words in text, words
    assert "5 documents in training and in evaluation" in text
    assert html.count("<svg") == 5


@pytest.mark.parametrize("pairs", ["none", "sentence_order"])
def test_the_wording_follows_the_pair_task(pairs, corpus, tmp_path):
    prepare(tmp_path / pairs, corpus, pairs=pairs)
    text = text_of(html_of(tmp_path / pairs))
    if pairs == "none":
        assert "There is no pair task" in text and "Balance of the labels" not in text
        assert "accuracy without word order" not in text
    else:
        assert "whether A and B are in order" in text
        assert "swapped pairs" in text
        assert "random pairs" not in text and "B is random" not in text


def test_the_page_says_that_data_have_no_problem(copied):
    """Single texts in full rows, with enough held-out documents and no unused piece."""
    counts = np.load(copied / "token_counts.npy")
    np.save(copied / "token_counts.npy", np.maximum(counts, 1))

    def change(passport):
        passport["preparation"]["pairs"] = "none"
        passport["splits"]["eval"]["documents"] = 1000
        passport["text"] = None
        for split in passport["splits"].values():
            split |= {"pairs": 0, "random_pairs": 0, "positions": 32 * split["examples"]}

    change_passport(copied, change)
    found = write_page(copied)
    assert found.findings == []
    assert "No problem was found in these data" in text_of(found.path.read_text())


# ---- Form ----------------------------------------------------------------------------------------


def test_the_same_data_give_the_same_page(prepared, tmp_path):
    first = html_of(prepared)
    assert html_of(prepared) == first
    # Another process has other string hashes and object ids.
    moved = shutil.copytree(prepared, tmp_path / "elsewhere" / prepared.name)
    (moved / "audit.html").unlink()
    result = audit(f"--audit={moved}")
    assert result.returncode == 0, result.stderr
    assert (moved / "audit.html").read_text(encoding="utf-8") == first
    assert not list(moved.glob("*.tmp"))


def test_the_page_needs_no_other_file_and_is_well_formed(prepared):
    html = html_of(prepared)
    assert not re.search(r"<(script|link|img|iframe)|@import|url\((?!#)", html)
    assert not re.search(r'(src|href)="(?!#)', html)
    ids = re.findall(r' id="([^"]*)"', html)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', html)) <= {
        pair for i in ids for pair in ((i, ""), ("", i))
    }

    class Balance(HTMLParser):
        def __init__(self):
            super().__init__()
            self.open = []

        def handle_starttag(self, tag, attrs):
            if tag not in ("meta", "br"):
                self.open.append(tag)

        def handle_startendtag(self, tag, attrs):
            pass

        def handle_endtag(self, tag):
            assert self.open.pop() == tag, self.getpos()

    parser = Balance()
    parser.feed(html)
    assert parser.open == []


def test_text_from_the_data_is_escaped(copied):
    def change(passport):
        passport["corpus"]["sources"][0]["licence"] = "<script>alert(1)</script> & more"

    change_passport(copied, change)
    html = html_of(copied)
    assert "<script>" not in html and "<i>words" not in html and "<b>never" not in html
    assert "<script>alert(1)</script> & more" in unescape(html)
    assert "<b>never</b>" in unescape(html)


def test_a_long_list_of_shards_is_collapsed(copied):
    assert "<details><summary>" not in html_of(copied)

    def change(passport):
        shards = passport["splits"]["train"]["shards"]
        passport["splits"]["train"]["shards"] = shards * 3

    change_passport(copied, change)
    assert "<details><summary>training: 9 shards" in html_of(copied)


# ---- The command ---------------------------------------------------------------------------------


def test_the_command_prints_a_summary_and_the_path_of_the_page(prepared):
    result = audit("--audit", prepared)
    assert result.returncode == 0 and result.stderr == "", result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"{prepared}: train ") and lines[1].startswith(f"{prepared}: eval ")
    assert "pair accuracy without reading: majority label" in lines[2]
    assert lines[-1] == str(prepared / "audit.html")


def test_a_missing_passport_is_a_one_line_error_and_writes_nothing(tmp_path):
    for directory in (tmp_path, tmp_path / "none"):
        assert_one_line(audit(f"--audit={directory}"), str(directory), "passport.json is missing")
    assert not list(tmp_path.iterdir())


def test_a_flag_that_audit_does_not_accept_is_a_one_line_error(prepared):
    for flag in ("--experiment=quickstart.py", "--set=seed=1", "--output=there", "--workers=3"):
        result = audit(f"--audit={prepared}", flag)
        assert_one_line(result, f"with {flag.split('=')[0]}; accepted: --audit alone")


@pytest.mark.parametrize("library", ["jinja2", "matplotlib", "sklearn"])
def test_a_missing_library_is_a_one_line_error_with_the_install_command(library, prepared):
    result = audit(f"--audit={prepared}", without=library)
    assert_one_line(result, f"--audit needs {library}", "pip install -e '.[audit]'")


def test_help_describes_audit():
    result = audit("--help")
    assert result.returncode == 0
    assert "python -m bert_jax.prepare --audit=" in result.stdout and "--audit:" in result.stdout


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("train-00001-of-00003.array_record", None, "array_record is missing"),
        ("token_counts.npy", None, "token_counts.npy is missing"),
        ("token_counts.npy", b"none", "token_counts.npy cannot be read"),
        ("tokenizer.json", b"[]", "tokenizer.json holds a list"),
        ("passport.json", b"{", "passport.json:1 is not JSON"),
    ],
)
def test_the_error_names_a_missing_or_damaged_file(name, content, said, copied):
    (copied / name).unlink()
    if content is not None:
        (copied / name).write_bytes(content)
    with pytest.raises(DataError, match=re.escape(said)):
        write_page(copied)
    assert not (copied / "audit.html").exists()


def test_token_counts_of_another_vocabulary_are_refused(copied):
    np.save(copied / "token_counts.npy", np.ones(7, np.int64))
    for read in (write_page, load_token_counts):  # training reads them for its baselines
        with pytest.raises(DataError, match=r"has shape \(7,\); accepted: \(367,\)"):
            read(copied)
