"""Measures each run of a sweep after its training: by a task, or by its likelihood of texts."""

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from bert_jax import config
from bert_jax.data.sentences import split_sentences
from bert_jax.data.sources.corpora import is_held_out, read_documents
from bert_jax.errors import BertJaxError, ConfigError, DataError, located, require
from bert_jax.files import read_json, read_json_if_whole, write_json
from bert_jax.statistics.examples import Scored

_FORMS = (
    "a function without arguments that returns a dictionary of names and sources: a fine-tuning "
    "file FILE.py or FILE.py:VARIANT, probe:FILE.py, minimal_pairs:FILE.jsonl, or "
    "bits_per_character:COUNT of sentences"
)


class Evaluation(NamedTuple):
    """A measurement of a finished run."""

    name: str
    """First part of the names of its metrics, such as `movies` of `movies/accuracy`."""
    kind: str
    """finetune, probe, minimal_pairs or bits_per_character."""
    source: str
    """The file; for bits_per_character, the number of sentences."""

    def directory(self, run: Path) -> Path:
        return run / "evaluations" / self.name

    def arguments(self, run: Path, codes: Sequence[Path]) -> list[str]:
        """Returns the arguments with which Python evaluates the run in a directory.

        `codes` are the user's own files that define classes of the run. They will be run.
        """
        if self.kind == "finetune":
            flags = {"experiment": self.source, "checkpoint": run, "workdir": self.directory(run)}
            given = [f"--{name}={value}" for name, value in flags.items()]
            return ["-m", "bert_jax.finetune", *given, *(f"--code={file}" for file in codes)]
        return ["-m", "bert_jax.sweeps.evaluations", *self, str(run), *map(str, codes)]

    def is_done(self, run: Path) -> bool:
        """Returns whether a run has a result of this evaluation, from a file of the same name."""
        result = read_json_if_whole(self.directory(run) / "result.json")
        source = result.get("file", self.source)  # that of a fine-tuning names no file
        return bool(result) and Path(source).name == Path(self.source).name

    def check_unchanged(self, run: Path) -> None:
        """Raises ConfigError if a run has a fine-tuning of this name and another config."""
        if self.kind == "finetune" and (file := self.directory(run) / "config.json").exists():
            task = config.load_experiment(self.source)
            kept = config.from_json(type(task), read_json(file))
            for path, (held, given) in config.diff(kept, config.normalize(task)).items():
                accepted = f"{held!r:.64} as in {file}, or another name in evaluations()"
                require(False, f"{self.source}: {path}", given, accepted)


def load_evaluations(spec: str) -> tuple[Evaluation, ...]:
    """Calls the function evaluations() of an experiment file, and loads the files that it names.

    Raises:
      ConfigError: it raises an exception, or returns something else than names and sources.
      DataError: a file of minimal pairs is malformed.
    """
    from bert_jax.tasks.config import FineTuningConfig  # imports jax

    file, _ = config.split_spec(spec)
    function = vars(config.load_module(spec)).get("evaluations", {})
    with config.errors_of(file):
        given = function() if callable(function) else function
    sources: dict[Any, Any] = dict(given) if isinstance(given, Mapping) else {"": None}
    if not all(
        isinstance(name, str) and re.fullmatch(r"\w[\w-]*", name) and isinstance(source, str)
        for name, source in sources.items()
    ):
        raise ConfigError(f"{file}: evaluations() returns {given!r:.80}; accepted: {_FORMS}")
    found = []
    for name, source in sources.items():
        kind, colon, path = source.partition(":")
        if not colon or kind not in ("probe", "minimal_pairs", "bits_per_character"):
            kind, path = "finetune", source
        with located(f"{file}: evaluations() {name!r}"):
            if kind == "minimal_pairs":
                read_pairs(path)
            elif kind == "bits_per_character":
                require(path.isdecimal() and int(path) > 0, kind, path, "a number of sentences")
            else:
                task = config.load_experiment(path)
                good = isinstance(task, FineTuningConfig)
                require(good, f"get_config() of {path}", type(task).__name__, "FineTuningConfig")
        found.append(Evaluation(name, kind, path))
    return tuple(found)


def check_evaluations(evaluations: Iterable[Evaluation], experiments: Sequence[Any]) -> None:
    """Reads the data of evaluations, and checks that the trained models will suit them.

    Raises:
      ConfigError, DataError: data are missing or wrong, or an experiment does not suit a task.
    """
    from bert_jax.tasks import probe  # these import jax
    from bert_jax.tasks.datasets import load_dataset
    from bert_jax.tasks.families.metrics import check_installed
    from bert_jax.tasks.state import make_model

    for one in evaluations:
        with located(f"evaluations() {one.name!r}"):
            if one.kind == "bits_per_character":
                accepted = "a corpus with a held-out sentence that fits into a row"
                for each in experiments:
                    found = next(held_out_sentences(each), None)
                    require(found, "data.corpus", each.data.corpus, accepted, error=DataError)
            elif one.kind in ("probe", "finetune"):  # load_evaluations has read the minimal pairs
                check_installed()
                task = config.load_experiment(one.source)
                family, given = task.task.family, task.task.representation
                good = one.kind == "finetune" or family in probe.FAMILIES
                require(good, "task.family of a probe", family, ", ".join(probe.FAMILIES))
                dataset = load_dataset(task.task)
                random = task.training.reinitialize_pooler or task.training.from_scratch
                for each in experiments:
                    make_model(task, each.model, dataset.family, dataset.labels)
                    good = given != "pooled" or random or each.objective.next_sentence
                    accepted = "another one, because objective.next_sentence=false trains no pooler"
                    require(good, "task.representation", given, accepted)


