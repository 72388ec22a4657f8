"""Files in the layouts of GLUE and SNLI: 50 rows each, with sentences of our own."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

PEOPLE = ("the baker", "a tired pilot", "my sister", "the old gardener", "his teacher")
ACTIONS = ("praised", "missed", "watched", "forgot")
THINGS = ("a good film", "the school play", "a very bad film", 'a film called "Rain"', "the play")
TIMES = ("on monday", "before lunch", "in the rain", "twice")
SENTENCES = [" ".join(words) for words in itertools.product(PEOPLE, ACTIONS, THINGS, TIMES)]

ROWS = 50
SPLITS = ("train", "dev", "test")
PARSES = "sentence1_binary_parse sentence2_binary_parse sentence1_parse sentence2_parse".split()

Row = list[str]


class Layout(NamedTuple):
    """A set: its config, its files, and the number of bad rows in each file."""

    config: dict[str, Any]
    """Fields of `TaskConfig` besides `train`, `dev` and `test`."""
    rows: Callable[[str], list[Row]]
    """The rows of a split, with the header if there is one."""
    bad: dict[str, int]

    def write(self, directory: Path) -> dict[str, str]:
        """Writes the files and returns the spec of each split."""
        for split in SPLITS:
            lines = ("\t".join(row) + "\n" for row in self.rows(split))
            (directory / f"{split}.tsv").write_text("".join(lines), encoding="utf-8")
        return {split: f"tsv:{directory}/{split}.tsv" for split in SPLITS}


def sentences_of(split: str) -> list[str]:
    """Returns 100 sentences. Each split has other sentences than the others."""
    first = SPLITS.index(split) * 2 * ROWS
    return SENTENCES[first : first + 2 * ROWS]


def pairs_of(split: str) -> list[tuple[str, str]]:
    found = sentences_of(split)
    return list(zip(found[:ROWS], found[ROWS:], strict=True))


def cola(split: str) -> list[Row]:
    """No header and four columns in train and dev; a header and two columns in test."""
    found = sentences_of(split)[:ROWS]
    if split == "test":
        return [["index", "sentence"], *([str(i), text] for i, text in enumerate(found))]
    return [["gj04", str(i % 2), "" if i % 2 else "*", text] for i, text in enumerate(found)]


def qqp(split: str) -> list[Row]:
    """Three rows of train and one of dev are torn: cells are missing, or there are too many."""
    columns = ["id", "qid1", "qid2", "question1", "question2", "is_duplicate"]
    if split == "test":
        rows = [[str(i), f"{a}?", f"{b}?"] for i, (a, b) in enumerate(pairs_of(split))]
        return [["id", *columns[3:5]], *rows]
    rows = [
        [str(i), str(2 * i), str(2 * i + 1), f"{a}?", f"{b}?", str(i % 2)]
        for i, (a, b) in enumerate(pairs_of(split))
    ]
    rows[7] = rows[7][:5]
    if split == "train":
        rows[20], rows[21] = [rows[20][4]], [*rows[21], "0"]
    return [columns, *rows]


def snli(split: str) -> list[Row]:
    """Two rows of train and one of dev have the gold label `-`; dev has five single labels."""
    labels = ("contradiction", "entailment", "neutral")
    singles = {"train": 1, "dev": 5, "test": 0}[split]
    columns = ["index", "captionID", "pairID", *PARSES, "sentence1", "sentence2"]
    columns += [f"label{i + 1}" for i in range(singles)] + ["gold_label"] * bool(singles)
    rows = []
    for i, (a, b) in enumerate(pairs_of(split)):
        label = "-" if i == 11 or (i == 30 and split == "train") else labels[i % 3]
        given = [labels[i % 3]] * singles + [label] * bool(singles)
        rows.append([str(i), f"{i}.jpg#0", f"{i}.jpg#0r1", *["( )"] * 4, a, b, *given])
    return [columns, *rows]


def mnli(split: str) -> list[Row]:
    """As SNLI, with a genre, and without `-`."""
    header, *rows = snli(split)
    header[1:3] = ["promptID", "pairID", "genre"]
    rows = [[row[0], row[1], row[2], "fiction", *row[3:]] for row in rows]
    return [header, *([row[-2] if cell == "-" else cell for cell in row] for row in rows)]


def stsb(split: str) -> list[Row]:
    columns = ["index", "genre", "filename", "year", "old_index", "source1", "source2"]
    columns += ["sentence1", "sentence2"] + ["score"] * (split != "test")
    rows = [
        [str(i), "news", "none", "2012", f"{i:04}", "none", "none", a, b, f"{i % 11 / 2:.3f}"]
        for i, (a, b) in enumerate(pairs_of(split))
    ]
    return [columns, *(row[: len(columns)] for row in rows)]


def rte(split: str) -> list[Row]:
    columns = ["index", "sentence1", "sentence2"] + ["label"] * (split != "test")
    labels = ("entailment", "not_entailment")
    rows = [[str(i), a, b, labels[i % 2]] for i, (a, b) in enumerate(pairs_of(split))]
    return [columns, *(row[: len(columns)] for row in rows)]


PAIR = {"family": "classification", "text": "sentence1", "text_pair": "sentence2"}
LABELS = ("contradiction", "entailment", "neutral")
NONE = dict.fromkeys(SPLITS, 0)
LAYOUTS = {
    "cola": Layout(
        {
            "family": "classification",
            "columns": ("source", "label", "mark", "sentence"),
            "text": "sentence",
            "metric": "matthews",
        },
        cola,
        NONE,
    ),
    "qqp": Layout(
        PAIR | {"text": "question1", "text_pair": "question2", "label": "is_duplicate"},
        qqp,
        {"train": 3, "dev": 1, "test": 0},
    ),
    "snli": Layout(
        PAIR | {"label": "gold_label", "labels": LABELS}, snli, {"train": 2, "dev": 1, "test": 0}
    ),
    "mnli": Layout(PAIR | {"label": "gold_label"}, mnli, NONE),
    "stsb": Layout(PAIR | {"family": "regression", "label": "score"}, stsb, NONE),
    "rte": Layout(PAIR, rte, NONE),
}
