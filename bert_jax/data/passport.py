"""The passport of prepared data: a JSON file of their sources, settings and statistics."""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import numpy as np
from msgspec import Meta, Struct

from bert_jax.config import PositiveInt
from bert_jax.config.paths import is_remote, open_path
from bert_jax.data.config import LATER_FIELDS, PREPARATION_FIELDS, DataConfig
from bert_jax.data.remote import local_file
from bert_jax.errors import CheckpointError, DataError, MissingDataError
from bert_jax.files import Count, FileName, Sha256, check_json, read_array, read_json

FORMAT_VERSION = 3
PASSPORT_FILE = "passport.json"
TOKEN_COUNTS_FILE = "token_counts.npy"


class ShardSummary(TypedDict):
    """Fields of a shard in a passport."""

    file: FileName
    sha256: Sha256
    examples: Count


class Counts(TypedDict):
    """Counts of a split in a passport, and of a shard in its statistics."""

    examples: Count
    documents: Count
    sentences: Count
    tokens: Count
    positions: Count
    pairs: Count
    random_pairs: Count
    bytes_read: Count


class _Split(Counts):
    shards: Annotated[list[ShardSummary], Meta(min_length=1)]
    lengths: NotRequired[list[Count]]
    identical_documents: NotRequired[Count]
    excluded_documents: NotRequired[Count]
    special_token_rate: NotRequired[float]
    unknown_token_rate: NotRequired[float]
    random_pair_rate: NotRequired[float]


class _Splits(Struct, forbid_unknown_fields=True):
    train: _Split
    eval: _Split


class _Preparation(TypedDict):
    sequence_length: PositiveInt
    language: NotRequired[str]
    pairs: Literal["next_sentence", "sentence_order", "none"]
    pairs_per_row: PositiveInt


class _File(TypedDict):
    path: str
    sha256: str


class _ReadAs(TypedDict):
    kind: NotRequired[str]


class _InputFile(_File):
    bytes: Count
    read_as: NotRequired[_ReadAs]
    compression: NotRequired[str | None]


class _Source(TypedDict):
    spec: str
    weight: float
    licence: str | None
    files: list[_InputFile]


class CorpusDescription(TypedDict):
    """Fields of the description of a corpus."""

    spec: str
    sources: list[_Source]


class _Exclusion(TypedDict):
    texts: Count
    short_texts: NotRequired[Count]
    files: list[_File]


class _MaskingConfig(TypedDict):
    unit: str
    rate: float
    split: list[float]


class _Masking(TypedDict):
    config: _MaskingConfig
    rows: Count
    rate: float
    mask_share: float
    random_share: float
    kept_share: float


class Skipped(TypedDict):
    """Malformed records that were skipped."""

    count: Count
    records: list[str]


class Passport(TypedDict):
    """Type of the fields of a passport that bert_jax reads. `prepare` writes further fields."""

    preparation: _Preparation
    corpus: CorpusDescription
    corpus_fingerprint: str
    splits: _Splits
    vocab_size: PositiveInt
    record_dtype: Literal["uint16", "uint32"]
    tokenizer_fingerprint: str
    token_counts_sha256: Sha256
    shared_documents: NotRequired[Count]
    identical_shards: NotRequired[list[list[str]]]
    exclusion: NotRequired[_Exclusion | None]
    masking: NotRequired[_Masking]
    text: NotRequired[dict[str, float] | None]
    skipped: NotRequired[Skipped]


def load_passport(directory: str | Path) -> dict:
    """Reads the passport that `prepare_data` wrote.

    Raises:
      MissingDataError: the directory has no passport.
      DataError: the passport is damaged, or has another format version.
    """
    path = open_path(directory, name="the directory of prepared data") / PASSPORT_FILE
    if not path.exists():
        raise MissingDataError(
            f"{directory} holds no prepared data ({PASSPORT_FILE} is missing); accepted: a "
            "directory that bert_jax.prepare has written"
        )
    return read_prepared(path, Passport)


def check_outside_data(workdir: Path) -> None:
    """Raises CheckpointError if `workdir` is, or lies in, a directory of prepared data."""
    place = workdir if is_remote(workdir) else workdir.resolve()
    above = place.parents[:-2] if is_remote(workdir) else place.parents  # without gs:// itself
    for directory in (place, *above):
        if (directory / PASSPORT_FILE).exists():
            raise CheckpointError(
                f"{workdir} lies in the prepared data of {directory}; accepted: another --workdir"
            )


def check_passport(passport: dict, config: DataConfig, *, vocab_size: int) -> None:
    """Raises DataError if the data were not prepared with `config` and `vocab_size`."""
    wanted = {
        "preparation": {name: getattr(config, name) for name in PREPARATION_FIELDS},
        "vocab_size": vocab_size,
    }
    check_same(passport, wanted, where=f"{config.directory}/{PASSPORT_FILE}")


