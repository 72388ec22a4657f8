r"""Prepares pretraining data from raw text: a vocabulary, then shards of examples.

  python -m bert_jax.prepare --experiment=experiments/quickstart.py
  python -m bert_jax.prepare --experiment=experiments/bert.py:base --workers=16 \
    --corpus='text:corpora/books/*.txt,jsonl:corpora/wiki-*.jsonl.gz@2' --output=data/books-and-wiki

The experiment's `data` and `model.vocab_size` say what is prepared. --corpus and --output replace
`data.corpus` and `data.directory`; docs/data.md describes the format of a corpus.
--set data.pairs_per_row=3 packs up to three pairs into a row. A phase with longer or shorter rows
gets its own directory. The vocabulary of the first phase is used for all phases. For a text that is
not English, --set data.language=de says where sentences end, and --set data.strip_accents=false
keeps accents.

The output does not depend on the engine or on the number of workers. After an interruption the
same command makes the missing shards; finished data stay as they are.

--exclude=FILE names evaluation texts, one text per line. Documents that share 13 consecutive words
with any of these texts are left out, so a model is not tested on text that it has read. See
bert_jax/data/preparation/exclusion.py.

--on_bad_record=skip leaves out records that cannot be read: a line that is not JSON or has no text,
a document that is not UTF-8, or a document of more than 16 MiB. The passport counts and lists them.

--audit=DIRECTORY prepares nothing. It writes DIRECTORY/audit.html, a page about finished data, with
statistics, plots and findings to look at before training. The page also shows how well lengths and
words alone predict the pair labels. No --experiment is needed:

  python -m bert_jax.prepare --audit=data/quickstart
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from bert_jax import command, environment
from bert_jax.config.paths import open_path
from bert_jax.errors import ConfigError, needing

if TYPE_CHECKING:
    from bert_jax.data.tokenizers.files import Tokenizer
    from bert_jax.training.experiment import Experiment

FLAGS = flags.FLAGS


def main() -> None:
    for name in ("audit", "corpus", "output", "vocabulary"):
        if FLAGS[name].present and not FLAGS[name].value:
            raise ConfigError(f"--{name} is empty; accepted: a value, or no --{name}")
    for name in ("audit", "output", "vocabulary"):
        open_path(FLAGS[name].value or "", name=f"--{name}", local=name != "output")
    if FLAGS.audit is not None:
        _audit(os.path.expanduser(FLAGS.audit))
        return
    from bert_jax.audit.findings import find_at_once
    from bert_jax.data.passport import PASSPORT_FILE
    from bert_jax.data.preparation.engines import Engine
    from bert_jax.data.preparation.exclusion import open_exclusion
    from bert_jax.data.preparation.prepare import prepare_data, train_vocabulary
    from bert_jax.data.remote import worked_on_locally
    from bert_jax.training.experiment import phases

    if FLAGS.beam and FLAGS.engine != "beam":
        raise ConfigError(
            f"--beam={FLAGS.beam[0]} with --engine={FLAGS.engine}; accepted: --engine=beam"
        )
    experiment = command.experiment_from_flags()
    data = replace(
        experiment.data,
        corpus=FLAGS.corpus or experiment.data.corpus,
        directory=FLAGS.output or experiment.data.directory,
    )
    engine = Engine(kind=FLAGS.engine, workers=FLAGS.workers, beam_options=tuple(FLAGS.beam))
    tokenizer = _given_tokenizer(experiment)
    settings = {
        "engine": engine,
        "exclusion": open_exclusion(list(map(os.path.expanduser, FLAGS.exclude))),
        "on_bad_record": FLAGS.on_bad_record,
    }
    for phase in phases(replace(experiment, data=data)):
        phase_data = phase.experiment.data
        with (
            command.exclusive(open_path(phase_data.directory, name="--output"), flag="--output"),
            worked_on_locally(phase_data.directory, last=PASSPORT_FILE) as local,
            environment.progress() as report,
        ):
            passport_file = Path(local) / PASSPORT_FILE
            before = passport_file.read_bytes() if passport_file.exists() else b""
            local_data = replace(phase_data, directory=local)
            if tokenizer is None:  # all phases share the vocabulary of the first
                tokenizer = train_vocabulary(
                    local_data, vocab_size=experiment.model.vocab_size, report=report, **settings
                )
            passport = prepare_data(local_data, tokenizer=tokenizer, report=report, **settings)
            finished = passport_file.read_bytes() == before
        if finished:
            print(f"{phase_data.directory}: the data are finished; nothing is left to do")
        _print_splits(phase_data.directory, passport)
        for finding in find_at_once(passport):
            print(f"{phase_data.directory}: look: {finding.title}. {finding.remedy}")
        if passport["exclusion"]:
            _print_exclusion(phase_data.directory, passport)


def _print_splits(directory: str, passport: dict) -> None:
    preparation = passport["preparation"]
    for split, summary in passport["splits"].items():
        rows, pairs, random = max(1, summary["examples"]), summary["pairs"], ""
        if pairs:
            what = "swapped" if preparation["pairs"] == "sentence_order" else "random"
            random = f", {summary['random_pairs'] / pairs:.1%} of {pairs:,} pairs {what}"
        print(
            f"{directory}: {split:5} {summary['examples']:>9,} rows"
            f" of {summary['documents']:,} documents, {summary['tokens']:,} tokens,"
            f" {summary['positions'] / rows / preparation['sequence_length']:.1%} full{random}"
        )


def _print_exclusion(directory: str, passport: dict) -> None:
    excluded = passport["exclusion"]
    dropped = {name: split["excluded_documents"] for name, split in passport["splits"].items()}
    print(
        f"{directory}: {dropped['train']:,} documents for training and {dropped['eval']:,} held"
        f" out were dropped because they share text with {excluded['texts']:,} evaluation texts;"
        f" {excluded['short_texts']:,} texts have fewer than {excluded['min_words']} words and"
        " were not searched for"
    )


def _audit(directory: str) -> None:
    preparing = ("corpus", "output", "vocabulary", "exclude", "engine", "workers", "beam")
    for name in ("experiment", "set", "on_bad_record", *preparing):
        if FLAGS[name].present:
            raise ConfigError(f"--audit={directory} with --{name}; accepted: --audit alone")
    with needing("--audit", "audit", error=ConfigError):
        from bert_jax.audit.page import write_page
    audit = write_page(directory)
    _print_splits(directory, audit.passport)
    if audit.shortcut:
        figures = ", ".join(
            f"{one.name} {one.accuracy.value:.1%} ({one.accuracy.low:.1%} to"
            f" {one.accuracy.high:.1%})"
            for one in audit.shortcut.classifiers
        )
        print(
            f"{directory}: pair accuracy without reading: majority label"
            f" {audit.shortcut.majority:.1%}, {figures}"
        )
    for finding in audit.findings:
        print(f"{directory}: look: {finding.title}")
    print(audit.path)


def _given_tokenizer(experiment: "Experiment") -> "Tokenizer | None":
    from bert_jax.data.tokenizers.huggingface import HuggingFace
    from bert_jax.data.tokenizers.sentencepiece import SentencePiece
    from bert_jax.data.tokenizers.wordpiece import WordPiece

    data, vocabulary = experiment.data, FLAGS.vocabulary
    given, suffix = f"--vocabulary={vocabulary}", Path(vocabulary or "").suffix
    if data.tokenizer_kind == "huggingface":
        if vocabulary:
            raise ConfigError(
                f"{given} with data.tokenizer {data.tokenizer!r}; accepted: one of both"
            )
        given = f"data.tokenizer={data.tokenizer}"
        tokenizer = HuggingFace.from_file(data.tokenizer.removeprefix("file:"))
    elif not vocabulary:
        return None
    elif suffix == ".json":
        raise ConfigError(
            f"{given} is a .json file; accepted: a vocab.txt, a SentencePiece model that ends in "
            f".model, or --set data.tokenizer=file:{vocabulary}"
        )
    elif data.tokenizer == "sentencepiece":
        tokenizer = SentencePiece.from_model_file(vocabulary)
    elif suffix == ".model":
        raise ConfigError(
            f"{given} is a SentencePiece model and data.tokenizer is {data.tokenizer!r}; accepted: "
            "--set data.tokenizer=sentencepiece, or a vocab.txt"
        )
    else:
        tokenizer = WordPiece.from_vocabulary_file(
            vocabulary,
            lower_case=data.lower_case,
            strip_accents=data.strip_accents,
            max_word_length=data.max_word_length,
        )
    if tokenizer.vocab_size != experiment.model.vocab_size:
        raise ConfigError(
            f"{given} has {tokenizer.vocab_size} pieces and model.vocab_size is "
            f"{experiment.model.vocab_size}; accepted: "
            f"--set model.vocab_size={tokenizer.vocab_size}"
        )
    return tokenizer


if __name__ == "__main__":
    flags.adopt_module_key_flags(command)
    flags.DEFINE_string(
        "corpus", None, "Raw text, SPEC[@WEIGHT][,SPEC...]. Default: the experiment's data.corpus."
    )
    flags.DEFINE_string(
        "output", None, "Directory to write. Default: the experiment's data.directory."
    )
    flags.DEFINE_string(
        "vocabulary",
        None,
        "A vocab.txt, or a SentencePiece .model, to use. Default: a vocabulary is trained.",
    )
    flags.DEFINE_multi_string(
        "exclude",
        [],
        "File of evaluation texts, one per line. Documents that share text with them are left out.",
    )
    flags.DEFINE_enum(
        "on_bad_record",
        "stop",
        ["stop", "skip"],
        "Ends with an error at a record that cannot be read (stop), or leaves it out (skip).",
    )
    flags.DEFINE_enum(
        "engine",
        "pool",
        ["pool", "beam"],
        "Runs the work in a pool of processes (pool) or on Apache Beam (beam).",
    )
    flags.DEFINE_integer("workers", os.cpu_count() or 1, "Processes of the pool.", lower_bound=1)
    flags.DEFINE_string(
        "audit", None, "Directory of prepared data. Writes audit.html there and prepares nothing."
    )
    flags.DEFINE_multi_string(
        "beam", [], "An option of Beam, such as --beam=--runner=DataflowRunner."
    )
    command.run(main, resumes=True)
