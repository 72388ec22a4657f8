"""The passport of prepared data: what they were made of and with, and what is in them."""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from bert_jax.data.config import PREPARATION_FIELDS, DataConfig
from bert_jax.errors import DataError, MissingDataError
from bert_jax.files import sha256_of_file

FORMAT_VERSION = 3
PASSPORT_FILE = "passport.json"
TOKEN_COUNTS_FILE = "token_counts.npy"


def load_passport(directory: str | Path) -> dict:
    """Reads the passport that `prepare_data` wrote.

    Raises:
      MissingDataError: the directory has none.
      DataError: the passport is damaged or of another format.
    """
    path = Path(directory) / PASSPORT_FILE
    if not path.exists():
        raise MissingDataError(
            f"{directory} holds no prepared data ({PASSPORT_FILE} is missing); accepted: a "
            "directory that bert_jax.prepare has written"
        )
    return read_json(path)


def check_passport(passport: dict, config: DataConfig, *, vocab_size: int) -> None:
    """Raises DataError where the prepared data are not what `config` and the model expect."""
    wanted = {
        "preparation": {name: getattr(config, name) for name in PREPARATION_FIELDS},
        "vocab_size": vocab_size,
    }
    check_same(passport, wanted, where=str(Path(config.directory) / PASSPORT_FILE))


def passport_fingerprint(passport: dict) -> str:
    """SHA-256 of what the passport says of the data, hashes of all files among it.

    Where the text lay when it was read does not count, nor `masking`: masks are drawn later, and
    experiments that mask otherwise share the data.
    """
    content = json.dumps(_identity(passport), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _identity(passport: dict) -> dict:
    # `corpus` and `exclusion` hold paths; their fingerprints are fields of their own.
    others = ("corpus", "exclusion", "masking")
    content = {name: value for name, value in passport.items() if name not in others}
    if second := passport.get("second_phase"):
        content["second_phase"] = _identity(second)
    return content


def check_files(passport: dict, directory: str | Path, *, splits: Sequence[str]) -> None:
    """Reads the token counts and the shards of some splits, to compare their hashes.

    Raises:
      DataError: a file is missing, or not that of the passport.
    """
    wanted = {TOKEN_COUNTS_FILE: passport["token_counts_sha256"]}
    for split in splits:
        wanted |= {shard["file"]: shard["sha256"] for shard in passport["splits"][split]["shards"]}
    paths = [Path(directory) / name for name in wanted]
    for path in paths:
        if not path.exists():
            raise DataError(f"{path} is missing; accepted: every file that the passport names")
    with ThreadPoolExecutor() as pool:
        for path, found in zip(paths, pool.map(sha256_of_file, paths), strict=True):
            if found != wanted[path.name]:
                raise DataError(
                    f"{path} is not what {PASSPORT_FILE} says (SHA-256 {found[:12]}, there "
                    f"{wanted[path.name][:12]}); the prepare command, run again, replaces it"
                )


def join_passports(passports: Sequence[dict]) -> dict:
    """The passport of a run: that of its data, those of a second phase under `second_phase`."""
    first, *others = passports
    return {**first, "second_phase": join_passports(others)} if others else first


def check_tokenizer(passport: dict, fingerprint: str, *, directory: str | Path) -> None:
    """Raises DataError if `tokenizer.json` is no longer what the shards were encoded with."""
    made_with = passport["tokenizer_fingerprint"]
    if fingerprint != made_with:
        raise DataError(
            f"{directory}/tokenizer.json is another vocabulary ({fingerprint[:12]}) than the "
            f"shards there were made with ({made_with[:12]}); accepted: that one, or data "
            "prepared again in another directory"
        )


def load_token_counts(directory: str | Path) -> np.ndarray:
    """How often each id stands in the training records, int64 [vocab_size]."""
    return np.load(Path(directory) / TOKEN_COUNTS_FILE)


def majority_pair_label(passport: dict) -> int:
    """The label of more than half of the training pairs, 0 where there are none."""
    train = passport["splits"]["train"]
    return int(2 * train["random_pairs"] > train["pairs"])


def check_same(found: dict, wanted: dict, *, where: str) -> None:
    """Raises DataError for the first of the `wanted` settings that `found` has not."""
    for name, value in wanted.items():
        if name == "preparation":
            check_same(found.get(name, {}), value, where=where)
        elif found.get(name) != value:
            label = f"data.{name}" if name in PREPARATION_FIELDS else name
            raise DataError(
                f"{where} was made with {label} {found.get(name)!r}, not {value!r}; accepted: the "
                "same value, or another data.directory"
            )


def read_json(path: Path) -> dict:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}); delete it and prepare again") from error
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise DataError(
            f"{path} has format_version {version}; accepted: {FORMAT_VERSION}, "
            "data prepared again in another directory"
        )
    return content
