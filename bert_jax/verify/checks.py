"""Compares a finished run with what it wrote, and makes some of its updates again."""

import hashlib
import math
import random
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import jax
import numpy as np

from bert_jax.config import FORMAT_VERSION, config_hash, from_json
from bert_jax.data.passport import check_files, join_passports, passport_fingerprint
from bert_jax.errors import BertJaxError, CheckpointError, DataError, require
from bert_jax.faults.damage import DIGESTS_FILE, check_step, position_of, saved_steps
from bert_jax.faults.run_files import RunResult, read_rows
from bert_jax.files import parse_json, read_json, read_text
from bert_jax.runs.evaluation import evaluate_run
from bert_jax.runs.load import load_run
from bert_jax.sharding import make_mesh
from bert_jax.sweeps import table
from bert_jax.sweeps.gather import Gathered, gather, summary
from bert_jax.training import checkpoint
from bert_jax.training.build import assemble
from bert_jax.training.experiment import Experiment, phases
from bert_jax.training.nonfinite import NonFiniteSteps
from bert_jax.training.phases import load_data, phase_of_step, training_batches
from bert_jax.training.state import abstract_state, make_state
from bert_jax.training.writer import RunWriter

TOLERANCE = 1e-3
"""Largest accepted relative difference of a value of a row. On the same kind of machine, values are
equal bitwise. Another processor or another jax rounds sums differently, and updates multiply this
difference; a wrong batch, mask or rate changes a loss by more."""

READ_AGAIN = 10
"""Number of random rows whose batches are read, for each row that is made again."""


class Page(TypedDict):
    """Data in the page of a report, from which the page can be made again."""

    directories: list[str]
    base: str
    title: str


class Check(NamedTuple):
    """A comparison and its result."""

    subject: str
    agrees: bool
    said: str


def verify(workdir: Path, *, rows: int = 1) -> Iterator[Check]:
    """Yields the checks of a finished run; `rows` of updates are made again from each start.

    With 0 rows, only hashes are compared.

    Raises:
      CheckpointError: `workdir` holds no finished run.
      ConfigError: the mesh of the run does not suit the devices.
    """
    advice = " of a finished run, or the directory of a sweep, or the page of a report"
    result = read_json(workdir / "result.json", RunResult, error=CheckpointError, advice=advice)
    description = read_json(workdir / "config.json", error=CheckpointError)
    experiment = from_json(Experiment, description)
    found, written = config_hash(experiment), result.get("config_hash")
    earlier = description["format_version"] != FORMAT_VERSION  # its hash is not computed any more
    said = f"hash {found}, in result.json {written}" + " of an earlier format" * earlier
    yield Check("config", found == written or earlier, said)

    plan = phases(experiment)
    passports, tokenizer = load_data(plan)
    directories = [phase.experiment.data.directory for phase in plan]
    for directory, passport in dict(zip(directories, passports, strict=True)).items():
        yield _attempt(f"data {directory}", _check_data, directory, passport)
    steps = sorted(saved_steps(workdir))
    for step in steps:
        arguments = (workdir, step, experiment, tokenizer, passports)
        yield _attempt(f"checkpoint {step}", _check_checkpoint, *arguments)

    stored = read_rows(workdir / "metrics.jsonl")
    lines = list(stored.lines.values())
    for step in steps:
        yield _attempt(f"rows up to step {step}", _check_rows, workdir, step, lines)
    if not rows:
        return
    batches = check_batches(workdir, experiment, stored.rows, count=rows * READ_AGAIN)
    yield from _guarded("batches", batches)
    for step in (0, *steps):
        later = {at: row for at, row in stored.rows.items() if at > step}
        if later:
            expected = dict(list(later.items())[:rows])
            yield from _guarded(
                f"updates after step {step}",
                _check_updates(workdir, experiment, passports, step, expected),
            )
    yield from _guarded("evaluation", _check_evaluation(workdir, experiment, stored.rows, result))


def verify_sweep(directory: Path, *, rows: int = 1) -> Iterator[Check]:
    """Yields the checks of the finished runs of a sweep, and of the tables that compare them.

    Raises:
      CheckpointError, ConfigError: see `verify` and `gather`; or not all runs have ended.
      DataError: `summary.csv` lacks a column.
    """
    left = sum(line["status"] not in ("done", "failed") for line in summary(directory).values())
    accepted = "0 (the command of the sweep makes its missing runs and writes the file again)"
    require(not left, f"{directory / 'summary.csv'}: the number of unfinished runs", left, accepted)
    gathered = gather([directory])
    files = table.files_of(gathered.rows)
    yield from _verify_runs(gathered, {directory / k: text for k, text in files.items()}, rows)