def passport_fingerprint(passport: dict) -> str:
    """Returns the SHA-256 of the passport's content, which includes the hashes of all shards.

    The paths of the text are left out. `masking` is left out too, because masks are drawn during
    training, and experiments with other masks share the data. Equal shards have equal `text` and
    `skipped`, which earlier passports lack.
    """
    content = json.dumps(_identity(passport), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _identity(passport: dict) -> dict:
    # `corpus` and `exclusion` hold paths. Separate fields hold their fingerprints.
    others = ("corpus", "exclusion", "masking", "text", "skipped")
    content = {name: value for name, value in passport.items() if name not in others}
    content["preparation"] = {
        name: value
        for name, value in passport["preparation"].items()
        if name not in LATER_FIELDS or value != getattr(DataConfig, name)
    }
    if second := passport.get("second_phase"):
        content["second_phase"] = _identity(second)
    return content


def check_files(passport: dict, directory: str | Path, *, splits: Sequence[str]) -> None:
    """Checks the SHA-256 of the file of token counts and of the shards of the given splits.

    Raises:
      DataError: a file is missing, or differs from the file that the passport describes.
    """
    wanted = {TOKEN_COUNTS_FILE: passport["token_counts_sha256"]}
    for split in splits:
        wanted |= {shard["file"]: shard["sha256"] for shard in passport["splits"][split]["shards"]}

    def check(name: str) -> None:
        local_file(directory, name, sha256=wanted[name], check=True)

    with ThreadPoolExecutor() as pool:
        list(pool.map(check, wanted))  # raises the first error


def join_passports(passports: Sequence[dict]) -> dict:
    """Nests the passports of phases: each holds the next phase's passport as `second_phase`."""
    first, *others = passports
    return {**first, "second_phase": join_passports(others)} if others else first


def check_tokenizer(passport: dict, fingerprint: str, *, directory: str | Path) -> None:
    """Raises DataError if `tokenizer.json` is not the vocabulary of the shards."""
    made_with = passport["tokenizer_fingerprint"]
    if fingerprint != made_with:
        raise DataError(
            f"{directory}/tokenizer.json holds vocabulary {fingerprint[:12]}, but the shards there "
            f"were made with vocabulary {made_with[:12]}; accepted: the vocabulary of the shards, "
            "or data prepared in another directory"
        )


def load_token_counts(directory: str | Path) -> np.ndarray:
    """Returns how often each id occurs in the training records, int64 [vocab_size]."""
    passport = load_passport(directory)
    path = local_file(directory, TOKEN_COUNTS_FILE, sha256=passport["token_counts_sha256"])
    counts = np.array(read_array(path, dtype=np.int64))
    if counts.shape != (passport["vocab_size"],):
        raise DataError(
            f"{path} has shape {counts.shape}; accepted: ({passport['vocab_size']},), the "
            "vocab_size"
        )
    return counts


def majority_pair_label(passport: dict) -> int:
    """Returns 1 if more than half of the training pairs have label 1, otherwise 0."""
    train = passport["splits"]["train"]
    return int(2 * train["random_pairs"] > train["pairs"])


def check_same(found: dict, wanted: dict, *, where: str) -> None:
    """Raises DataError for the first setting in `wanted` that differs in `found`."""
    earlier = {name: getattr(DataConfig, name) for name in LATER_FIELDS}
    for name, value in wanted.items():
        if name == "preparation":
            check_same(found.get(name, {}), value, where=where)
        elif (before := found.get(name, earlier.get(name))) != value:
            label = f"data.{name}" if name in PREPARATION_FIELDS else name
            raise DataError(
                f"{where} was made with {label} {before!r:.60}, not {value!r}; accepted: "
                "the same value, or another data.directory"
            )


class Settings(TypedDict):
    """Type of the fields that `check_same` compares."""

    preparation: NotRequired[dict[str, Any]]


def read_prepared(path: Path, kind: Any = Settings) -> dict:
    """Reads a JSON file of prepared data.

    Args:
      path: a passport, the statistics of a shard, or a file of the survey.
      kind: type of the content; see `files.read_json`.

    Raises:
      DataError: the file is damaged, or its format is not the current one.
    """
    advice = "; delete it and prepare again"
    content = read_json(path, advice=advice)
    version = content.get("format_version")
    if version != FORMAT_VERSION:
        raise DataError(
            f"{path} has format_version {version!r:.60}; accepted: {FORMAT_VERSION}; prepare the "
            "data again in another directory"
        )
    check_json(content, kind, place=path, advice=advice)
    return content