def metrics_of_evaluations(run: Path) -> dict[str, float]:
    """Returns the metrics of a run's evaluations, named NAME/METRIC.

    A fine-tuning has one metric: the task's main metric on dev.
    """
    found = {}
    for file in sorted(run.glob("evaluations/*/result.json")):
        result = read_json_if_whole(file)
        metrics = result.get("metrics", {})
        if "summary" in result:
            metric = result["metric"]
            metrics = {metric: result["summary"]["dev"][metric]["mean"]}
        found |= {f"{file.parent.name}/{metric}": value for metric, value in metrics.items()}
    return found


def outcomes_of_evaluations(run: Path) -> dict[str, Scored]:
    """Returns the outcomes on dev of a run's fine-tunings, by the names of their metrics.

    If a file of outcomes is missing, a line on stderr says so.

    Raises:
      CheckpointError: a file of outcomes is damaged.
    """
    from bert_jax.finetuning.results import read_outcomes  # imports jax
    from bert_jax.tasks.families.registry import FAMILIES

    found = {}
    for file in sorted(run.glob("evaluations/*/result.json")):
        result = read_json_if_whole(file)
        if "summary" in result:
            family, metric = FAMILIES[result["family"]], result["metric"]
            (seed,) = result["seeds"]
            array = file.parent / f"seed-{seed['seed']}" / "outcomes_dev.npy"
            if not array.exists():
                print(f"{array} is missing: differences are over seeds alone", file=sys.stderr)
                continue
            outcomes = read_outcomes(array, family, seed["dev"])
            scored = Scored(outcomes, family.metrics[metric], result["data_sha256"])
            found[f"{file.parent.name}/{metric}"] = scored
    return found


def read_pairs(file: str | Path) -> list[tuple[str, str]]:
    """Returns the acceptable and the unacceptable sentence of each line, in the format of BLiMP.

    Raises:
      DataError: a line has no `sentence_good` or `sentence_bad`, or there is no line.

    References:
      Warstadt et al. 2020, BLiMP (arXiv 1912.00582).
    """
    from bert_jax.tasks.readers.read import read_records  # imports jax

    pairs = []
    for record in read_records(f"jsonl:{file}"):
        pair = record.text("sentence_good"), record.text("sentence_bad")
        words = all(sentence.strip() for sentence in pair)
        require(words, record.place, pair, "two sentences", error=DataError)
        pairs.append(pair)
    return pairs


def score_pairs(run: Any, file: str) -> dict[str, float]:
    """Returns how often a run gives the acceptable sentence the higher pseudo-log-likelihood.

    References:
      Salazar et al. 2020, Masked language model scoring (arXiv 1910.14659).
    """
    pairs = read_pairs(file)
    scores = run.pseudo_log_likelihood([sentence for pair in pairs for sentence in pair])
    return {"accuracy": float((scores[::2] > scores[1::2]).mean())}


def score_characters(run: Any, count: str) -> dict[str, float]:
    """Returns bits per character and the characters of a run's first held-out sentences."""
    texts = list(islice(held_out_sentences(run.config), int(count)))
    return {"bits_per_character": run.bits_per_character(texts), "characters": sum(map(len, texts))}


def held_out_sentences(experiment: Any) -> Iterator[str]:
    """Yields the held-out sentences that are so short that they fit into a row in any tokens."""
    from bert_jax.training.experiment import phases  # imports jax

    data = phases(experiment)[-1].experiment.data
    for document in read_documents(data.corpus, on_bad_record="skip"):  # `prepare` may skip, too
        if is_held_out(document, fraction=data.held_out_fraction):
            for text in split_sentences(document.text, data.language):
                if len(text) <= data.sequence_length - 2:
                    yield text


def probe(run: Any, file: str) -> dict[str, float]:
    """Returns the metric of the linear probe that a fine-tuning file describes."""
    from bert_jax.tasks.probe import make_probe

    found = make_probe(config.load_experiment(file), run.model.config, run.tokenizer)(run.params)
    return {name.removeprefix("eval/probe_"): value for name, value in found.items()}


def main(name: str, kind: str, source: str, directory: str, *codes: str) -> None:
    """Evaluates the run in a directory, in a process of its own, after it has run `codes`."""
    from bert_jax import environment
    from bert_jax.runs.load import load_run

    environment.configure_jax()
    for code in codes:
        config.load_module(code)
    run = load_run(directory)
    by_kind = {"probe": probe, "minimal_pairs": score_pairs, "bits_per_character": score_characters}
    metrics = by_kind[kind](run, source)
    output = Evaluation(name, kind, source).directory(Path(directory))
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / "result.json", {"format_version": 1, "file": source, "metrics": metrics})


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except BertJaxError as problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(problem.status)