def verify_page(file: Path, *, rows: int = 1) -> Iterator[Check]:
    """Yields the checks of the finished runs of a report, and of its page.

    Raises:
      CheckpointError, ConfigError: see `verify` and `gather`.
      DataError: the page has no paths of runs.
    """
    from bert_jax.sweeps.page import render  # needs the packages of the extra `audit`

    data = re.search(r'<script type="application/json" id="data">(.*)</script>', read_text(file))
    advice = "; accepted: a page of python -m bert_jax.report"
    page = parse_json(data[1] if data else "{}", Page, place=file, advice=advice)
    gathered = gather([Path(one) for one in page["directories"]], base=page["base"])
    yield from _verify_runs(gathered, {file: render(gathered, title=page["title"])}, rows)


def _verify_runs(gathered: Gathered, files: Mapping[Path, str], rows: int) -> Iterator[Check]:
    """Yields the checks of the finished runs, and of files with the expected texts."""
    for name, directory in gathered.directories.items():
        for check in verify(directory, rows=rows) if gathered.results[name] else ():
            yield check._replace(subject=f"{name} {check.subject}")
    for file, text in files.items():
        lines = enumerate(zip_longest(text.splitlines(), read_text(file).splitlines()), start=1)
        different = next((number for number, (ours, theirs) in lines if ours != theirs), 0)
        said = f"line {different} does not follow" if different else "it follows"
        yield Check(file.name, not different, f"{said} from the results of the runs")


def _guarded(subject: str, checks: Iterator[Check]) -> Iterator[Check]:
    """Yields the checks; damaged data or a damaged checkpoint is a difference."""
    try:
        yield from checks
    except (DataError, CheckpointError) as error:
        yield Check(subject, False, str(error))


def _attempt(subject: str, check: Callable[..., str], *arguments: Any) -> Check:
    """Returns the check; a typed error is a difference."""
    try:
        return Check(subject, True, check(*arguments))
    except BertJaxError as error:
        return Check(subject, False, str(error))


def _check_data(directory: str, passport: dict) -> str:
    check_files(passport, directory, splits=list(passport["splits"]))
    count = sum(len(split["shards"]) for split in passport["splits"].values())
    return f"{count} shards have the SHA-256 of passport.json"


def _check_checkpoint(
    workdir: Path, step: int, experiment: Any, tokenizer: Any, passports: list[dict]
) -> str:
    check_step(workdir, step)
    with checkpoint.open_checkpoints(workdir, read_only=True) as manager:
        checkpoint.check_run_of_step(manager, experiment, tokenizer, step=step)
    saved = position_of(workdir / "checkpoints" / str(step))["data_fingerprint"]
    found = passport_fingerprint(join_passports(passports))
    if saved != found:
        raise CheckpointError(f"it was trained on data {saved[:12]}, and the data are {found[:12]}")
    hashed = (workdir / "checkpoints" / str(step) / DIGESTS_FILE).exists()
    files = "its files have their SHA-256" if hashed else "no SHA-256 of its files is stored"
    return f"{files}; config, tokenizer and data are those of the run"


def _check_rows(workdir: Path, step: int, lines: list[bytes]) -> str:
    written = position_of(workdir / "checkpoints" / str(step)).get("written")
    if not written:
        return "the checkpoint has no hash of them"
    rows = lines[: written["count"]]
    if hashlib.sha256(b"".join(rows)).hexdigest() != written["sha256"]:
        raise CheckpointError(f"metrics.jsonl has other rows than when step {step} was saved")
    return f"{len(rows)} rows of metrics.jsonl have their SHA-256"


