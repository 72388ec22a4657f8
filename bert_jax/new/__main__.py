r"""Writes an experiment file for your own text, with comments to change it by.

  python -m bert_jax.new mine.py --language=fi --size=base --corpus='text:corpora/fi/*.txt'

--language is a code of ISO 639-1, such as fi. --size is tiny (a trial), mini, small, medium, base
or large. --corpus has the form of `data.corpus`, which docs/data.md describes; the command checks
that its files exist. Their size decides about the vocabulary, the number of files and the share of
held-out documents. The file is an experiment like those in experiments/.
"""

import json
import re
from pathlib import Path

from absl import flags

from bert_jax import command
from bert_jax.config.bounds import nearest
from bert_jax.config.paths import open_path
from bert_jax.data.config import DataConfig
from bert_jax.data.sources.corpora import open_corpus
from bert_jax.errors import ConfigError, require
from bert_jax.files import write_atomically

_FOLDER = Path(__file__).parent

SIZES = {  # layers, hidden size, attention heads
    "tiny": (2, 128, 2),
    "mini": (4, 256, 4),
    "small": (4, 512, 8),
    "medium": (8, 512, 8),
    "base": (12, 768, 12),
    "large": (24, 1024, 16),
}
"""The sizes of Devlin et al. 2018 and Turc et al. 2019 (https://arxiv.org/abs/1908.08962)."""

OF_CORPUS = ("vocab_size", "dupe_factor", "held_out_fraction", "train_shards")
CORPORA = {1e6: (2048, 10, 0.1, 2), 1e8: (8192, 5, 0.05, 8), 1e10: (32_768, 2, 0.01, 128)}
CORPORA[1e99] = (32_768, 1, 0.001, 1024)
"""The fields OF_CORPUS, for corpora of less than so many bytes as stored. A small corpus gives a
smaller vocabulary, is used more often, and needs a larger share of held-out documents."""

WITHOUT_SPACES = ("ja", "km", "lo", "my", "th")
"""Languages without spaces between words. They need the tokenizer `sentencepiece`."""

_TRIAL = {"batch_size": 64, "learning_rate": 1e-3, "warmup_steps": 200, "steps": 2000}
_TRIAL |= {"eval_every": 500, "checkpoint_every": 500, "evaluation_batch_size": 64}
_SMALL = {"batch_size": 128, "learning_rate": 5e-4, "warmup_steps": 1000, "steps": 50_000}
_SMALL |= {"eval_every": 5000, "checkpoint_every": 1000, "evaluation_batch_size": 256}
# 16 times the tokens of an update in Devlin et al. 2018, and 4 times the learning rate, by the
# square-root rule of You et al. 2020 (https://arxiv.org/abs/1904.00962).
_FULL = {"batch_size": 4096, "learning_rate": 4e-4, "warmup_steps": 10_000, "steps": 250_000}
_FULL |= {"eval_every": 5000, "checkpoint_every": 1000, "evaluation_batch_size": 1024}


def experiment_file(
    file: str | Path, *, language: str, size: str, corpus: str, corpus_bytes: float
) -> str:
    """Returns the text of an experiment file; its data and its run get the name of the file."""
    full, dimensions = size in ("base", "large"), ("num_layers", "hidden_size", "num_heads")
    tokenizer = 'tokenizer="sentencepiece"' if language in WITHOUT_SPACES else "strip_accents=False"
    template, phases = (
        (_FOLDER / name).read_text(encoding="utf-8") for name in ("experiment.txt", "phases.txt")
    )
    return template.format(
        **(_FULL if full else _TRIAL if size == "tiny" else _SMALL),
        **dict(
            zip(OF_CORPUS, next(v for n, v in CORPORA.items() if corpus_bytes < n), strict=True)
        ),
        **dict(zip(dimensions, SIZES[size], strict=True)),
        file=file,
        name=Path(file).stem,
        language=language,
        size=size,
        corpus=json.dumps(corpus, ensure_ascii=False),
        tokenizer=tokenizer,
        max_positions=512 if full else 128,
        dtype="bfloat16" if full else "float32",
        microbatches=4 if size == "large" else 1,
        phase_config="PhaseConfig, " if full else "",
        phases=phases if full else "",
    )


def main(*files: str) -> None:
    language = command.required("language", "a code such as fi")
    corpus = command.required("corpus", "the text, such as text:corpora/*.txt")
    size = flags.FLAGS.size
    name = " ".join(files)
    accepted = "a path such as mine.py, of letters, digits, -, _ and /"
    require(re.fullmatch(r"[\w./~-]+\.py", name), "the file", name, accepted)
    if size not in SIZES:
        raise ConfigError(f"--size is {size!r}; {nearest(size, SIZES)}")
    file = open_path(name, name="the file", local=True)
    require(not file.exists(), "the file", str(file), "a new file; this one exists")
    DataConfig(directory=file.stem, corpus=corpus, language=language)  # checks the language
    found = [one for source in open_corpus(corpus).sources for one in source.files]
    stored = sum(one.size for one in found)
    text = experiment_file(file, language=language, size=size, corpus=corpus, corpus_bytes=stored)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, text)
    amount = f"{stored / 1e6:,.1f} MB" if stored >= 1e6 else f"{stored / 1e3:,.1f} kB"
    count = f"{len(found)} file" + "s" * (len(found) != 1)
    print(f"{file}: BERT-{size} for {language}, from {count} ({amount})")
    print(f"next: python -m bert_jax.prepare --experiment={file}")


if __name__ == "__main__":
    flags.DEFINE_string("language", None, "Language of the text, as a code of ISO 639-1: fi.")
    flags.DEFINE_string("corpus", None, "The text, such as 'text:corpora/fi/*.txt'.")
    flags.DEFINE_string("size", "base", f"Size of the model: {', '.join(SIZES)}.")
    command.run(main, operands=True)