def check_batches(
    workdir: Path, experiment: Experiment, rows: Mapping[int, dict], *, count: int
) -> Iterator[Check]:
    """Reads the batches of `count` random rows again, and counts their predictions.

    The accuracy of a row times its number of predictions is the number of correct ones. If the
    batches have other records or masks, this product is almost never a whole number.
    """
    pairs = list(pairwise(rows))  # the updates of the first row are made again
    left_out = NonFiniteSteps(workdir, experiment, {}).left_out
    for before, at in sorted(random.sample(pairs, min(count, len(pairs)))):
        batches = training_batches(phase_of_step(phases(experiment), at), before)
        steps = zip(range(before + 1, at + 1), batches, strict=False)
        seen = sum(int(batch.mask_weights.sum()) for step, batch in steps if step not in left_out)
        accuracy = rows[at].get("train/mlm_accuracy", math.nan if seen else 0.0)
        twelfths = 12 * accuracy * seen  # if k logits share the maximum, a prediction counts 1/k
        said = f"{seen:,} predictions; train/mlm_accuracy {accuracy!r} is {accuracy * seen:,.4f}"
        agrees = abs(twelfths - np.rint(twelfths)) < 1e-4
        yield Check(f"batches {before + 1} to {at}", bool(agrees), f"{said} of them")


def _check_updates(
    workdir: Path, experiment: Any, passports: list[dict], step: int, expected: Mapping[int, dict]
) -> Iterator[Check]:
    """Makes the updates from `step` to the last of the expected rows, and compares their rows."""
    if not step and (experiment.training.init_from or experiment.training.branch_from):
        yield Check("first updates", True, "not made again: the run began from another run")
        return
    phase = phase_of_step(phases(experiment), step + 1)
    mesh = make_mesh(experiment.mesh)
    assembly = assemble(phase, mesh)
    if step:
        abstract = abstract_state(assembly.initialize, assembly.sharding)
        with checkpoint.open_checkpoints(workdir, read_only=True) as manager:
            passport = join_passports(passports)
            begun = checkpoint.restore(manager, abstract, step=step, passport=passport)
    else:
        begun = checkpoint.Restored(make_state(assembly.initialize, assembly.sharding))
    state, pending = begun.state, begun.pending
    left_out = NonFiniteSteps(workdir, experiment, assembly.sharding.params).left_out
    with jax.set_mesh(mesh), tempfile.TemporaryDirectory() as temporary:
        if step and step == phase.first_step:
            state = assembly.begin(state)
        writer = RunWriter(
            *(Path(temporary), experiment.training, step),
            pending=pending,
            on_nonfinite=lambda at, metrics: None,  # training would end here, or roll back
        )
        batches = map(assembly.place, training_batches(phase, step, assembly.host))
        for at, batch in zip(range(step + 1, phase.last_step + 1), batches, strict=False):
            update = assembly.skip if at in left_out else assembly.update
            state, metrics = update(state, batch)
            writer.add(metrics)
            if at in expected:
                yield compare(f"updates {step + 1} to {at}", writer.read_row(), expected[at])
            if at >= max(expected):
                break


def _check_evaluation(
    workdir: Path, experiment: Any, rows: Mapping[int, dict], result: Mapping[str, Any]
) -> Iterator[Check]:
    """Evaluates the last checkpoint, and compares with the last row and with result.json.

    result.json also has the baselines, which depend on the held-out batches alone.
    """
    last = phases(experiment)[-1].experiment.data.directory
    measured = evaluate_run(load_run(workdir), last)
    found = {f"eval/{name}": value for name, value in measured.items()}
    row = {name: value for name, value in rows[max(rows)].items() if name in found}
    yield compare(f"evaluation of step {max(rows)}", found, row)
    stored = {f"eval/{name}": value for name, value in result.items() if isinstance(value, float)}
    yield compare("result.json", found, stored)


def compare(subject: str, found: Mapping[str, Any], expected: Mapping[str, Any]) -> Check:
    """Compares the values of training and evaluation of a row with those that were written."""
    names = [name for name in expected if name.startswith(("train/", "eval/")) and name in found]
    differences = {
        name: abs(found[name] - expected[name]) / max(abs(expected[name]), 1e-12) for name in names
    }
    if not differences:
        return Check(subject, False, "no value can be compared")
    worst = max(differences, key=lambda name: differences[name])
    if not differences[worst]:
        return Check(subject, True, f"{len(names)} values are equal bitwise")
    said = f"{worst} is {found[worst]!r}, written {expected[worst]!r} (relative difference "
    said += f"{differences[worst]:.1e}, accepted {TOLERANCE:.0e})"
    return Check(subject, differences[worst] <= TOLERANCE, said)
